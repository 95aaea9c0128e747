package storetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// Storage is what is behind the stores of a farm: empty at first.
type Storage struct {
	// Open opens a store over the storage, as another process of the farm would. It is closed with the test.
	Open func(t *testing.T) imagestore.Store

	// Damage flips a bit of the last byte that is stored for a piece; Lose deletes the object that it lies in, but not
	// the record of that. What an implementation leaves nil is not tested.
	Damage func(t *testing.T, piece digest.Digest)
	Lose   func(t *testing.T, piece digest.Digest)

	// Objects counts what lies in the storage, with or without a record.
	Objects func(t *testing.T) int

	// Small leaves out the tests that write tens of MiB, for the second and further run of the suite over the same
	// implementation.
	Small bool
}

func (st Storage) large(t *testing.T) {
	t.Helper()
	if st.Small || testing.Short() {
		t.Skip("writes tens of MiB")
	}
}

// Run runs the conformance suite for imagestore.Store. fresh makes an empty storage for each of its tests.
func Run(t *testing.T, fresh func(t *testing.T) Storage) {
	for _, tc := range []struct {
		name string
		test func(*testing.T, Storage)
	}{
		{"PutCommitRead", testPutCommitRead},
		{"EmptyPiece", testEmptyPiece},
		{"NotFound", testNotFound},
		{"BadDigests", testBadDigests},
		{"NothingBeforeCommit", testNothingBeforeCommit},
		{"DroppedWriter", testDroppedWriter},
		{"OtherProcess", testOtherProcess},
		{"Dedup", testDedup},
		{"KeepsNoReference", testKeepsNoReference},
		{"Compose", testCompose},
		{"ComposeRefused", testComposeRefused},
		{"ComposeIdempotent", testComposeIdempotent},
		{"ComposeOfOnePiece", testComposeOfOnePiece},
		{"CompositeAndPiece", testCompositeAndPiece},
		{"Ranges", testRanges},
		{"Holes", testHoles},
		{"HugeHole", testHugeHole},
		{"LargePieces", testLargePieces},
		{"ManyPieces", testManyPieces},
		{"WriterGoesOn", testWriterGoesOn},
		{"EmptyCommit", testEmptyCommit},
		{"ConcurrentWriters", testConcurrentWriters},
		{"ConcurrentReaders", testConcurrentReaders},
		{"Cancelled", testCancelled},
		{"ClosedEarly", testClosedEarly},
		{"Damaged", testDamaged},
		{"Lost", testLost},
		{"Manifest", testManifest},
		{"Payload", testPayload},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.test(t, fresh(t)) })
	}
}

