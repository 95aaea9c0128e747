package storetest

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

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
