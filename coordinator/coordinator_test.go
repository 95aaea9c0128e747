package coordinator_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/coordinator"
	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/recipe"

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

func TestLeaseRunsOutAndLateReport(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.Lease = 300 * time.Millisecond })
	dead, alive := f.worker("dead"), f.worker("alive")
	id := f.submit(f.app("one")).ID
	lost := dead.claimHinted(farm.KindCut)
	if other, err := alive.claim(t.Context(), lost.ShardID); err != nil || other.Granted || !other.Gone {
		t.Fatalf("claimed twice: %+v, %v", other, err)
	}
	alive.start()
	b := f.done(id)
	s, _, err := f.bus.Shards.Get(t.Context(), lost.ShardID)
	if err != nil || s.Attempt != 2 || len(s.History) != 1 || s.History[0].Worker != "dead" || !strings.Contains(s.History[0].Reason, "lease ran out") {
		t.Errorf("shard: %+v, %v", s, err)
	}
	if late, err := dead.finish(t.Context(), lost); err != nil || late.Accepted || late.Reason == "" {
		t.Errorf("late report: %+v, %v", late, err)
	}
	beat, err := bus.Call[bus.BeatRequest, bus.BeatReply](t.Context(), f.bus, bus.Beat, bus.BeatRequest{ShardID: lost.ShardID, Token: lost.Token})
	if err != nil || !beat.Stop {
		t.Errorf("late beat: %+v, %v", beat, err)
	}
	if b.Shards[0].Worker != "alive" {
		t.Errorf("%+v", b.Shards)
	}
}

func TestBeatKeepsLease(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.Lease = 300 * time.Millisecond })
	w := f.worker("w1")
	id := f.submit(f.app("one")).ID
	task := w.claimHinted(farm.KindCut)
	for i := range 10 {
		time.Sleep(100 * time.Millisecond)
		beat, err := bus.Call[bus.BeatRequest, bus.BeatReply](t.Context(), f.bus, bus.Beat,
			bus.BeatRequest{ShardID: task.ShardID, Token: task.Token, Lines: []string{fmt.Sprint("line ", i), strings.Repeat("x", 10_000)}})
		if err != nil || beat.Stop {
			t.Fatalf("beat: %+v, %v", beat, err)
		}
	}
	if reply, err := w.finish(t.Context(), task); err != nil || !reply.Accepted {
		t.Fatalf("report: %+v, %v", reply, err)
	}
	if reply, err := w.finish(t.Context(), task); err != nil || !reply.Accepted {
		t.Errorf("reported twice: %+v, %v", reply, err)
	}
	w.start()
	f.done(id)
	var lines []string
	err := f.bus.Events(t.Context(), id, 0, func(_ uint64, e farm.Event) error {
		if e.Type == farm.EventLog {
			lines = append(lines, e.Line)
		}
		if e.State.Finished() {
			return bus.ErrStop
		}
		return nil
	})
	if err != nil || len(lines) != 20 || lines[0] != "line 0" || len(lines[1]) > 4096 {
		t.Errorf("%d lines, %v", len(lines), err)
	}
}

func TestFailureIsNotCached(t *testing.T) {
	f := newFarm(t)
	f.start()
	var mu sync.Mutex
	broken := true
	w := f.worker("w1", func(w *worker) {
		w.before = func(task farm.Task) error {
			mu.Lock()
			defer mu.Unlock()
			if broken && task.Kind == farm.KindCut {
				return errors.New("the disk is full")
			}
			return nil
		}
	})
	w.start()
	one := f.finished(f.submit(f.app("one")).ID)
	if one.State != farm.BakeFailed || one.Error != "cut opt/app/server: the disk is full (worker w1)" {
		t.Errorf("%s: %q", one.State, one.Error)
	}
	mu.Lock()
	broken = false
	mu.Unlock()
	f.done(f.submit(f.app("one")).ID)
}

func TestRetry(t *testing.T) {
	f := newFarm(t)
	f.start()
	var mu sync.Mutex
	tries := 0
	failing := 2
	w := f.worker("w1", func(w *worker) {
		w.retry = true
		w.before = func(task farm.Task) error {
			mu.Lock()
			defer mu.Unlock()
			if task.Kind != farm.KindCut {
				return nil
			}
			if tries++; tries <= failing {
				return fmt.Errorf("try %d: connection reset", tries)
			}
			return nil
		}
	})
	w.start()
	f.done(f.submit(f.app("one")).ID)
	if tries != 3 {
		t.Errorf("%d tries", tries)
	}
	mu.Lock()
	tries, failing = 0, 1000
	mu.Unlock()
	b := f.finished(f.submit(f.app("two")).ID)
	if b.State != farm.BakeFailed || !strings.Contains(b.Error, "try 3: connection reset (worker w1, attempt 3)") || tries != 3 {
		t.Errorf("%s after %d tries: %s", b.State, tries, b.Error)
	}
}

