package coordinator

import (
	"context"
	"strings"
	"sync"

	"bakefarm/bus"
	"bakefarm/farm"
)

// A census counts the versions of each name, so that a new one can be numbered without reading the others.
type census struct {
	mu     sync.Mutex
	names  map[string]map[string]struct{} // name → versions
	caught chan struct{}
}

func newCensus() *census {
	return &census{names: map[string]map[string]struct{}{}, caught: make(chan struct{})}
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
	return versions.Follow(ctx, 0, func(seq uint64, key string, v *farm.Version) error {
		c.note(key, v != nil)
		reach(seq)
		return nil
	})
}

// note takes in that a version exists, or no longer does.
func (c *census) note(key string, exists bool) {
	name, version, _ := strings.Cut(key, "@")
	c.mu.Lock()
	defer c.mu.Unlock()
	if !exists {
		delete(c.names[name], version)
		return
	}
	if c.names[name] == nil {
		c.names[name] = map[string]struct{}{}
	}
	c.names[name][version] = struct{}{}
}

// next is the sequence number of the name's next version.
func (c *census) next(name string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uint64(len(c.names[name])) + 1
}
