package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/zeebo/xxh3"
)

// An entry's file is
//
//	data ‖ sums: XXH3-64 of each block, 8 bytes each ‖ footer
//	footer = magic (8) ‖ size of data (8) ‖ XXH3-64 of sums, magic and size (8)
//
// with integers little-endian. The data stands first so that blocks are aligned for the page cache.
const (
	blockSize  = 256 << 10
	footerSize = 24
)

var magic = [8]byte{'b', 'f', 'c', 'a', 'c', 'h', 'e', '1'}

// blocks lends the buffers of readers and writers.
var blocks = sync.Pool{New: func() any { b := make([]byte, blockSize); return &b }}

// Writer collects a new entry: in memory while the cache has room for what is fresh, else in a file. It is used by one
// goroutine.
type Writer struct {
	cache *Cache
	fresh fresh
	file  *os.File // nil while the blocks are in fresh
	block *[]byte  // nil once committed or discarded
	n     int      // bytes in block
	err   error    // the first failure: the cache is an aid, so a caller may go on and learn of it at Commit
}

// Create begins an entry whose digest is known only when all of it was written. Discard must be called in the end; it
// does nothing after a Commit that succeeded.
func (c *Cache) Create() *Writer {
	return &Writer{cache: c, block: blocks.Get().(*[]byte)}
}

// Write adds bytes to the entry. After a failure it refuses the rest.
func (w *Writer) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	total := len(p)
	for len(p) > 0 {
		if w.n == 0 && len(p) >= blockSize {
			w.flush(p[:blockSize])
			p = p[blockSize:]
		} else {
			n := copy((*w.block)[w.n:], p)
			w.n, p = w.n+n, p[n:]
			if w.n == blockSize {
				w.flush(*w.block)
				w.n = 0
			}
		}
		if w.err != nil {
			return 0, w.err
		}
	}
	return total, nil
}

// flush takes a whole block, or the last one. It keeps no reference to it.
func (w *Writer) flush(block []byte) {
	f := &w.fresh
	f.sums = binary.LittleEndian.AppendUint64(f.sums, xxh3.Hash(block))
	f.size += int64(len(block))
	if f.size > w.cache.budget {
		w.err = fmt.Errorf("worker cache: an entry of %d bytes exceeds the budget of %d", f.size, w.cache.budget)
		return
	}
	if w.file == nil && w.cache.reserve(int64(len(block))) {
		f.blocks = append(f.blocks, bytes.Clone(block))
		return
	}
	if w.file == nil {
		if w.file, w.err = f.spill(w.cache.dir); w.err != nil {
			return
		}
		w.cache.unreserve(f.held())
		f.blocks = nil
	}
	if _, err := w.file.Write(block); err != nil {
		w.err = fmt.Errorf("worker cache: %w", err)
	}
}

// Commit makes the entry visible under d, the sha256 of everything written, which the caller has computed or verified.
func (w *Writer) Commit(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("worker cache: digest %q: %w", d, err)
	}
	if w.n > 0 {
		w.flush((*w.block)[:w.n])
		w.n = 0
	}
	switch {
	case w.err != nil:
		return w.err
	case w.file == nil:
		w.cache.admitFresh(w.fresh, d)
	default:
		if err := w.fresh.finish(w.file); err != nil {
			return err
		}
		if err := w.cache.admit(w.file.Name(), d, w.fresh.disk()); err != nil {
			return err
		}
	}
	w.release()
	return nil
}

// Discard throws away an entry that was not committed.
func (w *Writer) Discard() {
	if w.block == nil {
		return
	}
	if w.file != nil {
		w.file.Close()
		os.Remove(w.file.Name())
	}
	w.cache.unreserve(w.fresh.held())
	w.release()
}

func (w *Writer) release() {
	blocks.Put(w.block)
	w.file, w.block, w.fresh, w.err = nil, nil, fresh{}, os.ErrClosed
}

