package s3store

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"

	"bakefarm/imagestore"
)

const (
	runBytes  = 4 << 20   // of a GET that reads several pieces
	runGap    = 128 << 10 // between two pieces that are read with one GET
	aheadRuns = 16        // small ones: a service answers many at a time, each after the same delay
	aheadMost = 16 << 20  // bytes that are read ahead, unless one piece alone has more
)

// segment is what a reader takes of a part: its bytes from..to; zeros when the part is a hole.
type segment struct {
	wanted
	from, to int64
	data     []byte // of the whole part, when it is in memory already: then it has no place
}

func (g segment) hole() bool { return g.digest == "" }

// run is what one GET reads: segments whose pieces lie side by side in a pack; or one hole; or segments that need not be read.
type run struct {
	segments []segment
}

func (r run) hole() bool { return r.segments[0].hole() }

func (r run) read() bool { return r.segments[0].data != nil }

// bytes is how much its GET reads.
func (r run) bytes() int64 {
	if r.hole() || r.read() {
		return 0
	}
	return r.segments[len(r.segments)-1].at.Offset + r.segments[len(r.segments)-1].at.Length - r.segments[0].at.Offset
}

// plan groups segments into runs.
func plan(segments []segment) []run {
	var runs []run
	for i, g := range segments {
		if g.from == g.to {
			continue
		}
		if len(runs) > 0 && joins(runs[len(runs)-1], g) {
			r := &runs[len(runs)-1]
			r.segments = append(r.segments, g)
			continue
		}
		runs = append(runs, run{segments[i : i+1 : i+1]})
	}
	return runs
}

func joins(r run, g segment) bool {
	if r.hole() || g.hole() || r.read() || g.data != nil {
		return r.read() && g.data != nil
	}
	first, last := r.segments[0].at, r.segments[len(r.segments)-1].at
	gap := g.at.Offset - (last.Offset + last.Length)
	return g.at.Pack == first.Pack && gap >= 0 && gap <= runGap && g.at.Offset+g.at.Length-first.Offset <= runBytes
}

var zeros [64 << 10]byte

// buffers holds run buffers that are not needed any more, all of runBytes.
var buffers = sync.Pool{New: func() any { return new([runBytes]byte) }}

// fetched is a run on its way. done is closed when data or err is there.
type fetched struct {
	done   chan struct{}
	bytes  int64
	hole   int64 // its length
	data   [][]byte
	buffer *[runBytes]byte // that data lies in, to be given back
	err    error
}

// blobReader reads runs one after the other, and a few ahead. It is used by one goroutine.
type blobReader struct {
	s      *Store
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	left  int64 // bytes that were not given out yet
	todo  []run
	ahead []*fetched
	bytes int64 // in ahead

	current *fetched // its data are what is to be given out next
	err     error
}

// newBlobReader begins to read segments.
func newBlobReader(ctx context.Context, s *Store, segments []segment) *blobReader {
	ctx, cancel := context.WithCancel(ctx)
	r := &blobReader{s: s, ctx: ctx, cancel: cancel, todo: plan(segments)}
	for _, g := range segments {
		r.left += g.to - g.from
	}
	r.fill()
	return r
}

// fill starts reading ahead as far as it is allowed.
func (r *blobReader) fill() {
	for len(r.todo) > 0 && len(r.ahead) < aheadRuns {
		next := r.todo[0]
		n := next.bytes()
		if len(r.ahead) > 0 && r.bytes+n > aheadMost {
			return
		}
		r.todo = r.todo[1:]
		f := &fetched{done: make(chan struct{}), bytes: n}
		r.ahead, r.bytes = append(r.ahead, f), r.bytes+n
		if next.hole() {
			f.hole = next.segments[0].to - next.segments[0].from
			close(f.done)
			continue
		}
		if next.read() {
			for _, g := range next.segments {
				f.data = append(f.data, g.data[g.from:g.to])
			}
			close(f.done)
			continue
		}
		r.wg.Go(func() {
			defer close(f.done)
			r.fetch(f, next)
		})
	}
}

