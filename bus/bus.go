package bus

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"time"

	"bakefarm/farm"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says where NATS is and what the farm is called there.
type Config struct {
	URL        string       // of an external NATS server, or several, separated by commas; empty: embedded
	Creds      string       // external: path of a credentials file (JWT and seed); empty: what the URL says
	Dir        string       // embedded: JetStream's directory
	Listen     string       // embedded: host:port for other processes (port 0: any); empty: this process only
	Advertise  string       // embedded: host:port under which others reach it, where that is not Listen: behind a proxy or a service
	Cluster    Cluster      // embedded: the servers of other processes that it forms a cluster with; zero: it is alone
	Secret     string       // embedded: what whoever connects over the network has to know: nats://bakefarm:SECRET@host; empty: nobody is asked
	Trusting   bool         // embedded: addresses that other machines reach are fine also without a Secret
	SyncAlways bool         // embedded: every write waits for the disk; see the package comment
	Farm       string       // prefix of every bucket, stream and subject; default "bakefarm"
	Name       string       // of the connection, for NATS's own monitoring; default Farm
	Log        *slog.Logger // default slog.Default()

	// Settings of what JetStream keeps. 0 leaves them as they are, so that processes may differ in what they set.
	Replicas  int           // of every stream and bucket; 1 when they are made, 3 in a Cluster; embedded without a Cluster: always 1
	WorkerTTL time.Duration // a worker's record vanishes so long after its last Put; 30 s when the bucket is made
	ActionTTL time.Duration // an action cache entry vanishes so long after it was written; never when the bucket is made
}

// Bus is a process's connection to the farm's NATS. Its methods may be used by many goroutines.
type Bus struct {
	Bakes        *Bucket[farm.Bake]            // by bake ID
	Shards       *Bucket[farm.Shard]           // by shard ID
	Actions      *Bucket[farm.ActionEntry]     // by shard key, hex
	Observations *Bucket[farm.Observation]     // by key of the observe spec, hex
	Versions     *Bucket[farm.Version]         // by name@version
	Channels     *Bucket[farm.Channel]         // by name@channel
	Publications *Bucket[farm.Publication]     // by name@channel@version@hash(target)
	Requests     *Bucket[farm.RequestLock]     // by request digest, hex
	Possessions  *Bucket[farm.Possession]      // by name, "@" and what it is (api/possession); a record lives PossessionTTL
	Submissions  *Bucket[farm.Submission]      // by sha256 of the client's key, hex; a record lives SubmissionTTL
	Tags         *Bucket[farm.Tag]             // by repository@tag
	Workers      *Bucket[farm.Worker]          // by worker ID; a record lives Config.WorkerTTL
	Packs        *Bucket[farm.Pack]            // by pack ID
	Usage        *Bucket[farm.Usage]           // by name@version
	Deployments  *Bucket[farm.Deployment]      // by deployment ID
	Policies     *Bucket[farm.RetentionPolicy] // one record, by PolicyKey
	Sweeps       *Bucket[farm.Sweep]           // by farm.SweepKey

	cfg      Config
	log      *slog.Logger
	embedded *embedded // nil when external
	nc       *nats.Conn
	js       jetstream.JetStream
	known    map[string]bool // names of the buckets above, and of meta
	meta     *Bucket[identity]
	id       identity
	work     stream
	events   stream
	channels stream

	replays   sync.Map      // *context.CancelFunc → context.CancelFunc of every replay that runs
	closed    chan struct{} // closed when the connection is
	closeOnce sync.Once
	closeErr  error

	aside struct { // what could not be read
		sync.Mutex
		counts map[string]int64
	}

	probe struct { // Ready's last answer
		sync.Mutex
		at  time.Time
		err error
	}
}

var farmName = regexp.MustCompile(`^[a-zA-Z0-9_-]{1,32}$`)