// Bytes makes n bytes that do not compress, the same for the same seed.
func Bytes(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

// Put stores data as one piece and commits it.
func Put(t testing.TB, s imagestore.Store, data ...[]byte) []imagestore.Part {
	t.Helper()
	w := s.Begin()
	parts := put(t, w, data...)
	if err := w.Commit(t.Context()); err != nil {
		t.Fatalf("commit: %v", err)
	}
	return parts
}

func put(t testing.TB, w imagestore.Writer, data ...[]byte) []imagestore.Part {
	t.Helper()
	var parts []imagestore.Part
	for _, b := range data {
		p, err := w.Put(t.Context(), b)
		if err != nil {
			t.Fatalf("put: %v", err)
		}
		if want := (imagestore.Part{Digest: digest.FromBytes(b), Size: int64(len(b))}); p != want {
			t.Fatalf("put: got %+v, want %+v", p, want)
		}
		if as, err := w.PutAs(t.Context(), p.Digest, b); err != nil || as != p {
			t.Fatalf("put as %s: got %+v, %v", p.Digest, as, err)
		}
		parts = append(parts, p)
	}
	return parts
}

// Read reads a range of a blob; n < 0 reads to the end.
func Read(ctx context.Context, s imagestore.Reader, d digest.Digest, offset, n int64) ([]byte, error) {
	rc, err := s.Open(ctx, d, offset, n)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(struct{ io.Reader }{rc})
	return b, errors.Join(err, rc.Close())
}

// BlobOf says what the concatenation of parts is.
func BlobOf(content []byte, parts ...imagestore.Part) imagestore.Blob {
	return imagestore.Blob{Digest: digest.FromBytes(content), Size: int64(len(content)), Parts: parts}
}

func expectBytes(t testing.TB, s imagestore.Reader, want []byte) {
	t.Helper()
	d := digest.FromBytes(want)
	got, err := Read(t.Context(), s, d, 0, -1)
	if err != nil {
		t.Fatalf("read %s: %v", d, err)
	}
	if !bytes.Equal(got, want) {
		t.Fatalf("read %s: got %d bytes %s, want %d", d, len(got), digest.FromBytes(got), len(want))
	}
	b, err := s.Stat(t.Context(), d)
	if err != nil || b.Digest != d || b.Size != int64(len(want)) {
		t.Fatalf("stat %s: %+v, %v; want size %d", d, b, err, len(want))
	}
}

func have(t testing.TB, s imagestore.Reader, ds ...digest.Digest) []bool {
	t.Helper()
	h, err := s.Have(t.Context(), ds)
	if err != nil {
		t.Fatalf("have: %v", err)
	}
	return h
}

func expectHave(t testing.TB, s imagestore.Reader, want bool, ds ...digest.Digest) {
	t.Helper()
	for i, h := range have(t, s, ds...) {
		if h != want {
			t.Fatalf("have %s: %v, want %v", ds[i], h, want)
		}
	}
}

func expectAbsent(t testing.TB, s imagestore.Reader, ds ...digest.Digest) {
	t.Helper()
	expectHave(t, s, false, ds...)
	for _, d := range ds {
		if _, err := s.Stat(t.Context(), d); !errors.Is(err, imagestore.ErrNotFound) {
			t.Fatalf("stat %s: %v, want ErrNotFound", d, err)
		}
		if _, err := Read(t.Context(), s, d, 0, -1); !errors.Is(err, imagestore.ErrNotFound) {
			t.Fatalf("read %s: %v, want ErrNotFound", d, err)
		}
	}
}

func testPutCommitRead(t *testing.T, st Storage) {
	s := st.Open(t)
	var ds []digest.Digest
	for i, n := range []int{1, 2, 511, 4096, 100_000, 1 << 20} {
		data := Bytes(uint64(i), n)
		Put(t, s, data)
		expectBytes(t, s, data)
		b, err := s.Stat(t.Context(), digest.FromBytes(data))
		if err != nil || !slices.Equal(b.Parts, []imagestore.Part{{Digest: digest.FromBytes(data), Size: int64(n)}}) {
			t.Errorf("stat of a piece: %+v, %v", b, err)
		}
		ds = append(ds, digest.FromBytes(data))
	}
	expectHave(t, s, true, ds...)
	missing := digest.FromString("missing")
	if got := have(t, s, ds[0], missing, ds[1], ds[0]); !slices.Equal(got, []bool{true, false, true, true}) {
		t.Errorf("have in the order asked: %v", got)
	}
	if got := have(t, s); len(got) != 0 {
		t.Errorf("have of nothing: %v", got)
	}
}

func testEmptyPiece(t *testing.T, st Storage) {
	s := st.Open(t)
	Put(t, s, nil)
	expectBytes(t, s, nil)
	Put(t, s, []byte("x"), nil, []byte("y"))
	expectBytes(t, st.Open(t), nil)
}

func testNotFound(t *testing.T, st Storage) {
	s := st.Open(t)
	expectAbsent(t, s, digest.FromString("a"), digest.FromString("b"))
}

func testBadDigests(t *testing.T, st Storage) {
	s := st.Open(t)
	for _, d := range []digest.Digest{"", "sha256:", "sha256:00", "md5:d41d8cd98f00b204e9800998ecf8427e", "sha256:" + digest.Digest(bytes.Repeat([]byte("A"), 64)), "../../etc/passwd"} {
		if _, err := s.Have(t.Context(), []digest.Digest{d}); err == nil {
			t.Errorf("have %q: no error", d)
		}
		if _, err := s.Stat(t.Context(), d); err == nil {
			t.Errorf("stat %q: no error", d)
		}
		if rc, err := s.Open(t.Context(), d, 0, -1); err == nil {
			rc.Close()
			t.Errorf("open %q: no error", d)
		}
	}
}

func testNothingBeforeCommit(t *testing.T, st Storage) {
	s := st.Open(t)
	mine, others := Bytes(1, 3000), Bytes(2, 3000)
	w := s.Begin()
	parts := put(t, w, mine)
	blob := BlobOf(append(slices.Clone(mine), mine...), parts[0], parts[0])
	if err := w.Compose(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	// Somebody else's commit does not take it along.
	Put(t, s, others)
	expectAbsent(t, s, parts[0].Digest, blob.Digest)
	expectAbsent(t, st.Open(t), parts[0].Digest, blob.Digest)
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, append(slices.Clone(mine), mine...))
}

func testDroppedWriter(t *testing.T, st Storage) {
	st.large(t)
	s := st.Open(t)
	big, shared := Bytes(1, 20<<20), Bytes(2, 1000)
	func() {
		w := s.Begin()
		put(t, w, big, shared) // more than a store would like to keep in memory
	}()
	runtime.GC()
	expectAbsent(t, s, digest.FromBytes(big), digest.FromBytes(shared))
	// Nor does it stand in the way of who puts the same.
	Put(t, s, shared, big)
	expectBytes(t, s, shared)
	expectBytes(t, st.Open(t), big)
}

func testOtherProcess(t *testing.T, st Storage) {
	a, b := st.Open(t), st.Open(t)
	for i := range 20 {
		one, two := Bytes(uint64(2*i), 5000), Bytes(uint64(2*i+1), 70_000)
		w := a.Begin()
		parts := put(t, w, one, two)
		content := slices.Concat(one, two)
		if err := w.Compose(t.Context(), BlobOf(content, parts...)); err != nil {
			t.Fatal(err)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			expectBytes(t, b, content)
		}
		expectHave(t, b, true, digest.FromBytes(one), digest.FromBytes(content))
		a, b = b, a
	}
	expectBytes(t, st.Open(t), slices.Concat(Bytes(0, 5000), Bytes(1, 70_000)))
}

func testDedup(t *testing.T, st Storage) {
	if st.Objects == nil {
		t.Skip("the storage's objects can't be counted")
	}
	s, other := st.Open(t), st.Open(t)
	data := Bytes(1, 10_000)
	Put(t, s, data)
	n := st.Objects(t)
	Put(t, s, data)
	if err := errors.Join(func() error { _, err := other.Have(t.Context(), nil); return err }()); err != nil {
		t.Fatal(err)
	}
	Put(t, other, data, data)
	if got := st.Objects(t); got != n {
		t.Errorf("%d objects, want %d: what the store has was stored again", got, n)
	}
	// Two that put the same before either commits.
	w1, w2 := s.Begin(), s.Begin()
	put(t, w1, Bytes(2, 10_000))
	put(t, w2, Bytes(2, 10_000))
	if err := errors.Join(w1.Commit(t.Context()), w2.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	if got := st.Objects(t); got != n+1 {
		t.Errorf("%d objects, want %d: two writers stored the same", got, n+1)
	}
}

func testKeepsNoReference(t *testing.T, st Storage) {
	s := st.Open(t)
	w := s.Begin()
	buffer := make([]byte, 8000)
	var want [][]byte
	for i := range 10 {
		copy(buffer, Bytes(uint64(i), len(buffer)))
		put(t, w, buffer)
		want = append(want, slices.Clone(buffer))
	}
	clear(buffer)
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, b := range want {
		expectBytes(t, s, b)
	}
}

// composite makes a blob of n pieces of the sizes given, in turn, and commits it.
func composite(t testing.TB, s imagestore.Store, seed uint64, n int, sizes ...int) (imagestore.Blob, []byte) {
	t.Helper()
	w := s.Begin()
	var content []byte
	var parts []imagestore.Part
	for i := range n {
		data := Bytes(seed+uint64(i), sizes[i%len(sizes)])
		parts = append(parts, put(t, w, data)...)
		content = append(content, data...)
	}
	b := BlobOf(content, parts...)
	if err := w.Compose(t.Context(), b); err != nil {
		t.Fatalf("compose: %v", err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatalf("commit: %v", err)
	}
	return b, content
}

func testCompose(t *testing.T, st Storage) {
	s := st.Open(t)
	b, content := composite(t, s, 1, 30, 1, 100, 70_000, 300_000)
	expectBytes(t, s, content)
	got, err := s.Stat(t.Context(), b.Digest)
	if err != nil || !slices.Equal(got.Parts, b.Parts) {
		t.Errorf("stat: %+v, %v", got, err)
	}
	got.Parts[0] = imagestore.Part{} // the caller's own
	expectBytes(t, s, content)

	// Another one, of pieces that lie in several packs, some of them twice.
	x := Bytes(999, 5000)
	w := s.Begin()
	parts := append(put(t, w, x), b.Parts[29], b.Parts[3], b.Parts[3], b.Parts[0])
	content2 := slices.Concat(x, content[b.Size-b.Parts[29].Size:], Bytes(4, 300_000), Bytes(4, 300_000), content[:1])
	if err := w.Compose(t.Context(), BlobOf(content2, parts...)); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, content2)
	expectBytes(t, st.Open(t), content2)
}

func testComposeRefused(t *testing.T, st Storage) {
	s := st.Open(t)
	a := Bytes(1, 1000)
	pa := Put(t, s, a)[0]
	comp, _ := composite(t, s, 50, 2, 100)
	missing := imagestore.Part{Digest: digest.FromString("missing"), Size: 7}
	good := BlobOf(slices.Concat(a, a), pa, pa)
	change := func(f func(*imagestore.Blob)) imagestore.Blob {
		b := good
		b.Parts = slices.Clone(b.Parts)
		f(&b)
		return b
	}
	for name, b := range map[string]imagestore.Blob{
		"missing part":   {Digest: good.Digest, Size: pa.Size + 7, Parts: []imagestore.Part{pa, missing}},
		"wrong total":    change(func(b *imagestore.Blob) { b.Size++ }),
		"wrong part":     change(func(b *imagestore.Blob) { b.Parts[0].Size--; b.Size-- }),
		"no parts":       {Digest: good.Digest},
		"bad digest":     change(func(b *imagestore.Blob) { b.Digest = "sha256:1" }),
		"bad part":       change(func(b *imagestore.Blob) { b.Parts[1].Digest = "x" }),
		"empty hole":     change(func(b *imagestore.Blob) { b.Parts = append(b.Parts, imagestore.Part{}) }),
		"negative hole":  change(func(b *imagestore.Blob) { b.Parts = append(b.Parts, imagestore.Part{Size: -1}); b.Size-- }),
		"part too large": change(func(b *imagestore.Blob) { b.Parts[0].Size = imagestore.MaxPiece + 1 }),
		"a composite":    {Digest: good.Digest, Size: comp.Size, Parts: []imagestore.Part{{Digest: comp.Digest, Size: comp.Size}}},
	} {
		w := s.Begin()
		if err := w.Compose(t.Context(), b); err == nil {
			t.Errorf("%s: composed", name)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Errorf("%s: a refusal spoils the writer: %v", name, err)
		}
		expectAbsent(t, s, good.Digest)
	}
	w := s.Begin()
	if err := w.Compose(t.Context(), imagestore.Blob{Digest: good.Digest, Size: pa.Size + 7, Parts: []imagestore.Part{pa, missing}}); !errors.Is(err, imagestore.ErrNotFound) {
		t.Errorf("missing part: %v, want ErrNotFound", err)
	}
	if _, err := w.Put(t.Context(), make([]byte, imagestore.MaxPiece+1)); err == nil {
		t.Error("a piece that is too large was put")
	}
}

func testComposeIdempotent(t *testing.T, st Storage) {
	s := st.Open(t)
	for range 3 {
		_, content := composite(t, s, 1, 5, 1000)
		expectBytes(t, s, content)
	}
	if st.Objects != nil {
		if n := st.Objects(t); n != 1 {
			t.Errorf("%d objects, want 1", n)
		}
	}
	w := s.Begin()
	data := Bytes(1, 1000)
	p := put(t, w, data)[0]
	b := BlobOf(slices.Concat(data, data, data), p, p, p)
	for range 3 {
		if err := w.Compose(t.Context(), b); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, slices.Concat(data, data, data))
}

func testComposeOfOnePiece(t *testing.T, st Storage) {
	s := st.Open(t)
	w := s.Begin()
	data := Bytes(1, 1000)
	b := BlobOf(data, put(t, w, data)...)
	if err := w.Compose(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, data)
}

// A digest may be that of a composite and then of a piece as well, or the other way round; the piece can be a part.
func testCompositeAndPiece(t *testing.T, st Storage) {
	for _, pieceFirst := range []bool{true, false} {
		s := st.Open(t)
		seed := uint64(10)
		if pieceFirst {
			seed = 20
		}
		content := slices.Concat(Bytes(seed, 500), Bytes(seed+1, 500))
		if pieceFirst {
			Put(t, s, content)
		}
		composite(t, s, seed, 2, 500)
		if !pieceFirst {
			Put(t, s, content)
		}
		expectBytes(t, s, content)
		w := s.Begin()
		p := imagestore.Part{Digest: digest.FromBytes(content), Size: 1000}
		twice := slices.Concat(content, content)
		if err := w.Compose(t.Context(), BlobOf(twice, p, p)); err != nil {
			t.Fatalf("piece first %v: %v", pieceFirst, err)
		}
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectBytes(t, s, twice)
	}
}

func testRanges(t *testing.T, st Storage) {
	s := st.Open(t)
	b, content := composite(t, s, 1, 40, 3, 1000, 290_000, 65_536)
	rnd := rand.New(rand.NewPCG(1, 2))
	size := b.Size
	check := func(offset, n int64) {
		t.Helper()
		want := content[offset:]
		if n >= 0 && n < int64(len(want)) {
			want = want[:n]
		}
		got, err := Read(t.Context(), s, b.Digest, offset, n)
		if err != nil || !bytes.Equal(got, want) {
			t.Fatalf("%d bytes from %d: got %d bytes, %v", n, offset, len(got), err)
		}
	}
	for _, r := range [][2]int64{{0, 0}, {0, 1}, {size, 0}, {size, -1}, {size - 1, -1}, {size - 1, 5}, {0, size}, {0, size + 1}, {2, 2}, {3, 1000}, {1003, 290_000}} {
		check(r[0], r[1])
	}
	for range 40 {
		offset := rnd.Int64N(size)
		check(offset, rnd.Int64N(size-offset+1))
	}
	for _, offset := range []int64{-1, size + 1} {
		if _, err := Read(t.Context(), s, b.Digest, offset, 1); err == nil || errors.Is(err, imagestore.ErrNotFound) {
			t.Errorf("offset %d: %v", offset, err)
		}
	}
	rc, err := s.Open(t.Context(), b.Digest, 10, 5000) // three parts
	if err != nil {
		t.Fatal(err)
	}
	defer rc.Close()
	if err := iotest.TestReader(rc, content[10:5010]); err != nil {
		t.Error(err)
	}
	piece := content[1003:291_003]
	got, err := Read(t.Context(), s, digest.FromBytes(piece), 1000, 5)
	if err != nil || !bytes.Equal(got, piece[1000:1005]) {
		t.Errorf("a range of a piece: %d bytes, %v", len(got), err)
	}
}

func testHoles(t *testing.T, st Storage) {
	s := st.Open(t)
	w := s.Begin()
	data := Bytes(1, 10_000)
	p := put(t, w, data)[0]
	content := slices.Concat(make([]byte, 100), data, make([]byte, 200_000), make([]byte, 7), data, make([]byte, 1))
	b := BlobOf(content, imagestore.Part{Size: 100}, p, imagestore.Part{Size: 200_000}, imagestore.Part{Size: 7}, p, imagestore.Part{Size: 1})
	if err := w.Compose(t.Context(), b); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, content)
	for _, r := range [][2]int64{{0, 50}, {50, 100}, {99, 2}, {10_100, 200_007}, {10_099, 200_010}, {b.Size - 1, 1}} {
		got, err := Read(t.Context(), s, b.Digest, r[0], r[1])
		if err != nil || !bytes.Equal(got, content[r[0]:r[0]+r[1]]) {
			t.Errorf("%d bytes from %d: got %d, %v", r[1], r[0], len(got), err)
		}
	}
	only := BlobOf(make([]byte, 5000), imagestore.Part{Size: 5000})
	w = s.Begin()
	if err := errors.Join(w.Compose(t.Context(), only), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, make([]byte, 5000))
}

func testHugeHole(t *testing.T, st Storage) {
	s := st.Open(t)
	const size = 1 << 40
	d := digest.FromString("a terabyte of zeros and a one") // the caller vouches for digests of composites
	w := s.Begin()
	p := put(t, w, []byte("1"))[0]
	b := imagestore.Blob{Digest: d, Size: size + 1, Parts: []imagestore.Part{{Size: size}, p}}
	if err := errors.Join(w.Compose(t.Context(), b), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	got, err := Read(t.Context(), s, d, size-3, -1)
	if err != nil || string(got) != "\x00\x00\x001" {
		t.Errorf("got %q, %v", got, err)
	}
}

func testLargePieces(t *testing.T, st Storage) {
	st.large(t)
	s := st.Open(t)
	w := s.Begin()
	var parts []imagestore.Part
	hash := sha256.New()
	var size int64
	for i, n := range []int{imagestore.MaxPiece, 1000, 40 << 20, 30 << 20} {
		data := Bytes(uint64(i), n)
		parts = append(parts, put(t, w, data)...)
		hash.Write(data)
		size += int64(n)
	}
	b := imagestore.Blob{Digest: digest.NewDigest(digest.SHA256, hash), Size: size, Parts: parts}
	if err := errors.Join(w.Compose(t.Context(), b), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	rc, err := st.Open(t).Open(t.Context(), b.Digest, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	got := sha256.New()
	n, err := io.Copy(got, rc)
	if err := errors.Join(err, rc.Close()); err != nil || n != size || digest.NewDigest(digest.SHA256, got) != b.Digest {
		t.Errorf("read %d of %d bytes, %v", n, size, err)
	}
}

func testManyPieces(t *testing.T, st Storage) {
	s := st.Open(t)
	b, content := composite(t, s, 1, 1500, 10, 200, 33)
	expectBytes(t, s, content)
	other := st.Open(t)
	expectBytes(t, other, content)
	ds := make([]digest.Digest, len(b.Parts))
	for i, p := range b.Parts {
		ds[i] = p.Digest
	}
	expectHave(t, other, true, ds...)
}

func testWriterGoesOn(t *testing.T, st Storage) {
	s := st.Open(t)
	w := s.Begin()
	for i := range 5 {
		data := Bytes(uint64(i), 1000)
		put(t, w, data)
		if err := w.Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
		expectBytes(t, s, data)
	}
}

func testEmptyCommit(t *testing.T, st Storage) {
	s := st.Open(t)
	for range 3 {
		if err := s.Begin().Commit(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if st.Objects != nil && st.Objects(t) != 0 {
		t.Errorf("%d objects", st.Objects(t))
	}
}

func testConcurrentWriters(t *testing.T, st Storage) {
	stores := []imagestore.Store{st.Open(t), st.Open(t)}
	const writers, commits = 8, 12
	var wg sync.WaitGroup
	for g := range writers {
		wg.Go(func() {
			s := stores[g%2]
			for c := range commits {
				w := s.Begin()
				seed := uint64(g*commits + c)
				own, shared := Bytes(1000+seed, 20_000), Bytes(uint64(c), 30_000) // shared: by the writers of a round
				content := slices.Concat(own, shared)
				p1, err1 := w.Put(t.Context(), own)
				p2, err2 := w.Put(t.Context(), shared)
				err3 := w.Compose(t.Context(), BlobOf(content, p1, p2))
				if err := errors.Join(err1, err2, err3, w.Commit(t.Context())); err != nil {
					t.Errorf("writer %d: %v", g, err)
					return
				}
				for _, r := range stores {
					if got, err := Read(t.Context(), r, digest.FromBytes(content), 0, -1); err != nil || !bytes.Equal(got, content) {
						t.Errorf("writer %d, commit %d: read %d bytes, %v", g, c, len(got), err)
					}
				}
			}
		})
	}
	wg.Wait()
	if st.Objects != nil {
		t.Logf("%d commits by %d writers made %d packs", writers*commits, writers, st.Objects(t))
	}
}

func testConcurrentReaders(t *testing.T, st Storage) {
	composite(t, st.Open(t), 1, 60, 300_000, 1000)
	s := st.Open(t)
	_, content := composite(t, s, 1, 60, 300_000, 1000)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			got, err := Read(t.Context(), s, digest.FromBytes(content), 0, -1)
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("read %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
}

func testCancelled(t *testing.T, st Storage) {
	s := st.Open(t)
	b, content := composite(t, s, 1, 24, 800_000) // more than is read ahead
	ctx, cancel := context.WithCancel(t.Context())
	rc, err := s.Open(ctx, b.Digest, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(rc, make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{rc}); !errors.Is(err, context.Canceled) {
		t.Errorf("read after cancel: %v", err)
	}
	rc.Close()
	w := s.Begin()
	_, err = w.Put(ctx, Bytes(77, 100))
	if err := errors.Join(err, w.Commit(ctx)); !errors.Is(err, context.Canceled) {
		t.Errorf("commit after cancel: %v", err)
	}
	expectBytes(t, s, content)
}

func testClosedEarly(t *testing.T, st Storage) {
	s := st.Open(t)
	b, content := composite(t, s, 1, 30, 500_000)
	for i := range 10 {
		rc, err := s.Open(t.Context(), b.Digest, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(rc, make([]byte, 1+i*100_000)); err != nil {
			t.Fatal(err)
		}
		if err := rc.Close(); err != nil {
			t.Fatal(err)
		}
	}
	expectBytes(t, s, content)
}

func testDamaged(t *testing.T, st Storage) {
	if st.Damage == nil {
		t.Skip("the storage can't be damaged")
	}
	s := st.Open(t)
	b, content := composite(t, s, 1, 20, 300_000)
	st.Damage(t, b.Parts[10].Digest)
	for name, r := range map[string]imagestore.Reader{"same process": s, "other process": st.Open(t)} {
		rc, err := r.Open(t.Context(), b.Digest, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		_, err = io.Copy(&got, rc)
		rc.Close()
		if !errors.Is(err, imagestore.ErrCorrupt) {
			t.Errorf("%s: %v, want ErrCorrupt", name, err)
		}
		if got.Len() > 10*300_000 || !bytes.Equal(got.Bytes(), content[:got.Len()]) {
			t.Errorf("%s: gave out %d bytes, some of them wrong or unverified", name, got.Len())
		}
		if _, err := Read(t.Context(), r, b.Parts[10].Digest, 5, 10); !errors.Is(err, imagestore.ErrCorrupt) {
			t.Errorf("%s: range of the damaged piece: %v, want ErrCorrupt", name, err)
		}
		if b, err := Read(t.Context(), r, b.Parts[11].Digest, 0, -1); err != nil || !bytes.Equal(b, content[11*300_000:12*300_000]) {
			t.Errorf("%s: the piece beside it: %v", name, err)
		}
	}
}

func testLost(t *testing.T, st Storage) {
	if st.Lose == nil {
		t.Skip("the storage can't lose objects")
	}
	s := st.Open(t)
	data, kept := Bytes(1, 300_000), Bytes(2, 300_000)
	p := Put(t, s, data)[0]
	Put(t, s, kept)
	// A composite whose description is lost with the pack that it lies in.
	other := st.Open(t)
	twice := BlobOf(slices.Concat(data, data), p, p)
	w := other.Begin()
	if err := errors.Join(w.Compose(t.Context(), twice), w.Commit(t.Context())); err != nil {
		t.Fatal(err)
	}
	st.Lose(t, twice.Digest)
	st.Lose(t, p.Digest)
	for _, r := range []imagestore.Reader{s, st.Open(t)} {
		expectAbsent(t, r, twice.Digest)
		if _, err := Read(t.Context(), r, digest.FromBytes(data), 0, -1); !errors.Is(err, imagestore.ErrNotFound) {
			t.Errorf("%v, want ErrNotFound", err)
		}
		expectBytes(t, r, kept)
	}
}

func testPayload(t *testing.T, st Storage) {
	s := st.Open(t)
	for _, n := range []int{0, 10, 100_000} {
		w := s.Begin()
		v := map[string]string{"x": fmt.Sprintf("%0*d", n, 0)}
		p, err := imagestore.StorePayload(t.Context(), w, v)
		if err := errors.Join(err, w.Commit(t.Context())); err != nil {
			t.Fatal(err)
		}
		if inline := len(p.Inline) > 0; inline != (n < 1000) || inline == (p.Piece != "") {
			t.Errorf("%d: inline %v, piece %s", n, inline, p.Piece)
		}
		b, err := imagestore.LoadPayload(t.Context(), s, p, 1<<20)
		if err != nil || string(b) != fmt.Sprintf(`{"x":"%0*d"}`, n, 0) {
			t.Errorf("%d: %d bytes, %v", n, len(b), err)
		}
		if _, err := imagestore.LoadPayload(t.Context(), s, p, 5); err == nil {
			t.Errorf("%d: more than 5 bytes were loaded", n)
		}
	}
	w := s.Begin()
	if _, err := imagestore.StorePayload(t.Context(), w, func() {}); err == nil {
		t.Error("a function was stored")
	}
	Put(t, s, make([]byte, 1000))
	if _, err := imagestore.ReadAll(t.Context(), s, digest.FromBytes(make([]byte, 1000)), 999); err == nil {
		t.Error("more than the limit was read")
	}
}
