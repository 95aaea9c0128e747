package s3store

import (
	"container/list"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	cacheBytes = 16 << 20
	cacheItem  = 256 << 10 // larger pieces are not kept
	recentItem = 4 << 20   // larger pieces are not remembered when they are written
)

// cache keeps small pieces ([]byte) and decoded descriptors (imagestore.Blob) in memory, least recently used out first.
// What it gives out is shared: nobody changes it.
type cache struct {
	limit int64

	mu    sync.Mutex
	size  int64
	items map[key]*list.Element
	order list.List // front: used last
}

type cached struct {
	key   key
	value any
	size  int64
}

func newCache(limit int64) *cache { return &cache{limit: limit, items: map[key]*list.Element{}} }

func (c *cache) get(k key) any {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.items[k]
	if e == nil {
		return nil
	}
	c.order.MoveToFront(e)
	return e.Value.(*cached).value
}

func (c *cache) piece(d digest.Digest) []byte {
	b, _ := c.get(key{d, false}).([]byte)
	return b
}

func (c *cache) add(k key, value any, size int64) {
	size += 256 // for the bookkeeping
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.items[k] != nil || size > c.limit {
		return
	}
	c.items[k] = c.order.PushFront(&cached{k, value, size})
	c.size += size
	for c.size > c.limit {
		last := c.order.Remove(c.order.Back()).(*cached)
		delete(c.items, last.key)
		c.size -= last.size
	}
}

// fresh are the pieces among items, of at most so many bytes each, that are remembered once they are visible: in a process
// that writes pieces for its own workers, these then need not read them back.
func (s *Store) fresh(items []item, most int) []item {
	if s.recent == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(items), func(it item) bool { return it.piece != "" || len(it.data) > most })
}

// remember keeps what was just written. It was hashed when it was put.
func (s *Store) remember(items []item) {
	for _, it := range items {
		s.recent.add(it.key(), it.data, int64(len(it.data)))
	}
}

// inMemory finds a piece that need not be read from the service.
func (s *Store) inMemory(d digest.Digest) []byte {
	if data := s.cache.piece(d); data != nil || s.recent == nil {
		return data
	}
	return s.recent.piece(d)
}
