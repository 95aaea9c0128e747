package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// maxInlineRefs is the size in bytes of a bake's shard list above which it stands in a piece.
const maxInlineRefs = 256 << 10

// errOver ends a drive: the bake ended, by us or by somebody else.
var errOver = errors.New("the bake is over")

// drive takes a bake as far as it goes without waiting. ended says that the bake is over; an error, that it is worth
// trying again. What ends the bake itself, such as a shard that failed, is no error here.
func (c *Coordinator) drive(ctx context.Context, f *flight) (ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, drivePatience)
	defer cancel()
	for {
		b, _, _, err := c.bakes.get(ctx, f.id)
		if errors.Is(err, bus.ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		var again bool
		switch b.State {
		case farm.BakeAccepted, farm.BakeResolving:
			again, err = c.resolve(ctx, f, b)
		case farm.BakeBaking:
			again, err = c.advance(ctx, f, b)
		case farm.BakeCommitting:
			again, err = true, c.commit(ctx, f, b)
		default:
			return true, c.withdraw(ctx, f.id)
		}
		if own := (fatal{}); errors.As(err, &own) {
			again, err = true, c.fail(ctx, f, own.Error())
		}
		var refused *bus.RemoteError
		if errors.As(err, &refused) && refused.Code == "invalid" { // by prepare: the recipe's or the context's own fault
			again, err = true, c.fail(ctx, f, refused.Message)
		}
		if errors.Is(err, errOver) {
			again, err = true, nil
		}
		if err != nil || !again {
			return false, err
		}
	}
}

// move changes a bake's record on its way from a state to the next, unless it is over.
func (c *Coordinator) move(ctx context.Context, id string, next farm.BakeState, set func(*farm.Bake)) (farm.Bake, error) {
	moved := false
	b, err := c.bakes.change(ctx, id, func(b *farm.Bake) error {
		moved = false
		if b.State.Finished() {
			return errOver
		}
		if b.State == next {
			return errAsIs // another coordinator was faster
		}
		if !b.State.CanMove(next) {
			return fmt.Errorf("bake %s: is %s, and can't become %s", id, b.State, next)
		}
		b.State = next
		if set != nil {
			set(b)
		}
		moved = true
		return nil
	})
	if err != nil {
		return b, err
	}
	if moved {
		c.bakeEvent(ctx, b)
		if b.State.Finished() {
			c.ended(b)
		}
	}
	return b, nil
}

// fail ends a bake with an error, and its interest in what still runs.
func (c *Coordinator) fail(ctx context.Context, f *flight, message string) error {
	_, err := c.move(ctx, f.id, farm.BakeFailed, func(b *farm.Bake) {
		b.Error, b.DoneAt = clip(message, maxError), c.doneAt(*b)
		if f.graph != nil {
			if refs := slices.Concat(f.early, f.graph.refs); fits(refs) {
				b.Shards = refs
			}
		} else if len(f.early) > 0 {
			b.Shards = f.early
		}
	})
	return err
}

// ended tells who wants to know about a bake that is over.
func (c *Coordinator) ended(b farm.Bake) {
	if c.OnDone != nil {
		c.OnDone(b)
	}
}

// doneAt is when a bake that was not done when it was accepted is: later.
func (c *Coordinator) doneAt(b farm.Bake) time.Time {
	now := c.Now().UTC()
	if !now.After(b.AcceptedAt) {
		now = b.AcceptedAt.Add(time.Nanosecond)
	}
	return now
}

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
	p, err := plan.New(f.lock, f.trees, func(p recipe.LockedPackage) []string { return f.urls[p.SHA256] })
	if err != nil {
		return fatal{err}
	}
	f.graph = newGraph(p, b.Rebake, b.ID)
	for i := range f.graph.refs {
		if was, ok := f.known[f.graph.refs[i].ID]; ok {
			f.graph.refs[i] = was
		}
	}
	return nil
}

// lookUp finds the outputs that the plan needs and somebody made, from the images down, and returns what then is to do.
func (c *Coordinator) lookUp(ctx context.Context, f *flight) (moves, error) {
	g := f.graph
	for {
		m := decide(g.steps, g.roots, g.standings)
		if len(m.lookup) == 0 {
			return m, nil
		}
		wants := make([]want, len(m.lookup))
		for j, i := range m.lookup {
			wants[j] = want{id: g.ids[i], kind: g.shards[i].Kind, key: g.shards[i].Key.Encoded()}
		}
		found, err := c.find(ctx, wants)
		if err != nil {
			return m, err
		}
		for j, i := range m.lookup {
			if found[j].output == nil {
				g.standings[i] = missing
				g.source(i, farm.SourceMiss, g.shards[i].Reason(farm.SourceMiss))
				continue
			}
			g.standings[i] = ready
			if f.adopted {
				c.recall(ctx, f.id, g, i)
			}
			reason := g.shards[i].Reason(farm.SourceHit)
			if found[j].origin != "" {
				reason += ": " + found[j].origin
			}
			g.source(i, farm.SourceHit, reason)
			g.refs[i].State = farm.ShardDone
		}
	}
}

