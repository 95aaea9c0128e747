package compose

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"math"
	"runtime"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Conditions that callers act on.
var (
	// ErrPiece: a piece's bytes do not have its digest or size, or are no gzip member of the size that the member says.
	ErrPiece = errors.New("piece does not match its description")
	// ErrTar: uncompressed bytes that were at hand are not those of the member's pieces: throw them away and do without.
	ErrTar = errors.New("uncompressed bytes do not match the member's pieces")
)

// Layer is what an image's configuration and manifest need to know of a layer, and what it is made of.
type Layer struct {
	Digest  digest.Digest `json:"digest"` // of the compressed blob
	Size    int64         `json:"size"`
	DiffID  digest.Digest `json:"diffID"` // of the uncompressed tar
	TarSize int64         `json:"tarSize"`
	Pieces  []Piece       `json:"pieces"` // in order, the trailer included; their concatenation is the blob
	Check   uint32        `json:"-"`      // of the members' uncompressed bytes and the trailer's, as Check counts it
}

// Assembler computes the digests of layers out of their members, without making their bytes anew.
type Assembler struct {
	// Open reads a piece. It is called by several goroutines at once, ahead of the hashing. The Assembler verifies what
	// it reads, and closes; a failed Close fails.
	Open func(ctx context.Context, p Piece) (io.ReadCloser, error)

	// Tar reads the uncompressed bytes of a member when they are at hand, and returns nil when they are not; a nil Tar
	// has none. The Assembler closes. The bytes are checked against the CRC-32 and length in the trailers of the pieces,
	// which the pieces' digests vouch for: that finds damage at a tenth of the cost of hashing them a second time.
	Tar func(m Member) (io.ReadCloser, error)

	// Parallel is how many pieces are read (and decompressed) ahead. 0: twice the number of processors.
	Parallel int
}

// Assemble reads the members in order and describes the layer that they and the Trailer make. It holds about Parallel
// pieces and segments in memory, at most MaxPiece and SegmentSize bytes each: a piece that unpacks to more than its
// member says is refused when it passes that size.
//
//	Open ─▶ verify ─▶ (decompress) ─┐   Parallel pieces ahead
//	                                ├─▶ in order: hash of the blob ─▶ CRC-32 and hash of the tar
//	Tar ────────────────────────────┘
func (a *Assembler) Assemble(ctx context.Context, members []Member) (Layer, error) {
	_, end := trailer()
	members = append(members[:len(members):len(members)], end)
	l, err := describe(members)
	if err != nil {
		return Layer{}, err
	}
	run := assembly{Assembler: a, members: members, blob: sha256.New(), tar: sha256.New()}
	if err := run.run(ctx); err != nil {
		return Layer{}, err
	}
	l.Digest = digest.NewDigest(digest.SHA256, run.blob)
	l.DiffID = digest.NewDigest(digest.SHA256, run.tar)
	l.Check = run.check.Sum()
	return l, nil
}

// describe adds up what is known before anything is read.
func describe(members []Member) (Layer, error) {
	var l Layer
	for _, m := range members {
		if err := m.Validate(); err != nil {
			return Layer{}, err
		}
		if l.TarSize > math.MaxInt64/2-m.TarSize { // pieces are bounded by segments, so this bounds Size as well
			return Layer{}, errors.New("the members' sizes add up to more than can be counted")
		}
		l.TarSize += m.TarSize
		for _, p := range m.Pieces {
			l.Size += p.Size
		}
		l.Pieces = append(l.Pieces, m.Pieces...)
	}
	return l, nil
}

// assembly is one run of an Assembler.
type assembly struct {
	*Assembler
	members   []Member
	blob, tar hash.Hash
	check     Check
	opened    []*tarReader // by read, which is one goroutine
}

// tarReader is a member's uncompressed bytes. It is closed by the tar's hashing after the last byte; what that does not
// come to, because something else failed, is closed when all goroutines have ended.
type tarReader struct {
	io.ReadCloser
	closed bool
}

// pieceRead is a piece on its way. ready is closed when data and segment stand, or never will.
type pieceRead struct {
	Piece
	want    int64      // uncompressed bytes
	plain   *tarReader // has them; nil: segment has them
	last    bool       // piece of its member
	ready   chan struct{}
	data    []byte
	segment *[SegmentSize]byte
}

