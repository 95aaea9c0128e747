package storetest

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/iotest"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

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
