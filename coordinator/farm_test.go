package coordinator_test

import (
	"context"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/coordinator"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/oklog/ulid/v2"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testFarm is a bus, a store and workers that are told what to do, around the coordinators under test.
type testFarm struct {
	t     testing.TB
	bus   *bus.Bus
	store *memory
	real  imagestore.Store // instead of store, when set
	tags  *tags
}

func (f *testFarm) pieces() imagestore.Store {
	if f.real != nil {
		return f.real
	}
	return f.store
}

func newFarm(t testing.TB, change ...func(*bus.Config)) *testFarm {
	t.Helper()
	config := bus.Config{Dir: t.TempDir(), Name: "test", Log: testLog()}
	for _, c := range change {
		c(&config)
	}
	b, err := bus.Open(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	return &testFarm{t: t, bus: b, store: newMemory(), tags: newTags()}
}

func testLog() *slog.Logger {
	w := io.Writer(io.Discard)
	if os.Getenv("BAKEFARM_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, nil))
}

// start runs a coordinator until stop or the end of the test.
func (f *testFarm) start(change ...func(*coordinator.Config)) (stop func()) {
	f.t.Helper()
	cfg := coordinator.Config{Bus: f.bus, Store: f.pieces(), Tags: f.tags, Log: testLog()}
	for _, c := range change {
		c(&cfg)
	}
	c := coordinator.New(cfg)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- c.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			f.t.Errorf("Run: %v", err)
		}
	})
	f.t.Cleanup(stop)
	select {
	case <-c.Ready():
	case err := <-ended:
		ended <- err
		f.t.Fatalf("Run ended: %v", err)
	}
	return stop
}

func (f *testFarm) put(data []byte) digest.Digest {
	w := f.pieces().Begin()
	part, err := w.Put(f.t.Context(), data)
	if err == nil {
		err = w.Commit(f.t.Context())
	}
	if err != nil {
		f.t.Fatal(err)
	}
	return part.Digest
}

// request makes a request of a recipe and files by path.
func (f *testFarm) request(text string, files map[string]string) bus.SubmitRequest {
	f.t.Helper()
	r := bus.SubmitRequest{Schema: farm.Schema, ID: ulid.Make().String(), File: "bakefarm.yaml", Recipe: f.put([]byte(text))}
	c := recipe.Context{Files: []recipe.ContextFile{}}
	for path, content := range files {
		file := recipe.ContextFile{Path: path, Size: int64(len(content))}
		if content != "" {
			file.Chunks = []digest.Digest{f.put([]byte(content))}
		}
		c.Files = append(c.Files, file)
	}
	slices.SortFunc(c.Files, func(a, b recipe.ContextFile) int { return strings.Compare(a.Path, b.Path) })
	r.Context = f.put(c.Encode())
	return r
}

const scratchRecipe = `apiVersion: bakefarm/v1
name: test/app
os: {scratch: true}
app:
  - {copy: ., to: /opt/app}
`

const debianRecipe = `apiVersion: bakefarm/v1
name: test/debian
os: {debian: {suite: bookworm, variant: none, packages: [tzdata, ca-certificates], scripts: skip}}
app:
  - {copy: ., to: /opt/app}
`

// app is a request for files over scratch.
func (f *testFarm) app(content string) bus.SubmitRequest {
	return f.request(scratchRecipe, map[string]string{"server": content})
}

func (f *testFarm) submit(r bus.SubmitRequest) farm.Bake {
	f.t.Helper()
	b, err := bus.Call[bus.SubmitRequest, farm.Bake](f.t.Context(), f.bus, bus.SubmitBake, r)
	if err != nil {
		f.t.Fatalf("submit: %v", err)
	}
	return b
}

func (f *testFarm) cancel(id string) farm.Bake {
	f.t.Helper()
	b, err := bus.Call[bus.CancelRequest, farm.Bake](f.t.Context(), f.bus, bus.CancelBake, bus.CancelRequest{ID: id, By: "test"})
	if err != nil {
		f.t.Fatalf("cancel: %v", err)
	}
	return b
}

// waitFor follows the bakes until one is as wanted.
func (f *testFarm) waitFor(id string, wanted func(farm.Bake) bool) farm.Bake {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	var last farm.Bake
	err := f.bus.Bakes.Follow(ctx, 0, func(_ uint64, key string, b *farm.Bake) error {
		if key == id && b != nil {
			if last = *b; wanted(last) {
				return bus.ErrStop
			}
		}
		return nil
	})
	if err != nil {
		f.t.Fatalf("bake %s: %v; it is %s: %s", id, err, last.State, last.Error)
	}
	return last
}

func (f *testFarm) finished(id string) farm.Bake {
	f.t.Helper()
	return f.waitFor(id, func(b farm.Bake) bool { return b.State.Finished() })
}

func (f *testFarm) done(id string) farm.Bake {
	f.t.Helper()
	b := f.finished(id)
	if b.State != farm.BakeDone {
		f.t.Fatalf("bake %s is %s: %s", id, b.State, b.Error)
	}
	return b
}

// shard waits until a shard whose label has the prefix is in the state.
func (f *testFarm) shard(label string, state farm.ShardState) farm.Shard {
	f.t.Helper()
	ctx, cancel := context.WithTimeout(f.t.Context(), time.Minute)
	defer cancel()
	var found farm.Shard
	err := f.bus.Shards.Follow(ctx, 0, func(_ uint64, _ string, s *farm.Shard) error {
		if s != nil && strings.HasPrefix(s.Label, label) && s.State == state {
			found = *s
			return bus.ErrStop
		}
		return nil
	})
	if err != nil {
		f.t.Fatalf("no shard %q came to be %s: %v", label, state, err)
	}
	return found
}

// source tells how a bake came by a shard whose label has the prefix.
func source(t testing.TB, b farm.Bake, label string) farm.Source {
	t.Helper()
	for _, s := range b.Shards {
		if strings.HasPrefix(s.Label, label) {
			return s.Source
		}
	}
	t.Fatalf("bake %s has no shard %q: %+v", b.ID, label, b.Shards)
	return ""
}

// tags are imagestore.Tags in memory.
type tags struct {
	mu    sync.Mutex
	of    map[string]digest.Digest
	moved map[string]uint64
}

func newTags() *tags { return &tags{of: map[string]digest.Digest{}, moved: map[string]uint64{}} }

func (t *tags) Tag(_ context.Context, repo, tag string) (digest.Digest, uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	d, ok := t.of[repo+":"+tag]
	if !ok {
		return "", 0, imagestore.ErrNotFound
	}
	return d, t.moved[repo+":"+tag], nil
}

func (t *tags) SetTag(_ context.Context, repo, tag string, d digest.Digest, revision uint64) (uint64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.moved[repo+":"+tag] != revision {
		return 0, imagestore.ErrConflict
	}
	t.of[repo+":"+tag] = d
	t.moved[repo+":"+tag]++
	return revision + 1, nil
}

func (t *tags) ListTags(context.Context, string) ([]string, error) { return nil, nil }
