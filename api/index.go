package api

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// index orders bakes for lists and counts them by state: what is known of each is its name and state. The records
// themselves are read when they are shown.
type index struct {
	bucket *bus.Bucket[farm.Bake]
	log    *slog.Logger

	mu     sync.Mutex
	ids    []string // ascending: in the order of acceptance
	bakes  map[string]indexed
	counts map[farm.BakeState]int
	seen   uint64
	moved  chan struct{} // closed when seen has changed
}

type indexed struct {
	name  string
	state farm.BakeState
}

func newIndex(bucket *bus.Bucket[farm.Bake], log *slog.Logger) *index {
	x := &index{bucket: bucket, log: log, moved: make(chan struct{})}
	x.reset()
	return x
}

func (x *index) reset() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ids, x.bakes, x.counts, x.seen = nil, map[string]indexed{}, map[farm.BakeState]int{}, 0
}

// run follows the bucket until ctx ends.
func (x *index) run(ctx context.Context) {
	for {
		x.mu.Lock()
		after := x.seen
		x.mu.Unlock()
		err := x.bucket.Follow(ctx, after, x.apply)
		if ctx.Err() != nil {
			return
		}
		if errors.Is(err, bus.ErrRewound) {
			x.reset()
		}
		x.log.Warn("the list of bakes stands still, trying again", "err", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return
		}
	}
}

// apply takes in one change.
func (x *index) apply(seq uint64, id string, b *farm.Bake) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	if old, known := x.bakes[id]; known {
		x.counts[old.state]--
	}
	place, known := slices.BinarySearch(x.ids, id)
	switch {
	case b == nil:
		delete(x.bakes, id)
		if known {
			x.ids = slices.Delete(x.ids, place, place+1)
		}
	default:
		x.bakes[id] = indexed{b.Name, b.State}
		x.counts[b.State]++
		if !known {
			x.ids = slices.Insert(x.ids, place, id)
		}
	}
	x.seen = seq
	close(x.moved)
	x.moved = make(chan struct{})
	return nil
}

// catchUp waits until everything that has been written by now is in the index.
func (x *index) catchUp(ctx context.Context) error {
	last, err := x.bucket.Last(ctx)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		x.mu.Lock()
		seen, moved := x.seen, x.moved
		x.mu.Unlock()
		if seen >= last {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return refuse(503, "the list of bakes is being read: change %d of %d", seen, last)
		}
	}
}

// page lists the IDs of at most limit bakes that match, newest first, before the given one ("": from the newest on). more
// says that others follow.
func (x *index) page(before string, limit int, match func(indexed) bool) (ids []string, more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	end := len(x.ids)
	if before != "" {
		end, _ = slices.BinarySearch(x.ids, before)
	}
	for i := end - 1; i >= 0; i-- {
		if !match(x.bakes[x.ids[i]]) {
			continue
		}
		if len(ids) == limit {
			return ids, true
		}
		ids = append(ids, x.ids[i])
	}
	return ids, false
}

// states counts the bakes by state.
func (x *index) states() map[farm.BakeState]int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return maps.Clone(x.counts)
}
