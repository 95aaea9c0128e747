package coordinator

import (
	"context"
	"slices"
	"sync"
	"time"

	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// A flight is what this process knows of a bake that it drives. All of it can be had again from the records.
type flight struct {
	id      string
	adopted bool // taken up from the records, not accepted here

	// Guarded by Coordinator.mu.
	driving  bool
	again    bool      // something happened while it was driven
	retryAt  time.Time // when to try again after trouble; zero: there was none
	troubles int       // in a row

	// Used by whoever drives, one at a time.
	recipe     *recipe.Recipe
	trees      []*recipe.Tree
	debs       []recipe.ContextFile // the user's own packages
	pinned     *recipe.LockFile     // that came with the request
	source     plan.BaseSource      // of the recipe's base
	bases      map[string]*plan.Found
	base       *recipe.LockedBase
	early      []farm.ShardRef // observe, inspect, import and solve
	lock       *recipe.Lock
	evidence   *plan.Evidence
	urls       map[digest.Digest][]string // of packages, by sha256
	evidenceAt digest.Digest              // the evidence's piece, once it is stored
	graph      *graph
	known      map[string]farm.ShardRef // from the bake's record: how shards were come by, before a restart
	replans    int

	mu      sync.Mutex
	waiting map[string]bool       // IDs of the plan's shards that are dispatched
	inbox   map[string]farm.Shard // those of them that have ended
	untold  []farm.Event          // of their ends
	done    int
	total   int
}

// graph is a bake's plan with what is known of each of its shards, by index.
type graph struct {
	shards    []plan.Shard
	images    []plan.Output
	steps     []step
	roots     []int
	ids       []string // shard IDs
	index     map[string]int
	standings []standing
	refs      []farm.ShardRef
	specs     map[int]farm.Payload // of shards that are missing
	failures  map[int]farm.Shard   // of those that are broken
}

func newFlight(id string) *flight {
	return &flight{id: id, waiting: map[string]bool{}, inbox: map[string]farm.Shard{}}
}

func newGraph(p *plan.Plan, rebake bool, bake string) *graph {
	n := len(p.Shards)
	g := &graph{
		shards: p.Shards, images: p.Images, steps: make([]step, n), ids: make([]string, n), index: make(map[string]int, n),
		standings: make([]standing, n), refs: make([]farm.ShardRef, n), specs: map[int]farm.Payload{}, failures: map[int]farm.Shard{},
	}
	byKey := make(map[digest.Digest]int, n)
	for i, s := range p.Shards {
		byKey[s.Key] = i
		g.ids[i] = shardID(s.Key.Encoded(), rebake, bake)
		g.index[g.ids[i]] = i
		g.refs[i] = farm.ShardRef{ID: g.ids[i], Kind: s.Kind, Label: s.Label}
		g.steps[i].deps = make([]int, len(s.Deps))
		for j, d := range s.Deps {
			g.steps[i].deps[j] = byKey[d]
		}
	}
	for _, image := range p.Images {
		g.roots = append(g.roots, byKey[image.Shard])
	}
	return g
}

// source notes how a shard was come by. What was noted first stays: after a restart, a shard that this bake had run
// looks like a hit.
func (g *graph) source(i int, source farm.Source, reason string) {
	if g.refs[i].Source == "" || g.refs[i].Source == farm.SourceMiss && source == farm.SourceShared {
		g.refs[i].Source, g.refs[i].Reason = source, reason
	}
}

// prune marks the shards that the bake did not need.
func (g *graph) prune() {
	seen := visited(g.steps, g.roots, func(i int) bool { return g.refs[i].Source == farm.SourceHit })
	for i := range g.refs {
		if !seen[i] {
			g.source(i, farm.SourcePruned, g.shards[i].Reason(farm.SourcePruned))
		}
	}
}

// hits counts the shards that need not be run as things stand: what is there, and what only that would have needed.
func (g *graph) hits() (n int) {
	seen := visited(g.steps, g.roots, func(i int) bool { return g.refs[i].Source == farm.SourceHit })
	for i, ref := range g.refs {
		if !seen[i] || ref.Source == farm.SourceHit {
			n++
		}
	}
	return n
}

// expect says that the shards are being dispatched: their ends are wanted.
func (f *flight) expect(ids ...string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, id := range ids {
		f.waiting[id] = true
	}
}

// unexpect takes that back.
func (f *flight) unexpect(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.waiting, id)
}

