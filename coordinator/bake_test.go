package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
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
)

func TestBakeThenCached(t *testing.T) {
	f := newFarm(t)
	f.start()
	w := f.worker("w1")
	w.start()

	first := f.submit(f.app("one"))
	if first.State != farm.BakeAccepted || first.Name != "test/app" {
		t.Errorf("accepted: %+v", first)
	}
	b := f.done(first.ID)
	if b.Cached || len(b.Images) != 1 || b.Version != farm.VersionOf(b.Key) || b.Images[0].Ref != "test/app:"+b.Version {
		t.Errorf("done: %+v", b)
	}
	for _, label := range []string{"cut", "assemble", "image"} {
		if s := source(t, b, label); s != farm.SourceMiss {
			t.Errorf("%s is a %s", label, s)
		}
	}
	for _, tag := range []string{b.Version, "latest"} {
		if d, _, err := f.tags.Tag(t.Context(), "test/app", tag); err != nil || d != b.Images[0].Digest {
			t.Errorf("tag %s: %s, %v", tag, d, err)
		}
	}
	v, _, err := f.bus.Versions.Get(t.Context(), "test/app@"+b.Version)
	if err != nil || v.Sequence != 1 || v.Bake != b.ID || v.Key != b.Key {
		t.Errorf("version: %+v, %v", v, err)
	}
	logged := f.waitFor(b.ID, func(b farm.Bake) bool { return b.Log != "" })
	log := string(f.store.pieces[logged.Log])
	if n := strings.Count(log, "\n"); n < 10 || !strings.Contains(log, `"state":"done"`) || !strings.Contains(log, `"status":"claimed"`) {
		t.Errorf("log of %d lines:\n%s", n, log)
	}

	ran := len(w.labels())
	again := f.submit(f.app("one"))
	if again.State != farm.BakeDone || !again.Cached || again.From != b.ID || again.Images[0].Digest != b.Images[0].Digest {
		t.Errorf("again: %+v", again)
	}
	if len(w.labels()) != ran {
		t.Errorf("a cached bake ran %q", w.labels()[ran:])
	}

	other := f.done(f.submit(f.app("two")).ID)
	if v, _, _ := f.bus.Versions.Get(t.Context(), "test/app@"+other.Version); v.Sequence != 2 {
		t.Errorf("second version: %+v", v)
	}
	if same := f.submit(f.app("one")); !same.Cached {
		t.Errorf("back again: %+v", same)
	}
	if d, _, _ := f.tags.Tag(t.Context(), "test/app", "latest"); d != b.Images[0].Digest {
		t.Errorf("latest is %s, not what the last bake led to", d)
	}
}

