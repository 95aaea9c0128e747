package coordinator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bakefarm/bus"
)

// A view is a record as this process last saw it.
type view[T any] struct {
	rec      T
	revision uint64
	changed  time.Time // when this process saw the record change: monotonic, what leases are timed by
	first    time.Time // when it saw the record first
	live     bool      // it saw the record change, and not merely as it was when the process began
	hinted   time.Time // shards: when its hint was last sent by us, or is to be sent; zero: never
	hints    int       // shards: how often it was sent since the record changed
}

// A mirror holds the records of a bucket that still matter, as last seen: reads cost nothing, and writes are
// compare-and-set against the revision seen, so that a stale view costs a retry and never a wrong write. The records in
// it are shared: whoever changes one copies what it changes.
type mirror[T any] struct {
	bucket  *bus.Bucket[T]
	matters func(T) bool            // what to keep
	noticed func(id string, rec T)  // called once for each change seen, by us or by others; must not block
	index   func(id string, rec *T) // called for each change, in order, under the lock; nil: the record matters no more
	now     func() time.Time        // monotonic
	mu      sync.Mutex
	views   map[string]*view[T]
	hot     func(T) bool        // records that are looked at often, few of all; nil: none
	warm    map[string]struct{} // IDs of those, and of those that a hint is set for
	dropped map[string]uint64   // revision at which a record ceased to matter, until follow has seen it too
	seen    uint64              // revision that follow has got to
	caught  chan struct{}       // closed when follow has seen what was there at the start
}

func newMirror[T any](bucket *bus.Bucket[T], matters func(T) bool, noticed func(string, T)) *mirror[T] {
	return &mirror[T]{
		bucket: bucket, matters: matters, noticed: noticed, now: time.Now,
		views: map[string]*view[T]{}, warm: map[string]struct{}{}, dropped: map[string]uint64{}, caught: make(chan struct{}),
	}
}

// follow keeps the mirror up to date until ctx ends. It closes caught when everything that was there at the start has
// been seen.
func (m *mirror[T]) follow(ctx context.Context) error {
	last, err := m.bucket.Last(ctx)
	if err != nil {
		return err
	}
	var once sync.Once
	reach := func(seq uint64) {
		if seq >= last {
			once.Do(func() { close(m.caught) })
		}
	}
	reach(0)
	return m.bucket.Follow(ctx, 0, func(seq uint64, key string, rec *T) error {
		m.apply(key, rec, seq, followed)
		reach(seq)
		return nil
	})
}

// A source says how news of a record came in.
type source int

const (
	followed source = iota // from the bucket's stream, in order
	written                // by us
	read                   // by a look at the bucket
)

// apply takes in a record at a revision; nil when it was deleted. Older news than the mirror has is ignored.
func (m *mirror[T]) apply(id string, rec *T, revision uint64, from source) {
	m.mu.Lock()
	if from == followed {
		m.seen = max(m.seen, revision)
	}
	if at, ok := m.dropped[id]; ok {
		if m.seen >= at {
			delete(m.dropped, id)
		}
		if revision <= at {
			m.mu.Unlock()
			return
		}
	}
	v := m.views[id]
	if v != nil && revision <= v.revision {
		m.mu.Unlock()
		return
	}
	if rec == nil || !m.matters(*rec) {
		delete(m.views, id)
		delete(m.warm, id)
		m.indexed(id, nil)
		if revision > m.seen {
			m.dropped[id] = revision
		}
		if from == read && v == nil {
			m.mu.Unlock()
			return // old news: nobody waits for it
		}
	} else {
		now := m.now()
		if v == nil {
			v = &view[T]{first: now}
			m.views[id] = v
		}
		*v = view[T]{rec: *rec, revision: revision, changed: now, first: v.first, live: from == written || m.hasCaught()}
		m.indexed(id, rec)
		if m.hot != nil && m.hot(*rec) {
			m.warm[id] = struct{}{}
		} else {
			delete(m.warm, id)
		}
	}
	m.mu.Unlock()
	if rec != nil && m.noticed != nil {
		m.noticed(id, *rec)
	}
}

func (m *mirror[T]) indexed(id string, rec *T) {
	if m.index != nil {
		m.index(id, rec)
	}
}

// hasCaught reports whether follow has seen what was there at the start.
func (m *mirror[T]) hasCaught() bool {
	select {
	case <-m.caught:
		return true
	default:
		return false
	}
}

// look returns the view of a record, if the mirror has one.
func (m *mirror[T]) look(id string) (view[T], bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.views[id]; v != nil {
		return *v, true
	}
	return view[T]{}, false
}