// seal returns the sums with the footer behind them.
func seal(sums []byte, size int64) []byte {
	tail := make([]byte, 0, len(sums)+footerSize)
	tail = append(tail, sums...)
	tail = append(tail, magic[:]...)
	tail = binary.LittleEndian.AppendUint64(tail, uint64(size))
	return binary.LittleEndian.AppendUint64(tail, xxh3.Hash(tail))
}

// Reader reads an entry from its beginning. It is used by one goroutine.
type Reader struct {
	file    *os.File // nil: the bytes are fresh
	fresh   [][]byte // blocks from at on
	size    int64
	at      int64  // data bytes that were read from the file and compared
	sums    []byte // of the blocks from at on
	block   *[]byte
	pending []byte // of block: compared, not yet given out
	damaged func()
}

func newReader(f *os.File, damaged func()) (*Reader, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// Most entries are small: their sums and footer fit here.
	var small [footerSize + 64*8]byte
	n := min(info.Size(), int64(len(small)))
	tail := small[len(small)-int(n):]
	if _, err := f.ReadAt(tail, info.Size()-n); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	if n < footerSize || [8]byte(tail[n-footerSize:]) != magic {
		return nil, fmt.Errorf("%w: no footer", ErrCorrupt)
	}
	size := int64(binary.LittleEndian.Uint64(tail[n-16:]))
	sums := (size + blockSize - 1) / blockSize * 8
	if size < 0 || size > info.Size() || size+sums+footerSize != info.Size() {
		return nil, fmt.Errorf("%w: %d bytes of file for %d of data", ErrCorrupt, info.Size(), size)
	}
	if sums+footerSize > n {
		tail = make([]byte, sums+footerSize)
		if _, err := f.ReadAt(tail, size); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
	} else {
		tail = append([]byte(nil), tail[n-sums-footerSize:]...)
	}
	if xxh3.Hash(tail[:len(tail)-8]) != binary.LittleEndian.Uint64(tail[len(tail)-8:]) {
		return nil, fmt.Errorf("%w: the sums do not match", ErrCorrupt)
	}
	return &Reader{file: f, size: size, sums: tail[:sums], damaged: damaged}, nil
}

// Size returns the number of bytes of the entry.
func (r *Reader) Size() int64 { return r.size }

// Read reads the next bytes, io.EOF after the last one. An error that is ErrCorrupt says that a block differs from what
// was written; nothing of that block was given out.
func (r *Reader) Read(p []byte) (int, error) {
	if len(r.pending) == 0 {
		n := min(blockSize, r.size-r.at)
		if n == 0 {
			return 0, io.EOF
		}
		if int64(len(p)) >= n {
			return int(n), r.next(p[:n])
		}
		if r.block == nil {
			r.block = blocks.Get().(*[]byte)
		}
		if err := r.next((*r.block)[:n]); err != nil {
			return 0, err
		}
		r.pending = (*r.block)[:n]
	}
	n := copy(p, r.pending)
	r.pending = r.pending[n:]
	return n, nil
}

// next fills block with the next block of the file and compares its sum.
func (r *Reader) next(block []byte) error {
	if r.file == nil {
		r.at += int64(copy(block, r.fresh[0]))
		r.fresh = r.fresh[1:]
		return nil
	}
	if _, err := r.file.ReadAt(block, r.at); err != nil {
		return r.corrupt(err)
	}
	if xxh3.Hash(block) != binary.LittleEndian.Uint64(r.sums) {
		return r.corrupt(errors.New("a block does not have its sum"))
	}
	r.at, r.sums = r.at+int64(len(block)), r.sums[8:]
	return nil
}

func (r *Reader) corrupt(err error) error {
	r.damaged()
	return fmt.Errorf("%w: %s at %d: %w", ErrCorrupt, r.file.Name(), r.at, err)
}

// Close ends reading.
func (r *Reader) Close() error {
	if r.block != nil {
		blocks.Put(r.block)
		r.block, r.pending = nil, nil
	}
	if r.file == nil {
		return nil
	}
	return r.file.Close()
}
