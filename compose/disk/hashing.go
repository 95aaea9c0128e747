package disk

import (
	"crypto/sha256"
	"encoding"
	"errors"
	"hash"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// piece is a chunk's bytes, in a buffer of newBuffer's that goes back when its last user frees it.
type piece struct {
	data  []byte
	users atomic.Int32
}

var buffers = sync.Pool{New: func() any { return new([maxGrains * grain]byte) }}

func newBuffer() []byte { return buffers.Get().(*[maxGrains * grain]byte)[:0] }

func (p *piece) free() {
	if p.users.Add(-1) == 0 {
		buffers.Put((*[maxGrains * grain]byte)(p.data[:cap(p.data)]))
	}
}

// naming is a goroutine that stores one piece after the other, beside the one that writes.
type naming struct {
	work   chan func()
	done   chan struct{}
	failed atomic.Bool

	// The goroutine's:
	store func(data []byte) (digest.Digest, error)
	names []digest.Digest // of what was stored since the last wait
	err   error           // the first one; nothing is stored after it
}

func newNaming(store func(data []byte) (digest.Digest, error)) *naming {
	n := &naming{work: make(chan func(), 4), done: make(chan struct{}), store: store}
	go func() {
		defer close(n.done)
		for fn := range n.work {
			fn()
		}
	}()
	return n
}

func (n *naming) close() {
	close(n.work)
	<-n.done
}

// put stores a piece and gives it back. An error may be that of an earlier piece.
func (n *naming) put(p *piece) error {
	n.work <- func() {
		defer p.free()
		if n.err != nil {
			return
		}
		d, err := n.store(p.data)
		if n.names, n.err = append(n.names, d), err; err != nil {
			n.failed.Store(true)
		}
	}
	if !n.failed.Load() {
		return nil
	}
	_, err := n.wait()
	return err
}

// wait returns the names of what was put since the last time, in order.
func (n *naming) wait() (names []digest.Digest, err error) {
	done := make(chan struct{})
	n.work <- func() {
		names, err = n.names, n.err
		n.names = nil
		close(done)
	}
	<-done
	return names, err
}

// hashing is a goroutine that hashes one layer after the other, beside the one that writes. The zeros at a layer's end,
// often most of it, are left to another one.
type hashing struct {
	work chan func(h hash.Hash)
	done chan struct{}
	err  error // of restore; the goroutine's until it has answered
	ends sync.WaitGroup
}

func newHashing() *hashing {
	w := &hashing{work: make(chan func(hash.Hash), 8), done: make(chan struct{})}
	go func() {
		defer close(w.done)
		h := sha256.New()
		for fn := range w.work {
			fn(h)
		}
	}()
	return w
}

func (w *hashing) close() {
	close(w.work)
	<-w.done
	w.ends.Wait()
}

func (w *hashing) begin() { w.work <- func(h hash.Hash) { h.Reset() } }

// state returns what Reset, the zeros and data since then come to.
func (w *hashing) state() (state []byte, err error) {
	done := make(chan struct{})
	w.work <- func(h hash.Hash) {
		state, err = h.(encoding.BinaryMarshaler).MarshalBinary()
		close(done)
	}
	<-done
	return state, err
}

// restore goes on from a state.
func (w *hashing) restore(state []byte) {
	done := make(chan struct{})
	w.work <- func(h hash.Hash) {
		w.err = errors.Join(w.err, h.(encoding.BinaryUnmarshaler).UnmarshalBinary(state))
		close(done)
	}
	<-done
}

func (w *hashing) zeros(n int64) {
	if n > 0 {
		w.work <- func(h hash.Hash) { hashZeros(h, n) }
	}
}

// data hashes a piece and gives it back.
func (w *hashing) data(p *piece) {
	w.work <- func(h hash.Hash) {
		h.Write(p.data)
		p.free()
	}
}

// finish ends a layer with n zeros and returns its digest when that is known.
func (w *hashing) finish(n int64) <-chan digest.Digest {
	sum := make(chan digest.Digest, 1)
	w.work <- func(h hash.Hash) {
		state, err := h.(encoding.BinaryMarshaler).MarshalBinary()
		own := sha256.New()
		if err = errors.Join(err, own.(encoding.BinaryUnmarshaler).UnmarshalBinary(state)); err != nil {
			panic("disk: a hash's state is always its own: " + err.Error())
		}
		w.ends.Go(func() {
			hashZeros(own, n)
			sum <- digest.NewDigest(digest.SHA256, own)
		})
	}
	return sum
}
