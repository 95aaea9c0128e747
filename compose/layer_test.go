package compose

import (
	"archive/tar"
	"bytes"
	stdgzip "compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/opencontainers/go-digest"
)

// shelf is a store of pieces and of uncompressed members that counts what is open.
type shelf struct {
	mu     sync.Mutex
	pieces map[digest.Digest][]byte
	tars   map[digest.Digest][]byte
	open   atomic.Int64
}

type counted struct {
	io.Reader
	open *atomic.Int64
}

func (c counted) Close() error { c.open.Add(-1); return nil }

func (s *shelf) add(t testing.TB, data []byte) Member {
	m, pieces := member(t, 2, data)
	for i, p := range pieces {
		s.pieces[m.Pieces[i].Digest] = p
	}
	s.tars[m.TarDigest] = data
	return m
}

func (s *shelf) Open(_ context.Context, p Piece) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.pieces[p.Digest]
	if !ok {
		return nil, errors.New("not on the shelf")
	}
	s.open.Add(1)
	return counted{bytes.NewReader(data), &s.open}, nil
}

func (s *shelf) Tar(m Member) (io.ReadCloser, error) {
	data, ok := s.tars[m.TarDigest]
	if !ok {
		return nil, nil
	}
	s.open.Add(1)
	return counted{bytes.NewReader(data), &s.open}, nil
}

// fixture is a head and some members, one of several pieces and one empty. It is made once; the maps and the slice are
// the caller's own, the bytes are not.
func fixture(t testing.TB) (*shelf, []Member) {
	t.Helper()
	madeOnce.Do(func() { madeShelf, madeMembers = makeFixture(t) })
	return &shelf{pieces: maps.Clone(madeShelf.pieces), tars: maps.Clone(madeShelf.tars)}, slices.Clone(madeMembers)
}

var (
	madeOnce    sync.Once
	madeShelf   *shelf
	madeMembers []Member
)

func makeFixture(t testing.TB) (*shelf, []Member) {
	s := &shelf{pieces: map[digest.Digest][]byte{}, tars: map[digest.Digest][]byte{}}
	head, err := Head([][]Entry{{dir("usr", 0o755, 1)}, {dir("opt", 0o755, 1)}}, []File{Symlink("bin", "usr/bin")})
	if err != nil {
		t.Fatal(err)
	}
	members := []Member{s.add(t, head)}
	for i, content := range [][]byte{text(100), append(text(9<<20), noise(2<<20)...), nil, noise(SegmentSize - 512), text(70 << 10)} {
		var buf bytes.Buffer
		if content != nil {
			e := Entry{Path: fmt.Sprint("usr/", i), Type: tar.TypeReg, Mode: 0o644, ModTime: ModTime, Size: int64(len(content))}
			if err := WriteEntry(&buf, e, bytes.NewReader(content)); err != nil {
				t.Fatal(err)
			}
		}
		members = append(members, s.add(t, buf.Bytes()))
	}
	return s, members
}

func (s *shelf) blob(l Layer) []byte {
	_, end := Trailer()
	var out []byte
	for _, p := range l.Pieces {
		if data, ok := s.pieces[p.Digest]; ok {
			out = append(out, data...)
		} else {
			out = append(out, end...)
		}
	}
	return out
}