// Open starts the embedded server when c.URL is empty, connects, and makes the farm's streams and buckets if they are not
// there. An external server that can't be reached, or whose JetStream does not answer, or a cluster without a majority of
// its servers, is tried again with back-off until ctx ends; the log says each time which address and why. A wrong configuration fails at once.
//
// The caller closes.
func Open(ctx context.Context, c Config) (*Bus, error) {
	if c.Farm == "" {
		c.Farm = "bakefarm"
	}
	if !farmName.MatchString(c.Farm) {
		return nil, fmt.Errorf("bus: farm name %q: want 1 to 32 letters, digits, _ or -", c.Farm)
	}
	if c.Replicas < 0 || c.Replicas > 5 {
		return nil, fmt.Errorf("bus: %d replicas: JetStream makes 1 to 5", c.Replicas)
	}
	if c.WorkerTTL != 0 && c.WorkerTTL < time.Second || c.ActionTTL != 0 && c.ActionTTL < time.Second {
		return nil, fmt.Errorf("bus: worker TTL %v, action TTL %v: JetStream keeps records for a second or longer", c.WorkerTTL, c.ActionTTL)
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Name == "" {
		c.Name = c.Farm
	}
	b := &Bus{cfg: c, log: c.Log, known: map[string]bool{}, closed: make(chan struct{})}
	options := []nats.Option{
		nats.Name(c.Name),
		nats.MaxReconnects(-1),
		nats.IgnoreAuthErrorAbort(), // else the second refusal in a row closes the connection for good
		nats.CustomReconnectDelay(func(attempts int) time.Duration { return backoff(attempts, 100*time.Millisecond, 5*time.Second) }),
		nats.PingInterval(10 * time.Second),
		nats.MaxPingsOutstanding(2),
		nats.DrainTimeout(2 * time.Second),
		nats.DisconnectErrHandler(b.onDisconnect),
		nats.ReconnectHandler(b.onReconnect),
		nats.ReconnectErrHandler(b.onReconnectFailure),
		nats.ErrorHandler(b.onAsyncError),
		nats.ClosedHandler(func(*nats.Conn) { close(b.closed) }),
	}
	address := c.URL
	if c.URL == "" {
		switch {
		case !c.Cluster.on():
			b.cfg.Replicas = 1
		case c.Replicas == 0:
			b.cfg.Replicas = clusterReplicas
		}
		var err error
		if b.embedded, err = startServer(ctx, c); err != nil {
			return nil, err
		}
		options = append(options, nats.InProcessServer(b.embedded.srv))
		if c.Secret != "" {
			options = append(options, nats.UserInfo(natsUser, c.Secret))
		}
		address = nats.DefaultURL // not dialled
	} else if c.Creds != "" {
		options = append(options, nats.UserCredentials(c.Creds))
	}
	if err := b.connect(ctx, address, options); err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return b, nil
}

// connect dials and prepares the streams, again and again while that may help.
func (b *Bus) connect(ctx context.Context, address string, options []nats.Option) error {
	where := Redact(address)
	for attempt := 0; ; attempt++ {
		err := b.connectOnce(ctx, address, options)
		if err == nil {
			return nil
		}
		if permanent(err) || b.embedded != nil && !b.cfg.Cluster.on() {
			return fmt.Errorf("bus: NATS at %s: %w", where, err)
		}
		wait := backoff(attempt, 250*time.Millisecond, 5*time.Second)
		b.log.Warn("NATS is not ready, trying again", "address", where, "err", err, "in", wait.Round(time.Millisecond))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("bus: NATS at %s: %w (%w)", where, err, context.Cause(ctx))
		}
	}
}

