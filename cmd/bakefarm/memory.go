package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// memoryGoal is what the process's heap and stacks are to stay below, in bytes: with the program itself (some 45 MiB of
// it are read) less than 300 MB, whatever is baked. What lives is half of that; the rest is garbage that waits for the
// collector, which by its own rule would come at twice what lives.
const memoryGoal = 230 << 20

// boundMemory has the garbage collector come in time for memoryGoal, until ctx ends. When more lives than fits well, as
// with a very large catalog or many processors, the goal gives way: a collector that runs all the time would be worse.
// GOMEMLIMIT in the environment is an operator's own goal and stays.
func boundMemory(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" {
		<-ctx.Done()
		return
	}
	before := debug.SetMemoryLimit(memoryGoal)
	defer debug.SetMemoryLimit(before)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			metrics.Read(live)
			debug.SetMemoryLimit(memoryFor(live[0].Value.Uint64()))
		}
	}
}

// memoryFor is the limit, in bytes, when so much was alive after the last collection.
func memoryFor(live uint64) int64 {
	return int64(max(memoryGoal, min(live, math.MaxInt64/4)*7/6))
}