func TestAssemble(t *testing.T) {
	s, members := fixture(t)
	a := Assembler{Open: s.Open}
	l, err := a.Assemble(t.Context(), members)
	if err != nil {
		t.Fatal(err)
	}
	blob := s.blob(l)
	if digest.FromBytes(blob) != l.Digest || int64(len(blob)) != l.Size {
		t.Errorf("the blob is %d bytes, %s; the layer says %d, %s", len(blob), digest.FromBytes(blob), l.Size, l.Digest)
	}
	z, err := stdgzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(plain) != l.DiffID || int64(len(plain)) != l.TarSize {
		t.Errorf("the tar is %d bytes, %s; the layer says %d, %s", len(plain), digest.FromBytes(plain), l.TarSize, l.DiffID)
	}
	var names []string
	for _, h := range readTar(t, plain) {
		names = append(names, h.Name)
	}
	if got, want := strings.Join(names, " "), "bin opt/ usr/ usr/0 usr/1 usr/3 usr/4"; got != want {
		t.Errorf("entries are %s, want %s", got, want)
	}
	if got, want := l.Digest.Encoded()[:16]+" "+l.DiffID.Encoded()[:16], "12b5b0be295883b6 937cf615e9b71710"; got != want {
		t.Errorf("golden digests are %s, want %s", got, want)
	}

	for name, a := range map[string]Assembler{
		"tars at hand": {Open: s.Open, Tar: s.Tar},
		"some at hand": {Open: s.Open, Tar: func(m Member) (io.ReadCloser, error) {
			if m.TarDigest == members[2].TarDigest {
				return nil, nil
			}
			return s.Tar(m)
		}},
		"one at a time": {Open: s.Open, Parallel: 1},
		"many":          {Open: s.Open, Parallel: 50},
	} {
		again, err := a.Assemble(t.Context(), members)
		if err != nil || again.Digest != l.Digest || again.DiffID != l.DiffID || !slices.Equal(again.Pieces, l.Pieces) {
			t.Errorf("%s: another layer (%v)", name, err)
		}
	}
	if n := s.open.Load(); n != 0 {
		t.Errorf("%d readers were left open", n)
	}
}

func TestAssembleOfNothingIsAnEmptyTar(t *testing.T) {
	l, err := (&Assembler{}).Assemble(t.Context(), nil)
	if err != nil || l.TarSize != TrailerSize || l.DiffID != digest.FromBytes(make([]byte, TrailerSize)) {
		t.Errorf("%+v, %v", l, err)
	}
}

