package compose

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// Level is the compression level of every gzip member. Measured per core on tars of libc6 and git in 4 MiB pieces:
// level 1 172 and 91 MB/s to 44.7 and 52.6 %, level 2 182 and 103 MB/s to 42.9 and 51.1 %, level 3 164 and 77 MB/s to
// 42.0 and 49.7 %, level 6 83 and 59 MB/s to 40.5 and 47.2 %. Another level, or a release of the compressor with other
// output, changes bytes: the golden digests fail and the format numbers of the shard kinds must be raised.
const Level = 2

// SegmentSize is how many uncompressed bytes each piece of a member holds, the last one excepted: piece i of a member
// is one gzip member with the bytes from i·SegmentSize on. So a piece's uncompressed size and place are known without
// looking into it, pieces compress and decompress in parallel, and what they need in memory is bounded.
const SegmentSize = 4 << 20

// MaxPiece bounds a piece in bytes: a segment that does not compress grows by 5 bytes per stored block of at most
// 64 KiB, and by header and trailer.
const MaxPiece = SegmentSize + SegmentSize/1024

// Piece is one gzip member, by the digest and the size in bytes of its compressed form.
type Piece struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// Member is a run of whole tar entries, or one segment of a large file, as it stands in layers. It may be empty: a
// package of directories only has no pieces.
type Member struct {
	Pieces    []Piece       `json:"pieces"`    // in order; all but the last hold SegmentSize bytes
	TarSize   int64         `json:"tarSize"`   // uncompressed bytes
	TarDigest digest.Digest `json:"tarDigest"` // of the uncompressed bytes
}

// Validate checks that the member's sizes fit each other and the bounds of pieces.
func (m Member) Validate() error {
	if m.TarSize < 0 {
		return fmt.Errorf("member %s: tarSize is %d, want 0 or more", m.TarDigest, m.TarSize)
	}
	if err := m.TarDigest.Validate(); err != nil {
		return fmt.Errorf("member: tarDigest %q: %w", m.TarDigest, err)
	}
	if want := (m.TarSize + SegmentSize - 1) / SegmentSize; int64(len(m.Pieces)) != want {
		return fmt.Errorf("member %s: has %d pieces, want %d for %d bytes", m.TarDigest, len(m.Pieces), want, m.TarSize)
	}
	for i, p := range m.Pieces {
		if err := p.Digest.Validate(); err != nil || p.Digest.Algorithm() != digest.SHA256 {
			return fmt.Errorf("member %s: piece %d: digest %q is no sha256", m.TarDigest, i, p.Digest)
		}
		if p.Size < minPiece || p.Size > MaxPiece {
			return fmt.Errorf("member %s: piece %d: size is %d, want %d to %d", m.TarDigest, i, p.Size, minPiece, MaxPiece)
		}
	}
	return nil
}

const minPiece = 18 // gzip's header and trailer

// segment is the uncompressed size of piece i.
func (m Member) segment(i int) int64 {
	return min(SegmentSize, m.TarSize-int64(i)*SegmentSize)
}

// Compress writes src to dst as one gzip member (RFC 1952) with a fixed header: no name, no time, OS 255 (unknown), so
// that equal input makes equal output wherever and whenever. The output does not depend on how src is cut into reads.
func Compress(dst io.Writer, src io.Reader) error {
	z := gzips.Get().(*gzip.Writer)
	defer gzips.Put(z)
	z.Reset(dst)
	z.ModTime = time.Unix(0, 0) // MTIME 0, "none". A zero time.Time would be written as the low bits of the year 1.
	if _, err := io.Copy(z, src); err != nil {
		return err
	}
	return z.Close()
}

// The compressor's tables and the segments are large, and most packages small: both are used again.
var (
	gzips = sync.Pool{New: func() any {
		z, err := gzip.NewWriterLevel(io.Discard, Level)
		if err != nil {
			panic(err) // Level is a constant that the compressor knows
		}
		return z
	}}
	segments = sync.Pool{New: func() any { return new([SegmentSize]byte) }}
	outputs  = sync.Pool{New: func() any { return new(bytes.Buffer) }}
)

// MemberWriter cuts the uncompressed bytes of one member into pieces and compresses them, several at a time. It is used
// by one goroutine, which also calls emit; memory is bounded by parallel+1 segments and their compressed forms.
type MemberWriter struct {
	emit     func(p Piece, data []byte) error
	parallel int
	hash     hash.Hash
	size     int64
	pieces   []Piece
	buf      *[SegmentSize]byte
	n        int // bytes in buf
	running  []*compression
	err      error
}

// compression is a segment on its way to a piece. done is closed when out, digest and err stand.
type compression struct {
	in     *[SegmentSize]byte
	n      int
	out    *bytes.Buffer
	digest digest.Digest
	err    error
	done   chan struct{}
}

