package coordinator

import (
	"context"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// Attention is since when this process has seen, without a break, what happens to the farm's shards. A lease is over when
// a worker has said nothing for so long to somebody who listened: the time in which this process was stopped, had no
// processor, or NATS took no writes (an election, a partition) is nobody's silence. Without it every shard that runs
// would be lost, and taken from a worker that is well, each time that a coordinator is paused or NATS has no leader.
type attention struct {
	mu    sync.Mutex
	begun time.Time
	last  time.Time // of the ticks
}

// shortest is the shortest time that counts as a break: schedulers are late by less.
const shortest = 250 * time.Millisecond

// patience is how long this process may hear nothing before that is a break.
func attentive(lease time.Duration) time.Duration { return max(lease/3, shortest) }

// since is when the present stretch of attention began.
func (a *attention) since() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.begun
}

// tick says that this process runs. It is called ten times a lease, or more often.
func (a *attention) tick(now time.Time, lease time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.last) > attentive(lease) {
		a.begun = now
	}
	a.last = now
}

// attend asks the shards' bucket again and again whether it has a leader, until ctx ends: without one no beat is recorded.
func (a *attention) attend(ctx context.Context, lease time.Duration, shards *bus.Bucket[farm.Shard]) {
	pause := attentive(lease)
	for {
		asked, cancel := context.WithTimeout(ctx, pause)
		_, err := shards.Last(asked)
		cancel()
		if err != nil {
			a.mu.Lock()
			a.begun = time.Now()
			a.mu.Unlock()
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}