func TestBadOutputs(t *testing.T) {
	f := newFarm(t)
	f.start()
	for name, test := range map[string]struct {
		output func(any) any
		want   string
	}{
		"form":  {func(any) any { return []string{"x"} }, "output of cut"},
		"empty": {func(any) any { return plan.Member{} }, "no pieces"},
		"piece": {func(o any) any {
			m := o.(plan.Member)
			m.Pieces = []plan.Piece{{Digest: digest.FromString("nowhere"), Size: 1}}
			return m
		}, "not in the store"},
	} {
		t.Run(name, func(t *testing.T) {
			w := f.worker("w-"+name, func(w *worker) {
				w.output = func(task farm.Task, o any) any { return test.output(o) }
			})
			stop := w.start()
			defer stop()
			b := f.finished(f.submit(f.app(name)).ID)
			if b.State != farm.BakeFailed || !strings.Contains(b.Error, test.want) {
				t.Errorf("%s: %s", b.State, b.Error)
			}
		})
	}
	if entries, err := f.bus.Actions.List(t.Context(), ""); err != nil || len(entries) != 0 {
		t.Errorf("cached: %v, %v", entries, err)
	}
}

func TestCancel(t *testing.T) {
	f := newFarm(t)
	f.start()
	w := f.worker("w1")
	told := make(chan bus.CancelShard, 10)
	stop, err := f.bus.Subscribe(func(c bus.CancelShard) { told <- c })
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	one, two := f.submit(f.app("one")).ID, f.submit(f.app("one")).ID
	task := w.claimHinted(farm.KindCut)
	f.waitShared(task.ShardID, one, two)

	if b := f.cancel(one); b.State != farm.BakeCancelled || b.Error != "cancelled by test" {
		t.Errorf("%+v", b)
	}
	if s, _, err := f.bus.Shards.Get(t.Context(), task.ShardID); err != nil || s.State != farm.ShardClaimed || !slices.Equal(s.Bakes, []string{two}) {
		t.Errorf("the other bake's shard: %+v, %v", s, err)
	}
	if b := f.cancel(one); b.State != farm.BakeCancelled {
		t.Errorf("cancelled twice: %+v", b)
	}
	f.cancel(two)
	select {
	case c := <-told:
		if c.ShardID != task.ShardID || c.Token != task.Token {
			t.Errorf("told %+v", c)
		}
	case <-time.After(5 * time.Second):
		t.Error("the worker was not told")
	}
	if reply, err := w.finish(t.Context(), task); err != nil || reply.Accepted {
		t.Errorf("report of a cancelled shard: %+v, %v", reply, err)
	}
	if reply, err := w.claim(t.Context(), task.ShardID); err != nil || reply.Granted || !reply.Gone {
		t.Errorf("claim of a cancelled shard: %+v, %v", reply, err)
	}
	w.start()
	f.done(f.submit(f.app("one")).ID) // wanted again
	if _, err := bus.Call[bus.CancelRequest, farm.Bake](t.Context(), f.bus, bus.CancelBake, bus.CancelRequest{ID: "nobody"}); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("cancel of nothing: %v", err)
	}
}