// Several platforms are one version: an index, which the tags point to, over an image each. They share what is equal.
func TestPlatforms(t *testing.T) {
	f := newFarm(t)
	f.start()
	w := f.worker("w1")
	w.start()
	one := strings.Replace(debianRecipe, "tzdata,", "tzdata, libc6,", 1)
	both := one + "outputs: [{oci: {platforms: [linux/arm64, linux/amd64]}}]\n"
	files := map[string]string{"server": "one"}

	b := f.done(f.submit(f.request(both, files)).ID)
	var made []string
	for _, i := range b.Images {
		made = append(made, i.Kind+" "+i.Platform)
	}
	if !slices.Equal(made, []string{"oci ", "oci linux/amd64", "oci linux/arm64"}) || b.Images[0].MediaType != "application/vnd.oci.image.index.v1+json" {
		t.Fatalf("images %+v", b.Images)
	}
	if blobs := b.Images[0].Blobs; !slices.Equal(blobs, []digest.Digest{b.Images[1].Digest, b.Images[2].Digest}) {
		t.Errorf("the index has %v", blobs)
	}
	if d, _, err := f.tags.Tag(t.Context(), "test/debian", b.Version); err != nil || d != b.Images[0].Digest {
		t.Errorf("tag %s: %s, %v; want the index", b.Version, d, err)
	}
	ran := map[string]int{}
	for _, label := range w.labels() {
		kind, _, _ := strings.Cut(label, " ")
		ran[kind]++
	}
	if want := (map[string]int{"observe": 2, "solve": 2, "convert": 4, "cut": 1, "assemble": 3, "image": 2, "index": 1}); !maps.Equal(ran, want) {
		t.Errorf("ran %v, want %v", ran, want)
	}

	// One of the platforms alone is another version, of the same image: nothing is to do.
	before := len(w.labels())
	alone := f.done(f.submit(f.request(one, files)).ID)
	if len(alone.Images) != 1 || alone.Images[0].Digest != b.Images[1].Digest || alone.Version == b.Version || len(w.labels()) != before {
		t.Errorf("alone: %+v; ran %q", alone.Images, w.labels()[before:])
	}
	if again := f.submit(f.request(both, files)); !again.Cached || len(again.Images) != 3 {
		t.Errorf("again: %+v", again)
	}

	// A re-bake that makes another index says which image differs.
	w.output = func(task farm.Task, out any) any {
		if image, ok := out.(plan.ImageOutput); ok && task.Kind == farm.KindIndex {
			image.Size++
			return image
		}
		return out
	}
	r := f.request(both, files)
	r.Rebake = true
	rebake := f.finished(f.submit(r).ID)
	if rebake.State != farm.BakeFailed || !strings.Contains(rebake.Error, "not reproducible: index linux/amd64, linux/arm64") {
		t.Errorf("re-bake: %s %s", rebake.State, rebake.Error)
	}
}

func TestSubmitTwiceIsOnce(t *testing.T) {
	f := newFarm(t)
	f.start()
	r := f.app("one")
	var bakes [8]farm.Bake
	var all sync.WaitGroup
	for i := range bakes {
		all.Go(func() { bakes[i] = f.submit(r) })
	}
	all.Wait()
	for _, b := range bakes {
		if b.ID != r.ID || b.State.Finished() {
			t.Errorf("%+v", b)
		}
	}
	f.worker("w1").start()
	b := f.done(r.ID)
	if now := f.submit(r); now.State != farm.BakeDone || now.Cached || now.Version != b.Version {
		t.Errorf("submitted after its end: %+v", now)
	}
	other := f.app("two")
	other.ID = r.ID
	_, err := bus.Call[bus.SubmitRequest, farm.Bake](t.Context(), f.bus, bus.SubmitBake, other)
	if !errors.Is(err, bus.ErrConflict) {
		t.Errorf("another request with its ID: %v", err)
	}
}

func TestRefused(t *testing.T) {
	f := newFarm(t)
	f.start()
	good := f.app("one")
	chunk := f.request(scratchRecipe, map[string]string{"server": "nowhere"})
	f.store.lose(f.put([]byte("nowhere")))
	for name, test := range map[string]struct {
		request bus.SubmitRequest
		want    []string
	}{
		"recipe":  {f.request("name: X\nfoo: 1\n", nil), []string{"bakefarm.yaml:", "foo", "name"}},
		"empty":   {f.request(strings.Replace(scratchRecipe, "{copy: .,", "{copy: ., mode: 0x1,", 1), nil), []string{"mode"}},
		"nothing": {f.request(scratchRecipe, nil), []string{"app[0]"}},
		"copy":    {f.request(strings.Replace(scratchRecipe, "copy: .", "copy: ./dist", 1), nil), []string{"app[0]", "dist"}},
		"chunk":   {chunk, []string{"/opt/app/server", "missing: upload it first"}},
		"id":      {bus.SubmitRequest{ID: "a~b", Recipe: good.Recipe}, []string{`bake ID "a~b"`}},
		"digest":  {bus.SubmitRequest{ID: "a", Recipe: "sha256:x"}, []string{"recipe: digest"}},
		"text":    {bus.SubmitRequest{ID: "a", Recipe: chunk.Context[:len(chunk.Context)-4] + "0000"}, []string{"recipe sha256:", "is missing"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := bus.Call[bus.SubmitRequest, farm.Bake](t.Context(), f.bus, bus.SubmitBake, test.request)
			if !errors.Is(err, bus.ErrInvalid) {
				t.Fatalf("%v", err)
			}
			for _, w := range test.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not mention %q", err, w)
				}
			}
		})
	}
	if bakes, err := f.bus.Bakes.List(t.Context(), ""); err != nil || len(bakes) != 0 {
		t.Errorf("recorded: %v, %v", bakes, err)
	}
}

