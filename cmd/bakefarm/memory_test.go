package main

import (
	"context"
	"math"
	"runtime/debug"
	"testing"
)

func TestLimit(t *testing.T) {
	const endless = math.MaxInt64 / 4 * 7 / 6
	worker := &memory{least: memoryLeast}
	for _, c := range []struct {
		live          uint64
		whole, worker int64
	}{
		{0, memoryGoal, memoryLeast},
		{110 << 20, memoryGoal, memoryLeast},
		{120 << 20, memoryGoal, memoryGoal}, // else the collector would run all the time
		{190 << 20, memoryGoal, memoryGoal},
		{memoryGoal, memoryGoal + memoryGoal/6, memoryGoal + memoryGoal/6},
		{3 << 30, 3<<30 + 1<<29, 3<<30 + 1<<29},
		{math.MaxUint64, endless, endless},
	} {
		if whole, got := new(memory).limit(c.live), worker.limit(c.live); whole != c.whole || got != c.worker {
			t.Errorf("%d bytes live: %d, a worker's %d, want %d and %d", c.live, whole, got, c.whole, c.worker)
		}
	}
}

func TestPressed(t *testing.T) {
	m := &memory{}
	second := func(live uint64, gc, user float64) bool {
		m.press(live, gc, user)
		return m.limit(live) == math.MaxInt64
	}
	for i := range 60 {
		if second(200<<20, 0.2, 1.4) {
			t.Fatalf("the goal gave way after %d s in which the collector took an eighth", i)
		}
	}
	for i := 0; !second(200<<20, 0.6, 1); i++ {
		if i == 10 {
			t.Fatal("the goal stays, though the collector takes more than a third")
		}
	}
	for range 60 {
		if !second(100<<20, 0.01, 1.9) {
			t.Fatal("the goal is back, and what lives has little room below it")
		}
	}
	if second(roomyTo, 0.01, 1.9) {
		t.Error("the goal is not back, though little lives")
	}
}

// A worker on its own, with what it takes to convert packages: its goal stays, however much the collector has to do.
func TestPressedWorker(t *testing.T) {
	worker := &memory{least: memoryLeast}
	for range 60 {
		if worker.press(150<<20, 0.6, 1); worker.limit(150<<20) != memoryGoal {
			t.Fatal("the goal gave way")
		}
	}
	if worker.press(spareFrom+1, 0.6, 1); worker.limit(spareFrom+1) != math.MaxInt64 {
		t.Error("the goal stays, though more lives than it has room for")
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
