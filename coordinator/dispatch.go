package coordinator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
)

// A dispatched is what became of a job.
type dispatched struct {
	standing standing // running, ready or broken
	source   farm.Source
	reason   string
	shard    farm.Shard
	hint     bool // it was queued by this
}

// dispatch has the jobs made, or joins those who have: every one ends up running with the bake's interest, ready, or
// broken because it failed while the bake wanted it.
func (c *Coordinator) dispatch(ctx context.Context, f *flight, jobs []job) ([]dispatched, error) {
	if err := c.encodeSpecs(ctx, jobs); err != nil {
		return nil, err
	}
	results := make([]dispatched, len(jobs))
	err := parallel(ctx, len(jobs), func(ctx context.Context, i int) (err error) {
		f.expect(jobs[i].id) // first: it may end before ensure returns
		results[i], err = c.ensure(ctx, f.id, jobs[i])
		if err == nil && results[i].standing != running {
			f.unexpect(jobs[i].id)
		}
		return err
	})
	// Hints go out for what was queued, whatever went wrong with the rest.
	err = errors.Join(err, c.hintAll(ctx, results))
	if err != nil {
		return nil, err
	}
	for _, r := range results {
		if r.hint {
			c.underWay(ctx, r.shard)
		}
	}
	return results, nil
}

// ensure makes the record of one job say that the bake wants it.
func (c *Coordinator) ensure(ctx context.Context, bake string, j job) (dispatched, error) {
	fresh := c.newShard(bake, j)
	fresh.Requires = j.shard.Requires
	if b, known := c.bakes.peek(bake); known {
		fresh.Requires = union(b.Requires, j.shard.Requires)
	}
	miss := dispatched{standing: running, source: farm.SourceMiss, reason: j.shard.Reason(farm.SourceMiss), shard: fresh, hint: true}
	if _, known := c.shards.peek(j.id); !known {
		err := c.shards.create(ctx, j.id, fresh)
		if err == nil || !errors.Is(err, bus.ErrExists) {
			return miss, err
		}
	}
	var d dispatched
	rec, err := c.shards.change(ctx, j.id, func(s *farm.Shard) error {
		switch {
		case s.State == farm.ShardFailed && wants(*s, bake):
			d = dispatched{standing: broken}
			return errAsIs
		case s.State.Finished():
			if s.State == farm.ShardDone {
				there, err := j.exists(ctx)
				if err != nil {
					return err
				}
				if there {
					d = dispatched{standing: ready, source: farm.SourceShared, reason: j.shard.Reason(farm.SourceShared)}
					if wants(*s, bake) { // it ended while we were away
						d.source, d.reason = farm.SourceMiss, miss.reason
					}
					return errAsIs
				}
			}
			d = miss
			again := fresh
			*s = again
		case wants(*s, bake):
			d = dispatched{standing: running, source: farm.SourceMiss, reason: miss.reason}
			return errAsIs
		default:
			d = dispatched{standing: running, source: farm.SourceShared, reason: j.shard.Reason(farm.SourceShared)}
			if len(s.Bakes) > 0 {
				d.reason += ", for bake " + s.Bakes[0]
			}
			s.Bakes = append(slices.Clip(s.Bakes), bake)
			if s.State == farm.ShardQueued {
				s.Requires = union(s.Requires, fresh.Requires)
			}
		}
		return nil
	})
	d.shard = rec
	return d, err
}

// union has what is in either list, each once.
func union(a, b []string) []string {
	all := slices.Concat(a, b)
	slices.Sort(all)
	return slices.Compact(all)
}

func (c *Coordinator) newShard(bake string, j job) farm.Shard {
	return farm.Shard{
		Schema: farm.Schema, ID: j.id, Key: j.shard.Key, Kind: j.shard.Kind, Class: j.shard.Class, Label: clip(j.shard.Label, 512), Work: j.shard.Work,
		Spec: j.spec, Deps: j.deps, State: farm.ShardQueued, Bakes: []string{bake}, QueuedAt: c.Now().UTC(),
	}
}

// encodeSpecs encodes the jobs' specs, and stores those that are too large for a record.
func (c *Coordinator) encodeSpecs(ctx context.Context, jobs []job) error {
	w := c.Store.Begin()
	large := false
	for i := range jobs {
		if jobs[i].spec.Piece != "" || jobs[i].spec.Inline != nil {
			continue
		}
		p, err := imagestore.StorePayload(ctx, w, jobs[i].shard.Spec)
		if err != nil {
			return err
		}
		jobs[i].spec = p
		large = large || p.Piece != ""
	}
	if !large {
		return nil
	}
	return w.Commit(ctx)
}

// hintAll sends the hints of what was queued, by class.
func (c *Coordinator) hintAll(ctx context.Context, results []dispatched) error {
	byClass := map[string][]string{}
	for _, r := range results {
		if r.hint && !c.offer(r.shard) {
			byClass[r.shard.Class] = append(byClass[r.shard.Class], r.shard.ID)
		}
	}
	for _, class := range slices.Sorted(maps.Keys(byClass)) {
		ids := byClass[class]
		if err := c.Bus.EnqueueAll(ctx, class, ids); err != nil {
			return fmt.Errorf("hint: %w", err) // the sweep sends them again
		}
		now := time.Now()
		for _, id := range ids {
			c.shards.hintSent(id, now)
		}
	}
	return nil
}

// hint sends the hint of a queued shard. When that fails the sweep tries again.
func (c *Coordinator) hint(ctx context.Context, s farm.Shard) {
	c.shards.hintSent(s.ID, time.Now())
	if err := c.Bus.Enqueue(ctx, s.Class, s.ID); err != nil {
		c.Log.Warn("hint not sent, trying again later", "shard", s.ID, "err", err)
	}
}
