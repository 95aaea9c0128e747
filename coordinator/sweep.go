package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// How often the sweep looks for what, and how long it lets things be.
const (
	sweepEvery = 100 * time.Millisecond // at most; a tenth of the lease, if that is less
	lookEvery  = time.Second            // the shards that wait, and the bakes' time limits: of these there may be many
	hintAfter  = 3 * time.Second        // a shard that nobody has claimed for so long is hinted at again; doubles each time
	hintMost   = time.Minute
	stallAfter = 5 * time.Second  // a bake that nobody seems to drive is looked at
	tidyEvery  = 30 * time.Second // shards are checked for bakes that are over
)

// sweep finds what got lost, until ctx ends. It starts with every unfinished bake and queued shard: whoever drove them
// before may be gone.
func (c *Coordinator) sweep(ctx context.Context) {
	var tidied, stalled, matched, looked time.Time
	nobody := unmatched{}
	var attending sync.WaitGroup
	attending.Go(func() { c.attention.attend(ctx, c.Lease, c.Bus.Shards) })
	defer attending.Wait()
	for _, b := range c.bakes.pick(unfinished) {
		c.kick(b.id)
	}
	for _, s := range c.shards.pick(func(v *view[farm.Shard]) bool { return v.rec.State == farm.ShardQueued }) {
		if ctx.Err() == nil {
			c.hint(ctx, s.rec)
		}
	}
	tick := time.NewTicker(max(min(sweepEvery, c.Lease/10), time.Millisecond))
	defer tick.Stop()
	for {
		now := time.Now()
		c.attention.tick(now, c.Lease)
		c.rescueShards(ctx, now, c.shards.pickHot)
		c.retryBakes(now)
		if now.Sub(looked) > lookEvery {
			looked = now
			c.rescueShards(ctx, now, c.shards.pick)
			c.endLate(ctx, now)
		}
		if now.Sub(stalled) > stallAfter {
			stalled = now
			c.driveStalled(ctx, now)
		}
		if now.Sub(matched) > matchEvery {
			matched = now
			c.matchWorkers(ctx, now, nobody)
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

func unfinished(v *view[farm.Bake]) bool { return !v.rec.State.Finished() }

// rescueShards takes back what a worker let go, and sends hints again that may have been lost, for those shards that pick looks at.
func (c *Coordinator) rescueShards(ctx context.Context, now time.Time, pick func(func(*view[farm.Shard]) bool) []picked[farm.Shard]) {
	enough := map[string]bool{} // classes whose queues have a hint for every shard that waits
	offered := 0
	for _, s := range pick(func(v *view[farm.Shard]) bool { return c.leaseOut(v, now) || hintDue(v, now) || c.tooLong(v, now) }) {
		switch {
		case ctx.Err() != nil:
			return
		case s.rec.State == farm.ShardQueued:
			if s.hints > 0 && offered < offersAtOnce && c.press(s.rec) {
				offered++
			}
			if s.hints > 0 && c.hinted(ctx, s.rec.Class, enough) {
				c.shards.hintSent(s.id, now)
				continue
			}
			c.hint(ctx, s.rec)
		default:
			if !c.leaseOut(&s.view, now) {
				c.endLong(ctx, s.id, s.view)
				continue
			}
			if err := c.expire(ctx, s.id, s.view, fmt.Sprintf("lease ran out: no sign of worker %s for %s", s.rec.Worker, s.rec.Lease)); err != nil {
				c.Log.Warn("lease", "shard", s.id, "err", err)
			}
		}
	}
}

// hinted reports whether a class's queue has as many hints as shards wait in it. Hints are alike, so none is lost then: workers
// are busy, or there are none.
func (c *Coordinator) hinted(ctx context.Context, class string, known map[string]bool) bool {
	enough, asked := known[class]
	if !asked {
		hints, err := c.Bus.Hints(ctx, class)
		enough = err == nil && hints >= c.queue.waitIn(class)
		known[class] = enough
	}
	return enough
}

// leaseOut reports whether a claim is void: its record has not changed for the length of the lease, by the clock of
// whoever looks, since that one first saw it, and that one was able to see changes all the while.
func (c *Coordinator) leaseOut(v *view[farm.Shard], now time.Time) bool {
	return v.rec.State == farm.ShardClaimed && now.Sub(v.changed) > v.rec.Lease && now.Sub(c.attention.since()) > v.rec.Lease
}

// tooLong reports whether an attempt goes on for longer than one may.
func (c *Coordinator) tooLong(v *view[farm.Shard], now time.Time) bool {
	if v.rec.State != farm.ShardClaimed {
		return false
	}
	began := c.queue.since(v.rec.ID)
	return !began.IsZero() && now.Sub(began) > c.MaxShard
}

// endLong ends an attempt that takes too long: it has failed, and may be made again, as often as any other. Its worker is told.
func (c *Coordinator) endLong(ctx context.Context, id string, v view[farm.Shard]) {
	ended := false
	rec, err := c.shards.change(ctx, id, func(s *farm.Shard) error {
		if ended = s.State == farm.ShardClaimed && s.Token == v.rec.Token; !ended {
			return errAsIs
		}
		c.fall(s, fmt.Sprintf("not done within %s, the longest that a shard may take", c.MaxShard), true)
		return nil
	})
	if err != nil || !ended {
		if err != nil {
			c.Log.Warn("shard takes too long", "shard", id, "err", err)
		}
		return
	}
	c.stopAttempt(ctx, id, v.rec.Token)
	c.afterLoss(ctx, rec, backOff(rec.Attempt))
}

// hintDue reports whether it is time to hint at a queued shard: when its back-off ends, and again and again, ever more
// slowly, while nobody claims it.
func hintDue(v *view[farm.Shard], now time.Time) bool {
	switch {
	case v.rec.State != farm.ShardQueued:
		return false
	case v.hinted.IsZero():
		return now.Sub(v.changed) > hintAfter
	case v.hints == 0:
		return !now.Before(v.hinted)
	}
	return now.Sub(v.hinted) > min(hintAfter<<min(v.hints-1, 8), hintMost)
}

// expire takes a shard back from a worker that is gone; reason says how that is known. If the worker got as far as the
// action cache, the shard is done.
func (c *Coordinator) expire(ctx context.Context, id string, v view[farm.Shard], reason string) error {
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
		c.lose(s, reason)
		return nil
	})
	if err != nil || !lost {
		return err
	}
	c.Log.Warn("attempt lost", "shard", id, "label", rec.Label, "attempt", v.rec.Attempt, "reason", reason, "now", rec.State)
	wait := time.Duration(0) // one worker's death is no reason to wait
	if rec.Lost > 1 {
		wait = backOff(rec.Lost)
	}
	c.afterLoss(ctx, rec, wait)
	return nil
}

// retryBakes drives the bakes again that had trouble.
func (c *Coordinator) retryBakes(now time.Time) {
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
}

// endLate ends the bakes that take too long: that were there for so long before the eyes of this process, since the clock of
// whoever accepted them may say anything.
func (c *Coordinator) endLate(ctx context.Context, now time.Time) {
	late := c.bakes.pick(func(v *view[farm.Bake]) bool {
		return unfinished(v) && v.rec.State != farm.BakeCommitting && now.Sub(v.first) > c.limit(v.rec)
	})
	for _, b := range late {
		limit := c.limit(b.rec)
		message := fmt.Sprintf("not done within %s, the longest that a bake may take", limit)
		if limit < c.MaxBake {
			message = fmt.Sprintf("not done within %s, as it was asked to be", limit)
		}
		if b.rec.Waiting != "" {
			message += ": it waited for " + b.rec.Waiting
		}
		err := c.fail(ctx, newFlight(b.id), message)
		if err == nil {
			err = c.withdraw(ctx, b.id)
		}
		if err != nil && !errors.Is(err, errOver) {
			c.Log.Warn("bake takes too long", "bake", b.id, "err", err)
		}
	}
}

// limit is how long a bake may take.
func (c *Coordinator) limit(b farm.Bake) time.Duration {
	if b.Timeout > 0 {
		return min(b.Timeout, c.MaxBake)
	}
	return c.MaxBake
}

// driveStalled looks after bakes that stand still: shards that ended unnoticed, and bakes that no coordinator drives.
func (c *Coordinator) driveStalled(ctx context.Context, now time.Time) {
	active := map[string]bool{} // bakes with a shard that has changed lately, or waits for its turn
	c.shards.visit(func(_ string, v *view[farm.Shard]) {
		if now.Sub(v.changed) < stallAfter || v.rec.State == farm.ShardQueued {
			for _, b := range v.rec.Bakes {
				active[b] = true
			}
		}
	})
	for _, b := range c.bakes.pick(func(v *view[farm.Bake]) bool { return unfinished(v) && now.Sub(v.changed) > stallAfter }) {
		if ctx.Err() != nil {
			return
		}
		if f := c.flightOf(b.id); f != nil {
			c.deliverOverdue(ctx, f)
		} else if !active[b.id] {
			c.kick(b.id)
		}
	}
}

// deliverOverdue looks for the shards that a bake waits for and that don't run.
func (c *Coordinator) deliverOverdue(ctx context.Context, f *flight) {
	overdue := f.overdue()
	for _, id := range overdue {
		if _, runs := c.shards.peek(id); runs {
			continue
		}
		if rec, _, err := c.shards.fetch(ctx, id); err == nil && rec.State.Finished() {
			f.deliver(rec)
			c.kick(f.id)
		}
	}
	if len(overdue) == 0 {
		c.kick(f.id)
	}
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
	for _, s := range c.shards.pick(func(*view[farm.Shard]) bool { return true }) {
		for _, bake := range s.rec.Bakes {
			if ctx.Err() != nil || !isOver(bake) {
				continue
			}
			if err := c.leave(ctx, s.id, bake); err != nil {
				c.Log.Warn("orphan", "shard", s.id, "bake", bake, "err", err)
			}
		}
	}
}
