package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"
)

// Layer is a lower layer of a root.
type Layer struct {
	// DiffID is the digest of the uncompressed tar. A layer that was unpacked before is not opened again.
	DiffID digest.Digest

	// Open reads the uncompressed tar. The Runner closes it, and a failed Close fails.
	Open func(ctx context.Context) (io.ReadCloser, error)
}

// layers are the unpacked layers of a Runner, each in layers/NAME/fs. Those that no root uses are kept up to the budget,
// the last used longest.
type layers struct {
	mu   sync.Mutex
	have map[string]*unpacked
}

// unpacked is one layer. Until ready is closed it is on its way.
type unpacked struct {
	name  string
	bytes int64
	uses  int
	last  time.Time
	ready chan struct{}
	err   error
}

// layerName is short, so that the paths of many layers fit into the page that mount options have, and long enough for
// two layers never to have the same.
func layerName(diffID digest.Digest) string { return diffID.Encoded()[:32] }

func (l *unpacked) path() string { return filepath.Join("layers", l.name, "fs") }

// sizeFile says how much content a layer has, in bytes. Its modification time is when the layer was last used.
const sizeFile = "bytes"

// load finds the layers of an earlier process.
func (ls *layers) load(dir string) error {
	ls.have = map[string]*unpacked{}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		path := filepath.Join(dir, n.Name(), sizeFile)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(string(text), 10, 64)
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		done := make(chan struct{})
		close(done)
		ls.have[n.Name()] = &unpacked{name: n.Name(), bytes: size, last: info.ModTime(), ready: done}
	}
	return nil
}

// acquire returns an unpacked layer, which stays until it's released. The same layer is unpacked once, however many
// want it.
func (r *Runner) acquire(ctx context.Context, want Layer) (*unpacked, error) {
	if err := want.DiffID.Validate(); err != nil || want.DiffID.Algorithm() != digest.SHA256 {
		return nil, fmt.Errorf("%w: DiffID %q: want a sha256", ErrLayer, want.DiffID)
	}
	name := layerName(want.DiffID)
	for {
		r.layers.mu.Lock()
		l, ok := r.layers.have[name]
		if !ok {
			l = &unpacked{name: name, ready: make(chan struct{})}
			r.layers.have[name] = l
		}
		l.uses++
		r.layers.mu.Unlock()
		if !ok {
			l.bytes, l.err = r.unpack(ctx, name, want)
			if l.err != nil {
				r.layers.mu.Lock()
				delete(r.layers.have, name)
				r.layers.mu.Unlock()
			}
			close(l.ready)
		}
		select {
		case <-l.ready:
		case <-ctx.Done():
			r.release(l)
			return nil, ctx.Err()
		}
		switch {
		case l.err == nil:
			return l, nil
		case ok && ctx.Err() == nil && (errors.Is(l.err, context.Canceled) || errors.Is(l.err, context.DeadlineExceeded)):
			continue // the one who unpacked was called off; we were not
		}
		return nil, fmt.Errorf("layer %s: %w", want.DiffID, l.err)
	}
}

// unpack makes layers/NAME from a tar and returns its bytes of content.
func (r *Runner) unpack(ctx context.Context, name string, want Layer) (size int64, err error) {
	temporary := filepath.Join("tmp", newID())
	if err := os.MkdirAll(filepath.Join(r.dir, temporary, "fs"), 0o755); err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			// Called off or not, what was unpacked goes.
			err = errors.Join(err, r.remove(context.WithoutCancel(ctx), temporary))
		}
	}()
	tar, err := want.Open(ctx)
	if err != nil {
		return 0, err
	}
	verified := want.DiffID.Verifier()
	source := &source{r: io.TeeReader(tar, verified)}
	rep, err := r.call(ctx, request{Unpack: &unpackRequest{Into: filepath.Join(temporary, "fs"), MaxBytes: r.budget}}, stdio{in: source})
	if failed := source.err.Load(); failed != nil {
		err = *failed // why the tar that the helper saw is damaged
	}
	if err := errors.Join(err, tar.Close()); err != nil {
		return 0, err
	}
	if !verified.Verified() {
		return 0, fmt.Errorf("%w: the tar read does not have that digest", ErrLayer)
	}
	text := strconv.FormatInt(rep.Bytes, 10)
	if err := os.WriteFile(filepath.Join(r.dir, temporary, sizeFile), []byte(text), 0o600); err != nil {
		return 0, err
	}
	return rep.Bytes, os.Rename(filepath.Join(r.dir, temporary), filepath.Join(r.dir, "layers", name))
}

// source keeps the error that a reader failed with.
type source struct {
	r   io.Reader
	err atomic.Pointer[error]
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.err.Store(&err)
	}
	return n, err
}

// release gives a layer back, and removes unused layers that exceed the budget.
func (r *Runner) release(l *unpacked) {
	r.layers.mu.Lock()
	defer r.layers.mu.Unlock()
	l.uses--
	l.last = time.Now()
	// Only the order of removal depends on it.
	_ = os.Chtimes(filepath.Join(r.dir, "layers", l.name, sizeFile), l.last, l.last)
	var unused []*unpacked
	var total int64
	for _, l := range r.layers.have {
		if l.uses == 0 {
			unused = append(unused, l)
			total += l.bytes
		}
	}
	slices.SortFunc(unused, func(a, b *unpacked) int {
		return cmp.Or(a.last.Compare(b.last), strings.Compare(a.name, b.name))
	})
	for _, l := range unused {
		if total <= r.budget {
			return
		}
		total -= l.bytes
		delete(r.layers.have, l.name)
		// Renamed first: half a layer must never be found under its name.
		temporary := filepath.Join("tmp", newID())
		err := os.Rename(filepath.Join(r.dir, "layers", l.name), filepath.Join(r.dir, temporary))
		if err == nil {
			err = r.remove(context.Background(), temporary)
		}
		if err != nil {
			r.log.Warn("sandbox: an unused layer stays until the next start", "layer", l.name, "error", err)
		}
	}
}
