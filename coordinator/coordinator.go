package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"golang.org/x/sync/semaphore"
)

// Config says what a coordinator works with. Bus and Store must be set; zero values elsewhere mean the default.
type Config struct {
	Bus   *bus.Bus
	Store imagestore.Store
	Tags  imagestore.Tags // nil: images get no tags
	Log   *slog.Logger

	Lease       time.Duration // a claim is void when its record has not changed for so long; default 15 s
	MaxAttempts int           // of one shard that fails, while it is wanted; default 3
	MaxLost     int           // of one shard whose workers die, or are not heard of again: it may be what kills them; default 5
	MaxAge      time.Duration // of an observation when its bake is accepted; default recipe.MaxAge, negative: 0
	MaxBake     time.Duration // from acceptance to done, as one coordinator sees it; default 2 h
	MaxShard    time.Duration // of one attempt at a shard, from the claim to the report; default 1 h
	MaxBakes    int           // unfinished ones; more are refused; default 20000
	NoAffinity  bool          // give shards to whoever asks first, whatever is in their caches: to measure what it saves

	Now func() time.Time // wall clock; default time.Now
	// OnDone is told about every bake that ended here, for metrics. It must not block.
	OnDone func(farm.Bake)
}

func (c *Config) setDefaults() {
	set := func(d *time.Duration, to time.Duration) {
		if *d == 0 {
			*d = to
		}
	}
	set(&c.Lease, 15*time.Second)
	set(&c.MaxAge, recipe.MaxAge)
	set(&c.MaxBake, 2*time.Hour)
	set(&c.MaxShard, time.Hour)
	c.MaxAge = max(c.MaxAge, 0)
	if c.MaxAttempts == 0 {
		c.MaxAttempts = 3
	}
	if c.MaxLost == 0 {
		c.MaxLost = 5
	}
	if c.MaxBakes == 0 {
		c.MaxBakes = 20_000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
}

const (
	memoBytes     = 64 << 20
	intakeBytes   = 256 << 20 // of recipes and context manifests that are being read at a time, unpacked
	driveAtOnce   = 32        // bakes driven at a time
	askAtOnce     = 32        // records asked for at a time, for one bake
	drivePatience = time.Minute
	catchUp       = 10 * time.Second // how long Run waits for its mirrors: they are a help, not a need
)

// Coordinator accepts, drives and finishes bakes. Make one with New, and let it work with Run.
type Coordinator struct {
	Config
	bakes        *mirror[farm.Bake]
	shards       *mirror[farm.Shard]
	workers      *mirror[farm.Worker]
	observations *mirror[farm.Observation]
	versions     *census
	outputs      *memo
	events       *pump
	ends         sync.Map // IDs of the bakes that ended here and whose logs are not stored yet
	intake       *semaphore.Weighted
	driving      chan struct{} // a slot for each bake driven

	mu      sync.Mutex
	flights map[string]*flight
	work    context.Context // of drives; nil: Run is not at work
	drives  sync.WaitGroup
	ready   chan struct{} // closed when Run serves

	queue     *queue
	warmth    warmth
	attention attention
}

// New makes a coordinator that does nothing before Run.
func New(cfg Config) *Coordinator {
	cfg.setDefaults()
	c := &Coordinator{
		Config:   cfg,
		versions: newCensus(),
		outputs:  newMemo(memoBytes),
		intake:   semaphore.NewWeighted(intakeBytes),
		driving:  make(chan struct{}, driveAtOnce),
		flights:  map[string]*flight{},
		ready:    make(chan struct{}),
	}
	c.events = &pump{bus: cfg.Bus, queue: make(chan farm.Event, pumpRoom), now: cfg.Now, lost: func(e farm.Event, err error) {
		cfg.Log.Warn("event lost", "bake", e.Bake, "type", e.Type, "err", err)
	}}
	c.bakes = newMirror(cfg.Bus.Bakes, func(b farm.Bake) bool { return !b.State.Finished() || c.lacksLog(b) }, c.bakeNoticed)
	c.shards = newMirror(cfg.Bus.Shards, func(s farm.Shard) bool { return !s.State.Finished() }, c.shardNoticed)
	c.queue = newQueue(func(id string) (string, bool, bool) {
		b, known := c.bakes.peek(id)
		return b.Name, b.Background, known
	})
	if !cfg.NoAffinity {
		c.queue.degree = c.warmth.degree
	}
	c.shards.index = c.queue.changed
	c.shards.hot = func(s farm.Shard) bool { return s.State == farm.ShardClaimed }
	c.workers = newMirror(cfg.Bus.Workers, func(farm.Worker) bool { return true }, nil)
	c.observations = newMirror(cfg.Bus.Observations, func(farm.Observation) bool { return true }, nil)
	return c
}

// Ready is closed when Run has seen the records as they were when it started and answers requests.
func (c *Coordinator) Ready() <-chan struct{} { return c.ready }

// Run works until ctx ends, and returns nil then; an error when it can't work. It may be called once.
//
// It stops in the order in which work comes in: requests first, then drives, then what both rely on. Whatever it was in
// the middle of, another Run takes up.
func (c *Coordinator) Run(ctx context.Context) error {
	below, stopBelow := context.WithCancelCause(context.WithoutCancel(ctx))
	defer stopBelow(nil)
	var base sync.WaitGroup
	defer base.Wait()
	defer stopBelow(nil)

	failed := make(chan error, 1) // the first one
	follow := func(what string, fn func(context.Context) error) {
		base.Go(func() {
			if err := fn(below); below.Err() == nil {
				select {
				case failed <- fmt.Errorf("follow %s: %w", what, err):
				default:
				}
			}
		})
	}
	follow("bakes", c.bakes.follow)
	follow("shards", c.shards.follow)
	follow("workers", c.workers.follow)
	follow("observations", c.observations.follow)
	follow("versions", func(ctx context.Context) error { return c.versions.follow(ctx, c.Bus.Versions) })
	base.Go(func() { c.events.run(below) })
	for _, caught := range []chan struct{}{c.bakes.caught, c.shards.caught, c.observations.caught, c.versions.caught} {
		select {
		case <-caught:
		case <-time.After(catchUp):
			c.Log.Warn("the records are not all seen yet, starting nevertheless", "after", catchUp)
		case err := <-failed:
			return err
		case <-ctx.Done():
			return nil
		}
	}

	work, stopWork := context.WithCancel(below)
	c.mu.Lock()
	c.work = work
	c.mu.Unlock()
	defer func() {
		stopWork()
		c.mu.Lock()
		c.work = nil
		c.mu.Unlock()
		c.drives.Wait()
	}()

	stop, err := c.serve()
	defer stop()
	if err != nil {
		return err
	}
	var loops sync.WaitGroup
	defer loops.Wait()
	inLoops, stopLoops := context.WithCancel(ctx)
	defer stopLoops()
	loops.Go(func() { c.sweep(inLoops) })
	loops.Go(func() { c.archive(inLoops) })
	close(c.ready)

	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// serve answers the requests of APIs and workers until stop, which waits for those begun.
func (c *Coordinator) serve() (stop func(), err error) {
	var stops []func()
	stop = func() {
		var all sync.WaitGroup
		for _, s := range stops {
			all.Go(s)
		}
		all.Wait()
	}
	add := func(s func(), e error) {
		if e == nil {
			stops = append(stops, s)
		}
		err = errors.Join(err, e)
	}
	add(bus.Handle(c.Bus, bus.RegisterPack, c.registerPack))
	add(bus.Handle(c.Bus, bus.Report, c.report))
	add(bus.Handle(c.Bus, bus.Beat, c.beat))
	add(bus.Handle(c.Bus, bus.Claim, c.claim))
	add(bus.Handle(c.Bus, bus.WorkerGone, c.workerGone))
	add(bus.Handle(c.Bus, bus.CancelBake, c.cancel))
	add(bus.Handle(c.Bus, bus.ImportVersion, c.importVersion))
	add(bus.Handle(c.Bus, bus.SubmitBake, c.submit))
	return stop, err
}

// registerPack makes a worker's pack live.
func (c *Coordinator) registerPack(ctx context.Context, p farm.Pack) (bus.Empty, error) {
	if p.ID == "" || p.State != farm.PackLive || p.Size <= 0 || p.IndexAt < 0 || p.IndexAt > p.Size || p.Entries < 0 {
		return bus.Empty{}, invalid("pack %q: want an ID, state live, a size, and an index within it", clip(p.ID, 100))
	}
	if _, err := imagestore.ParseDigest(p.Index); err != nil {
		return bus.Empty{}, invalid("pack %q: index: %s", clip(p.ID, 100), err)
	}
	if len(p.Trailer) > 0 {
		if _, f, err := imagestore.DecodeTrailer(p.Trailer, p.Size); err != nil || f.Index != p.Index || len(p.Trailer) > farm.MaxTrailer {
			return bus.Empty{}, invalid("pack %q: trailer: want the end of the object, with the index that the record names, of at most %d bytes", clip(p.ID, 100), farm.MaxTrailer)
		}
	}
	return bus.Empty{}, c.Bus.Ledger().Register(ctx, p)
}

// invalid is the error of a request that no retry makes right; its text is the whole message.
func invalid(format string, args ...any) error {
	return &bus.RemoteError{Code: "invalid", Message: fmt.Sprintf(format, args...)}
}

// bakeNoticed is called for every change of a bake's record.
func (c *Coordinator) bakeNoticed(id string, b farm.Bake) {
	c.queue.bakeKnown(id, c.shards.peek)
	if b.State.Finished() {
		c.mu.Lock()
		delete(c.flights, id)
		c.mu.Unlock()
	}
}

// shardNoticed is called for every change of a shard's record: the bakes that are driven here and wait for it go on.
func (c *Coordinator) shardNoticed(id string, s farm.Shard) {
	c.warmth.noted(&s)
	if !s.State.Finished() {
		return
	}
	for _, bake := range s.Bakes {
		if f := c.flightOf(bake); f != nil {
			f.deliver(s)
			c.kick(bake)
		}
	}
}

func (c *Coordinator) flightOf(bake string) *flight {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flights[bake]
}
