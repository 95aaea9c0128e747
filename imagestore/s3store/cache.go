package s3store

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	cacheBytes = 32 << 20
	cacheItem  = 256 << 10 // larger pieces are not kept
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
