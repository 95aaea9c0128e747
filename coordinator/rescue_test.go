package coordinator_test

import (
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

	"github.com/opencontainers/go-digest"
)

func TestLeaseRunsOutAndLateReport(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
		"empty": {func(any) any { return plan.Member{} }, "invalid checksum digest"},
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

func TestLostHint(t *testing.T) {
	t.Parallel()
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

func TestTooLong(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxBake = 200 * time.Millisecond })
	b := f.finished(f.submit(f.app("one")).ID)
	if b.State != farm.BakeFailed || b.Error != "not done within 200ms, the longest that a bake may take" {
		t.Errorf("%s: %s", b.State, b.Error)
	}
	f.shard("cut", farm.ShardCancelled)
}

func TestOrphansAreCancelled(t *testing.T) {
	t.Parallel()
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

// claimShard claims a shard that is offered again, for a worker of that name.
func (f *testFarm) claimShard(worker, shard string) farm.Task {
	f.t.Helper()
	w := f.worker(worker)
	for range 500 {
		reply, err := w.claim(f.t.Context(), shard)
		if err != nil {
			f.t.Fatal(err)
		}
		if reply.Granted && reply.Task.ShardID == shard {
			return reply.Task
		}
		time.Sleep(20 * time.Millisecond)
	}
	f.t.Fatalf("%s does not get shard %s", worker, shard)
	return farm.Task{}
}

// lost waits until the shard's record has so many attempts that count against it.
func (f *testFarm) lost(shard string, n int) farm.Shard {
	f.t.Helper()
	for range 500 {
		s, _, err := f.bus.Shards.Get(f.t.Context(), shard)
		if err == nil && s.Lost == n && s.State != farm.ShardClaimed {
			return s
		}
		time.Sleep(20 * time.Millisecond)
	}
	f.t.Fatalf("shard %s has not lost %d workers", shard, n)
	return farm.Shard{}
}

// What kills its workers is set aside, says so, and is tried again by the next bake that wants it.
func TestPoison(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.Lease = 200 * time.Millisecond; c.MaxLost = 3 })
	b := f.submit(f.app("poison"))
	shard := f.shard("cut", farm.ShardQueued).ID
	for n := range 3 {
		f.claimShard(fmt.Sprint("victim", n), shard)
		f.lost(shard, n+1)
	}
	failed := f.finished(b.ID)
	if failed.State != farm.BakeFailed || !strings.Contains(failed.Error, "set aside: 3 workers have gone while they ran it") {
		t.Errorf("%s: %s", failed.State, failed.Error)
	}
	f.worker("brave").start()
	f.done(f.submit(f.app("poison")).ID)
}

// A worker that was paused is not one that the shard has killed, however often it happens.
func TestPausedWorkersDoNotCount(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.Lease = 200 * time.Millisecond; c.MaxLost = 2; c.MaxAttempts = 1 })
	b := f.submit(f.app("slow"))
	shard := f.shard("cut", farm.ShardQueued).ID
	for n := range 5 {
		task := f.claimShard(fmt.Sprint("paused", n), shard)
		f.lost(shard, 1)
		if n%2 == 0 {
			reply, err := bus.Call[bus.BeatRequest, bus.BeatReply](t.Context(), f.bus, bus.Beat, bus.BeatRequest{ShardID: shard, Token: task.Token, Worker: fmt.Sprint("paused", n)})
			if err != nil || !reply.Stop {
				t.Fatalf("%+v, %v", reply, err)
			}
		} else if reply, err := f.worker(fmt.Sprint("paused", n)).finish(t.Context(), task); err != nil || reply.Accepted {
			t.Fatalf("%+v, %v", reply, err)
		}
		f.lost(shard, 0)
	}
	f.worker("steady").start()
	f.done(b.ID)
}

// A shard whose hints nobody is handed, since the queue's consumer stands still, is offered to a worker that has room.
func TestQueueStandsStill(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start()
	offers := make(chan bus.Offer, 10)
	end, err := f.bus.Offers("idle", func(o bus.Offer) { offers <- o })
	if err != nil {
		t.Fatal(err)
	}
	defer end()
	rec := farm.Worker{Schema: farm.Schema, ID: "idle", Slots: 1, Classes: []string{"any.cut"}}
	if _, err := f.bus.Workers.Put(t.Context(), rec.ID, rec); err != nil {
		t.Fatal(err)
	}
	b := f.submit(f.app("forgotten"))
	shard := f.shard("cut", farm.ShardQueued).ID
	w := f.worker("idle")
	select { // of the hints none is handed to it
	case o := <-offers:
		if reply, err := w.claim(t.Context(), o.ShardID); err != nil || o.ShardID != shard || o.Class != "any.cut" || !reply.Granted {
			t.Errorf("offered %+v, granted %+v, %v", o, reply, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("it is not offered")
	}
	f.cancel(b.ID)
}
