package execute

import (
	"container/list"
	"sync"

	"bakefarm/compose/deb"

	"github.com/opencontainers/go-digest"
)

// maxRecords bounds what Records keeps, in bytes of text.
const maxRecords = 48 << 20

// Records keeps packages' records decoded, by the digest of their encoding, those used last: every OS layer wants those
// of all its packages, and decoding a minimal system's takes as long as hashing a third of its layer. Nobody changes a
// record that is in here.
type Records struct {
	mu     sync.Mutex
	byName map[digest.Digest]*list.Element // of kept
	recent *list.List
	used   int
}

type kept struct {
	name   digest.Digest
	record *deb.Record
	size   int
}

// NewRecords makes an empty Records.
func NewRecords() *Records {
	return &Records{byName: make(map[digest.Digest]*list.Element), recent: list.New()}
}

// get returns a record, nil when it is not here.
func (r *Records) get(name digest.Digest) *deb.Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	el, ok := r.byName[name]
	if !ok {
		return nil
	}
	r.recent.MoveToFront(el)
	return el.Value.(kept).record
}

// put keeps a record that has been encoded to, or decoded from, the bytes of that digest.
func (r *Records) put(name digest.Digest, record *deb.Record) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.byName[name]; ok {
		return
	}
	k := kept{name, record, weigh(record)}
	r.byName[name] = r.recent.PushFront(k)
	for r.used += k.size; r.used > maxRecords; {
		last := r.recent.Remove(r.recent.Back()).(kept)
		delete(r.byName, last.name)
		r.used -= last.size
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
