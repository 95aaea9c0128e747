package execute

import (
	"io"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/imagestore"
	"bakefarm/worker/cache"
	"bakefarm/worker/workertest"

	"github.com/opencontainers/go-digest"
)

// A layer is read whatever pieces the store knows it by: an image that came in through a registry is cut as it came, and where
// it is small it is a piece by itself.
func TestLayerReader(t *testing.T) {
	var packed []byte
	var want []byte
	var first int // of its members' sizes
	for i, name := range []string{"head", "first", "second"} {
		var tar strings.Builder
		if err := compose.WriteEntry(&tar, compose.Entry{Type: '0', Path: name, Mode: 0o644, Size: 100_000}, strings.NewReader(strings.Repeat(name[:1], 100_000))); err != nil {
			t.Fatal(err)
		}
		_, pieces, err := compose.Compressed([]byte(tar.String()))
		if err != nil {
			t.Fatal(err)
		}
		want, packed = append(want, tar.String()...), append(packed, pieces[0]...)
		if i == 0 {
			first = len(packed)
		}
	}
	_, end, err := compose.Compressed(make([]byte, compose.TrailerSize))
	if err != nil {
		t.Fatal(err)
	}
	want, packed = append(want, make([]byte, compose.TrailerSize)...), append(packed, end[0]...)

	for name, cuts := range map[string][]int{
		"one piece": {}, "cut within a member": {first / 2}, "a member, then the rest": {first}, "small pieces": {first, first + 10, first + 20, first + 100},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := cache.Open(t.TempDir(), 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			store := workertest.NewStore(t)
			j := &job{Env: &Env{Store: store, Cache: c, Turns: NewTurns(0), Records: NewRecords()}, say: t.Logf}
			w := store.Begin()
			blob := imagestore.Blob{Digest: digest.FromBytes(packed), Size: int64(len(packed))}
			at := 0
			for _, to := range append(cuts, len(packed)) {
				part, err := w.Put(t.Context(), packed[at:to])
				if err != nil {
					t.Fatal(err)
				}
				blob.Parts, at = append(blob.Parts, part), to
			}
			if err := w.Compose(t.Context(), blob); err != nil {
				t.Fatal(err)
			}
			if err := w.Commit(t.Context()); err != nil {
				t.Fatal(err)
			}
			r, err := j.openLayer(t.Context(), blob.Digest)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if err != nil || string(got) != string(want) {
				t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want))
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if r, err = j.openLayer(t.Context(), blob.Digest); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(r, make([]byte, 1000)); err != nil {
				t.Error(err)
			}
			if err := r.Close(); err == nil {
				t.Error("it was closed in the middle, and nobody says so")
			}
		})
	}
}
