package worker

import (
	"context"
	"math"
	"slices"
	"sync"
	"time"

	"bakefarm/farm"
)

// A room is what a host has for shards. The workers of a process share it, so that together they never take more than the
// machine can run. Whoever waits for much is not passed by those who want little: turns are taken in order.
type room struct {
	total farm.Resources

	mu      sync.Mutex
	left    farm.Resources
	waiting []*waiter     // in order
	changed chan struct{} // closed and made anew when somebody gives room back
}

// A waiter waits for room, and for a slot of its worker.
type waiter struct {
	slots *int
	takes farm.Resources
	given chan struct{} // closed when it has it
}

func newRoom(total farm.Resources) *room {
	if total.Memory == 0 {
		total.Memory = math.MaxInt64 // not known
	}
	return &room{total: total, left: total, changed: make(chan struct{})}
}

// has is what the host has, as far as that is known.
func (r *room) has() farm.Resources {
	has := r.total
	if has.Memory == math.MaxInt64 {
		has.Memory = 0
	}
	return has
}

// clamp is what a shard gets: where it wants more processors than there are, all of them. Classes of foreign code that want more
// memory than there is are not taken at all (Worker.tooLarge); for the others it is no more than an estimate.
func (r *room) clamp(takes farm.Resources) farm.Resources {
	return farm.Resources{CPU: min(takes.CPU, r.total.CPU), Memory: min(takes.Memory, r.total.Memory)}
}

// slots are a worker's own bound, shards at a time, within its host's room.
type slots struct {
	room *room
	free int // slots; guarded by room.mu
}

// take waits until there is room and a slot, for its turn, and takes both.
func (s *slots) take(ctx context.Context, kind farm.Kind) error {
	r := s.room
	w := &waiter{slots: &s.free, takes: r.clamp(kind.Takes()), given: make(chan struct{})}
	r.mu.Lock()
	r.waiting = append(r.waiting, w)
	r.serve()
	r.mu.Unlock()
	select {
	case <-w.given:
		return nil
	case <-ctx.Done():
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	select {
	case <-w.given: // meanwhile
		return nil
	default:
	}
	r.waiting = slices.DeleteFunc(r.waiting, func(o *waiter) bool { return o == w })
	r.serve() // it may have been in somebody's way
	close(r.changed)
	r.changed = make(chan struct{})
	return context.Cause(ctx)
}

// takeWithin is take, for a while.
func (s *slots) takeWithin(ctx context.Context, kind farm.Kind, wait time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return s.take(ctx, kind) == nil
}

// takeNow takes what there is room for, if nobody waits for it.
func (s *slots) takeNow(kind farm.Kind) bool {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	takes := s.room.clamp(kind.Takes())
	if len(s.room.waiting) > 0 || s.free < 1 || !takes.Fits(s.room.left) {
		return false
	}
	s.free--
	s.room.left = s.room.left.Minus(takes)
	return true
}

// await waits until there is room for a shard of a kind, and returns for how many there is; 0 when there is still none after the
// patience, of which 0 has no end. Nothing is taken, and nobody kept waiting for it.
func (s *slots) await(ctx context.Context, kind farm.Kind, patience time.Duration) (int, error) {
	var over <-chan time.Time
	if patience > 0 {
		over = time.After(patience)
	}
	for {
		n, changed := s.fits(kind)
		if n > 0 {
			return n, nil
		}
		select {
		case <-changed:
		case <-over:
			return 0, nil
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// fits is how many shards of a kind there is room for, and a channel that is closed when there is more.
func (s *slots) fits(kind farm.Kind) (n int, changed <-chan struct{}) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	if len(s.room.waiting) > 0 {
		return 0, s.room.changed
	}
	takes := s.room.clamp(kind.Takes())
	for left := s.room.left; n < s.free && takes.Fits(left); n++ {
		left = left.Minus(takes)
	}
	return n, s.room.changed
}

// give returns what take took.
func (s *slots) give(kind farm.Kind) {
	s.room.mu.Lock()
	defer s.room.mu.Unlock()
	s.free++
	s.room.left = s.room.left.Plus(s.room.clamp(kind.Takes()))
	s.room.serve()
	close(s.room.changed)
	s.room.changed = make(chan struct{})
}

// serve gives room to those who wait, in order. One whose worker has no slot free is in nobody's way.
func (r *room) serve() {
	blocked := false
	r.waiting = slices.DeleteFunc(r.waiting, func(w *waiter) bool {
		if blocked || *w.slots < 1 {
			return false
		}
		if !w.takes.Fits(r.left) {
			blocked = true
			return false
		}
		*w.slots--
		r.left = r.left.Minus(w.takes)
		close(w.given)
		return true
	})
}