func TestDebian(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxAge = time.Hour })
	w := f.worker("w1")
	w.start()
	b := f.done(f.submit(f.request(debianRecipe, map[string]string{"server": "one"})).ID)
	for _, label := range []string{"observe bookworm", "solve bookworm", "convert tzdata 1.0-1", "convert ca-certificates", "assemble os", "assemble app", "image"} {
		if s := source(t, b, label); s != farm.SourceMiss {
			t.Errorf("%s is a %s", label, s)
		}
	}
	again := f.submit(f.request(debianRecipe, map[string]string{"server": "one"}))
	if !again.Cached || again.State != farm.BakeDone || again.Evidence == "" {
		t.Errorf("again: %+v", again)
	}
	changed := f.done(f.submit(f.request(debianRecipe, map[string]string{"server": "two"})).ID)
	for label, want := range map[string]farm.Source{
		"observe": farm.SourceHit, "solve": farm.SourceHit, "convert tzdata": farm.SourcePruned, "assemble os": farm.SourceHit,
		"cut": farm.SourceMiss, "assemble app": farm.SourceMiss, "image": farm.SourceMiss,
	} {
		if s := source(t, changed, label); s != want {
			t.Errorf("%s is a %s, not a %s", label, s, want)
		}
	}
}

func TestObservationTooOld(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxAge = -1 })
	var mu sync.Mutex
	day := "monday"
	w := f.worker("w1", func(w *worker) {
		w.mirror = func() string { mu.Lock(); defer mu.Unlock(); return day }
	})
	w.start()
	r := func() bus.SubmitRequest { return f.request(debianRecipe, map[string]string{"server": "one"}) }
	monday := f.done(f.submit(r()).ID)
	same := f.done(f.submit(r()).ID)
	if !same.Cached || same.Key != monday.Key {
		t.Errorf("nothing new: %+v", same)
	}
	mu.Lock()
	day = "tuesday"
	mu.Unlock()
	tuesday := f.done(f.submit(r()).ID)
	if tuesday.Cached || tuesday.Key == monday.Key {
		t.Errorf("new packages: %+v", tuesday)
	}
	count := 0
	for _, label := range w.labels() {
		if strings.HasPrefix(label, "observe") {
			count++
		}
	}
	if count != 3 {
		t.Errorf("%d observations for 3 bakes that each want a new one", count)
	}
}

func TestSharedShardRunsOnce(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxAge = time.Hour })
	w := f.worker("w1")
	// Two bakes with the same OS and another app, and each twice.
	var ids []string
	for i := range 4 {
		ids = append(ids, f.submit(f.request(debianRecipe, map[string]string{"server": fmt.Sprint("app ", i/2)})).ID)
	}
	w.start()
	f.worker("w2").start()
	var bakes []farm.Bake
	for _, id := range ids {
		bakes = append(bakes, f.done(id))
	}
	if bakes[0].Images[0].Digest != bakes[1].Images[0].Digest || bakes[0].Images[0].Digest == bakes[2].Images[0].Digest {
		t.Errorf("images: %v", bakes)
	}
	shards, err := f.bus.Shards.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range shards {
		if s.Attempt != 1 || s.State != farm.ShardDone {
			t.Errorf("%s: attempt %d, %s", s.Label, s.Attempt, s.State)
		}
	}
	// observe, solve, 2 convert, assemble os, 2×(cut, assemble app, image)
	if len(shards) != 11 {
		t.Errorf("%d shards", len(shards))
	}
	if v, err := f.bus.Versions.List(t.Context(), "test/debian@"); err != nil || len(v) != 2 {
		t.Errorf("versions: %v, %v", v, err)
	}
}

