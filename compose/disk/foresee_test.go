package disk

import (
	"context"
	"testing"

	"github.com/opencontainers/go-digest"
)

// When a system is done, so are the digests of the layers that have a copy of the superblock alone: nothing of them is read.
func TestForesee(t *testing.T) {
	t.Parallel()
	o := options
	o.Size, o.Seed = 1024*mebi, digest.FromString(t.Name())
	m := memory{}
	c, p := system(t, o, m)
	c.foreseen.Wait()
	next := NewChunks(o.Size, m.put)
	defer next.Close()
	b, err := Resume(o, next, p.State)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Finish(); err != nil {
		t.Fatal(err)
	}
	if err := next.Flush(); err != nil {
		t.Fatal(err)
	}
	read := make(chan digest.Digest, len(m))
	layers, err := b.Layers(t.Context(), func(_ context.Context, p Part) ([]byte, error) {
		read <- p.Digest
		return m[p.Digest], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	close(read)
	again := map[digest.Digest]bool{}
	for d := range read {
		again[d] = true
	}
	copies := 0
	for i, l := range layers[:len(layers)-1] { // the last one has the backup table, too
		if len(l.Parts) == 2 && l.Parts[0].Size == grain && l.Parts[1].Digest == "" {
			copies++
			if again[l.Parts[0].Digest] {
				t.Errorf("layer %d was not foreseen", i)
			}
		}
	}
	if copies < 2 {
		t.Errorf("%d layers with a copy of the superblock", copies)
	}
}
