package execute

import (
	"context"
	"io"
	"sync"
)

// Reading ahead goes by buffers: most packages fit into the 1.5 MiB that wait.
const (
	aheadBuffer  = 256 << 10 // a block of the cache
	aheadBuffers = 6
)

var aheadPool = sync.Pool{New: func() any { return new([aheadBuffer]byte) }}

// ahead reads a stream in a goroutine of its own, some buffers ahead of who reads from it.
type ahead struct {
	src    io.ReadCloser
	cancel context.CancelFunc
	full   chan struct{} // closed when the buffers are full for the first time, or at the end
	queue  chan filled   // closed at the end
	err    error         // of src, once queue is closed; nil at the stream's proper end
	now    filled        // what Read is at
	rest   []byte        // of now
}

type filled struct {
	buf *[aheadBuffer]byte
	n   int
}

// readAhead opens a stream and begins reading. The context that open gets must end the stream's Read.
func readAhead(ctx context.Context, open func(context.Context) (io.ReadCloser, error)) (*ahead, error) {
	ctx, cancel := context.WithCancel(ctx)
	src, err := open(ctx)
	if err != nil {
		cancel()
		return nil, err
	}
	a := &ahead{src: src, cancel: cancel, full: make(chan struct{}), queue: make(chan filled, aheadBuffers)}
	go a.fill(ctx)
	return a, nil
}

func (a *ahead) fill(ctx context.Context) {
	full := sync.OnceFunc(func() { close(a.full) })
	defer full()
	defer close(a.queue)
	for {
		f := filled{buf: aheadPool.Get().(*[aheadBuffer]byte)}
		var err error
		for f.n < aheadBuffer && err == nil {
			var n int
			n, err = a.src.Read(f.buf[f.n:])
			f.n += n
		}
		if err != nil && err != io.EOF {
			a.err = err
			return
		}
		if len(a.queue) == cap(a.queue) {
			full()
		}
		select {
		case a.queue <- f:
		case <-ctx.Done():
			a.err = context.Cause(ctx)
			return
		}
		if err == io.EOF {
			return
		}
	}
}

// ready waits until the stream is here as a whole or the buffers are full.
func (a *ahead) ready(ctx context.Context) error {
	select {
	case <-a.full:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Read reads the stream; its error comes after what preceded it.
func (a *ahead) Read(p []byte) (int, error) {
	for len(a.rest) == 0 {
		if a.now.buf != nil {
			aheadPool.Put(a.now.buf)
			a.now = filled{}
		}
		f, ok := <-a.queue
		if !ok {
			if a.err != nil {
				return 0, a.err
			}
			return 0, io.EOF
		}
		a.now, a.rest = f, f.buf[:f.n]
	}
	n := copy(p, a.rest)
	a.rest = a.rest[n:]
	return n, nil
}

// Close stops reading and closes the stream.
func (a *ahead) Close() error {
	a.cancel()
	for range a.queue { // until the goroutine has gone
	}
	return a.src.Close()
}
