package coordinator

import (
	"slices"
	"sync"

	"bakefarm/farm"
)

// A warmth remembers which workers' caches have what shards need: whoever ran a shard has read what that depends on, and has what
// it made. It is told of every shard that a worker took, by whichever coordinator, and after a restart from the records; it may
// be wrong, as caches forget, and costs somebody a read from S3 then.
//
// What a shard reads is told by the shards below it: an image and an index name layers and read none of them, a layer is made of
// what it depends on, and what goes on from whole layers or disks reads what these were made of (deep).
type warmth struct {
	mu    sync.Mutex
	deps  twice[string, []string] // of shards that were seen
	where twice[string, []string] // caches that have a shard's output, the latest first
}

const (
	warmShards = 20_000 // that are remembered, at the least
	warmCaches = 4      // of a shard's output
)

// noted takes in a shard as its record is.
func (m *warmth) noted(s *farm.Shard) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(s.Deps) > 0 {
		m.deps.put(s.ID, s.Deps)
	}
	if s.Cache == "" || s.State != farm.ShardClaimed && s.State != farm.ShardDone {
		return
	}
	m.in(s.ID, s.Cache)
	m.below(s.Kind, s.Deps, func(id string) { m.in(id, s.Cache) })
}

// in notes that a cache has a shard's output.
func (m *warmth) in(id, cache string) {
	was, _ := m.where.get(id)
	if len(was) > 0 && was[0] == cache {
		return
	}
	now := append(make([]string, 0, warmCaches), cache)
	for _, c := range was {
		if c != cache && len(now) < warmCaches {
			now = append(now, c)
		}
	}
	m.where.put(id, now)
}

// deep are the kinds that read the members of layers, or the layers of images and disks.
func deep(k farm.Kind) bool {
	switch k {
	case farm.KindConfigure, farm.KindRoot, farm.KindDisk, farm.KindRun, farm.KindBoot:
		return true
	}
	return false
}

// below calls fn for what a shard reads.
func (m *warmth) below(kind farm.Kind, deps []string, fn func(id string)) {
	if kind == farm.KindImage || kind == farm.KindIndex {
		return
	}
	for _, d := range deps {
		fn(d)
		if !deep(kind) {
			continue
		}
		further, _ := m.deps.get(d)
		for _, f := range further {
			fn(f)
		}
	}
}

// degrees says for each cache how much it has of what a shard reads.
func (m *warmth) degrees(kind farm.Kind, deps []string) map[string]int {
	if len(deps) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	degrees := map[string]int{}
	m.below(kind, deps, func(id string) {
		caches, _ := m.where.get(id)
		for _, c := range caches {
			degrees[c]++
		}
	})
	return degrees
}

// degree is that of one cache.
func (m *warmth) degree(kind farm.Kind, deps []string, cache string) (n int) {
	if len(deps) == 0 || cache == "" {
		return 0
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.below(kind, deps, func(id string) {
		if caches, _ := m.where.get(id); slices.Contains(caches, cache) {
			n++
		}
	})
	return n
}

// twice is a map that forgets what was not asked for while as many others came: it has the latest warmShards keys, and at most
// twice as many.
type twice[K comparable, V any] struct{ young, old map[K]V }

func (t *twice[K, V]) get(k K) (V, bool) {
	if v, ok := t.young[k]; ok {
		return v, true
	}
	v, ok := t.old[k]
	if ok {
		t.put(k, v)
	}
	return v, ok
}

func (t *twice[K, V]) put(k K, v V) {
	if t.young == nil || len(t.young) >= warmShards {
		t.young, t.old = map[K]V{}, t.young
	}
	t.young[k] = v
}