// waitShared waits until all the bakes want the shard.
func (f *testFarm) waitShared(shard string, bakes ...string) {
	f.t.Helper()
	for range 500 {
		s, _, err := f.bus.Shards.Get(f.t.Context(), shard)
		if err == nil && !slices.ContainsFunc(bakes, func(b string) bool { return !slices.Contains(s.Bakes, b) }) {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.t.Fatalf("shard %s is not wanted by %v", shard, bakes)
}

func TestRestart(t *testing.T) {
	f := newFarm(t)
	w := f.worker("w1")
	stop := f.start()
	r := f.request(debianRecipe, map[string]string{"server": "one"})
	b := f.submit(r)
	// One coordinator for each shard of the bake, and it is gone before the shard is reported.
	for _, kind := range []farm.Kind{farm.KindObserve, farm.KindSolve, farm.KindConvert, farm.KindConvert, farm.KindCut, farm.KindAssemble, farm.KindAssemble, farm.KindImage} {
		task := w.claimHinted(kind)
		stop()
		stop = f.start()
		if reply, err := w.finish(t.Context(), task); err != nil || !reply.Accepted {
			t.Fatalf("%s: %+v, %v", task.Label, reply, err)
		}
	}
	done := f.done(b.ID)
	if len(done.Images) != 1 || done.Cached {
		t.Errorf("%+v", done)
	}
	if s := source(t, done, "convert tzdata"); s != farm.SourceMiss {
		t.Errorf("after restarts, convert is a %s", s)
	}
	stop()
	f.start()
	if again := f.submit(f.request(debianRecipe, map[string]string{"server": "one"})); !again.Cached {
		t.Errorf("again: %+v", again)
	}
}

func TestTwoCoordinators(t *testing.T) {
	f := newFarm(t)
	f.start()
	f.start()
	f.worker("w1").start()
	f.worker("w2").start()
	var ids []string
	for i := range 20 {
		ids = append(ids, f.submit(f.request(debianRecipe, map[string]string{"server": fmt.Sprint(i % 5)})).ID)
	}
	for _, id := range ids {
		f.done(id)
	}
	shards, err := f.bus.Shards.List(t.Context(), "")
	if err != nil || len(shards) != 2+2+1+5*3 {
		t.Errorf("%d shards, %v", len(shards), err)
	}
	for _, s := range shards {
		if s.Attempt != 1 {
			t.Errorf("%s: attempt %d", s.Label, s.Attempt)
		}
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

func TestLostPiecesAreMadeAgain(t *testing.T) {
	f := newFarm(t)
	f.start()
	w := f.worker("w1")
	w.start()
	b := f.done(f.submit(f.app("one")).ID)
	f.store.lose(b.Images[0].Digest)
	again := f.done(f.submit(f.app("one")).ID)
	if again.Cached || again.Images[0].Digest != b.Images[0].Digest {
		t.Errorf("%+v", again)
	}
	if s := source(t, again, "image"); s != farm.SourceMiss {
		t.Errorf("image is a %s", s)
	}
	if s := source(t, again, "assemble"); s != farm.SourceHit {
		t.Errorf("assemble is a %s", s)
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

func TestLostHint(t *testing.T) {
	f := newFarm(t)
	f.start()
	w := f.worker("w1")
	id := f.submit(f.app("one")).ID
	hints, err := w.work[farm.KindCut].Fetch(t.Context(), 1, 5*time.Second)
	if err != nil || len(hints) != 1 {
		t.Fatal(hints, err)
	}
	hints[0].Ack() // and nobody claims
	w.start()
	f.done(id)
}

func TestManyShards(t *testing.T) {
	f := newFarm(t)
	stop := f.start()
	w := f.worker("w1")
	w.start()
	f.worker("w2").start()
	var c recipe.Context
	file := recipe.ContextFile{Path: "disk", Size: 1500 * recipe.ChunkSize}
	for i := range 1500 {
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
	if err := json.Unmarshal(f.store.pieces[b.ShardList], &list); err != nil || len(list) != 1502 {
		t.Errorf("%d shards, %v", len(list), err)
	}
	for _, ref := range list {
		if ref.Source != farm.SourceMiss || ref.State != farm.ShardDone || ref.Reason == "" || ref.Worker == "" {
			t.Fatalf("%+v", ref)
		}
	}
}

func TestTooLong(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxBake = 200 * time.Millisecond })
	b := f.finished(f.submit(f.app("one")).ID)
	if b.State != farm.BakeFailed || b.Error != "not done within 200ms, the longest that a bake may take" {
		t.Errorf("%s: %s", b.State, b.Error)
	}
	f.shard("cut", farm.ShardCancelled)
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

func TestOrphansAreCancelled(t *testing.T) {
	f := newFarm(t)
	stop := f.start()
	id := f.submit(f.app("one")).ID
	f.shard("cut", farm.ShardQueued)
	f.waitFor(id, func(b farm.Bake) bool { return b.State == farm.BakeBaking })
	stop()
	// A coordinator that died between the two writes of a cancel:
	b, revision, err := f.bus.Bakes.Get(t.Context(), id)
	if err == nil {
		b.State, b.DoneAt = farm.BakeCancelled, time.Now()
		_, err = f.bus.Bakes.Update(t.Context(), id, b, revision)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.start()
	f.shard("cut", farm.ShardCancelled)
	f.waitFor(id, func(b farm.Bake) bool { return b.Log != "" }) // with the end that nobody had told
}

func TestReporterDiesHalfway(t *testing.T) {
	// The output got into the action cache, the record still says claimed.
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.Lease = 200 * time.Millisecond })
	w := f.worker("w1")
	id := f.submit(f.app("one")).ID
	task := w.claimHinted(farm.KindCut)
	out, err := w.run(t.Context(), task)
	if err != nil {
		t.Fatal(err)
	}
	raw, _ := json.Marshal(out)
	entry := farm.ActionEntry{Schema: farm.Schema, Key: task.Key, Kind: task.Kind, Output: raw, Worker: "w1", At: time.Now()}
	if _, err := f.bus.Actions.Create(t.Context(), task.Key.Encoded(), entry); err != nil {
		t.Fatal(err)
	}
	w.start()
	f.done(id)
	if got := w.labels(); len(got) != 2 { // assemble and image
		t.Errorf("ran %q", got)
	}
}

func TestRegisterPack(t *testing.T) {
	f := newFarm(t)
	f.start()
	p := farm.Pack{Schema: farm.Schema, ID: "01ARZ3NDEKTSV4RRFFQ69G5FAV", State: farm.PackLive, Size: 100, IndexAt: 50, Index: digest.FromString("index"), Entries: 1}
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
	p.ID, p.IndexAt = "other", 101
	if err := f.bus.RemoteLedger().Register(t.Context(), p); !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("an index behind the end: %v", err)
	}
}
