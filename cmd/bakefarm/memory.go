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

// memoryLeast is the limit of a worker on its own while little lives, five sixths of it at the most: making disks, it stays below
// 200 MB.
const memoryLeast = 138 << 20

// garbageAtOnce is how much garbage the collector waits for at the least, in bytes. Most of what a coordinator or worker makes is
// garbage at once, and little lives: by its own rule the collector would come after each few MiB, and take a tenth of the
// processor.
const garbageAtOnce = 64 << 20

// From so much that lives, in bytes, what is kept only to be faster next time is let go, but not all the time.
const (
	spareFrom  = memoryGoal * 2 / 3
	spareEvery = 5 * time.Second
)

// Where the collector takes more than pressShare of the processor time, of about the last pressFor, the goal gives way until no more
// than roomyTo lives: thousands of bakes wait, or a catalog is very large. A worker on its own has neither: its goal gives way only
// where spareFrom lives, though what could be spared was let go.
const (
	pressShare = 0.2
	pressFor   = 10 * time.Second
	roomyTo    = memoryGoal / 3
)

// memory is the process's.
type memory struct {
	least   uint64  // the limit in bytes while little lives; 0: memoryGoal
	pressed float64 // the share of the collector in the processor time, of about the last pressFor
	roomy   bool    // the goal has given way

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
// When more lives than fits well the goal gives way: a collector that runs all the time would be worse. GOMEMLIMIT and GOGC
// in the environment are an operator's own goals and stay.
func (m *memory) bound(ctx context.Context) {
	if os.Getenv("GOMEMLIMIT") != "" || os.Getenv("GOGC") != "" {
		<-ctx.Done()
		return
	}
	defer debug.SetGCPercent(debug.SetGCPercent(percentFor(0)))
	before := debug.SetMemoryLimit(m.limit(0))
	defer debug.SetMemoryLimit(before)
	now := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/cpu/classes/gc/total:cpu-seconds"}, {Name: "/cpu/classes/user:cpu-seconds"}}
	var collected, used float64 // seconds
	was := percentFor(0)
	var spared time.Time
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case at := <-tick.C:
			metrics.Read(now)
			alive := now[0].Value.Uint64()
			gc, user := now[1].Value.Float64(), now[2].Value.Float64()
			m.press(alive, gc-collected, user-used)
			collected, used = gc, user
			debug.SetMemoryLimit(m.limit(alive))
			if is := percentFor(alive); is != was {
				was = is
				debug.SetGCPercent(is)
			}
			if alive > spareFrom && at.Sub(spared) > spareEvery {
				spared = at
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

// press takes in how many seconds of the processor the collector and the program have used since it was called a second ago.
func (m *memory) press(live uint64, gc, user float64) {
	const weight = float64(time.Second) / float64(pressFor)
	if all := gc + user; all > 0 {
		m.pressed += weight * (gc/all - m.pressed)
	}
	to := uint64(roomyTo)
	if m.least > 0 {
		to = spareFrom
	}
	m.roomy = live > to && (m.roomy || m.pressed > pressShare)
}

// limit is that of the heap, in bytes, when so much was alive after the last collection.
func (m *memory) limit(live uint64) int64 {
	live = min(live, math.MaxInt64/4)
	switch {
	case m.roomy:
		return math.MaxInt64
	case live < m.least*5/6:
		return int64(m.least)
	}
	return int64(max(memoryGoal, live*7/6))
}
