package main

import (
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	garbage "bakefarm/imagestore/collect"
	"bakefarm/upkeep"

	"github.com/spf13/cobra"
)

// settings are the flags of the commands that run parts of a farm. Each command has those that its parts need; all of them
// can also be given in the environment and in a file (config.go).
type settings struct {
	config        string
	farmName      string
	data          string
	listen        string
	trusting      bool
	workers       int
	slots         int
	cpus          float64
	memory        string
	cache         int64
	labels        []string
	drain         time.Duration
	s3            string
	s3Listen      string
	redirectAfter int // pulls of a blob before it is made one object; 0: never
	patience      time.Duration
	nats          string
	natsListn     string
	natsShown     string
	natsKey       string
	cluster       string
	clusterAt     string
	routeAt       string
	routes        []string
	replicas      int
	takeOver      bool
	insecure      []string
	lease         time.Duration
	maxAge        time.Duration
	maxBake       time.Duration
	maxShard      time.Duration
	maxBakes      int
	s3Faults      string
	noAffinity    bool
	clock         time.Duration // added to what this machine's clock says
	pprof         string
	memoryUse     memory
	bootKeys      string // directory
	logLevel      string
	logFormat     string
	gcEvery       time.Duration
	ages          upkeep.Ages
	collect       garbage.Config
}

// Defaults of --drain-timeout: a farm in one process stops within seconds, a worker of its own is given time.
const (
	drainWhole  = 3 * time.Second
	drainWorker = time.Minute
)

// common are the flags of every role.
func (s *settings) common(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.config, "config", "", "file with these settings: YAML, a line for each flag, such as \"log-level: debug\" (BAKEFARM_CONFIG)")
	flags.StringVar(&s.data, "data", defaultDataDir(), "directory for everything that this process keeps (BAKEFARM_DATA)")
	flags.BoolVar(&s.trusting, "insecure-listen", false, "allow addresses that other machines reach: this release has no users, so whoever reaches one may do anything")
	flags.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&s.logFormat, "log-format", "text", "text or json")
}

// connected are the flags of the roles that meet through NATS and S3.
func (s *settings) connected(cmd *cobra.Command) {
	s.common(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.farmName, "farm", "bakefarm", "name of the farm on its NATS: farms of other names there keep apart")
	flags.StringVar(&s.s3, "s3", "", "S3 service: http://KEY:SECRET@host:port/bucket[/prefix] (BAKEFARM_S3)")
	flags.StringVar(&s.nats, "nats", "", "NATS servers: nats://[bakefarm:SECRET@]host:4222, several separated by commas (BAKEFARM_NATS)")
	flags.StringVar(&s.s3Faults, "s3-faults", "", "faults to inject into S3, for tests: put:3:tear=1000,get:1:fail=503")
	if err := flags.MarkHidden("s3-faults"); err != nil {
		panic(err)
	}
}

// whole are the flags of a role that can bring its own NATS.
func (s *settings) whole(cmd *cobra.Command) {
	s.connected(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.natsListn, "nats-listen", "", "address on which the embedded NATS server serves other processes too")
	flags.StringVar(&s.natsShown, "nats-advertise", "", "address of the embedded NATS server that clients are told, host:port, where they don't reach --nats-listen as it is")
	flags.StringVar(&s.natsKey, "nats-secret", "", "what other processes must know to connect to the embedded NATS server; better in BAKEFARM_NATS_SECRET")
	flags.StringVar(&s.clusterAt, "cluster-listen", "", "address on which the embedded NATS servers of the other coordinators reach this one")
	flags.StringVar(&s.routeAt, "cluster-advertise", "", "address that the servers of the other coordinators are told, host:port, where they don't reach --cluster-listen as it is")
	flags.StringSliceVar(&s.routes, "routes", nil, "addresses of the coordinators' embedded NATS servers, host:port, as their --cluster-listen says")
	flags.StringVar(&s.cluster, "cluster-name", "", "name of the cluster that the embedded NATS servers form (default: the farm's)")
	flags.BoolVar(&s.takeOver, "take-over", false, "make the S3 bucket this farm's although it says that it is another one's")
	flags.IntVar(&s.replicas, "replicas", 0, "copies of every record: 1 to 5 (default: 3 in a cluster, else as it is)")
}

