package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"time"

	"bakefarm/api"
	"bakefarm/api/registry"
	"bakefarm/api/usage"
	"bakefarm/coordinator"
	"bakefarm/deploy"
	garbage "bakefarm/imagestore/collect"
	"bakefarm/imagestore/remote"
	"bakefarm/upkeep"

	"github.com/spf13/cobra"
)

// settings are the flags of the commands that run parts of a farm.
type settings struct {
	data      string
	listen    string
	workers   int
	slots     int
	cache     int64
	s3        string
	s3Listen  string
	patience  time.Duration
	nats      string
	natsListn string
	insecure  []string
	lease     time.Duration
	maxAge    time.Duration
	s3Faults  string
	pprof     string
	logLevel  string
	logFormat string
	gcEvery   time.Duration
	ages      upkeep.Ages
	collect   garbage.Config
}

func (s *settings) common(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.data, "data", envOr("BAKEFARM_DATA", defaultDataDir()), "directory for everything that this process keeps (BAKEFARM_DATA)")
	flags.StringVar(&s.s3, "s3", os.Getenv("BAKEFARM_S3"), "S3 service: http://KEY:SECRET@host:port/bucket[/prefix] (BAKEFARM_S3)")
	flags.DurationVar(&s.patience, "s3-patience", 2*time.Minute, "how long a shard waits for S3 while it is away, before another attempt is made")
	flags.StringVar(&s.nats, "nats", os.Getenv("BAKEFARM_NATS"), "NATS server: nats://host:4222 (BAKEFARM_NATS)")
	flags.IntVar(&s.slots, "slots", 0, "shards that a worker runs at a time (default: four times the processors)")
	flags.Int64Var(&s.cache, "cache-bytes", 0, "budget of the workers' cache on disk, in bytes (default 2 GiB)")
	flags.StringVar(&s.logLevel, "log-level", "info", "debug, info, warn or error")
	flags.StringVar(&s.logFormat, "log-format", "text", "text or json")
	flags.StringVar(&s.s3Faults, "s3-faults", "", "faults to inject into S3, for tests: put:3:tear=1000,get:1:fail=503")
	if err := flags.MarkHidden("s3-faults"); err != nil {
		panic(err)
	}
}

func newUp() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a whole farm in one process: NATS, S3, a coordinator, workers, the API",
		Example: `  bakefarm up
  bakefarm up --data /srv/bakefarm --workers 4 --s3 http://KEY:SECRET@s3.example:9000/images`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.up(cmd) },
	}
	s.common(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.listen, "listen", "127.0.0.1:7667", "loopback address of the API, the registry and /readyz (port 0: any)")
	flags.IntVar(&s.workers, "workers", 2, "workers in this process; 0 when others do the work")
	flags.StringVar(&s.s3Listen, "s3-listen", "", "loopback address on which the embedded S3 server serves other processes too")
	flags.StringVar(&s.natsListn, "nats-listen", "", "loopback address on which the embedded NATS server serves other processes too")
	flags.StringSliceVar(&s.insecure, "insecure-registry", listOr("BAKEFARM_INSECURE_REGISTRIES"), "registries to publish to over http or with any certificate: host[:port] (BAKEFARM_INSECURE_REGISTRIES; loopback ones always are)")
	flags.DurationVar(&s.lease, "lease", 15*time.Second, "time without a sign of life after which a worker's shard goes to another")
	flags.DurationVar(&s.maxAge, "max-age", 5*time.Minute, "how old an observation of a Debian mirror may be when a bake uses it")
	flags.DurationVar(&s.gcEvery, "gc-every", 6*time.Hour, "time between two garbage collections; negative: only when asked for")
	flags.DurationVar(&s.ages.Cache, "keep-cache", 14*24*time.Hour, "how long the outputs of shards are kept that no image has anything of")
	flags.DurationVar(&s.ages.Bake, "keep-bakes", 30*24*time.Hour, "how long finished bakes are kept whose version is gone, or that made none")
	flags.Int64Var(&s.collect.Rate, "gc-rate", 64<<20, "bytes a second that garbage collection and scrubbing read and copy at the most")
	// For tests: shorter ones than the longest bake are not safe.
	flags.DurationVar(&s.collect.MinAge, "gc-min-age", 0, "age of a pack below which it is left alone")
	flags.DurationVar(&s.collect.Grace, "gc-grace", 0, "time from condemning a pack to deleting it")
	flags.DurationVar(&s.ages.Context, "keep-contexts", 0, "how long uploaded contexts are kept after their bake")
	for _, hidden := range []string{"gc-min-age", "gc-grace", "keep-contexts"} {
		if err := flags.MarkHidden(hidden); err != nil {
			panic(err)
		}
	}
	flags.StringVar(&s.pprof, "pprof", "", "loopback address that serves profiles of this process, for go tool pprof")
	if err := flags.MarkHidden("pprof"); err != nil {
		panic(err)
	}
	return cmd
}

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

