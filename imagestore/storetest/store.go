package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"

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
