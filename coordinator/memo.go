package coordinator

import (
	"container/list"
	"encoding/json"
	"sync"
)

// A memo keeps the outputs of shards that were seen lately, by shard ID, in a bounded number of bytes. An output is a
// pure function of its shard's key, so that it can't become wrong; that its pieces are still stored is asked at each use.
type memo struct {
	mu    sync.Mutex
	room  int // bytes left
	used  *list.List
	known map[string]*list.Element
}

type memoEntry struct {
	id     string
	output json.RawMessage
	origin string // how it came to be, for people: "made by w1 at …"
}

// overhead of an entry, roughly.
func (e *memoEntry) bytes() int { return len(e.id) + len(e.output) + len(e.origin) + 200 }

func newMemo(bytes int) *memo {
	return &memo{room: bytes, used: list.New(), known: map[string]*list.Element{}}
}

// get returns the output of a shard and where it came from.
func (m *memo) get(id string) (output json.RawMessage, origin string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.known[id]
	if !ok {
		return nil, "", false
	}
	m.used.MoveToFront(at)
	e := at.Value.(*memoEntry)
	return e.output, e.origin, true
}

// put remembers an output.
func (m *memo) put(id string, output json.RawMessage, origin string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(id)
	e := &memoEntry{id, output, origin}
	m.known[id] = m.used.PushFront(e)
	m.room -= e.bytes()
	for m.room < 0 && m.used.Len() > 1 {
		m.drop(m.used.Back().Value.(*memoEntry).id)
	}
}

// forget drops an output.
func (m *memo) forget(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.drop(id)
}

func (m *memo) drop(id string) {
	if at, ok := m.known[id]; ok {
		m.room += at.Value.(*memoEntry).bytes()
		m.used.Remove(at)
		delete(m.known, id)
	}
}