func TestAssembleRefuses(t *testing.T) {
	gz := func(data []byte) []byte {
		var buf bytes.Buffer
		if err := Compress(&buf, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	flip := func(m map[digest.Digest][]byte, d digest.Digest, at int) {
		m[d] = bytes.Clone(m[d])
		m[d][at] ^= 1
	}
	// lie says that data, whatever it is, is the only piece of a member of size uncompressed bytes.
	lie := func(s *shelf, m *Member, data []byte, size int64) {
		p := Piece{digest.FromBytes(data), int64(len(data))}
		s.pieces[p.Digest] = data
		*m = Member{Pieces: []Piece{p}, TarSize: size, TarDigest: digest.FromString("whatever")}
	}
	for name, c := range map[string]struct {
		spoil func(s *shelf, m *Member)
		want  error
	}{
		"bomb":           {func(s *shelf, m *Member) { lie(s, m, gz(make([]byte, 64<<20)), 512) }, ErrPiece},
		"a byte more":    {func(s *shelf, m *Member) { lie(s, m, gz(make([]byte, 513)), 512) }, ErrPiece},
		"a byte less":    {func(s *shelf, m *Member) { lie(s, m, gz(make([]byte, 511)), 512) }, ErrPiece},
		"two gzips":      {func(s *shelf, m *Member) { lie(s, m, append(gz(make([]byte, 512)), gz(nil)...), 512) }, ErrPiece},
		"trailing bytes": {func(s *shelf, m *Member) { lie(s, m, append(gz(make([]byte, 512)), 0), 512) }, ErrPiece},
		"no gzip":        {func(s *shelf, m *Member) { lie(s, m, noise(100), 512) }, ErrPiece},
		"truncated gzip": {func(s *shelf, m *Member) { g := gz(text(5000)); lie(s, m, g[:len(g)-9], 5000) }, ErrPiece},
		"wrong CRC":      {func(s *shelf, m *Member) { g := gz(text(5000)); g[len(g)-8]++; lie(s, m, g, 5000) }, ErrPiece},
		"flipped bit":    {func(s *shelf, m *Member) { flip(s.pieces, m.Pieces[1].Digest, 1000) }, ErrPiece},
		"piece cut off":  {func(s *shelf, m *Member) { d := m.Pieces[0].Digest; s.pieces[d] = s.pieces[d][:100] }, ErrPiece},
		"piece longer":   {func(s *shelf, m *Member) { d := m.Pieces[0].Digest; s.pieces[d] = append(bytes.Clone(s.pieces[d]), 0) }, ErrPiece},
		"tar damaged":    {func(s *shelf, m *Member) { flip(s.tars, m.TarDigest, SegmentSize+5) }, ErrTar},
		"tar cut off":    {func(s *shelf, m *Member) { s.tars[m.TarDigest] = s.tars[m.TarDigest][:SegmentSize+5] }, ErrTar},
		"tar longer":     {func(s *shelf, m *Member) { s.tars[m.TarDigest] = append(bytes.Clone(s.tars[m.TarDigest]), 0) }, ErrTar},
		"missing piece":  {func(s *shelf, m *Member) { delete(s.pieces, m.Pieces[0].Digest) }, nil},
		"bad member":     {func(s *shelf, m *Member) { m.TarSize += SegmentSize }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, members := fixture(t)
			c.spoil(s, &members[2])
			a := Assembler{Open: s.Open, Parallel: 3}
			if c.want == ErrTar {
				a.Tar = s.Tar
			}
			_, err := a.Assemble(t.Context(), members)
			if err == nil || c.want != nil && !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if n := s.open.Load(); n != 0 {
				t.Errorf("%d readers were left open", n)
			}
		})
	}
}

func TestAssembleStopsWhenCancelled(t *testing.T) {
	s, members := fixture(t)
	ctx, cancel := context.WithCancel(t.Context())
	a := Assembler{Parallel: 2, Tar: s.Tar, Open: func(ctx context.Context, p Piece) (io.ReadCloser, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	if _, err := a.Assemble(ctx, members); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if n := s.open.Load(); n != 0 {
		t.Errorf("%d readers were left open", n)
	}
}

// A layer's bytes do not depend on the machine: time zone, locale, umask, processors.
func TestSameLayerInAnotherEnvironment(t *testing.T) {
	const env = "COMPOSE_TEST_PRINT_LAYER"
	layer := func() string {
		s, members := fixture(t)
		l, err := (&Assembler{Open: s.Open}).Assemble(t.Context(), members)
		if err != nil {
			t.Fatal(err)
		}
		return l.Digest.String() + l.DiffID.String()
	}
	if os.Getenv(env) != "" {
		syscall.Umask(0o077)
		fmt.Printf("layer=%s\n", layer())
		return
	}
	want := "layer=" + layer()
	for _, e := range [][]string{{"TZ=Pacific/Kiritimati", "GOMAXPROCS=1"}, {"TZ=America/New_York", "LC_ALL=tr_TR.UTF-8", "GOMAXPROCS=7", "SOURCE_DATE_EPOCH=1"}} {
		cmd := exec.Command(os.Args[0], "-test.run=^TestSameLayerInAnotherEnvironment$", "-test.v")
		cmd.Env = append(append(os.Environ(), env+"=1"), e...)
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if !strings.Contains(string(out), want) {
			t.Errorf("%v: got %s, want %s", e, out, want)
		}
	}
}

func FuzzPiece(f *testing.F) {
	var buf bytes.Buffer
	if err := Compress(&buf, strings.NewReader("seed")); err != nil {
		f.Fatal(err)
	}
	f.Add(buf.Bytes(), int64(4))
	f.Fuzz(func(t *testing.T, data []byte, want int64) {
		if want <= 0 || want > SegmentSize {
			return
		}
		got, err := decompress(data, want)
		if err != nil {
			return
		}
		z, err := stdgzip.NewReader(bytes.NewReader(data))
		if err != nil {
			t.Fatal(err)
		}
		if all, err := io.ReadAll(z); err != nil || !bytes.Equal(all, got[:want]) {
			t.Fatalf("unpacks to something else (%v)", err)
		}
	})
}

func BenchmarkAssemble(b *testing.B) {
	s := &shelf{pieces: map[digest.Digest][]byte{}, tars: map[digest.Digest][]byte{}}
	data := append(text(100<<20), noise(50<<20)...)
	var members []Member
	for chunk := range slices.Chunk(data, 5<<20) {
		members = append(members, s.add(b, chunk))
	}
	for name, a := range map[string]*Assembler{"tar at hand": {Open: s.Open, Tar: s.Tar}, "decompressing": {Open: s.Open}} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				if _, err := a.Assemble(b.Context(), members); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
