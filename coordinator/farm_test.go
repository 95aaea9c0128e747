package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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
	"bakefarm/plan"
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

func newFarm(t testing.TB) *testFarm {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Name: "test", Log: testLog()})
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
	var w io.Writer = io.Discard
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
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
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
	ctx, cancel := context.WithTimeout(f.t.Context(), 20*time.Second)
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

// worker claims shards, works on them by the book, and reports.
type worker struct {
	f      *testFarm
	id     string
	before func(farm.Task) error    // nil: nothing; an error is reported
	output func(farm.Task, any) any // changes what is reported; nil: nothing
	mirror func() string            // what the mirror has now
	retry  bool                     // errors may pass
	work   map[farm.Kind]*bus.Work
	mu     sync.Mutex
	ran    []string // labels, in order
}

func (f *testFarm) worker(id string, change ...func(*worker)) *worker {
	f.t.Helper()
	w := &worker{f: f, id: id, work: map[farm.Kind]*bus.Work{}, mirror: func() string { return "monday" }}
	for _, c := range change {
		c(w)
	}
	for _, kind := range farm.Kinds {
		q, err := f.bus.Work(f.t.Context(), farm.Class("any", kind))
		if err != nil {
			f.t.Fatal(err)
		}
		w.work[kind] = q
	}
	return w
}

// start works until stop or the end of the test.
func (w *worker) start() (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	for kind, q := range w.work {
		loops.Go(func() {
			for ctx.Err() == nil {
				hints, err := q.Fetch(ctx, 4, time.Second)
				if err != nil && ctx.Err() == nil {
					w.f.t.Errorf("fetch %s: %v", kind, err)
					return
				}
				for _, h := range hints {
					if err := w.serve(ctx, h); err != nil && ctx.Err() == nil {
						w.f.t.Errorf("worker %s: %v", w.id, err)
					}
				}
			}
		})
	}
	stop = sync.OnceFunc(func() { cancel(); loops.Wait() })
	w.f.t.Cleanup(stop)
	return stop
}

func (w *worker) serve(ctx context.Context, h bus.Hint) error {
	reply, err := w.claim(ctx, h.ShardID)
	if err != nil || !reply.Granted {
		if err == nil && reply.Gone {
			return h.Ack()
		}
		return errors.Join(err, h.Nak(20*time.Millisecond))
	}
	_, err = w.finish(ctx, reply.Task)
	return errors.Join(err, h.Ack())
}

func (w *worker) claim(ctx context.Context, shard string) (bus.ClaimReply, error) {
	return bus.Call[bus.ClaimRequest, bus.ClaimReply](ctx, w.f.bus, bus.Claim, bus.ClaimRequest{ShardID: shard, Worker: w.id})
}

// claimHinted waits for a hint of the kind and claims its shard.
func (w *worker) claimHinted(kind farm.Kind) farm.Task {
	w.f.t.Helper()
	for {
		hints, err := w.work[kind].Fetch(w.f.t.Context(), 1, 10*time.Second)
		if err != nil || len(hints) == 0 {
			w.f.t.Fatalf("no hint of kind %s: %v", kind, err)
		}
		reply, err := w.claim(w.f.t.Context(), hints[0].ShardID)
		if err != nil {
			w.f.t.Fatal(err)
		}
		hints[0].Ack()
		if reply.Granted {
			return reply.Task
		}
	}
}

// finish does a task and reports it.
func (w *worker) finish(ctx context.Context, task farm.Task) (bus.ReportReply, error) {
	w.mu.Lock()
	w.ran = append(w.ran, task.Label)
	w.mu.Unlock()
	report := bus.ReportRequest{ShardID: task.ShardID, Token: task.Token, Worker: w.id, Took: time.Millisecond}
	var failure error
	if w.before != nil {
		failure = w.before(task)
	}
	if failure == nil {
		out, err := w.run(ctx, task)
		if err != nil {
			return bus.ReportReply{}, err
		}
		if w.output != nil {
			out = w.output(task, out)
		}
		report.Output, _ = json.Marshal(out)
	} else {
		report.Error, report.Retry = failure.Error(), w.retry
	}
	return bus.Call[bus.ReportRequest, bus.ReportReply](ctx, w.f.bus, bus.Report, report)
}

