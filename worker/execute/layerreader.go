package execute

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"

	"bakefarm/compose"
	"bakefarm/imagestore"
	"bakefarm/plan"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// openTarOf opens a layer's uncompressed tar, also of one that is not ours.
func (j *job) openTarOf(ctx context.Context, l plan.Layer) (io.ReadCloser, error) {
	if l.MediaType != "" {
		return j.open(ctx, l)
	}
	if made := j.made(ctx, l.DiffID); made != nil {
		return made, nil
	}
	return j.openLayer(ctx, l.Digest)
}

// unpackAhead is how many pieces of a layer are read and unpacked ahead of who reads it, of which as many are unpacked at a
// time as there are processors.
const unpackAhead = 4

// layerReader reads a layer's tar: every piece is a gzip member of its own, so several unpack at a time.
//
// The store may know a layer's digest by other pieces, too: of an image that came in through a registry, which was cut as it came.
// From the first piece on that is not a member, what is left is one stream.
type layerReader struct {
	cancel context.CancelFunc
	broken func() error // not nil: not all pieces have come
	queue  chan chan unpacked
	now    unpacked                                            // what is being read
	at     int                                                 // in it
	left   []imagestore.Part                                   // behind it
	stream func(left []imagestore.Part) (io.ReadCloser, error) // opens them as one stream
	rest   io.ReadCloser                                       // not nil: the stream that is read
}

type unpacked struct {
	segment *[compose.SegmentSize]byte
	size    int
	err     error
}

// openLayer opens a layer's uncompressed tar.
func (j *job) openLayer(ctx context.Context, d digest.Digest) (io.ReadCloser, error) {
	blob, err := j.Store.Stat(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", d, err)
	}
	stream := func(left []imagestore.Part) (io.ReadCloser, error) {
		z, err := gzip.NewReader(bufio.NewReader(j.readParts(ctx, left)))
		if err != nil {
			return nil, err // not a reader that is nil
		}
		return z, nil
	}
	ahead, cancel := context.WithCancel(ctx)
	r := &layerReader{cancel: cancel, broken: ahead.Err, queue: make(chan chan unpacked, unpackAhead), left: blob.Parts, stream: stream}
	turns := make(chan struct{}, runtime.GOMAXPROCS(0))
	go func() {
		defer close(r.queue)
		for _, p := range blob.Parts {
			one := make(chan unpacked, 1)
			select {
			case r.queue <- one:
			case <-ahead.Done():
				return
			}
			go func() {
				segment, n, err := j.unpack(ahead, p, turns)
				one <- unpacked{segment, n, err}
			}()
		}
	}()
	return r, nil
}

// unpack reads a piece out of the cache or the store and unpacks it, when its turn has come.
func (j *job) unpack(ctx context.Context, p imagestore.Part, turns chan struct{}) (*[compose.SegmentSize]byte, int, error) {
	var data []byte
	if !j.Cache.Has(p.Digest) { // other machines are waited for side by side
		var err error
		if data, err = imagestore.ReadAll(ctx, j.Store, p.Digest, p.Size); err != nil {
			return nil, 0, err
		}
	}
	turns <- struct{}{}
	defer func() { <-turns }()
	if data == nil {
		buf := packedPieces.Get().(*[compose.MaxPiece]byte)
		defer packedPieces.Put(buf)
		data = buf[:min(p.Size, compose.MaxPiece)]
		if !j.cached(p, data) {
			var err error
			if data, err = imagestore.ReadAll(ctx, j.Store, p.Digest, p.Size); err != nil {
				return nil, 0, err
			}
		}
	}
	segment, n, err := compose.Unpack(data)
	if err != nil {
		return nil, 0, fmt.Errorf("piece %s: %w", p.Digest, err)
	}
	return segment, n, nil
}

var packedPieces = sync.Pool{New: func() any { return new([compose.MaxPiece]byte) }}

// cached reads a piece out of the cache, whole and checked: it may not be there, or have dropped itself.
func (j *job) cached(p imagestore.Part, data []byte) bool {
	if int64(len(data)) != p.Size {
		return false
	}
	r, err := j.Cache.Open(p.Digest)
	if err != nil {
		return false
	}
	defer r.Close()
	if _, err := io.ReadFull(r, data); err != nil {
		return false
	}
	_, err = r.Read(make([]byte, 1)) // the end is where it has been checked
	return err == io.EOF
}

func (r *layerReader) Read(p []byte) (int, error) {
	for r.rest == nil && r.at == r.now.size {
		r.free()
		one, ok := <-r.queue
		if !ok && r.broken() != nil {
			return 0, r.broken() // a tar that ends early would look whole
		}
		if !ok {
			return 0, io.EOF
		}
		u := <-one
		if errors.Is(u.err, compose.ErrPiece) {
			r.cancel()
			if rest, err := r.stream(r.left); err == nil {
				r.rest = rest
				break
			}
		}
		if u.err != nil {
			return 0, u.err
		}
		r.now, r.left = u, r.left[1:]
	}
	if r.rest != nil {
		return r.rest.Read(p)
	}
	n := copy(p, r.now.segment[r.at:r.now.size])
	r.at += n
	return n, nil
}

// free gives back what has been read.
func (r *layerReader) free() {
	if r.now.segment != nil {
		compose.FreeSegment(r.now.segment)
	}
	r.now, r.at = unpacked{}, 0
}

// Close waits for what is on its way. It fails when the layer has not been read to its end.
func (r *layerReader) Close() error {
	r.cancel()
	left := r.now.size - r.at
	r.free()
	for one := range r.queue {
		r.now = <-one
		left += r.now.size
		r.free()
	}
	if r.rest != nil {
		n, _ := io.CopyN(io.Discard, r.rest, compose.TrailerSize+1)
		r.rest.Close()
		left = int(n)
	}
	if left > compose.TrailerSize {
		return errors.New("something follows the end of the tar")
	}
	return nil
}
