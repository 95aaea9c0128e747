package storetest

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"bakefarm/farm"
	"bakefarm/imagestore"
)

// Feed is a table in memory whose changes are in a total order: what a JetStream key-value bucket is, for tests.
type Feed[T any] struct {
	mu       sync.Mutex
	identity string
	last     uint64
	latest   map[string]entry[T]
	moved    chan struct{} // closed at the next change
}

type entry[T any] struct {
	seq   uint64
	value *T // nil: deleted
}

// NewFeed makes an empty feed with an identity of its own.
func NewFeed[T any]() *Feed[T] {
	var id [8]byte
	rand.Read(id[:])
	return &Feed[T]{identity: hex.EncodeToString(id[:]), latest: map[string]entry[T]{}, moved: make(chan struct{})}
}

// Set changes a value; nil deletes it.
func (f *Feed[T]) Set(key string, value *T) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.set(key, value)
}

func (f *Feed[T]) set(key string, value *T) {
	f.last++
	f.latest[key] = entry[T]{f.last, value}
	close(f.moved)
	f.moved = make(chan struct{})
}

// Get returns a value, or nil.
func (f *Feed[T]) Get(key string) *T {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.latest[key].value
}

// Keys lists the keys that have a value, sorted.
func (f *Feed[T]) Keys() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var keys []string
	for k, e := range f.latest {
		if e.value != nil {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys
}

// Last is the sequence of the newest change.
func (f *Feed[T]) Last(ctx context.Context) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.last, ctx.Err()
}

// Identity names the feed.
func (f *Feed[T]) Identity(ctx context.Context) (string, error) { return f.identity, ctx.Err() }

// Follow calls fn for the latest change of every key after the sequence given, in order, and then for new ones until ctx
// ends or fn fails.
func (f *Feed[T]) Follow(ctx context.Context, after uint64, fn func(seq uint64, key string, value *T) error) error {
	type change struct {
		seq   uint64
		key   string
		value *T
	}
	for {
		f.mu.Lock()
		moved := f.moved
		var changes []change
		for k, e := range f.latest {
			if e.seq > after {
				changes = append(changes, change{e.seq, k, e.value})
			}
		}
		f.mu.Unlock()
		slices.SortFunc(changes, func(a, b change) int { return int(a.seq) - int(b.seq) })
		for _, ch := range changes {
			if err := fn(ch.seq, ch.key, ch.value); err != nil {
				return err
			}
			after = ch.seq
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Ledger is a packs' ledger in memory, shared by the stores of a test.
type Ledger struct {
	*Feed[farm.Pack]

	// Before, if set, is called before a pack is registered; its error is Register's.
	Before func(farm.Pack) error
}

var _ imagestore.Ledger = (*Ledger)(nil)

// NewLedger makes an empty ledger.
func NewLedger() *Ledger { return &Ledger{Feed: NewFeed[farm.Pack]()} }

// Register makes a pack live: see imagestore.Ledger.
func (l *Ledger) Register(ctx context.Context, p farm.Pack) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if l.Before != nil {
		if err := l.Before(p); err != nil {
			return err
		}
	}
	p.Schema = farm.Schema
	l.mu.Lock()
	defer l.mu.Unlock()
	if e, ok := l.latest[p.ID]; ok {
		if e.value == nil || !reflect.DeepEqual(*e.value, p) {
			return fmt.Errorf("pack %s: %w", p.ID, imagestore.ErrConflict)
		}
		return nil
	}
	l.set(p.ID, &p)
	return nil
}

// Follow calls fn for every pack's changes: see imagestore.Ledger.
func (l *Ledger) Follow(ctx context.Context, after uint64, fn func(farm.PackChange) error) error {
	return l.Feed.Follow(ctx, after, func(seq uint64, key string, p *farm.Pack) error {
		return fn(farm.PackChange{Seq: seq, ID: key, Pack: p})
	})
}

// Condemn marks a pack as to be deleted.
func (l *Ledger) Condemn(id string) {
	p := *l.Get(id)
	p.State = farm.PackCondemned
	l.Set(id, &p)
}

// Record is a value with the sequence of its latest change.
type Record[T any] struct {
	Seq   uint64
	Value T
}

// Records lists what has a value.
func (f *Feed[T]) Records() map[string]Record[T] {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := map[string]Record[T]{}
	for k, e := range f.latest {
		if e.value != nil {
			all[k] = Record[T]{e.seq, *e.value}
		}
	}
	return all
}

// CompareAndSet changes a value, or deletes it with nil, if its latest change is still the given one.
func (f *Feed[T]) CompareAndSet(key string, value *T, seq uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.latest[key]; e.value == nil || e.seq != seq {
		return false
	}
	f.set(key, value)
	return true
}