func TestRebake(t *testing.T) {
	f := newFarm(t)
	f.start()
	var mu sync.Mutex
	other := false
	w := f.worker("w1", func(w *worker) {
		w.output = func(task farm.Task, o any) any {
			mu.Lock()
			defer mu.Unlock()
			if m, ok := o.(plan.Member); ok && other && strings.HasPrefix(task.Label, "convert tzdata") {
				m.TarSize++
				m.TarDigest = digest.Digest("sha256:" + strings.Repeat("ab", 32))
				return m
			}
			return o
		}
	})
	w.start()
	r := func() bus.SubmitRequest { return f.request(debianRecipe, map[string]string{"server": "one"}) }
	first := f.done(f.submit(r()).ID)
	ran := len(w.labels())
	again := r()
	again.Rebake = true
	b := f.done(f.submit(again).ID)
	if b.Cached || b.Key != first.Key || b.Images[0].Digest != first.Images[0].Digest {
		t.Errorf("re-bake: %+v", b)
	}
	if n := len(w.labels()) - ran; n != 6 { // 2 convert, cut, 2 assemble, image
		t.Errorf("the re-bake ran %q", w.labels()[ran:])
	}
	mu.Lock()
	other = true
	mu.Unlock()
	again = r()
	again.Rebake = true
	b = f.finished(f.submit(again).ID)
	if b.State != farm.BakeFailed || !strings.HasPrefix(b.Error, "not reproducible: convert tzdata 1.0-1 was sha256:") || !strings.HasSuffix(b.Error, "and is now sha256:"+strings.Repeat("ab", 32)) {
		t.Errorf("%s: %s", b.State, b.Error)
	}
	if b := f.submit(r()); !b.Cached {
		t.Errorf("after that: %+v", b)
	}
}

func TestLockOnly(t *testing.T) {
	f := newFarm(t)
	f.start()
	w := f.worker("w1")
	w.start()
	r := f.request(debianRecipe, map[string]string{"server": "one"})
	r.LockOnly = true
	b := f.done(f.submit(r).ID)
	if len(b.Images) != 0 || b.Lock == "" || f.store.pieces[b.Lock] == nil || f.store.pieces[b.Evidence] == nil {
		t.Errorf("%+v", b)
	}
	if got := w.labels(); len(got) != 2 {
		t.Errorf("ran %q", got)
	}
	baked := f.done(f.submit(f.request(debianRecipe, map[string]string{"server": "one"})).ID)
	if baked.Lock != b.Lock {
		t.Errorf("baked %s, locked %s", baked.Lock, b.Lock)
	}
}

