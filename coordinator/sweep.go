package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// How often the sweep looks for what, and how long it lets things be.
const (
	sweepEvery = 100 * time.Millisecond // at most; a tenth of the lease, if that is less
	hintAfter  = 3 * time.Second        // a shard that nobody has claimed for so long is hinted at again; doubles each time
	hintMost   = time.Minute
	stallAfter = 5 * time.Second  // a bake that nobody seems to drive is looked at
	tidyEvery  = 30 * time.Second // shards are checked for bakes that are over
)

// sweep finds what got lost, until ctx ends. It starts with every unfinished bake and queued shard: whoever drove them
// before may be gone.
func (c *Coordinator) sweep(ctx context.Context) {
	var tidied, stalled time.Time
	c.bakes.each(func(id string, v view[farm.Bake]) {
		if !v.rec.State.Finished() {
			c.kick(id)
		}
	})
	c.shards.each(func(_ string, v view[farm.Shard]) {
		if v.rec.State == farm.ShardQueued && ctx.Err() == nil {
			c.hint(ctx, v.rec)
		}
	})
	tick := time.NewTicker(max(min(sweepEvery, c.Lease/10), time.Millisecond))
	defer tick.Stop()
	for {
		now := time.Now()
		c.rescueShards(ctx, now)
		c.retryBakes(ctx, now)
		if now.Sub(stalled) > stallAfter {
			stalled = now
			c.driveStalled(ctx, now)
		}
		if now.Sub(tidied) > tidyEvery {
			tidied = now
			c.dropOrphans(ctx)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// rescueShards takes back what a worker let go, and sends hints again that may have been lost.
func (c *Coordinator) rescueShards(ctx context.Context, now time.Time) {
	c.shards.each(func(id string, v view[farm.Shard]) {
		if ctx.Err() != nil {
			return
		}
		switch v.rec.State {
		case farm.ShardClaimed:
			if leaseOut(v, now) {
				if err := c.expire(ctx, id, v); err != nil {
					c.Log.Warn("lease", "shard", id, "err", err)
				}
			}
		case farm.ShardQueued:
			if hintDue(v, now) {
				c.hint(ctx, v.rec)
			}
		}
	})
}

// leaseOut reports whether a claim is void: its record has not changed for the length of the lease, by the clock of
// whoever looks, since that one first saw it.
func leaseOut(v view[farm.Shard], now time.Time) bool {
	return v.rec.State == farm.ShardClaimed && now.Sub(v.changed) > v.rec.Lease
}

// hintDue reports whether it is time to hint at a queued shard: when its back-off ends, and again and again, ever more
// slowly, while nobody claims it.
func hintDue(v view[farm.Shard], now time.Time) bool {
	switch {
	case v.hinted.IsZero():
		return now.Sub(v.changed) > hintAfter
	case v.hints == 0:
		return !now.Before(v.hinted)
	}
	return now.Sub(v.hinted) > min(hintAfter<<min(v.hints-1, 8), hintMost)
}

// expire takes a shard back from a worker whose lease ran out. If the worker got as far as the action cache, the shard
// is done.
func (c *Coordinator) expire(ctx context.Context, id string, v view[farm.Shard]) error {
	var kept finding
	if v.rec.Kind != farm.KindObserve {
		found, err := c.find(ctx, []want{{id: id, kind: v.rec.Kind, key: v.rec.Key.Encoded()}})
		if err != nil {
			return err
		}
		kept = found[0]
	}
	lost := false
	rec, err := c.shards.change(ctx, id, func(s *farm.Shard) error {
		lost = false
		if s.State != farm.ShardClaimed || s.Token != v.rec.Token || s.Beat != v.rec.Beat {
			return errAsIs // it lives
		}
		lost = true
		if kept.output != nil && !isRebake(id) {
			s.State, s.Output, s.DoneAt = farm.ShardDone, kept.output, c.Now()
			return nil
		}
		c.lose(s, fmt.Sprintf("lease ran out: no sign of worker %s for %s", s.Worker, s.Lease), true)
		return nil
	})
	if err != nil || !lost {
		return err
	}
	c.Log.Warn("lease ran out", "shard", id, "label", rec.Label, "worker", v.rec.Worker, "attempt", v.rec.Attempt, "now", rec.State)
	if rec.State == farm.ShardDone {
		c.shardEvent(ctx, rec, 0)
		return nil
	}
	c.afterLoss(ctx, rec, 0)
	return nil
}

// retryBakes drives the bakes again that had trouble, and ends those that take too long.
func (c *Coordinator) retryBakes(ctx context.Context, now time.Time) {
	var due []string
	c.mu.Lock()
	for id, f := range c.flights {
		if !f.driving && !f.retryAt.IsZero() && now.After(f.retryAt) {
			due = append(due, id)
		}
	}
	c.mu.Unlock()
	for _, id := range due {
		c.kick(id)
	}
	c.bakes.each(func(id string, v view[farm.Bake]) {
		if v.rec.State.Finished() || v.rec.State == farm.BakeCommitting || c.Now().Sub(v.rec.AcceptedAt) < c.MaxBake || ctx.Err() != nil {
			return
		}
		err := c.fail(ctx, newFlight(id), fmt.Sprintf("not done within %s, the longest that a bake may take", c.MaxBake))
		if err == nil {
			err = c.withdraw(ctx, id)
		}
		if err != nil && !errors.Is(err, errOver) {
			c.Log.Warn("bake takes too long", "bake", id, "err", err)
		}
	})
}

// driveStalled looks after bakes that stand still: shards that ended unnoticed, and bakes that no coordinator drives.
func (c *Coordinator) driveStalled(ctx context.Context, now time.Time) {
	active := map[string]time.Time{} // bakes by the latest change of one of their shards
	c.shards.each(func(_ string, v view[farm.Shard]) {
		for _, b := range v.rec.Bakes {
			if v.changed.After(active[b]) {
				active[b] = v.changed
			}
		}
	})
	c.bakes.each(func(id string, v view[farm.Bake]) {
		if v.rec.State.Finished() || now.Sub(v.changed) < stallAfter || ctx.Err() != nil {
			return
		}
		f := c.flightOf(id)
		if f == nil {
			if now.Sub(active[id]) > stallAfter {
				c.kick(id)
			}
			return
		}
		for _, shard := range f.overdue() {
			if _, running := c.shards.peek(shard); running {
				continue
			}
			rec, _, err := c.shards.fetch(ctx, shard)
			if err != nil {
				continue // next time
			}
			if rec.State.Finished() {
				f.deliver(rec)
				c.kick(id)
			}
		}
		if len(f.overdue()) == 0 {
			c.kick(id)
		}
	})
}

// dropOrphans withdraws bakes that are over from shards that still run: whoever ended them died before doing so.
func (c *Coordinator) dropOrphans(ctx context.Context) {
	over := map[string]bool{}
	isOver := func(bake string) bool {
		if is, known := over[bake]; known {
			return is
		}
		b, _, _, err := c.bakes.get(ctx, bake)
		over[bake] = errors.Is(err, bus.ErrNotFound) || err == nil && b.State.Finished()
		return over[bake]
	}
	c.shards.each(func(id string, v view[farm.Shard]) {
		for _, bake := range slices.Clone(v.rec.Bakes) {
			if ctx.Err() != nil || !isOver(bake) {
				continue
			}
			if err := c.leave(ctx, id, bake); err != nil {
				c.Log.Warn("orphan", "shard", id, "bake", bake, "err", err)
			}
		}
	})
}