// up runs the farm until the command's context ends.
func (s *settings) up(cmd *cobra.Command) error {
	ctx := cmd.Context()
	log, err := s.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if s.workers < 0 {
		return usagef("--workers %d: want 0 or more", s.workers)
	}
	listener, err := bindLoopback(s.listen, "--listen")
	if err != nil {
		return err
	}
	if s.natsListn != "" {
		free, err := bindLoopback(s.natsListn, "--nats-listen") // the server binds it by itself
		if err != nil {
			listener.Close()
			return err
		}
		free.Close()
	}
	var profiled net.Listener
	if s.pprof != "" {
		if profiled, err = bindLoopback(s.pprof, "--pprof"); err != nil {
			listener.Close()
			return err
		}
	}
	data, err := openDataDir(s.data)
	if err != nil {
		listener.Close()
		if profiled != nil {
			profiled.Close()
		}
		return err
	}
	defer data.Close()

	// The API answers from here on: that the farm is not ready yet, and what it waits for.
	p := newProgram(ctx, log)
	if profiled != nil {
		log.Info("profiles are served", "url", "http://"+profiled.Addr().String()+"/debug/pprof/")
		p.runs("profiles", func(ctx context.Context) error { return serve(ctx, profiled, profiles()) })
	}
	p.runs("memory", func(ctx context.Context) error {
		boundMemory(ctx)
		return nil
	})
	front := &gate{waiting: "the farm is starting"}
	p.runs("farm", func(ctx context.Context) error {
		return s.farm(ctx, data, listener.Addr(), front, log, cmd.OutOrStdout())
	})
	p.runs("api", func(ctx context.Context) error { return serve(ctx, listener, front) })
	return p.wait()
}

// farm starts everything behind the API, each part after what it depends on, and stops it in reverse.
func (s *settings) farm(ctx context.Context, data *dataDir, address net.Addr, front *gate, log *slog.Logger, out io.Writer) error {
	p := newProgram(ctx, log)
	if err := s.assemble(p, data, address, front, log, out); err != nil {
		p.stop()
		if ctx.Err() != nil {
			return nil // it was told to stop while it was starting
		}
		return err
	}
	return p.wait()
}

func (s *settings) assemble(p *program, data *dataDir, address net.Addr, front *gate, log *slog.Logger, out io.Writer) error {
	where := storage{url: s.s3}
	if s.s3 == "" {
		var err error
		if where, err = embedS3(p, data, s.s3Listen, log); err != nil {
			return err
		}
	}
	c, err := s.connect(p, data, where, true, front.wait, log)
	if err != nil {
		return err
	}
	p.runs("coordinator", coordinator.New(coordinator.Config{
		Bus: c.bus, Store: c.store, Tags: tags{c.bus.Tags}, Log: log, Lease: s.lease, MaxAge: s.maxAge,
	}).Run)
	p.runs("deploy", deploy.New(deploy.Config{Bus: c.bus, Push: s.pusher(c.store), Final: remote.Final, Log: log}).Run)
	p.runs("upkeep", upkeep.New(upkeep.Config{Bus: c.bus, Store: c.store, Index: c.catalog, Name: processName(), Ages: s.ages, Collect: s.collect, GCEvery: s.gcEvery, Log: log}).Run)
	if s.workers > 0 {
		if err := s.startWorkers(p, data, c, s.workers, log); err != nil {
			return err
		}
	}
	uses := usage.New(c.bus.Usage, log)
	p.runs("uses of images", uses.Run)
	pulls := registry.OnBus(c.bus, c.store, c.catalog, log)
	pulls.Uses = uses
	web, err := api.New(api.Config{Bus: c.bus, Store: c.store, Catalog: c.catalog, Uses: uses,
		Collector: garbage.New(garbage.Config{Index: c.catalog, Store: c.store}), Release: release(), Ready: c.reachable, Log: log, Registry: registry.New(pulls)})
	if err != nil {
		return err
	}
	p.runs("list of bakes", web.Run)
	front.open(web.Handler())
	_, err = fmt.Fprintf(out, "bakefarm is ready at http://%s (%d workers, data in %s)\n", address, s.workers, data.path)
	return err
}
