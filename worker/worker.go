// Package worker runs shards for a farm: it takes hints out of the work queue, claims the shards that they name, runs
// them and reports.
//
//	hint ─▶ claim ─▶ run (package execute) ─▶ report ─▶ ack        one goroutine an attempt, as many as there is room for
//	  or an offer     │
//	                  │ beat: every third of the lease, and while lines are said
//	                  ◀─ stop: told so by a beat or by broadcast: the attempt is dropped
//
// A worker holds no truth. The record of a shard says whose attempt counts; a worker that hears nothing, or too late,
// does work that nobody takes. So a worker may die at any point: the lease of what it ran runs out, and another one
// claims that.
//
// Workers of one process share a Host: the cache on disk, parsed package indexes, turns on the processors, and the room for shards
// (room.go): before a shard is claimed, what its kind takes of processors and memory is set aside. Shards
// wait for mirrors and for the store most of the time, so a worker claims several times as many as there are
// processors, and those that compute take turns.
package worker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/worker/execute"
)

// Config says what a worker is.
type Config struct {
	Bus    *bus.Bus
	Store  execute.Store
	Mirror execute.Mirror
	Images execute.Images // nil: it can't read images of others

	ID      string   // names the worker; must be its own. Empty: the host's name and a random part
	Slots   int      // shards at a time, within what the host has; 0: four times the number of processors
	Classes []string // capability classes that it takes work of; empty: Classes() and, with time, those of the host's Sandboxes
	Labels  []string // key=value, for people
	// Succeeds are the IDs of workers that are known to be dead: what they ran is taken up at once.
	Succeeds []string

	Host       *Host          // shared with other workers of the process; nil: a host of its own, of the next two
	CacheDir   string         // directory of the cache on disk; one process at a time
	CacheBytes int64          // budget of it; 0: cache.DefaultBudget
	Has        farm.Resources // what it has for shards; 0: what the machine has

	// Grace is how long shards that run when the worker is stopped or drained may go on; what is not done by then is handed back.
	// 0: 3 seconds.
	Grace time.Duration

	// Patience is how long a shard waits for an image store that is away before its attempt has failed. 0: two minutes.
	Patience time.Duration

	Log *slog.Logger // nil: slog.Default()
}

// Times and bounds.
const (
	defaultGrace  = 3 * time.Second
	patience      = 2 * time.Minute
	fetchWait     = 10 * time.Second       // how long a fetch waits at the queue
	slotWait      = 100 * time.Millisecond // how long a hint waits for room before it's handed back
	largeAfter    = time.Second            // how long a class of large shards waits for room before it fetches one without
	largeWait     = bus.HintAckWait / 2    // how long that one waits
	claimTimeout  = 10 * time.Second
	noCoordinator = 2 * time.Second // a hint whose claim nobody answered comes back after that
	firstBackoff  = 100 * time.Millisecond
	maxBackoff    = 5 * time.Second
)

// Classes are the capability classes that any worker of this release can take: those of work that runs no code of
// images.
func Classes() []string {
	var classes []string
	for _, kind := range farm.Kinds {
		if !kind.Foreign() {
			classes = append(classes, farm.Class("any", kind))
		}
	}
	return classes
}

// Worker takes work of a farm.
type Worker struct {
	Config
	all     bool // it takes all classes that it can
	slots   *slots
	env     execute.Env
	started time.Time
	host    string // for people; may be empty
	done    atomic.Int64
	changed chan struct{} // capacity 1: the presence record should be renewed

	tap *tap

	mu      sync.Mutex
	running map[string]*attempt // by token
	lacks   map[string]string   // classes of the host's Sandboxes that it can't take, and why
	stopped stopped
}

