package possession_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"bakefarm/api/apitest"
	"bakefarm/api/possession"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

const name = "shop/checkout"

func sums(chunks []digest.Digest) []imagestore.Sum {
	list := make([]imagestore.Sum, len(chunks))
	for i, c := range chunks {
		list[i], _ = imagestore.ParseDigest(c)
	}
	return list
}

// manifest is that of a context with the files 0 to n-1, and its chunks.
func manifest(from, n int) (*recipe.Context, []digest.Digest) {
	c := &recipe.Context{}
	var chunks []digest.Digest
	for i := from; i < from+n; i++ {
		d := digest.FromBytes(binary.BigEndian.AppendUint32(nil, uint32(i)))
		c.Files = append(c.Files, recipe.ContextFile{Path: fmt.Sprintf("f%06d", i), Size: 4, Chunks: []digest.Digest{d}})
		chunks = append(chunks, d)
	}
	return c, chunks
}

func TestBook(t *testing.T) {
	t.Parallel()
	f := apitest.New(t)
	book := possession.New(f.Bus.Possessions, f.Store)
	ctx := t.Context()
	missing := func(b *possession.Book, name string, m digest.Digest, chunks []digest.Digest, want int) possession.Held {
		t.Helper()
		h, err := b.Holds(ctx, name, m, chunks)
		if err != nil || len(h.Missing) != want {
			t.Fatalf("%d missing, %v; want %d", len(h.Missing), err, want)
		}
		return h
	}
	const many = 20_000 // more than fit into one record
	c, chunks := manifest(0, many)
	raw := c.Encode()
	m := f.Put(t, raw)[0]
	missing(book, name, m, chunks, many)
	if err := book.Sent(ctx, name, sums(chunks)); err != nil {
		t.Fatal(err)
	}
	missing(book, "shop/other", m, chunks, many)
	h := missing(book, name, m, chunks, 0)
	if err := book.Accept(ctx, name, m, chunks, h); err != nil {
		t.Fatal(err)
	}
	if left, err := f.Bus.Possessions.List(ctx, name+"@sent@"); err != nil || len(left) != 0 {
		t.Errorf("%d records are left, %v", len(left), err)
	}
	// Another process, and another context with most of the same.
	other := possession.New(f.Bus.Possessions, f.Store)
	missing(other, name, m, chunks, 0)
	c2, chunks2 := manifest(10, many)
	m2 := f.Put(t, c2.Encode())[0]
	if h := missing(other, name, m2, chunks2, 10); h.Missing[0] != chunks2[many-10] {
		t.Error("others are missing")
	}
	// A record that another bake needs too stays.
	_, moreChunks := manifest(many, 2)
	if err := book.Sent(ctx, name, sums(moreChunks)); err != nil {
		t.Fatal(err)
	}
	one, oneChunk := manifest(many, 1)
	h = missing(book, name, digest.FromBytes(one.Encode()), oneChunk, 0)
	if err := book.Accept(ctx, name, f.Put(t, one.Encode())[0], oneChunk, h); err != nil {
		t.Fatal(err)
	}
	missing(book, name, digest.FromString("x"), moreChunks, 0)

	var all sync.WaitGroup
	for i := range 12 {
		all.Go(func() {
			c, chunks := manifest(many+100+i, 1)
			if err := book.Accept(ctx, name, digest.FromBytes(c.Encode()), chunks, possession.Held{}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	r, _, err := f.Bus.Possessions.Get(ctx, name+"@accepted")
	if err != nil || len(r.Manifests) != 8 {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestChallengeIsOver(t *testing.T) {
	t.Parallel()
	f := apitest.New(t)
	book := possession.New(f.Bus.Possessions, f.Store)
	chunk := []byte("chunk")
	d := f.Put(t, chunk)[0]
	proof := func(challenge []byte) []possession.Proof {
		return []possession.Proof{{Chunk: sums([]digest.Digest{d})[0], MAC: possession.Tag(challenge, chunk)}}
	}
	challenge, err := book.Challenge(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := book.Prove(t.Context(), name, challenge, proof(challenge)); err != nil || !slices.Equal(got, sums([]digest.Digest{d})) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := book.Prove(t.Context(), name, []byte("my own"), proof([]byte("my own"))); !errors.Is(err, possession.ErrChallenge) {
		t.Errorf("a challenge of the client's making: %v", err)
	}
	old := []byte("old")
	if _, err := f.Bus.Possessions.Create(t.Context(), fmt.Sprintf("%s@challenge@%x", name, old), farm.Possession{At: time.Now().Add(-2 * possession.ChallengeTime)}); err != nil {
		t.Fatal(err)
	}
	if _, err := book.Prove(t.Context(), name, old, proof(old)); !errors.Is(err, possession.ErrChallenge) {
		t.Errorf("an old challenge: %v", err)
	}
}