// peek returns the record if the mirror has it.
func (m *mirror[T]) peek(id string) (T, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.views[id]; v != nil {
		return v.rec, true
	}
	var zero T
	return zero, false
}

// A picked view is a copy.
type picked[T any] struct {
	id string
	view[T]
}

// pick returns copies of the views that are chosen. choose is called under the lock.
func (m *mirror[T]) pick(choose func(v *view[T]) bool) []picked[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []picked[T]
	for id, v := range m.views {
		if choose(v) {
			all = append(all, picked[T]{id, *v})
		}
	}
	return all
}

// pickHot is pick among the hot ones and those that a hint is set for: it costs nothing for all others.
func (m *mirror[T]) pickHot(choose func(v *view[T]) bool) []picked[T] {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []picked[T]
	for id := range m.warm {
		if v := m.views[id]; choose(v) {
			all = append(all, picked[T]{id, *v})
		}
	}
	return all
}

// visit shows all views to look, under the lock: it may keep nothing of them but what it copies.
func (m *mirror[T]) visit(look func(id string, v *view[T])) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, v := range m.views {
		look(id, v)
	}
}

// count is the number of records that matter.
func (m *mirror[T]) count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.views)
}

// hintSent notes that a hint for the record went out.
func (m *mirror[T]) hintSent(id string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.views[id]; v != nil {
		v.hinted = at
		v.hints++
		if m.hot == nil || !m.hot(v.rec) {
			delete(m.warm, id)
		}
	}
}

// hintAt notes when the first hint for the record is to go out.
func (m *mirror[T]) hintAt(id string, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if v := m.views[id]; v != nil {
		v.hinted, v.hints = at, 0
		m.warm[id] = struct{}{}
	}
}

// get returns the record and its revision: the mirror's, else the bucket's; bus.ErrNotFound when there is none.
func (m *mirror[T]) get(ctx context.Context, id string) (rec T, revision uint64, mirrored bool, err error) {
	m.mu.Lock()
	if v := m.views[id]; v != nil {
		rec, revision = v.rec, v.revision
		m.mu.Unlock()
		return rec, revision, true, nil
	}
	m.mu.Unlock()
	rec, revision, err = m.fetch(ctx, id)
	return rec, revision, false, err
}

// fetch reads the bucket, and the mirror learns of it.
func (m *mirror[T]) fetch(ctx context.Context, id string) (T, uint64, error) {
	rec, revision, err := m.bucket.Get(ctx, id)
	if err != nil {
		return rec, 0, err
	}
	m.apply(id, &rec, revision, read)
	return rec, revision, nil
}

// create makes the record; bus.ErrExists when there is one.
func (m *mirror[T]) create(ctx context.Context, id string, rec T) error {
	revision, err := m.bucket.Create(ctx, id, rec)
	if err != nil {
		return err
	}
	m.apply(id, &rec, revision, written)
	return nil
}

// put writes the record, whatever it was.
func (m *mirror[T]) put(ctx context.Context, id string, rec T) error {
	revision, err := m.bucket.Put(ctx, id, rec)
	if err != nil {
		return err
	}
	m.apply(id, &rec, revision, written)
	return nil
}

// errAsIs, returned by a change's function, leaves the record as it is; change returns it without error.
var errAsIs = errors.New("as it is")

// maxConflicts bounds the rounds of one change. Losing that often means that something is wrong.
const maxConflicts = 50

// change applies fn to the record until a compare-and-set succeeds, and returns the record as it then is. fn may be
// called several times and must copy what it changes behind a reference. What fn refuses is only believed of a record
// that was read afresh: a mirror may lag.
func (m *mirror[T]) change(ctx context.Context, id string, fn func(*T) error) (T, error) {
	rec, revision, mirrored, err := m.get(ctx, id)
	for range maxConflicts {
		if err != nil {
			return rec, err
		}
		next := rec
		verdict := fn(&next)
		switch {
		case verdict != nil && mirrored:
			// Look again, below.
		case errors.Is(verdict, errAsIs):
			return rec, nil
		case verdict != nil:
			return rec, verdict
		default:
			var now uint64
			if now, err = m.bucket.Update(ctx, id, next, revision); err == nil {
				m.apply(id, &next, now, written)
				return next, nil
			}
			if !errors.Is(err, bus.ErrConflict) {
				return rec, err
			}
		}
		rec, revision, err = m.fetch(ctx, id)
		mirrored = false
	}
	return rec, fmt.Errorf("record %s: changed by others %d times in a row: %w", id, maxConflicts, bus.ErrConflict)
}