func (b *Bus) connectOnce(ctx context.Context, address string, options []nats.Option) error {
	if b.nc == nil {
		nc, err := nats.Connect(address, options...)
		if parse := (*url.Error)(nil); errors.As(err, &parse) {
			parse.URL = Redact(parse.URL) // it goes into logs
		}
		if err != nil {
			return err
		}
		js, err := jetstream.New(nc, jetstream.WithDefaultTimeout(apiTimeout),
			jetstream.WithPublishAsyncMaxPending(256), jetstream.WithPublishAsyncTimeout(apiTimeout))
		if err != nil {
			nc.Close()
			return err
		}
		b.nc, b.js = nc, js
	}
	// A cluster without a leader answers nothing, also not later: what is asked too early must be asked again.
	if err := b.answers(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	return b.prepare(ctx)
}

// answers is nil when JetStream answers within a second.
func (b *Bus) answers(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, err := b.js.AccountInfo(ctx); err != nil {
		return fmt.Errorf("JetStream does not answer: %w", err)
	}
	return nil
}

// permanent reports whether trying again is of no use: the configuration is wrong.
func permanent(err error) bool {
	var parse *url.Error
	return errors.Is(err, errOther) || errors.Is(err, nats.ErrAuthorization) || errors.Is(err, fs.ErrNotExist) || errors.As(err, &parse)
}

// Close drains and closes the connection and then stops the embedded server. Whoever uses the bus should have stopped
// before: what still runs gets errors. It may be called more than once.
func (b *Bus) Close() error {
	b.closeOnce.Do(func() {
		if b.nc != nil {
			if err := b.nc.Drain(); err != nil { // not connected: nothing to drain
				b.nc.Close()
			}
			select {
			case <-b.closed:
			case <-time.After(3 * time.Second):
				b.nc.Close()
				<-b.closed
			}
		}
		if b.embedded != nil {
			b.closeErr = b.embedded.stop()
		}
	})
	return b.closeErr
}

// Ready is nil when NATS is connected and JetStream has answered within the last seconds; else it says what is wrong and
// where. It takes at most a second.
func (b *Bus) Ready() error {
	b.probe.Lock()
	defer b.probe.Unlock()
	if status := b.nc.Status(); status != nats.CONNECTED {
		err := b.nc.LastError()
		if err == nil {
			err = errors.New("connection lost")
		}
		return fmt.Errorf("NATS at %s is %s: %w", b.Address(), strings.ToLower(status.String()), err)
	}
	if time.Since(b.probe.at) < 2*time.Second {
		return b.probe.err
	}
	if b.probe.err = b.answers(context.Background()); b.probe.err != nil {
		b.probe.err = fmt.Errorf("NATS at %s: %w", b.Address(), b.probe.err)
	}
	b.probe.at = time.Now()
	return b.probe.err
}

// setAside notes something that this release can't read: it is not tried again.
func (b *Bus) setAside(where string, err error) {
	b.log.Warn("set aside what can't be read", "where", where, "err", err)
	b.aside.Lock()
	defer b.aside.Unlock()
	if b.aside.counts == nil {
		b.aside.counts = map[string]int64{}
	}
	b.aside.counts[where]++
}

// Unreadable counts what this process has met and could not read, by bucket, or "hints", "requests" and "broadcasts".
func (b *Bus) Unreadable() map[string]int64 {
	b.aside.Lock()
	defer b.aside.Unlock()
	return maps.Clone(b.aside.counts)
}

// FarmID is the identity of the farm whose records these are: a ULID that the first Open made.
func (b *Bus) FarmID() string { return b.id.ID }

// ClientURL is where other processes of this machine reach the embedded server; empty when it does not listen.
func (b *Bus) ClientURL() string {
	if b.embedded == nil || b.cfg.Listen == "" {
		return ""
	}
	return b.embedded.srv.ClientURL()
}

// Address says where NATS is, for logs and errors; passwords are left out.
func (b *Bus) Address() string {
	if b.embedded != nil {
		return "embedded:" + b.cfg.Dir
	}
	if connected := b.nc.ConnectedUrlRedacted(); connected != "" {
		return connected
	}
	return Redact(b.cfg.URL)
}

// subject prefixes a subject with the farm's name.
func (b *Bus) subject(parts ...string) string { return b.cfg.Farm + "." + strings.Join(parts, ".") }

// limit is the size in bytes of the largest record or message: what the server takes, less room for headers.
func (b *Bus) limit() int { return int(min(b.nc.MaxPayload(), maxPayload)) - 8<<10 }

func (b *Bus) onDisconnect(nc *nats.Conn, err error) {
	if err != nil { // nil: we closed it
		b.log.Warn("NATS connection lost", "address", Redact(b.cfg.URL), "err", err)
	}
}

func (b *Bus) onReconnect(nc *nats.Conn) {
	b.log.Info("NATS connection is back", "address", nc.ConnectedUrlRedacted())
	b.probe.Lock()
	b.probe.at = time.Time{} // what was found before counts no more
	b.probe.Unlock()
	b.replays.Range(func(_, cancel any) bool {
		cancel.(context.CancelFunc)()
		return true
	})
}

func (b *Bus) onReconnectFailure(_ *nats.Conn, err error) {
	b.log.Warn("NATS is not reachable, trying again", "address", Redact(b.cfg.URL), "err", err)
}

func (b *Bus) onAsyncError(_ *nats.Conn, sub *nats.Subscription, err error) {
	subject := ""
	if sub != nil {
		subject = sub.Subject
	}
	b.log.Warn("NATS", "subject", subject, "err", err)
}

// backoff doubles from first to most, with up to a quarter of jitter taken off.
func backoff(attempt int, first, most time.Duration) time.Duration {
	d := most
	if attempt < 16 {
		d = min(first<<attempt, most)
	}
	return d - rand.N(d/4+1)
}

// Redact takes user, password or token out of server addresses.
func Redact(addresses string) string {
	list := strings.Split(addresses, ",")
	for i, address := range list {
		address = strings.TrimSpace(address)
		if at := strings.LastIndexByte(address, '@'); at >= 0 { // url.Parse would refuse some of them, and quote them in its error
			scheme, _, found := strings.Cut(address[:at], "://")
			if found {
				scheme += "://"
			} else {
				scheme = ""
			}
			address = scheme + address[at+1:]
		}
		list[i] = address
	}
	return strings.Join(list, ",")
}
