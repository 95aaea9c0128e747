package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/collect"

	"github.com/oklog/ulid/v2"
)

// signEvery is how often a sweep that runs says so.
const signEvery = 2 * time.Second

// sweeps are the sweeps that run in this process.
type sweeps struct {
	mu      sync.Mutex
	running sync.WaitGroup
	ctx     context.Context // of Run; nil: not at work
}

// startSweep serves a SweepRequest: it begins a sweep, unless one runs already, which then is the answer.
func (u *Upkeep) startSweep(ctx context.Context, r bus.SweepRequest) (farm.Sweep, error) {
	if err := r.Kind.Validate(); err != nil {
		return farm.Sweep{}, fmt.Errorf("%w: %w", err, bus.ErrInvalid)
	}
	if u.Store == nil || u.Index == nil {
		return farm.Sweep{}, fmt.Errorf("this process has no image store: %w", bus.ErrInvalid)
	}
	key := farm.SweepKey(r.Kind, r.DryRun)
	for range maxConflicts {
		had, revision, err := u.Bus.Sweeps.Get(ctx, key)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return had, err
		}
		if err == nil && !had.State.Ended() && time.Since(had.Seen) < farm.SweepPatience {
			return had, nil
		}
		now := time.Now().UTC()
		s := farm.Sweep{Schema: farm.Schema, Kind: r.Kind, ID: ulid.Make().String(), DryRun: r.DryRun, By: r.By, Owner: u.Name,
			State: farm.SweepRunning, Began: now, Seen: now, Cursor: had.Cursor}
		if revision, err = u.Bus.Sweeps.Update(ctx, key, s, revision); err == nil {
			return s, u.launch(&sweeping{u: u, key: key, rec: s, revision: revision})
		}
		if !errors.Is(err, bus.ErrConflict) {
			return s, err
		}
	}
	return farm.Sweep{}, fmt.Errorf("%s: %w", key, bus.ErrConflict)
}

// launch runs a sweep beside the request that began it.
func (u *Upkeep) launch(s *sweeping) error {
	u.sweeps.mu.Lock()
	defer u.sweeps.mu.Unlock()
	if u.sweeps.ctx == nil || u.sweeps.ctx.Err() != nil {
		return fmt.Errorf("this process stops: %w", bus.ErrNoResponder)
	}
	ctx, cancel := context.WithCancel(u.sweeps.ctx)
	s.cancel = cancel
	u.sweeps.running.Go(func() {
		defer cancel()
		s.run(ctx)
	})
	return nil
}

// sweeping is a sweep that runs here.
type sweeping struct {
	u      *Upkeep
	key    string
	cancel context.CancelFunc

	mu       sync.Mutex
	rec      farm.Sweep
	revision uint64
}

// run does the sweep, says that it lives while it does, and how it ended.
func (s *sweeping) run(ctx context.Context) {
	signs := make(chan struct{})
	go func() {
		defer close(signs)
		tick := time.NewTicker(signEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.write(ctx, func(*farm.Sweep) {})
			case <-ctx.Done():
				return
			}
		}
	}()
	var err error
	switch s.rec.Kind {
	case farm.SweepCollect:
		err = s.u.collect(ctx, s)
	case farm.SweepScrub:
		err = s.u.scrub(ctx, s)
	}
	stopped := ctx.Err() != nil
	s.cancel()
	<-signs
	if stopped && err != nil {
		err = errors.New("the process that ran it was stopped; the next one goes on")
	}
	if err != nil {
		s.u.Log.Warn("sweep", "kind", s.rec.Kind, "err", err)
	}
	last, done := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
	defer done()
	s.write(last, func(r *farm.Sweep) {
		r.State, r.Ended = farm.SweepDone, time.Now().UTC()
		if err != nil {
			r.State, r.Error = farm.SweepFailed, err.Error()
		}
	})
}

// write changes the sweep's record. When another process has taken its place, this one ends.
func (s *sweeping) write(ctx context.Context, change func(*farm.Sweep)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.rec
	change(&rec)
	rec.Seen = time.Now().UTC()
	revision, err := s.u.Bus.Sweeps.Update(ctx, s.key, rec, s.revision)
	switch {
	case err == nil:
		s.rec, s.revision = rec, revision
	case errors.Is(err, bus.ErrConflict):
		s.u.Log.Warn("another process has taken over", "sweep", s.key)
		s.cancel()
	case ctx.Err() == nil:
		s.u.Log.Warn("the sweep's record was not written", "sweep", s.key, "err", err)
	}
}

// tell puts a result, so far, into what the record will say.
func (s *sweeping) tell(result any) {
	raw, err := json.Marshal(result)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rec.Result = raw
}

// collect is a garbage collection, of what is over in the trash first.
func (u *Upkeep) collect(ctx context.Context, s *sweeping) error {
	if !s.rec.DryRun {
		if err := u.EmptyTrash(ctx); err != nil {
			return err
		}
	}
	gone := map[string]int{}
	c := u.Collect
	c.Packs, c.Index, c.Store, c.Roots = packs{u.Bus.Packs}, u.Index, u.Store, u.roots(s.rec.DryRun, gone)
	c.DryRun, c.Log, c.Now = s.rec.DryRun, u.Log, u.Now
	c.Progress = func(r collect.Report) { s.tell(Collected{r, gone}) }
	r, err := collect.New(c).Run(ctx)
	s.tell(Collected{r, gone})
	if err == nil && !s.rec.DryRun {
		u.Log.Info("garbage collected", "condemned", r.Condemned, "repacked", r.Repacked, "deleted", r.Deleted, "freed", r.Freed, "records", gone)
	}
	return err
}