// recall notes that an output, which looks like a hit, is there because the bake had it made before a restart.
func (c *Coordinator) recall(ctx context.Context, bake string, g *graph, i int) {
	rec, _, err := c.Bus.Shards.Get(ctx, g.ids[i])
	if err != nil || !wants(rec, bake) {
		return // for people only: at worst it is called a hit
	}
	g.source(i, farm.SourceMiss, g.shards[i].Reason(farm.SourceMiss))
	g.refs[i].Worker, g.refs[i].Took = rec.Worker, rec.Took
}

// dispatchSteps has shards of the plan made.
func (c *Coordinator) dispatchSteps(ctx context.Context, f *flight, steps []int) error {
	if len(steps) == 0 {
		return nil
	}
	g := f.graph
	jobs := make([]job, len(steps))
	for j, i := range steps {
		w := want{id: g.ids[i], kind: g.shards[i].Kind, key: g.shards[i].Key.Encoded()}
		deps := make([]string, len(g.steps[i].deps))
		for k, d := range g.steps[i].deps {
			deps[k] = g.ids[d]
		}
		jobs[j] = job{id: g.ids[i], shard: g.shards[i], deps: deps, spec: g.specs[i], exists: func(ctx context.Context) (bool, error) {
			found, err := c.find(ctx, []want{w})
			return err == nil && found[0].output != nil, err
		}}
	}
	results, err := c.dispatch(ctx, f, jobs)
	if err != nil {
		return err
	}
	for j, i := range steps {
		delete(g.specs, i)
		r := results[j]
		g.standings[i] = r.standing
		if r.standing == broken {
			g.failures[i] = r.shard
			continue
		}
		g.source(i, r.source, r.reason)
		g.refs[i].State = r.shard.State
		if r.standing == ready {
			f.advanceProgress()
			g.refs[i].Worker, g.refs[i].Took = r.shard.Worker, r.shard.Took
		}
	}
	return nil
}

// advance dispatches what has become possible, and moves on when every image is there.
func (c *Coordinator) advance(ctx context.Context, f *flight, b farm.Bake) (again bool, err error) {
	if f.graph == nil {
		if err := c.rechart(ctx, f, b); err != nil {
			return false, err
		}
	}
	f.collect(func(s farm.Shard) { c.outputs.put(s.ID, s.Output, "") })
	for {
		m, err := c.lookUp(ctx, f)
		if err != nil {
			return false, err
		}
		switch {
		case len(m.broken) > 0:
			return false, fatal{errors.New(failure(f.graph.failures[m.broken[0]]))}
		case m.done:
			return true, c.complete(ctx, f, b)
		case len(m.dispatch) == 0:
			return false, nil
		}
		if err := c.dispatchSteps(ctx, f, m.dispatch); err != nil {
			return false, err
		}
	}
}

// rechart makes the plan again from the record: after a restart, or when outputs have gone.
func (c *Coordinator) rechart(ctx context.Context, f *flight, b farm.Bake) error {
	if f.lock == nil {
		if err := c.readLock(ctx, f, b.Lock, b.Evidence); err != nil {
			return vanishedIsFatal(err)
		}
	}
	f.trees = nil
	for _, item := range f.lock.App {
		raw, err := imagestore.ReadAll(ctx, c.Store, item.Tree, recipe.MaxManifest)
		if err != nil {
			return vanishedIsFatal(fmt.Errorf("app content: %w", err))
		}
		t, err := recipe.DecodeTree(raw)
		if err != nil {
			return fatal{err}
		}
		f.trees = append(f.trees, t)
	}
	refs := b.Shards
	if b.ShardList != "" {
		raw, err := imagestore.ReadAll(ctx, c.Store, b.ShardList, imagestore.MaxPiece)
		if err == nil {
			err = json.Unmarshal(raw, &refs)
		}
		if err != nil {
			c.Log.Warn("shard list lost", "bake", b.ID, "err", err)
		}
	}
	f.known = make(map[string]farm.ShardRef, len(refs))
	f.early = nil
	for _, ref := range refs {
		f.known[ref.ID] = ref
		if ref.Kind == farm.KindObserve || ref.Kind == farm.KindSolve {
			f.early = append(f.early, ref)
		}
	}
	if err := c.chart(f, b); err != nil {
		return err
	}
	if _, err := c.lookUp(ctx, f); err != nil {
		return err
	}
	done := 0
	for _, s := range f.graph.standings {
		if s == ready {
			done++
		}
	}
	f.setProgress(done, len(f.graph.shards))
	return nil
}

func vanishedIsFatal(err error) error {
	if errors.Is(err, imagestore.ErrNotFound) {
		return fatal{err}
	}
	return err
}

// failure says in a sentence why a shard failed, and so its bakes.
func failure(s farm.Shard) string {
	if strings.HasPrefix(s.Error, notReproducible) {
		return s.Error
	}
	attempts := ""
	if s.Attempt > 1 {
		attempts = fmt.Sprintf(", attempt %d", s.Attempt)
	}
	return fmt.Sprintf("%s: %s (worker %s%s)", s.Label, s.Error, s.Worker, attempts)
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