// coordinates are the flags of a role that has a coordinator.
func (s *settings) coordinates(cmd *cobra.Command) {
	flags := cmd.Flags()
	s.reaches(cmd)
	flags.DurationVar(&s.lease, "lease", 15*time.Second, "time without a sign of life after which a worker's shard goes to another")
	flags.DurationVar(&s.maxAge, "max-age", 5*time.Minute, "how old an observation of a Debian mirror may be when a bake uses it")
	flags.DurationVar(&s.maxBake, "max-bake", 2*time.Hour, "how long a bake may take, also one that waits for a worker")
	flags.DurationVar(&s.maxShard, "max-shard", time.Hour, "how long one attempt at a shard may take")
	flags.IntVar(&s.maxBakes, "max-bakes", 20_000, "bakes that may be under way; more are refused")
	flags.DurationVar(&s.gcEvery, "gc-every", 6*time.Hour, "time between two garbage collections; negative: only when asked for")
	flags.DurationVar(&s.ages.Cache, "keep-cache", 14*24*time.Hour, "how long the outputs of shards are kept that no image has anything of")
	flags.DurationVar(&s.ages.Bake, "keep-bakes", 30*24*time.Hour, "how long finished bakes are kept whose version is gone, or that made none")
	flags.Int64Var(&s.collect.Rate, "gc-rate", 64<<20, "bytes a second that garbage collection and scrubbing read and copy at the most")
	// For tests: shorter ones than the longest bake are not safe.
	flags.DurationVar(&s.collect.MinAge, "gc-min-age", 0, "age of a pack below which it is left alone")
	flags.DurationVar(&s.collect.Grace, "gc-grace", 0, "time from condemning a pack to deleting it")
	flags.DurationVar(&s.ages.Context, "keep-contexts", 0, "how long uploaded contexts are kept after their bake")
	flags.BoolVar(&s.noAffinity, "no-affinity", false, "for tests: give shards to whoever asks first, whatever is in their caches")
	flags.DurationVar(&s.clock, "clock-offset", 0, "for tests: decide as if this machine's clock were off by so much")
	for _, hidden := range []string{"gc-min-age", "gc-grace", "keep-contexts", "clock-offset", "no-affinity"} {
		if err := flags.MarkHidden(hidden); err != nil {
			panic(err)
		}
	}
}

// works are the flags of a role that has workers.
func (s *settings) works(cmd *cobra.Command) {
	drain := drainWorker
	if cmd.Name() == "up" {
		drain = drainWhole
	}
	flags := cmd.Flags()
	s.reaches(cmd)
	flags.DurationVar(&s.patience, "s3-patience", 2*time.Minute, "how long a shard waits for S3 while it is away, before another attempt is made")
	flags.IntVar(&s.slots, "slots", 0, "shards that a worker runs at a time, within --cpus and --memory (default: four times the processors)")
	flags.Float64Var(&s.cpus, "cpus", 0, "processors that the workers of this process have for shards (default: those of the machine, or of its container)")
	flags.StringVar(&s.memory, "memory", "", "memory that they have for shards, such as 4GiB: none is taken that does not fit (default: that of the machine, or of its container)")
	flags.Int64Var(&s.cache, "cache-bytes", 0, "budget of the workers' cache on disk, in bytes (default 2 GiB)")
	flags.StringSliceVar(&s.labels, "label", nil, "what the workers of this process have, for bakes that require it: gpu, region=eu")
	flags.StringVar(&s.bootKeys, "boot-keys", os.Getenv("BAKEFARM_BOOT_KEYS"), "directory of keys that sign disks for Secure Boot: NAME.key and NAME.crt (BAKEFARM_BOOT_KEYS)")
	flags.DurationVar(&s.drain, "drain-timeout", drain, "how long the shards that run when the worker is stopped may go on; the rest is handed back")
}

// reaches are the flags of a role that speaks to registries: to publish, or for base images.
func (s *settings) reaches(cmd *cobra.Command) {
	if cmd.Flags().Lookup("insecure-registry") == nil {
		cmd.Flags().StringSliceVar(&s.insecure, "insecure-registry", listOr("BAKEFARM_INSECURE_REGISTRIES"), "registries to publish to, or to take base images from, over http or with any certificate: host[:port] (BAKEFARM_INSECURE_REGISTRIES; loopback ones always are)")
	}
}

// serves are the flags of a role that has the API.
func (s *settings) serves(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.listen, "listen", "127.0.0.1:7667", "address of the API, the registry, /metrics and /readyz (port 0: any)")
	cmd.Flags().IntVar(&s.redirectAfter, "redirect-after", 0, "make a blob that was pulled so often within a day one object in S3, and send clients there for it, by a signed URL; they must reach S3 under the address of --s3 (default: never)")
}

// probed are the flags of a role without an API, which may be asked for its health nevertheless.
func (s *settings) probed(cmd *cobra.Command) {
	cmd.Flags().StringVar(&s.listen, "health-listen", "", "address of /healthz, /readyz and /metrics (default: none)")
}

// now is what the clock of this machine says.
func (s *settings) now() time.Time { return time.Now().Add(s.clock) }

// logger makes the process's log.
func (s *settings) logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.logLevel)); err != nil {
		return nil, usagef("--log-level %s: want debug, info, warn or error", s.logLevel)
	}
	options := &slog.HandlerOptions{Level: level}
	switch s.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(w, options)), nil
	case "json":
		return slog.New(slog.NewJSONHandler(w, options)), nil
	}
	return nil, usagef("--log-format %s: want text or json", s.logFormat)
}

// bind listens on an address. flag names it in errors.
func (s *settings) bind(address, flag string) (net.Listener, error) {
	if s.trusting {
		return bindAny(address, flag)
	}
	return bindLoopback(address, flag)
}

// natsFree checks the addresses that the embedded NATS server binds by itself.
func (s *settings) natsFree() error {
	for flag, address := range map[string]string{"--nats-listen": s.natsListn, "--cluster-listen": s.clusterAt} {
		if address == "" {
			continue
		}
		if s.nats != "" {
			return usagef("%s is for the embedded NATS server, and --nats names another one: leave one of them out", flag)
		}
		bind := s.bind
		if s.natsKey != "" {
			bind = bindAny
		}
		free, err := bind(address, flag)
		if err != nil {
			return err
		}
		free.Close()
	}
	return nil
}

// hostName is this machine's name, for people.
func hostName() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}
