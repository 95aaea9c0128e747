package storetest

import (
	"errors"
	"slices"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

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