func TestPublish(t *testing.T) {
	f := newFarm(t)
	f.start()
	f.worker("w1").start()
	text := scratchRecipe + "publish: {channel: dev}\n"
	var mu sync.Mutex
	var moves []bus.PromoteRequest
	refuse := false
	stop, err := bus.Handle(f.bus, bus.Promote, func(_ context.Context, r bus.PromoteRequest) (farm.Channel, error) {
		mu.Lock()
		defer mu.Unlock()
		if refuse {
			return farm.Channel{}, errors.New("the channel is frozen")
		}
		moves = append(moves, r)
		return farm.Channel{Schema: farm.Schema, Move: uint64(len(moves))}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	one := f.done(f.submit(f.request(text, map[string]string{"a": "1"})).ID)
	if one.Published == nil || one.Published.Move != 1 || one.Published.Channel != "dev" {
		t.Errorf("%+v", one.Published)
	}
	cached := f.submit(f.request(text, map[string]string{"a": "1"}))
	if !cached.Cached || cached.Published == nil || cached.Published.Move != 2 {
		t.Errorf("cached: %+v", cached)
	}
	if len(moves) != 2 || moves[1].By != cached.ID || moves[1].Version != one.Version || moves[1].Name != "test/app" {
		t.Errorf("%+v", moves)
	}
	mu.Lock()
	refuse = true
	mu.Unlock()
	two := f.done(f.submit(f.request(text, map[string]string{"a": "2"})).ID)
	if two.Published == nil || two.Published.Error != "the channel is frozen" {
		t.Errorf("%+v", two.Published)
	}
}

func TestManyShards(t *testing.T) {
	f := newFarm(t)
	stop := f.start()
	w := f.worker("w1")
	w.start()
	f.worker("w2").start()
	var c recipe.Context
	file := recipe.ContextFile{Path: "disk", Size: 1100 * recipe.ChunkSize}
	for i := range 1100 {
		file.Chunks = append(file.Chunks, f.put([]byte(fmt.Sprint("chunk ", i))))
	}
	c.Files = append(c.Files, file)
	r := f.app("")
	r.Context = f.put(c.Encode())
	f.submit(r)
	f.waitFor(r.ID, func(b farm.Bake) bool { return b.State == farm.BakeBaking })
	stop()
	f.start()
	b := f.done(r.ID)
	if b.Shards != nil || b.ShardList == "" {
		t.Fatalf("%d shards in the record", len(b.Shards))
	}
	var list []farm.ShardRef
	if err := json.Unmarshal(f.store.pieces[b.ShardList], &list); err != nil || len(list) != 1102 {
		t.Errorf("%d shards, %v", len(list), err)
	}
	for _, ref := range list {
		if ref.Source != farm.SourceMiss || ref.State != farm.ShardDone || ref.Reason == "" || ref.Worker == "" {
			t.Fatalf("%+v", ref)
		}
	}
}

func TestTooMany(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxBakes = 2 })
	first := f.app("one")
	f.submit(first)
	f.submit(f.app("two"))
	_, err := bus.Call[bus.SubmitRequest, farm.Bake](t.Context(), f.bus, bus.SubmitBake, f.app("three"))
	var busy *bus.RemoteError
	if !errors.As(err, &busy) || busy.Code != "busy" {
		t.Errorf("third: %v", err)
	}
	if b := f.submit(first); b.ID != first.ID {
		t.Errorf("the first again: %+v", b)
	}
}

func TestRegisterPack(t *testing.T) {
	f := newFarm(t)
	f.start()
	p := farm.Pack{Schema: farm.Schema, ID: ulid.Make().String(), State: farm.PackLive, Size: 100, IndexAt: 50, Index: digest.FromString("index"), Entries: 1}
	for range 2 {
		if err := f.bus.RemoteLedger().Register(t.Context(), p); err != nil {
			t.Error(err)
		}
	}
	other := p
	other.Size = 200
	if err := f.bus.RemoteLedger().Register(t.Context(), other); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("another pack with its ID: %v", err)
	}
	trailer, index, err := imagestore.EncodeTrailer([]imagestore.Entry{{Digest: digest.FromString("piece"), Length: 50}}, 50)
	if err != nil {
		t.Fatal(err)
	}
	told := p
	told.ID, told.Size, told.Trailer = ulid.Make().String(), 50+int64(len(trailer)), trailer
	if err := f.bus.RemoteLedger().Register(t.Context(), told); !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("the trailer of another index: %v", err)
	}
	if told.Index = index; f.bus.RemoteLedger().Register(t.Context(), told) != nil {
		t.Error("a trailer in the record is refused")
	}
	p.ID, p.IndexAt = "other", 101
	if err := f.bus.RemoteLedger().Register(t.Context(), p); !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("an index behind the end: %v", err)
	}
}
