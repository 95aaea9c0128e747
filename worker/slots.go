package worker

import (
	"context"
	"time"
)

// slots bound how many shards run at a time.
type slots struct{ taken chan struct{} }

func newSlots(n int) *slots { return &slots{make(chan struct{}, n)} }

// free waits until a slot is free and returns how many are. They are not taken.
func (s *slots) free(ctx context.Context) (int, error) {
	select {
	case s.taken <- struct{}{}:
		n := cap(s.taken) - len(s.taken) + 1
		<-s.taken
		return n, nil
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

// take takes a slot if one gets free within wait.
func (s *slots) take(ctx context.Context, wait time.Duration) bool {
	select {
	case s.taken <- struct{}{}:
		return true
	default:
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case s.taken <- struct{}{}:
		return true
	case <-timer.C:
	case <-ctx.Done():
	}
	return false
}

func (s *slots) give() { <-s.taken }
