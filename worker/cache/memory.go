package cache

import (
	"container/list"
	"sync"

	"github.com/opencontainers/go-digest"
)

const (
	hotBudget = 16 << 20  // bytes of the memory tier
	hotEntry  = 256 << 10 // the largest entry that it takes
)

// memory is the tier in front of the disk: small entries, least recently used out first. Records and inventories of
// packages are read for every layer that holds them; opening a file for each costs more than their bytes.
type memory struct {
	budget int64

	mu      sync.Mutex
	entries map[digest.Digest]*list.Element // of hot
	recent  *list.List
	used    int64
}

type hot struct {
	digest digest.Digest
	data   []byte
}

func newMemory(budget int64) *memory {
	return &memory{budget: budget, entries: make(map[digest.Digest]*list.Element), recent: list.New()}
}

func (m *memory) get(d digest.Digest) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	el, ok := m.entries[d]
	if !ok {
		return nil, false
	}
	m.recent.MoveToFront(el)
	return el.Value.(hot).data, true
}

func (m *memory) has(d digest.Digest) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, ok := m.entries[d]
	return ok
}

// put keeps data of at most hotEntry bytes, which nobody changes any more.
func (m *memory) put(d digest.Digest, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el, ok := m.entries[d]; ok {
		m.recent.MoveToFront(el)
		return
	}
	m.entries[d] = m.recent.PushFront(hot{d, data})
	m.used += int64(len(data))
	for m.used > m.budget {
		m.forget(m.recent.Back())
	}
}

func (m *memory) drop(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if el, ok := m.entries[d]; ok {
		m.forget(el)
	}
}

func (m *memory) forget(el *list.Element) {
	h := m.recent.Remove(el).(hot)
	delete(m.entries, h.digest)
	m.used -= int64(len(h.data))
}