func (a *assembly) run(ctx context.Context) error {
	parallel := a.Parallel
	if parallel <= 0 {
		parallel = 2 * runtime.GOMAXPROCS(0)
	}
	g, ctx := errgroup.WithContext(ctx)
	reading := make(chan *pieceRead, parallel) // its capacity is what bounds the reading ahead
	read := make(chan *pieceRead, 1)
	g.Go(func() error {
		defer close(reading)
		return a.read(ctx, g, reading)
	})
	g.Go(func() error {
		defer close(read)
		for r := range reading {
			select {
			case <-r.ready:
			case <-ctx.Done():
				return ctx.Err()
			}
			a.blob.Write(r.data)
			select {
			case read <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		return nil
	})
	g.Go(func() error {
		for r := range read {
			if err := r.hashTar(a.tar); err != nil {
				return err
			}
			a.check.add(r.crc())
		}
		return ctx.Err() // a stage before may have closed the channel because it was cancelled
	})
	err := g.Wait()
	for _, t := range a.opened {
		if !t.closed {
			t.Close() // after a failure, which is the error to report
		}
	}
	return err
}

// read starts reading every piece, in order, as far ahead as the queue allows.
func (a *assembly) read(ctx context.Context, g *errgroup.Group, queue chan<- *pieceRead) error {
	for _, m := range a.members {
		plain, err := a.plain(m)
		if err != nil {
			return err
		}
		for i, p := range m.Pieces {
			r := &pieceRead{Piece: p, want: m.segment(i), plain: plain, last: i == len(m.Pieces)-1, ready: make(chan struct{})}
			select {
			case queue <- r:
			case <-ctx.Done():
				return ctx.Err()
			}
			g.Go(func() error {
				err := r.fetch(ctx, a.open)
				if err == nil {
					close(r.ready)
				}
				return err // cancels whoever waits for ready
			})
		}
	}
	return nil
}

// plain opens the member's uncompressed bytes if they are at hand.
func (a *assembly) plain(m Member) (*tarReader, error) {
	if a.Tar == nil || m.TarSize == 0 {
		return nil, nil
	}
	rc, err := a.Tar(m)
	if err != nil {
		return nil, fmt.Errorf("member %s: uncompressed bytes: %w", m.TarDigest, err)
	}
	if rc == nil {
		return nil, nil
	}
	t := &tarReader{ReadCloser: rc}
	a.opened = append(a.opened, t)
	return t, nil
}

// open opens a piece; the trailer is known to everybody and need not be stored to be read.
func (a *assembly) open(ctx context.Context, p Piece) (io.ReadCloser, error) {
	if data, end := trailer(); p == end.Pieces[0] {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return a.Open(ctx, p)
}

// fetch reads and verifies the piece, and decompresses it when its uncompressed bytes are not at hand.
func (r *pieceRead) fetch(ctx context.Context, open func(context.Context, Piece) (io.ReadCloser, error)) error {
	rc, err := open(ctx, r.Piece)
	if err != nil {
		return fmt.Errorf("piece %s: %w", r.Digest, err)
	}
	r.data = make([]byte, r.Size)
	_, err = io.ReadFull(rc, r.data)
	if err == nil {
		if n, _ := io.ReadFull(rc, make([]byte, 1)); n > 0 {
			err = fmt.Errorf("%w: it is longer than %d bytes", ErrPiece, r.Size)
		}
	} else if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = fmt.Errorf("%w: it ends before %d bytes", ErrPiece, r.Size)
	}
	if cerr := rc.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		if got := digest.FromBytes(r.data); got != r.Digest {
			err = fmt.Errorf("%w: its bytes have the digest %s", ErrPiece, got)
		}
	}
	if err == nil && r.plain == nil {
		r.segment, err = decompress(r.data, r.want)
	}
	if err != nil {
		return fmt.Errorf("piece %s: %w", r.Digest, err)
	}
	return nil
}

// decompress unpacks one gzip member of exactly want bytes, at most SegmentSize. Nothing may follow it.
func decompress(data []byte, want int64) (*[SegmentSize]byte, error) {
	segment := segments.Get().(*[SegmentSize]byte)
	if err := gunzip(segment[:want], data); err != nil {
		segments.Put(segment)
		return nil, err
	}
	return segment, nil
}

// gunzip fills to with what a gzip member unpacks to, which is no more and no less.
func gunzip(to, data []byte) error {
	src := bytes.NewReader(data) // an io.ByteReader: gzip reads not a byte beyond its member
	z := gunzips.Get().(*gzip.Reader)
	defer gunzips.Put(z)
	if err := z.Reset(src); err != nil {
		return fmt.Errorf("%w: %w", ErrPiece, err)
	}
	z.Multistream(false)
	_, err := io.ReadFull(z, to)
	if err == nil {
		var n int
		if n, err = io.ReadFull(z, make([]byte, 1)); n > 0 {
			err = fmt.Errorf("it unpacks to more than %d bytes", len(to))
		} else if err == io.EOF && src.Len() > 0 {
			err = fmt.Errorf("%d bytes follow its end", src.Len())
		} else if err == io.EOF {
			return nil
		}
	}
	return fmt.Errorf("%w: %w", ErrPiece, err)
}

var gunzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// crc is the CRC-32 of the piece's uncompressed bytes. RFC 1952 section 2.3.1: CRC32 and ISIZE (modulo 2³²) end a member,
// little-endian.
func (r *pieceRead) crc() uint32 { return binary.LittleEndian.Uint32(r.data[len(r.data)-8:]) }

// hashTar adds the piece's uncompressed bytes to h.
func (r *pieceRead) hashTar(h hash.Hash) error {
	if r.plain == nil {
		h.Write(r.segment[:r.want]) // checked while it was unpacked
		segments.Put(r.segment)
		r.segment = nil
		return nil
	}
	isize := binary.LittleEndian.Uint32(r.data[len(r.data)-4:])
	crc := crc32.NewIEEE()
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	n, err := io.CopyBuffer(struct{ io.Writer }{io.MultiWriter(h, crc)}, struct{ io.Reader }{io.LimitReader(r.plain, r.want)}, buf[:])
	switch {
	case err != nil:
		return fmt.Errorf("uncompressed bytes of piece %s: %w", r.Digest, err)
	case n != r.want || isize != uint32(r.want) || r.crc() != crc.Sum32():
		return fmt.Errorf("piece %s: %w", r.Digest, ErrTar)
	case !r.last:
		return nil
	}
	if n, _ := io.ReadFull(r.plain, buf[:1]); n > 0 {
		return fmt.Errorf("piece %s: %w: more bytes follow the last", r.Digest, ErrTar)
	}
	r.plain.closed = true
	return r.plain.Close()
}
