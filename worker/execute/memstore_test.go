package execute_test

import (
	"bytes"
	"context"
	"io"
	"sync"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

type testStore interface {
	imagestore.Reader
	Begin() imagestore.Writer
}

func newStore(t testing.TB) testStore {
	return &mem{b: map[digest.Digest][]byte{}, c: map[digest.Digest]imagestore.Blob{}}
}

type mem struct {
	mu sync.Mutex
	b  map[digest.Digest][]byte
	c  map[digest.Digest]imagestore.Blob
}

func (m *mem) Have(ctx context.Context, ds []digest.Digest) ([]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]bool, len(ds))
	for i, d := range ds {
		_, ok := m.b[d]
		_, ok2 := m.c[d]
		out[i] = ok || ok2
	}
	return out, nil
}
func (m *mem) Stat(ctx context.Context, d digest.Digest) (imagestore.Blob, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.c[d]; ok {
		return b, nil
	}
	if b, ok := m.b[d]; ok {
		return imagestore.Blob{Digest: d, Size: int64(len(b)), Parts: []imagestore.Part{{Digest: d, Size: int64(len(b))}}}, nil
	}
	return imagestore.Blob{}, imagestore.ErrNotFound
}
func (m *mem) Open(ctx context.Context, d digest.Digest, off, n int64) (io.ReadCloser, error) {
	b, err := m.Stat(ctx, d)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []byte
	for _, p := range b.Parts {
		all = append(all, m.b[p.Digest]...)
	}
	return io.NopCloser(bytes.NewReader(all)), nil
}
func (m *mem) Begin() imagestore.Writer {
	return &memw{m: m, b: map[digest.Digest][]byte{}, c: map[digest.Digest]imagestore.Blob{}}
}

type memw struct {
	m *mem
	b map[digest.Digest][]byte
	c map[digest.Digest]imagestore.Blob
}

func (w *memw) Put(ctx context.Context, data []byte) (imagestore.Part, error) {
	d := digest.FromBytes(data)
	w.b[d] = bytes.Clone(data)
	return imagestore.Part{Digest: d, Size: int64(len(data))}, ctx.Err()
}
func (w *memw) Compose(ctx context.Context, b imagestore.Blob) error {
	w.c[b.Digest] = b
	return b.Validate()
}
func (w *memw) Held(d digest.Digest) (int64, bool) { b, ok := w.b[d]; return int64(len(b)), ok }
func (w *memw) Commit(ctx context.Context) error {
	w.m.mu.Lock()
	defer w.m.mu.Unlock()
	for k, v := range w.b {
		w.m.b[k] = v
	}
	for k, v := range w.c {
		w.m.c[k] = v
	}
	return ctx.Err()
}
