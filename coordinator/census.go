package coordinator

import (
	"context"
	"sync"

	"bakefarm/bus"
	"bakefarm/farm"
)

// A census knows the highest number among the versions of each name, so that a new one can be numbered without reading the
// others. Numbers only grow, also when versions are deleted: retention tells by them what is newer.
type census struct {
	mu     sync.Mutex
	names  map[string]uint64
	caught chan struct{}
}

func newCensus() *census {
	return &census{names: map[string]uint64{}, caught: make(chan struct{})}
}

// versionKey is the key of a version's record.
func versionKey(name, version string) string { return name + "@" + version }

func (c *census) follow(ctx context.Context, versions *bus.Bucket[farm.Version]) error {
	last, err := versions.Last(ctx)
	if err != nil {
		return err
	}
	caught := false
	reach := func(seq uint64) {
		if !caught && seq >= last {
			caught = true
			close(c.caught)
		}
	}
	reach(0)
	return versions.Follow(ctx, 0, func(seq uint64, _ string, v *farm.Version) error {
		if v != nil {
			c.note(v.Name, v.Sequence)
		}
		reach(seq)
		return nil
	})
}

// note takes in that a version of the name has that number.
func (c *census) note(name string, number uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.names[name] = max(c.names[name], number)
}

// next is the number of the name's next version.
func (c *census) next(name string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.names[name] + 1
}