// fetch reads a run, from memory if all of it is there.
func (r *blobReader) fetch(f *fetched, run run) {
	if f.data = r.s.cachedRun(run); f.data != nil {
		return
	}
	var dst []byte
	if f.bytes > runBytes/4 && f.bytes <= runBytes {
		f.buffer = buffers.Get().(*[runBytes]byte)
		dst = f.buffer[:f.bytes]
	} else {
		dst = make([]byte, f.bytes)
	}
	want := make([]wanted, len(run.segments))
	for i, g := range run.segments {
		want[i] = g.wanted
	}
	data, err := r.s.fetch(r.ctx, want, dst)
	if err != nil {
		f.err = err
		return
	}
	for i, g := range run.segments {
		data[i] = data[i][g.from:g.to]
	}
	f.data = data
}

func (s *Store) cachedRun(run run) [][]byte {
	data := make([][]byte, len(run.segments))
	for i, g := range run.segments {
		b := s.inMemory(g.digest)
		if b == nil {
			return nil
		}
		data[i] = b[g.from:g.to]
	}
	return data
}

// next returns the bytes that come next, at least one, and io.EOF at the end. They are good until the next call.
func (r *blobReader) next() ([]byte, error) {
	for r.err == nil {
		if c := r.current; c != nil {
			if c.hole > 0 {
				return zeros[:min(c.hole, int64(len(zeros)))], nil
			}
			for len(c.data) > 0 && len(c.data[0]) == 0 {
				c.data = c.data[1:]
			}
			if len(c.data) > 0 {
				return c.data[0], nil
			}
			r.release()
		}
		if len(r.ahead) == 0 {
			r.err = io.EOF
			break
		}
		f := r.ahead[0]
		select {
		case <-f.done:
		case <-r.ctx.Done():
			r.err = context.Cause(r.ctx)
			return nil, r.err
		}
		r.ahead, r.bytes = r.ahead[1:], r.bytes-f.bytes
		r.current = f
		r.err = f.err
		r.fill()
	}
	return nil, r.err
}

// took says that n of the bytes that next gave were used.
func (r *blobReader) took(n int) {
	r.left -= int64(n)
	if c := r.current; c.hole > 0 {
		c.hole -= int64(n)
	} else {
		c.data[0] = c.data[0][n:]
	}
}

// release gives the current run's buffer back.
func (r *blobReader) release() {
	if r.current != nil && r.current.buffer != nil {
		buffers.Put(r.current.buffer)
	}
	r.current = nil
}

// Len is how many bytes are left to read.
func (r *blobReader) Len() int64 { return r.left }

func (r *blobReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	b, err := r.next()
	if err != nil {
		return 0, err
	}
	n := copy(p, b)
	r.took(n)
	return n, nil
}

// WriteTo spares io.Copy its buffer.
func (r *blobReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		b, err := r.next()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(b)
		r.took(n)
		total += int64(n)
		if err != nil {
			return total, err
		}
	}
}

// Close ends what is read ahead.
func (r *blobReader) Close() error {
	r.cancel()
	r.wg.Wait()
	r.release()
	if r.err == nil {
		r.err = errors.New("read after Close")
	}
	r.todo, r.ahead = nil, nil
	return nil
}

var _ imagestore.Reader = (*Store)(nil)
var (
	_ io.WriterTo      = (*blobReader)(nil)
	_ imagestore.Sized = (*blobReader)(nil)
	_ imagestore.Sized = memoryReader{}
)

// memoryReader reads bytes that are in memory.
type memoryReader struct{ *bytes.Reader }

// Len is how many bytes are left to read.
func (r memoryReader) Len() int64 { return int64(r.Reader.Len()) }

func (memoryReader) Close() error { return nil }
