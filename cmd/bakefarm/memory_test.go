package main

import (
	"context"
	"math"
	"runtime/debug"
	"testing"
)

func TestMemoryFor(t *testing.T) {
	for live, want := range map[uint64]int64{
		0: memoryGoal, 100 << 20: memoryGoal, memoryGoal: memoryGoal + memoryGoal/6, 3 << 30: 3<<30 + 1<<29, math.MaxUint64: math.MaxInt64 / 4 * 7 / 6,
	} {
		if got := memoryFor(live); got != want {
			t.Errorf("%d bytes live: %d, want %d", live, got, want)
		}
	}
}

func TestPercentFor(t *testing.T) {
	for live, want := range map[uint64]int{0: 400, 16 << 20: 400, 17 << 20: 200, 32 << 20: 200, 33 << 20: 100, 3 << 30: 100} {
		if got := percentFor(live); got != want {
			t.Errorf("%d bytes live: %d, want %d", live, got, want)
		}
	}
}

func TestMemoryGoalOfTheOperator(t *testing.T) {
	before := debug.SetMemoryLimit(-1)
	t.Setenv("GOMEMLIMIT", "1GiB")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		new(memory).bound(ctx)
	}()
	if got := debug.SetMemoryLimit(-1); got != before {
		t.Errorf("the limit is %d, and was %d", got, before)
	}
	cancel()
	<-done
}