// New makes a worker. It does nothing before Run.
func New(c Config) *Worker {
	if c.ID == "" {
		host, err := os.Hostname()
		if err != nil {
			host = "worker"
		}
		c.ID = host + "-" + strings.ToLower(rand.Text()[:6])
	}
	if c.Slots < 1 {
		c.Slots = 4 * runtime.GOMAXPROCS(0)
	}
	all := len(c.Classes) == 0
	if all {
		c.Classes = Classes()
	}
	if c.Grace <= 0 {
		c.Grace = defaultGrace
	}
	if c.Patience <= 0 {
		c.Patience = patience
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Log = c.Log.With("worker", c.ID)
	return &Worker{
		Config:  c,
		all:     all,
		changed: make(chan struct{}, 1),
		tap:     newTap(),
		running: make(map[string]*attempt),
	}
}

// errStopping is the cause of an attempt's end when the worker stops.
var errStopping = errors.New("worker is stopping")

// Run works until ctx ends. Then it takes no more work, lets what runs go on for Grace, hands the rest back and returns
// nil, all within two seconds more than Grace. Another error says why it could not begin.
func (w *Worker) Run(ctx context.Context) error {
	host := w.Host
	if host == nil {
		var err error
		if host, err = OpenHost(w.CacheDir, w.CacheBytes, w.Has); err != nil {
			return fmt.Errorf("worker %s: %w", w.ID, err)
		}
		defer host.Close()
	}
	w.env = host.env(w.Store, w.Mirror, w.Images)
	w.slots = &slots{room: host.room, free: w.Slots}
	w.started = time.Now()
	w.host, _ = os.Hostname()

	unsubscribe, err := w.Bus.Subscribe(w.cancelShard)
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.ID, err)
	}
	defer unsubscribe()
	stopDrain, err := bus.Handle(w.Bus, bus.Drain(w.ID), w.drain)
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.ID, err)
	}
	defer stopDrain()
	stopRestore, err := bus.Handle(w.Bus, bus.Restore(w.ID), w.restore)
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.ID, err)
	}
	defer stopRestore()

	present, leave := context.WithCancel(context.WithoutCancel(ctx))
	var presence sync.WaitGroup
	presence.Go(func() { w.presence(present) })
	defer presence.Wait()
	defer leave()

	// Attempts outlive ctx by Grace.
	working, halt := context.WithCancelCause(context.WithoutCancel(ctx))
	defer halt(nil)
	var pullers, attempts, heir sync.WaitGroup
	heir.Go(func() { w.succeed(ctx) })
	defer heir.Wait()
	begin := func(kind farm.Kind, h bus.Hint) {
		attempts.Go(func() {
			defer w.slots.give(kind)
			w.attempt(working, h)
		})
	}
	take := func(class string) {
		pullers.Go(func() {
			w.pullWhileOpen(ctx, class, begin)
		})
	}
	endOffers, err := w.Bus.Offers(w.ID, func(o bus.Offer) {
		if kind := kindOf(o.Class); !w.tap.isShut() && w.takes(o.Class) && w.slots.takeNow(kind) {
			begin(kind, bus.Hint{ShardID: o.ShardID})
		}
	})
	if err != nil {
		return fmt.Errorf("worker %s: %w", w.ID, err)
	}
	for _, class := range w.Classes {
		take(class)
	}
	w.Log.Info("worker takes work", "slots", w.Slots, "classes", w.Classes)
	if w.all && host.Sandboxes != nil {
		pullers.Go(func() { w.foreign(ctx, host.Sandboxes, take) })
	}
	if w.all && host.Machines != nil {
		pullers.Go(func() { w.foreign(ctx, host.Machines, take) })
	}
	pullers.Wait()
	endOffers() // nothing begins after it
	w.tap.shut()
	w.renew()
	timer := time.AfterFunc(w.Grace, func() { halt(errStopping) })
	attempts.Wait()
	timer.Stop()
	return nil
}

// kindOf is the kind of a class's shards.
func kindOf(class string) farm.Kind {
	_, kind, _ := strings.Cut(class, ".")
	return farm.Kind(kind)
}

// takes reports whether the worker takes work of a class.
func (w *Worker) takes(class string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Contains(w.Classes, class)
}

// pull feeds hints of a class to begin, which takes over the room that was taken for it, until ctx ends.
func (w *Worker) pull(ctx context.Context, class string, begin func(farm.Kind, bus.Hint)) {
	kind := kindOf(class)
	var queue *bus.Work
	failures := 0
	for ctx.Err() == nil {
		err := func() (err error) {
			if queue == nil {
				if queue, err = w.Bus.Work(ctx, class); err != nil {
					return err
				}
			}
			// A shard that takes much of the machine finds no room while many small ones run. When that has been so for a while, it
			// is fetched all the same, and waits for its turn with nobody passing it.
			patience, wait := time.Duration(0), fetchWait
			if kind.Foreign() {
				patience = largeAfter
			}
			fits, err := w.slots.await(ctx, kind, patience)
			if err != nil {
				return err
			}
			within := slotWait
			if fits == 0 {
				fits, wait, within = 1, 0, largeWait
			}
			hints, err := queue.Fetch(ctx, fits, wait)
			for _, h := range hints {
				// Pullers of other classes may have been faster. Another worker may have room at once.
				if w.slots.takeWithin(ctx, kind, within) {
					begin(kind, h)
				} else if err := h.Nak(0); err != nil {
					w.Log.Debug("hint not handed back: it comes again by itself", "class", class, "err", err)
				}
			}
			return err
		}()
		if err == nil {
			failures = 0
			continue
		}
		if ctx.Err() != nil {
			return
		}
		failures++
		pause := min(maxBackoff, 50*time.Millisecond<<min(failures, 10))
		w.Log.Warn("no work to be had: trying again", "class", class, "err", err, "in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
	}
}

// cancelShard stops an attempt that is not wanted any more.
func (w *Worker) cancelShard(c bus.CancelShard) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.stopped.add(c.Token)
	if a, ok := w.running[c.Token]; ok {
		a.stop(errors.New("nobody wants it any more"))
	}
}

// enter counts an attempt in. It reports false for one that has been stopped already.
func (w *Worker) enter(a *attempt) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped.has(a.task.Token) {
		return false
	}
	w.running[a.task.Token] = a
	w.renew()
	return true
}

func (w *Worker) exit(a *attempt) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.running, a.task.Token)
	w.done.Add(1)
	w.renew()
}

// stopped remembers the tokens of the last broadcasts: one may overtake the reply to the claim that it is about.
type stopped struct {
	tokens [64]string
	next   int
}

func (s *stopped) add(token string) {
	s.tokens[s.next] = token
	s.next = (s.next + 1) % len(s.tokens)
}

func (s *stopped) has(token string) bool {
	for _, t := range s.tokens {
		if t != "" && t == token {
			return true
		}
	}
	return false
}
