package main

import (
	"context"
	"math"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"
)

// memoryGoal is what the process's heap and stacks are to stay below, in bytes: with the program itself (some 45 MiB of
// it are read) less than 300 MB, whatever is baked. What lives is half of that; the rest is garbage that waits for the
// collector, which by its own rule would come at twice what lives.
const memoryGoal = 230 << 20

// memoryLeast is the limit of a worker on its own while little lives: making disks, it stays below 200 MB.
const memoryLeast = 150 << 20

// garbageAtOnce is how much garbage the collector waits for at the least, in bytes. Most of what a coordinator or worker makes is
// garbage at once, and little lives: by its own rule the collector would come after each few MiB, and take a tenth of the
// processor.
const garbageAtOnce = 64 << 20

// From so much that lives, in bytes, what is kept only to be faster next time is let go, but not all the time.
const (
	spareFrom  = memoryGoal * 2 / 3
	spareEvery = 5 * time.Second
)

// memory is the process's.
type memory struct {
	least uint64 // the limit in bytes while little lives; 0: memoryGoal

	mu    sync.Mutex
	spare []func() // each lets something go
}

// canSpare has letGo called when memory is short.
func (m *memory) canSpare(letGo func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spare = append(m.spare, letGo)
}

func (m *memory) letGo() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, letGo := range m.spare {
		letGo()
	}
}

// bound has the garbage collector come in time for memoryGoal, and not much more often than that needs, until ctx ends.
// When more lives than fits well, as with a very large catalog or many processors, the goal gives way: a collector that
// runs all the time would be worse. GOMEMLIMIT and GOGC in the environment are an operator's own goals and stay.
func (m *memory) bound(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" || os.Getenv("GOGC") != "" {
		<-ctx.Done()
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(percentFor(0)))
	before := debug.SetMemoryLimit(m.limit(0))
	defer debug.SetMemoryLimit(before)
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	was := percentFor(0)
	var spared time.Time
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			metrics.Read(live)
			alive := live[0].Value.Uint64()
			debug.SetMemoryLimit(m.limit(alive))
			if is := percentFor(alive); is != was {
				was = is
				debug.SetGCPercent(is)
			}
			if alive > spareFrom && now.Sub(spared) > spareEvery {
				spared = now
				m.letGo()
			}
		}
	}
}

// percentFor is how much garbage there may be, in percent of what was alive after the last collection, so many bytes. It is one
// of a few values: each change stops the process for a moment.
func percentFor(live uint64) int {
	for percent := 400; percent > 100; percent /= 2 {
		if live*uint64(percent) <= garbageAtOnce*100 {
			return percent
		}
	}
	return 100
}

// limit is that of the heap, in bytes, when so much was alive after the last collection.
func (m *memory) limit(live uint64) int64 {
	live = min(live, math.MaxInt64/4)
	least := m.least
	if least == 0 {
		least = memoryGoal
	}
	return int64(max(least, min(live*5/4, memoryGoal), live*7/6))
}
