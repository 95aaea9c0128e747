package deb

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Conditions that callers act on.
var (
	// ErrDigest: the bytes read are not those of the package that was asked for.
	ErrDigest = errors.New("package does not have the expected digest")
	// ErrLimit: the package is larger than the Limits allow.
	ErrLimit = errors.New("package exceeds a limit")
)

// Limits bound what a package may unpack to.
type Limits struct {
	Data    int64 // bytes of data.tar
	Control int64 // bytes of control.tar
	Entries int   // of data.tar
	Names   int64 // bytes of all paths and link targets, and of extended attributes: they are held in memory
}

// DefaultLimits let every package of Debian pass.
var DefaultLimits = Limits{Data: 8 << 30, Control: 16 << 20, Entries: 500_000, Names: 64 << 20}

// Reader reads a .deb as a stream: first its control archive, then its data archive.
type Reader struct {
	// Date is the package's own date in Unix seconds: the time of debian-binary's ar header. 0 when the builder left
	// none.
	Date int64

	verify *verifier
	ar     *arReader
	dec    Decompressors
	limits Limits
}

// NewReader reads the beginning of a .deb of size bytes, whose digest it will verify: nothing that was read counts
// before Close has returned without an error.
func NewReader(r io.Reader, size int64, want digest.Digest, dec Decompressors, limits Limits) (*Reader, error) {
	if err := want.Validate(); err != nil || want.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("expected digest %q: want a sha256", want)
	}
	v := &verifier{r: io.LimitReader(r, size+1), hash: sha256.New(), want: want, size: size}
	a, err := newARReader(v)
	if err != nil {
		return nil, err
	}
	m, err := a.Next()
	if err != nil {
		return nil, noEOF(err)
	}
	if m.Name != "debian-binary" {
		return nil, fmt.Errorf("first member is %q, want debian-binary", m.Name)
	}
	if m.Size > 64 {
		return nil, fmt.Errorf("debian-binary has %d bytes, want a version number", m.Size)
	}
	version, err := io.ReadAll(a)
	if err != nil {
		return nil, fmt.Errorf("debian-binary: %w", err)
	}
	line, _, ok := strings.Cut(string(version), "\n")
	if !ok || !strings.HasPrefix(line, "2.") {
		return nil, fmt.Errorf("debian-binary: format version is %q, want 2.x", line)
	}
	return &Reader{Date: m.ModTime, verify: v, ar: a, dec: dec, limits: limits}, nil
}

// Control opens control.tar, unpacked. The caller closes it before it calls Data.
func (d *Reader) Control() (io.ReadCloser, error) { return d.open("control.tar", d.limits.Control) }

// Data opens data.tar, unpacked. The caller closes it before it closes the Reader.
func (d *Reader) Data() (io.ReadCloser, error) { return d.open("data.tar", d.limits.Data) }

// open finds the next member, which must be the one of that name with or without a compression's extension. Members
// whose names begin with "_" are skipped, as deb(5) says.
func (d *Reader) open(name string, limit int64) (io.ReadCloser, error) {
	for {
		m, err := d.ar.Next()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, noEOF(err))
		}
		if strings.HasPrefix(m.Name, "_") {
			continue
		}
		rest, ok := strings.CutPrefix(m.Name, name)
		ext, compressed := strings.CutPrefix(rest, ".")
		if !ok || rest != "" && (!compressed || ext == "") {
			return nil, fmt.Errorf("member %q where %s.* must stand", m.Name, name)
		}
		rc, err := d.dec.open(ext, d.ar)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", m.Name, noEOF(err))
		}
		return &archive{bounded: bound(rc, limit), close: rc.Close}, nil
	}
}

// archive is an unpacked member.
type archive struct {
	*bounded
	close func() error
}

func (a *archive) Close() error { return a.close() }

// finish reads what follows an archive's end, so that the decompressor has seen and checked its stream to the end, and
// closes it. When err says that reading has failed, there is nothing left to check: it only closes, and returns err.
func finish(r io.ReadCloser, err error) error {
	if err == nil {
		_, err = io.Copy(io.Discard, r)
	}
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	return err
}

// Close reads to the end and verifies size and digest: ErrDigest. It does not close the reader underneath.
func (d *Reader) Close() error {
	if _, err := io.Copy(io.Discard, d.verify); err != nil {
		return err
	}
	return d.verify.check()
}

// verifier hashes what is read.
type verifier struct {
	r    io.Reader
	hash hash.Hash
	n    int64
	want digest.Digest
	size int64
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	return n, err
}

func (v *verifier) check() error {
	switch got := digest.NewDigest(digest.SHA256, v.hash); {
	case v.n > v.size:
		return fmt.Errorf("%w: it is longer than %d bytes", ErrDigest, v.size)
	case v.n < v.size:
		return fmt.Errorf("%w: it ends after %d of %d bytes", ErrDigest, v.n, v.size)
	case got != v.want:
		return fmt.Errorf("%w: it is %s, want %s", ErrDigest, got, v.want)
	}
	return nil
}