func (w *worker) labels() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.ran)
}

// run makes outputs of the right form: their bytes are names, but the store has all that they name.
func (w *worker) run(ctx context.Context, task farm.Task) (any, error) {
	spec, err := imagestore.LoadPayload(ctx, w.f.pieces(), task.Spec, 64<<20)
	if err != nil {
		return nil, err
	}
	rawOutputs, err := imagestore.LoadPayload(ctx, w.f.pieces(), task.Outputs, 64<<20)
	if err != nil {
		return nil, err
	}
	into := w.f.pieces().Begin()
	put := func(text string) plan.Piece {
		part, perr := into.Put(ctx, []byte(text))
		err = errors.Join(err, perr)
		return plan.Piece{Digest: part.Digest, Size: part.Size}
	}
	deps := func(list any) {
		err = errors.Join(err, json.Unmarshal(rawOutputs, list))
	}
	var out any
	switch task.Kind {
	case farm.KindObserve:
		p := put("index of " + w.mirror())
		out = plan.ObserveOutput{Indexes: []plan.Index{{Base: "http://127.0.0.1/debian", Suite: "bookworm", Packages: p.Digest, Size: p.Size}}}
	case farm.KindSolve:
		var s plan.SolveSpec
		if err := json.Unmarshal(spec, &s); err != nil {
			return nil, err
		}
		var list []plan.SolvedPackage
		for _, name := range s.Debian.Packages {
			text := fmt.Sprintf("%s of %s", name, s.Indexes[0].Packages)
			list = append(list, plan.SolvedPackage{URL: "http://127.0.0.1/" + name + ".deb", LockedPackage: recipe.LockedPackage{
				Name: name, Version: "1.0-1", Arch: "amd64", SHA256: digest.FromString(text), Size: 1000,
			}})
		}
		raw, err := json.Marshal(list)
		if err != nil {
			return nil, err
		}
		out = plan.SolveOutput{Packages: put(string(raw)).Digest, Count: len(list)}
	case farm.KindConvert, farm.KindCut:
		text := fmt.Sprintf("member %s %s", task.Kind, task.Key)
		out = plan.Member{
			Pieces: []plan.Piece{put(text)}, TarSize: 10240, TarDigest: digest.FromString("tar of " + text),
			Inventory: put("inventory of " + text).Digest,
		}
	case farm.KindAssemble:
		var members []plan.Member
		deps(&members)
		head := put("head " + task.Key.String())
		blob := imagestore.Blob{Parts: []imagestore.Part{{Digest: head.Digest, Size: head.Size}}}
		text := "layer " + task.Key.String()
		for _, m := range members {
			for _, p := range m.Pieces {
				blob.Parts = append(blob.Parts, imagestore.Part{Digest: p.Digest, Size: p.Size})
				text += p.Digest.String()
			}
		}
		blob.Digest, blob.Size = digest.FromString(text), 1000
		err = errors.Join(err, into.Compose(ctx, blob))
		out = plan.Layer{Digest: blob.Digest, Size: 1000, DiffID: digest.FromString("diff" + text), TarSize: 20480, Pieces: len(blob.Parts)}
	case farm.KindImage:
		var layers []plan.Layer
		deps(&layers)
		text := "image " + task.Key.String()
		var blobs []digest.Digest
		for _, l := range layers {
			text += l.Digest.String()
			blobs = append(blobs, l.Digest)
		}
		out = plan.ImageOutput{
			Manifest: put(text).Digest, MediaType: "application/vnd.oci.image.manifest.v1+json", Size: 3000,
			Blobs: append(blobs, put("config of "+text).Digest),
		}
	}
	return out, errors.Join(err, into.Commit(ctx))
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
