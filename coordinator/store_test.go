package coordinator_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// memory is a store in memory that can lose things on purpose, which the real ones are made not to.
type memory struct {
	commitTakes time.Duration

	mu      sync.Mutex
	pieces  map[digest.Digest][]byte
	blobs   map[digest.Digest]imagestore.Blob
	commits int
}

var _ imagestore.Store = (*memory)(nil)

func newMemory() *memory {
	return &memory{pieces: map[digest.Digest][]byte{}, blobs: map[digest.Digest]imagestore.Blob{}}
}

// lose makes the store forget a piece or blob.
func (m *memory) lose(d digest.Digest) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.pieces, d)
	delete(m.blobs, d)
}

func (m *memory) Have(_ context.Context, digests []digest.Digest) ([]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	have := make([]bool, len(digests))
	for i, d := range digests {
		_, have[i] = m.pieces[d]
		if blob, ok := m.blobs[d]; ok {
			have[i] = true
			for _, p := range blob.Parts {
				_, there := m.pieces[p.Digest]
				have[i] = have[i] && there
			}
		}
	}
	return have, nil
}

func (m *memory) Stat(_ context.Context, d digest.Digest) (imagestore.Blob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if blob, ok := m.blobs[d]; ok {
		return blob, nil
	}
	data, ok := m.pieces[d]
	if !ok {
		return imagestore.Blob{}, fmt.Errorf("%s: %w", d, imagestore.ErrNotFound)
	}
	return imagestore.Blob{Digest: d, Size: int64(len(data)), Parts: []imagestore.Part{{Digest: d, Size: int64(len(data))}}}, nil
}

func (m *memory) Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, error) {
	blob, err := m.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []byte
	for _, p := range blob.Parts {
		all = append(all, m.pieces[p.Digest]...)
	}
	all = all[offset:]
	if n >= 0 && n < int64(len(all)) {
		all = all[:n]
	}
	return io.NopCloser(bytes.NewReader(all)), nil
}

func (m *memory) Begin() imagestore.Writer {
	return &memoryWriter{store: m, pieces: map[digest.Digest][]byte{}, blobs: map[digest.Digest]imagestore.Blob{}}
}

type memoryWriter struct {
	store  *memory
	pieces map[digest.Digest][]byte
	blobs  map[digest.Digest]imagestore.Blob
}

func (w *memoryWriter) Put(ctx context.Context, data []byte) (imagestore.Part, error) {
	return w.PutAs(ctx, digest.FromBytes(data), data)
}

func (w *memoryWriter) PutAs(_ context.Context, d digest.Digest, data []byte) (imagestore.Part, error) {
	w.pieces[d] = bytes.Clone(data)
	return imagestore.Part{Digest: d, Size: int64(len(data))}, nil
}

func (w *memoryWriter) Compose(_ context.Context, b imagestore.Blob) error {
	w.blobs[b.Digest] = b
	return nil
}

func (w *memoryWriter) Commit(context.Context) error {
	time.Sleep(w.store.commitTakes)
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	maps.Copy(w.store.pieces, w.pieces)
	maps.Copy(w.store.blobs, w.blobs)
	w.store.commits++
	return nil
}