// NewMemberWriter makes a writer that compresses parallel segments at a time (0: as many as there are processors) and
// hands the pieces to emit with their names, in order, from within Write and Close. The bytes are emit's until it returns.
func NewMemberWriter(parallel int, emit func(p Piece, data []byte) error) *MemberWriter {
	if parallel <= 0 {
		parallel = runtime.GOMAXPROCS(0)
	}
	return &MemberWriter{emit: emit, parallel: parallel, hash: sha256.New()}
}

// Write takes the next bytes of the member. An error of emit is returned here or from a later call, unchanged.
func (w *MemberWriter) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.err
	}
	w.hash.Write(p)
	w.size += int64(len(p))
	for rest := p; len(rest) > 0; {
		if w.buf == nil {
			w.buf, w.n = segments.Get().(*[SegmentSize]byte), 0
		}
		k := copy(w.buf[w.n:], rest)
		w.n += k
		rest = rest[k:]
		if w.n == SegmentSize {
			if w.err = w.flush(); w.err != nil {
				return len(p) - len(rest), w.err
			}
		}
	}
	return len(p), nil
}

// flush starts compressing the segment in buf, and emits the oldest one when enough are running.
func (w *MemberWriter) flush() error {
	c := &compression{in: w.buf, n: w.n, out: outputs.Get().(*bytes.Buffer), done: make(chan struct{})}
	w.buf, w.n = nil, 0
	w.running = append(w.running, c)
	go func() {
		defer close(c.done)
		c.out.Reset()
		c.err = Compress(c.out, bytes.NewReader(c.in[:c.n]))
		c.digest = digest.FromBytes(c.out.Bytes())
	}()
	if len(w.running) <= w.parallel {
		return nil
	}
	return w.emitOldest()
}

func (w *MemberWriter) emitOldest() error {
	c := w.running[0]
	w.running = w.running[1:]
	<-c.done
	defer c.free()
	if c.err != nil {
		return c.err
	}
	p := Piece{Digest: c.digest, Size: int64(c.out.Len())}
	w.pieces = append(w.pieces, p)
	return w.emit(p, c.out.Bytes())
}

func (c *compression) free() {
	segments.Put(c.in)
	outputs.Put(c.out)
}

// Close emits what is left and describes the member. It waits for everything that the writer started, also after an
// error, which it returns. Call it, or Abort, always.
func (w *MemberWriter) Close() (Member, error) {
	if w.err == nil && w.n > 0 {
		w.err = w.flush()
	}
	for w.err == nil && len(w.running) > 0 {
		w.err = w.emitOldest()
	}
	if w.err != nil {
		w.Abort()
		return Member{}, w.err
	}
	w.err = errClosed
	return Member{Pieces: w.pieces, TarSize: w.size, TarDigest: digest.NewDigest(digest.SHA256, w.hash)}, nil
}

// Abort drops what has not been emitted and waits for everything that the writer started. Harmless after Close, so that
// it can be deferred.
func (w *MemberWriter) Abort() {
	for _, c := range w.running {
		<-c.done
		c.free()
	}
	w.running = nil
	if w.buf != nil {
		segments.Put(w.buf)
		w.buf, w.n = nil, 0
	}
	if w.err == nil {
		w.err = errClosed
	}
}

var errClosed = errors.New("write to a closed member")

// Compressed makes a member of bytes in memory, such as a layer's head, and returns it with its pieces.
func Compressed(tar []byte) (Member, [][]byte, error) {
	var pieces [][]byte
	w := NewMemberWriter(0, func(_ Piece, p []byte) error {
		pieces = append(pieces, bytes.Clone(p))
		return nil
	})
	defer w.Abort()
	if _, err := w.Write(tar); err != nil {
		return Member{}, nil, err
	}
	m, err := w.Close()
	return m, pieces, err
}

// Unpack unpacks a piece: one gzip member of at most SegmentSize bytes, and nothing else. Who has no more use for a segment may
// give it to FreeSegment.
func Unpack(piece []byte) (segment *[SegmentSize]byte, n int, err error) {
	if len(piece) < 8 {
		return nil, 0, fmt.Errorf("%w: %d bytes", ErrPiece, len(piece))
	}
	want := int64(binary.LittleEndian.Uint32(piece[len(piece)-4:])) // ISIZE
	if want > SegmentSize {
		return nil, 0, fmt.Errorf("%w: it says that it unpacks to %d bytes, at most %d are allowed", ErrPiece, want, SegmentSize)
	}
	segment, err = decompress(piece, want)
	return segment, int(want), err
}

// FreeSegment takes a segment back that Unpack has made.
func FreeSegment(segment *[SegmentSize]byte) { segments.Put(segment) }
