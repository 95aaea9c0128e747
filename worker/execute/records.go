package execute

import (
	"container/list"
	"sync"

	"bakefarm/compose/deb"
	"bakefarm/compose/debian"

	"github.com/opencontainers/go-digest"
)

// What Records keeps at the most: of records and facts, in bytes of text, and of layers.
const (
	maxRecords = 24 << 20
	maxLayers  = 4 << 20
)

// Records keeps what was read of packages, those used last: their records decoded, by the digest of their encoding, and
// the facts of their members, by the digest of the tar. Every OS layer wants those of all its packages, and decoding a
// minimal system's takes as long as hashing a third of its layer. And it keeps what layers are made of that this process
// has composed, by their diff IDs. Nobody changes what is in here.
type Records struct {
	records *recent[*deb.Record]
	facts   *recent[*debian.Facts]
	layers  *recent[*madeOf]
}

// NewRecords makes an empty Records.
func NewRecords() *Records {
	return &Records{newRecent(maxRecords, weigh), newRecent(maxRecords, (*debian.Facts).Size), newRecent(maxLayers, (*madeOf).weigh)}
}

// get returns a record, nil when it is not here.
func (r *Records) get(name digest.Digest) *deb.Record { return r.records.get(name) }

// put keeps a record that has been encoded to, or decoded from, the bytes of that digest.
func (r *Records) put(name digest.Digest, record *deb.Record) { r.records.put(name, record) }

// Spare forgets what takes much memory. What layers are made of stays: it takes little, and without it a layer that goes onto a
// disk is unpacked, which takes longer than all the rest.
func (r *Records) Spare() {
	r.records.clear()
	r.facts.clear()
}

// recent keeps values by digest.
type recent[V any] struct {
	most  int         // of them, by weight
	weigh func(V) int // about how much memory a value takes, in bytes

	mu     sync.Mutex
	byName map[digest.Digest]*list.Element // of kept
	order  *list.List                      // the value used last is in front
	used   int
}

type kept[V any] struct {
	name  digest.Digest
	value V
	size  int
}

func newRecent[V any](most int, weigh func(V) int) *recent[V] {
	return &recent[V]{most: most, weigh: weigh, byName: map[digest.Digest]*list.Element{}, order: list.New()}
}

// get returns a value, the zero value when it is not here.
func (r *recent[V]) get(name digest.Digest) (value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	el, ok := r.byName[name]
	if !ok {
		return value
	}
	r.order.MoveToFront(el)
	return el.Value.(kept[V]).value
}

func (r *recent[V]) put(name digest.Digest, value V) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.byName[name]; ok {
		return
	}
	k := kept[V]{name, value, r.weigh(value)}
	r.byName[name] = r.order.PushFront(k)
	for r.used += k.size; r.used > r.most; {
		last := r.order.Remove(r.order.Back()).(kept[V])
		delete(r.byName, last.name)
		r.used -= last.size
	}
}

// clear forgets everything.
func (r *recent[V]) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.byName)
	r.order.Init()
	r.used = 0
}

// drop forgets a value.
func (r *recent[V]) drop(name digest.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if el, ok := r.byName[name]; ok {
		delete(r.byName, name)
		r.used -= r.order.Remove(el).(kept[V]).size
	}
}

// weigh says about how much memory a record takes, in bytes.
func weigh(r *deb.Record) int {
	const header = 32 // of a string or slice, and what its allocation rounds up
	n := 1024 + len(r.Control)
	for _, f := range r.Files {
		n += len(f.Data) + 2*header
	}
	for _, p := range r.List {
		n += len(p) + header
	}
	for _, p := range r.Inventory.Paths {
		n += len(p) + header
	}
	for _, d := range r.Inventory.Dirs {
		n += len(d.Path) + 5*header
	}
	return n
}
