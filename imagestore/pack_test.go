package imagestore_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

func sampleEntries() []imagestore.Entry {
	return []imagestore.Entry{
		{Digest: digest.FromString("a"), Offset: 0, Length: 1},
		{Digest: digest.FromString(""), Offset: 1, Length: 0},
		{Digest: digest.FromString("blob"), Piece: digest.FromString("descriptor"), Offset: 1, Length: 300},
		{Digest: digest.FromString("b"), Offset: 400, Length: imagestore.MaxPiece},
	}
}

func TestTrailerRoundTrip(t *testing.T) {
	const at = 400 + imagestore.MaxPiece
	for _, entries := range [][]imagestore.Entry{{}, sampleEntries()} {
		b, sum, err := imagestore.EncodeTrailer(entries, at)
		if err != nil {
			t.Fatal(err)
		}
		got, f, err := imagestore.DecodeTrailer(b, at+int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, entries) || f.Index != sum || f.IndexAt != at || f.Count != len(entries) {
			t.Fatalf("got %+v %+v, want %+v %s", got, f, entries, sum)
		}
		foot, err := imagestore.DecodeFooter(b[len(b)-imagestore.FooterSize:], at+int64(len(b)))
		if err != nil || foot != f {
			t.Fatalf("footer alone: %+v %v, want %+v", foot, err, f)
		}
	}
}

// The format is kept for ever: packs are not rewritten by an upgrade.
func TestTrailerGolden(t *testing.T) {
	b, sum, err := imagestore.EncodeTrailer(sampleEntries(), 400+imagestore.MaxPiece)
	if err != nil {
		t.Fatal(err)
	}
	const wantIndex, wantTrailer = "sha256:9857b511d2a46224a77702f961288a94ee31c0e4483286540d2381e7ca270746", "sha256:06ba783cfe4a91d6520ca4dbe855540d591a1b073081674fc7b655457f4d4bd2"
	if sum != wantIndex || digest.FromBytes(b) != wantTrailer {
		t.Errorf("index %s, trailer %s; want %s, %s: raise the format version", sum, digest.FromBytes(b), wantIndex, wantTrailer)
	}
}

func TestTrailerRefused(t *testing.T) {
	const at = 400 + imagestore.MaxPiece
	good, _, err := imagestore.EncodeTrailer(sampleEntries(), at)
	if err != nil {
		t.Fatal(err)
	}
	size := int64(at + len(good))
	for name, tc := range map[string]struct {
		b    []byte
		size int64
		want error
	}{
		"empty":       {nil, 0, imagestore.ErrNoPack},
		"cut front":   {good[1:], size, imagestore.ErrNoPack},
		"cut end":     {good[:len(good)-1], size - 1, imagestore.ErrNoPack},
		"wrong size":  {good, size + 1, imagestore.ErrNoPack},
		"other magic": {bytes.Replace(good, []byte("bakepack"), []byte("cakepack"), 1), size, imagestore.ErrNoPack},
		"flipped":     {append([]byte{good[0] ^ 1}, good[1:]...), size, imagestore.ErrCorrupt},
	} {
		if _, _, err := imagestore.DecodeTrailer(tc.b, tc.size); !errors.Is(err, tc.want) {
			t.Errorf("%s: got %v, want %v", name, err, tc.want)
		}
	}
	for name, e := range map[string][]imagestore.Entry{
		"overlap":    {{Digest: digest.FromString("a"), Length: 2}, {Digest: digest.FromString("b"), Offset: 1, Length: 1}},
		"over index": {{Digest: digest.FromString("a"), Offset: 9, Length: 2}},
		"negative":   {{Digest: digest.FromString("a"), Offset: 1, Length: -1}},
		"too long":   {{Digest: digest.FromString("a"), Length: imagestore.MaxPiece + 1}},
		"sha512":     {{Digest: "sha512:00", Length: 1}},
		"upper case": {{Digest: "sha256:" + digest.Digest(bytes.Repeat([]byte("A"), 64)), Length: 1}},
	} {
		if _, _, err := imagestore.EncodeTrailer(e, 10); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// FuzzIndex: whatever decodes is encoded to the same bytes again.
func FuzzIndex(f *testing.F) {
	good, _, err := imagestore.EncodeTrailer(sampleEntries(), 400+imagestore.MaxPiece)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, int64(400+imagestore.MaxPiece+len(good)))
	f.Add([]byte("bakepack"), int64(8))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		entries, foot, err := imagestore.DecodeTrailer(b, size)
		if err != nil {
			return
		}
		again, sum, err := imagestore.EncodeTrailer(entries, foot.IndexAt)
		if err != nil {
			t.Fatalf("decoded but not encodable: %v", err)
		}
		if !bytes.Equal(again, b) || sum != foot.Index {
			t.Fatal("another encoding of the same index")
		}
	})
}

func FuzzBlob(f *testing.F) {
	b, err := imagestore.EncodeBlob(imagestore.Blob{Digest: digest.FromString("x"), Size: 3, Parts: []imagestore.Part{{Digest: digest.FromString("y"), Size: 1}, {Size: 2}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, data []byte) {
		blob, err := imagestore.DecodeBlob(data)
		if err != nil {
			return
		}
		enc, err := imagestore.EncodeBlob(blob)
		if err != nil {
			t.Fatal(err)
		}
		again, err := imagestore.DecodeBlob(enc)
		if err != nil || !reflect.DeepEqual(again, blob) {
			t.Fatalf("%v: %+v, want %+v", err, again, blob)
		}
	})
}

func BenchmarkDecodeIndex(b *testing.B) {
	entries := make([]imagestore.Entry, 100_000)
	for i := range entries {
		entries[i] = imagestore.Entry{Digest: imagestore.Sum{byte(i), byte(i >> 8), byte(i >> 16)}.Digest(), Offset: int64(i), Length: 1}
	}
	t, _, err := imagestore.EncodeTrailer(entries, 100_000)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := imagestore.DecodeTrailer(t, int64(100_000+len(t))); err != nil {
			b.Fatal(err)
		}
	}
}
