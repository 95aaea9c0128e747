package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"slices"

	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// maxInlineRefs is the size in bytes of a bake's shard list above which it stands in a piece.
const maxInlineRefs = 256 << 10

// resolve has the recipe's questions answered, plans, and starts the plan.
func (c *Coordinator) resolve(ctx context.Context, f *flight, b farm.Bake) (again bool, err error) {
	if err := c.prepare(ctx, f, b); err != nil {
		return false, err
	}
	jobs, err := c.answer(ctx, f, b)
	if err != nil {
		return false, err
	}
	if len(jobs) > 0 {
		return c.ask(ctx, f, b, jobs)
	}
	key := f.lock.Key()
	if v, ok, err := c.committed(ctx, f.recipe.Name, key, b); err != nil {
		return false, err
	} else if ok {
		if err := c.keepLock(ctx, f, b, nil, nil); err != nil {
			return false, err
		}
		_, err = c.move(ctx, f.id, farm.BakeCommitting, func(b *farm.Bake) { c.setCached(f, b, v) })
		return true, err
	}
	return c.begin(ctx, f, b, key)
}

// ask dispatches the shards that answer the recipe's questions.
func (c *Coordinator) ask(ctx context.Context, f *flight, b farm.Bake, jobs []job) (again bool, err error) {
	results, err := c.dispatch(ctx, f, jobs)
	if err != nil {
		return false, err
	}
	for i, r := range results {
		ref := farm.ShardRef{ID: jobs[i].id, Kind: jobs[i].shard.Kind, Label: jobs[i].shard.Label, Source: r.source, Reason: r.reason}
		switch r.standing {
		case broken:
			return false, fatal{errors.New(failure(r.shard))}
		case ready:
			again = true
		}
		f.noteEarly(ref)
	}
	if b.State == farm.BakeAccepted {
		_, err = c.move(ctx, f.id, farm.BakeResolving, nil)
	}
	return again, err
}

// begin plans the bake, looks up what is there, and starts what isn't.
func (c *Coordinator) begin(ctx context.Context, f *flight, b farm.Bake, key digest.Digest) (again bool, err error) {
	if f.graph == nil {
		if err := c.chart(f, b); err != nil {
			return false, err
		}
	}
	if b.LockOnly {
		if err := c.keepLock(ctx, f, b, nil, nil); err != nil {
			return false, err
		}
		_, err := c.move(ctx, f.id, farm.BakeDone, func(b *farm.Bake) {
			c.setLock(f, b, key)
			b.Shards, b.DoneAt = f.early, c.doneAt(*b)
		})
		return true, err
	}
	m, err := c.lookUp(ctx, f)
	if err != nil {
		return false, err
	}
	g := f.graph
	f.setProgress(g.hits(), len(g.shards))
	c.events.emit(ctx, farm.Event{Type: farm.EventPlan, Bake: f.id, Done: g.hits(), Total: len(g.shards)})
	// What the record will name is stored while the first shards are on their way: a crash in between costs nothing but
	// asking again.
	refs := slices.Concat(f.early, g.refs)
	var list digest.Digest
	err = together(ctx,
		func(ctx context.Context) error { return c.keepLock(ctx, f, b, refs, &list) },
		func(ctx context.Context) error { return c.dispatchSteps(ctx, f, m.dispatch) })
	if err != nil {
		return false, err
	}
	_, err = c.move(ctx, f.id, farm.BakeBaking, func(b *farm.Bake) {
		c.setLock(f, b, key)
		if list == "" {
			refs = slices.Concat(f.early, g.refs) // some turned out to be shared
		}
		setRefs(b, refs, list)
	})
	return true, err
}

// chart plans the flight's Lock.
func (c *Coordinator) chart(f *flight, b farm.Bake) error {
	p, err := plan.New(f.lock, f.trees, func(p recipe.LockedPackage) []string { return f.urls[p.SHA256] }, f.source)
	if err != nil {
		return fatal{err}
	}
	f.graph = newGraph(p, b.Rebake, b.ID)
	for i := range f.graph.refs {
		if was, ok := f.known[f.graph.refs[i].ID]; ok {
			f.graph.refs[i] = was
		}
	}
	if !b.LockOnly {
		f.early = slices.DeleteFunc(f.early, func(was farm.ShardRef) bool { // a base is imported before there is a plan
			i, planned := f.graph.index[was.ID]
			if planned {
				f.graph.refs[i] = was
			}
			return planned
		})
	}
	return nil
}

// fits reports whether a shard list may stand in a bake's record.
func fits(refs []farm.ShardRef) bool {
	raw, err := json.Marshal(refs)
	return err == nil && len(raw) <= maxInlineRefs
}

// setRefs puts the shard list, or the piece that holds it, into a bake's record.
func setRefs(b *farm.Bake, refs []farm.ShardRef, list digest.Digest) {
	b.Shards, b.ShardList = refs, ""
	if list != "" {
		b.Shards, b.ShardList = nil, list
	}
}

// setLock puts what the bake resolved to into its record.
func (c *Coordinator) setLock(f *flight, b *farm.Bake, key digest.Digest) {
	b.Name, b.Lock, b.Evidence = f.recipe.Name, key, f.evidenceAt
	b.Key, b.Version = key, farm.VersionOf(key)
}

// keepLock stores what the bake's record is going to name: the Lock, its trees and evidence, and the list of shards if it
// is large, whose digest goes to list; and remembers the Lock for re-bakes of the request.
func (c *Coordinator) keepLock(ctx context.Context, f *flight, b farm.Bake, refs []farm.ShardRef, list *digest.Digest) error {
	w := c.Store.Begin()
	put := func(data []byte) (digest.Digest, error) {
		part, err := w.Put(ctx, data)
		return part.Digest, err
	}
	lock, err := put(f.lock.Encode())
	if err != nil {
		return err
	}
	for _, t := range f.trees {
		if _, err := put(t.Encode()); err != nil {
			return err
		}
	}
	evidence, err := json.Marshal(f.evidence)
	if err != nil {
		return err
	}
	if f.evidence != nil && len(f.evidence.Platforms) > 0 {
		if f.evidenceAt, err = put(evidence); err != nil {
			return err
		}
	}
	if refs != nil && !fits(refs) {
		raw, err := json.Marshal(refs)
		if err != nil {
			return err
		}
		if *list, err = put(raw); err != nil {
			return err
		}
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	_, err = c.Bus.Requests.Put(ctx, b.Request.Encoded(), farm.RequestLock{Schema: farm.Schema, Lock: lock, Evidence: f.evidenceAt})
	return err
}
