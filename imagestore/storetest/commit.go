package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"runtime"
	"slices"
	"sync"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

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