// deliver takes in a shard that has ended. It is called by whoever sees it, at any time.
func (f *flight) deliver(s farm.Shard) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.waiting[s.ID] {
		return
	}
	delete(f.waiting, s.ID)
	f.inbox[s.ID] = s
	if s.State == farm.ShardDone {
		f.done++
	}
	if s.State != farm.ShardCancelled { // which was not because of us
		e := shardEvent(f.id, s)
		e.Done, e.Total = f.done, f.total
		f.untold = append(f.untold, e)
	}
}

// tellings are the events of the shards that were delivered since it was last asked.
func (f *flight) tellings() []farm.Event {
	f.mu.Lock()
	defer f.mu.Unlock()
	events := f.untold
	f.untold = nil
	return events
}

// collect moves what was delivered into the plan.
func (f *flight) collect(rememberOutput func(farm.Shard)) {
	f.mu.Lock()
	ended := f.inbox
	f.inbox = map[string]farm.Shard{}
	f.mu.Unlock()
	for id, s := range ended {
		i, ok := f.graph.index[id]
		if !ok {
			continue
		}
		ref := &f.graph.refs[i]
		ref.State, ref.Worker, ref.Took = s.State, s.Worker, s.Took
		switch s.State {
		case farm.ShardDone:
			f.graph.standings[i] = ready
			rememberOutput(s)
		case farm.ShardFailed:
			f.graph.standings[i] = broken
			f.graph.failures[i] = s
		default: // cancelled, and so not because of us
			f.graph.standings[i] = missing
		}
	}
}

// overdue lists the shards that are waited for.
func (f *flight) overdue() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	ids := make([]string, 0, len(f.waiting))
	for id := range f.waiting {
		ids = append(ids, id)
	}
	return ids
}

// progress counts the plan's shards: those that are there, and all. Both are 0 before there is a plan.
func (f *flight) progress() (done, total int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.done, f.total
}

// advanceProgress counts a shard that turned out to be there.
func (f *flight) advanceProgress() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done++
}

func (f *flight) setProgress(done, total int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done, f.total = done, total
}

// launch registers a flight and has it driven.
func (c *Coordinator) launch(f *flight) {
	c.mu.Lock()
	if c.flights[f.id] == nil {
		c.flights[f.id] = f
	}
	c.mu.Unlock()
	c.kick(f.id)
}

// kick has a bake driven soon, once more if it is being driven now.
func (c *Coordinator) kick(bake string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.work == nil || c.work.Err() != nil {
		return // the next Run takes it up
	}
	f := c.flights[bake]
	if f == nil {
		f = newFlight(bake)
		f.adopted = true
		c.flights[bake] = f
	}
	if f.driving {
		f.again = true
		return
	}
	f.driving, f.again = true, false
	ctx := c.work
	c.drives.Go(func() { c.driveWhileKicked(ctx, f) })
}

func (c *Coordinator) driveWhileKicked(ctx context.Context, f *flight) {
	for {
		var ended bool
		var err error
		select {
		case c.driving <- struct{}{}:
			ended, err = c.drive(ctx, f)
			<-c.driving
		case <-ctx.Done():
			err = ctx.Err()
		}
		c.mu.Lock()
		switch {
		case ended:
			if c.flights[f.id] == f {
				delete(c.flights, f.id)
			}
			f.again = false
		case err != nil:
			f.troubles++
			f.retryAt, f.again = time.Now().Add(backOff(f.troubles)), false // the sweep kicks it
			if ctx.Err() == nil {
				c.Log.Warn("bake: trouble, trying again", "bake", f.id, "err", err)
			}
		default:
			f.troubles, f.retryAt = 0, time.Time{}
		}
		if !f.again {
			f.driving = false
			c.mu.Unlock()
			return
		}
		f.again = false
		c.mu.Unlock()
	}
}

// replan makes bakes look for all their outputs again: some that they relied on have gone.
func (c *Coordinator) replan(bakes []string) {
	for _, bake := range bakes {
		c.mu.Lock()
		if f := c.flights[bake]; f != nil && !f.driving {
			delete(c.flights, bake) // the next one starts from the records
		}
		c.mu.Unlock()
		c.kick(bake)
	}
}

// wants reports whether a bake is among those that want a shard.
func wants(s farm.Shard, bake string) bool { return slices.Contains(s.Bakes, bake) }
