package s3store

import (
	"context"
	"errors"
	"sync"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/semaphore"
)

const (
	uploads      = 2        // of committed packs, at the same time
	earlyUploads = 2        // of packs that Writers have filled before they commit
	packBytes    = 32 << 20 // of a pack of several Writers: two are uploaded while a third collects
	earlyAt      = 8 << 20  // bytes that a Writer keeps before it uploads them early
	earlyBytes   = 16 << 20 // bytes of early packs that wait or are uploaded
	maxEntries   = 1 << 15  // entries of a pack that we write
)

var errClosed = errors.New("the store was closed")

// item is a piece or descriptor on its way into a pack.
type item struct {
	digest digest.Digest // of the piece, or of the blob that is described
	piece  digest.Digest // of the descriptor's bytes, for a composite; else empty
	data   []byte
}

func (it item) key() key { return key{it.digest, it.piece != ""} }

// key names an item: a digest may be that of a piece and that of a composite.
type key struct {
	digest    digest.Digest
	composite bool
}

// batch is a pack in the making.
type batch struct {
	seq   uint64 // the order in which the packer has begun them
	items []item
	size  int64
	after map[*batch]bool // hold what composites in this one refer to: settled before it is registered
	fresh []item          // pieces to remember when it is registered: what was just written is what is read next

	// Closed when the pack is visible (early: when it is stored), or never will be: err says why.
	done    chan struct{}
	err     error
	pack    farm.Pack
	entries []imagestore.Entry
}

func newBatch() *batch { return &batch{done: make(chan struct{})} }

func (b *batch) fits(it item) bool {
	return len(b.items) == 0 || b.size+int64(len(it.data)) <= packBytes && len(b.items) < maxEntries
}

func (b *batch) add(it item) {
	b.items = append(b.items, it)
	b.size += int64(len(it.data))
}

// packer collects what Writers commit into packs, and uploads these.
type packer struct {
	s *Store

	mu      sync.Mutex
	taken   map[key]*batch // what is in a pack that is not settled yet
	begun   uint64
	open    *batch   // collects
	full    []*batch // wait for an upload to end
	running int

	earlyRunning chan struct{}       // a slot for each early upload
	earlyRoom    *semaphore.Weighted // bytes
}

func newPacker(s *Store) *packer {
	return &packer{
		s: s, taken: map[key]*batch{}, open: newBatch(),
		earlyRunning: make(chan struct{}, earlyUploads),
		earlyRoom:    semaphore.NewWeighted(earlyBytes),
	}
}

// next begins another open pack. p.mu is held.
func (p *packer) next() {
	p.begun++
	p.open = newBatch()
	p.open.seq = p.begun
}

// inFlight finds the pack that the item is on its way in.
func (p *packer) inFlight(k key) *batch {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken[k]
}

// commit puts items into packs and returns the packs to wait for. after are packs that the items may refer to.
func (p *packer) commit(items []item, after map[*batch]bool) map[*batch]bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	waits := map[*batch]bool{}
	var grown []*batch
	for _, it := range items {
		b := p.taken[it.key()]
		if b == nil {
			if !p.open.fits(it) {
				p.full = append(p.full, p.open)
				p.next()
			}
			b = p.open
			b.add(it)
			p.taken[it.key()] = b
			if len(grown) == 0 || grown[len(grown)-1] != b {
				grown = append(grown, b)
			}
		}
		waits[b] = true
	}
	for _, b := range grown {
		b.waitFor(after)
		b.waitFor(waits)
	}
	p.start()
	return waits
}

// waitFor makes b be registered after those of the others that were begun before it: so there is no circle.
func (b *batch) waitFor(others map[*batch]bool) {
	for o := range others {
		if o.seq >= b.seq {
			continue
		}
		if b.after == nil {
			b.after = map[*batch]bool{}
		}
		b.after[o] = true
	}
}

// start begins uploads while there are slots and something to upload. p.mu is held.
func (p *packer) start() {
	for p.running < uploads {
		var b *batch
		switch {
		case len(p.full) > 0:
			b, p.full = p.full[0], p.full[1:]
		case len(p.open.items) > 0:
			b = p.open
			p.next()
		default:
			return
		}
		p.running++
		p.s.wg.Go(func() { p.run(b) })
	}
}

// run uploads and registers a pack.
func (p *packer) run(b *batch) {
	b.fresh = p.s.fresh(b.items, recentItem)
	err := p.s.upload(p.s.ctx, b)
	if err == nil {
		for o := range b.after {
			<-o.done // if it failed, so does every Commit that needed it
		}
		err = p.s.register(p.s.ctx, b)
	}
	err = p.s.closing(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, it := range b.items {
		delete(p.taken, it.key())
	}
	b.items, b.after, b.err = nil, nil, err
	close(b.done)
	p.running--
	p.start()
}

// uploadEarly uploads a pack of one Writer's, without registering it. It waits for room.
func (p *packer) uploadEarly(ctx context.Context, b *batch) error {
	room := min(b.size, earlyBytes)
	if err := p.earlyRoom.Acquire(ctx, room); err != nil {
		return err
	}
	p.s.wg.Go(func() {
		defer p.earlyRoom.Release(room)
		p.earlyRunning <- struct{}{}
		defer func() { <-p.earlyRunning }()
		b.err = p.s.closing(p.s.upload(p.s.ctx, b))
		b.items = nil
		close(b.done)
	})
	return nil
}
