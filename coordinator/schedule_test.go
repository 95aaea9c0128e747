package coordinator_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/coordinator"
	"bakefarm/farm"
)

// named is a request for files over scratch, under a name.
func (f *testFarm) named(name, content string) bus.SubmitRequest {
	return f.request(strings.Replace(scratchRecipe, "test/app", name, 1), map[string]string{"server": content})
}

// eventually waits until it is so.
func (f *testFarm) eventually(what string, so func() bool) {
	f.t.Helper()
	for until := time.Now().Add(20 * time.Second); !so(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(until) {
			f.t.Fatal("never: ", what)
		}
	}
}

// One bake of a small team does not wait for the many of another one, and those in the background wait for all.
func TestFairness(t *testing.T) {
	f := newFarm(t)
	f.start()
	background := f.named("auto/app", "wave")
	background.Background = true
	f.submit(background)
	var many []farm.Bake
	for i := range 5 {
		many = append(many, f.submit(f.named("big/app", fmt.Sprint("file of the many ", i))))
	}
	one := f.submit(f.named("small/app", "file of the one"))
	f.eventually("every bake has queued its shard", func() bool {
		shards, err := f.bus.Shards.List(t.Context(), "")
		return err == nil && len(shards) == 7
	})
	w := f.worker("w")
	bakeOf := func() string {
		task := w.claimHinted(farm.KindCut)
		rec, _, err := f.bus.Shards.Get(t.Context(), task.ShardID)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Bakes[0]
	}
	if got := bakeOf(); got != many[0].ID {
		t.Errorf("first %s, want the oldest bake %s", got, many[0].ID)
	}
	if got := bakeOf(); got != one.ID {
		t.Errorf("second %s, want that of the team that runs nothing, %s", got, one.ID)
	}
	for range 4 {
		if got := bakeOf(); got == background.ID {
			t.Error("the bake in the background did not give way")
		}
	}
	if got := bakeOf(); got != background.ID {
		t.Errorf("last %s, want the bake in the background", got)
	}
}

// What a stopping worker hands back is offered at once, as often as that happens, and is no failed attempt.
func TestHandedBack(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxAttempts = 1 })
	b := f.submit(f.app("handed"))
	w := f.worker("w")
	for range 3 {
		task := w.claimHinted(farm.KindCut)
		if task.Attempt != 1 {
			t.Errorf("attempt %d", task.Attempt)
		}
		reply, err := bus.Call[bus.ReportRequest, bus.ReportReply](t.Context(), f.bus, bus.Report, bus.ReportRequest{
			ShardID: task.ShardID, Token: task.Token, Worker: w.id, Error: "worker is stopping", Retry: true, HandedBack: true,
		})
		if err != nil || !reply.Accepted {
			t.Fatalf("%+v, %v", reply, err)
		}
	}
	w.start()
	f.done(b.ID)
}

// A worker that is known to be dead is not waited for.
func TestWorkerGone(t *testing.T) {
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.Lease = time.Hour })
	b := f.submit(f.app("gone"))
	dead := f.worker("dead")
	task := dead.claimHinted(farm.KindCut)
	for range 2 {
		if _, err := bus.Call[bus.WorkerGoneRequest, bus.Empty](t.Context(), f.bus, bus.WorkerGone, bus.WorkerGoneRequest{Worker: "dead"}); err != nil {
			t.Fatal(err)
		}
	}
	f.worker("heir").start()
	f.done(b.ID)
	if reply, err := dead.finish(t.Context(), task); err != nil || reply.Accepted {
		t.Errorf("the dead worker's report: %+v, %v", reply, err)
	}
}

// A bake that no present worker can run says so, and unsays it when one comes. A worker gets nothing that it is not one for.
func TestWaitingForAWorker(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start()
	b := f.submit(f.app("waiting"))
	put := func(w farm.Worker) {
		if _, err := f.bus.Workers.Put(t.Context(), w.ID, w); err != nil {
			t.Fatal(err)
		}
	}
	put(farm.Worker{ID: "other", Classes: []string{"arm64.run"}})
	waiting := func() string {
		rec, _, err := f.bus.Bakes.Get(t.Context(), b.ID)
		if err != nil {
			t.Fatal(err)
		}
		return rec.Waiting
	}
	f.eventually("the bake waits", func() bool { return waiting() == "a worker with kind=cut" })
	w := f.worker("other")
	hints, err := w.work[farm.KindCut].Fetch(t.Context(), 1, 5*time.Second)
	if err != nil || len(hints) != 1 {
		t.Fatal(hints, err)
	}
	if reply, err := w.claim(t.Context(), hints[0].ShardID); err != nil || reply.Granted || reply.Gone || !strings.Contains(reply.Reason, "kind=cut") {
		t.Errorf("%+v, %v", reply, err)
	}
	put(farm.Worker{ID: "other", Classes: []string{"any.cut"}})
	f.eventually("the bake does not wait", func() bool { return waiting() == "" })
	put(farm.Worker{ID: "other", Classes: []string{"any.cut"}, Draining: true})
	f.eventually("the bake waits again", func() bool { return waiting() != "" })
	if reply, err := w.claim(t.Context(), hints[0].ShardID); err != nil || reply.Granted || !strings.Contains(reply.Reason, "draining") {
		t.Errorf("%+v, %v", reply, err)
	}
}

// Claims that come together are granted a shard each, as long as there are as many: none is told that nothing is queued.
func TestClaimsTogether(t *testing.T) {
	f := newFarm(t)
	f.start()
	const n = 24
	for i := range n {
		f.submit(f.named("team/app", fmt.Sprint("file ", i)))
	}
	var queued []farm.Shard
	f.eventually("every bake has queued its shard", func() bool {
		shards, err := f.bus.Shards.List(t.Context(), "")
		queued = queued[:0]
		for _, s := range shards {
			queued = append(queued, s)
		}
		return err == nil && len(queued) == n
	})
	w := f.worker("w")
	var mu sync.Mutex
	granted := map[string]int{}
	var claims sync.WaitGroup
	for _, s := range queued {
		claims.Go(func() {
			reply, err := w.claim(t.Context(), s.ID)
			if err != nil || !reply.Granted {
				t.Errorf("%v, refused: %s", err, reply.Reason)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			granted[reply.Task.ShardID]++
		})
	}
	claims.Wait()
	if len(granted) != n {
		t.Errorf("%d shards were granted to %d claims", len(granted), n)
	}
}

// Only a worker that has the labels runs what requires them, and the bake says what it waits for; other work goes by.
func TestRequires(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start()
	put := func(labels ...string) {
		rec := farm.Worker{ID: "w", Classes: []string{"any.cut", "any.assemble", "any.image"}, Labels: labels}
		if _, err := f.bus.Workers.Put(t.Context(), rec.ID, rec); err != nil {
			t.Fatal(err)
		}
	}
	put("region=us")
	request := f.request(scratchRecipe+"requires: [gpu]\n", map[string]string{"server": "somewhere"})
	request.Requires = []string{"region=eu"}
	b := f.submit(request)
	f.eventually("the bake waits", func() bool {
		rec, _, err := f.bus.Bakes.Get(t.Context(), b.ID)
		return err == nil && rec.Waiting == "a worker with kind=cut, gpu, region=eu"
	})
	w := f.worker("w")
	reply, err := w.claim(t.Context(), f.shard("cut", farm.ShardQueued).ID)
	if err != nil || reply.Granted || reply.Gone || !strings.Contains(reply.Reason, "labels") {
		t.Errorf("%+v, %v", reply, err)
	}
	other := f.submit(f.named("else/where", "anywhere"))
	if task := w.claimHinted(farm.KindCut); task.ShardID == reply.Task.ShardID {
		t.Error("the worker got what it must not have")
	} else if _, err := w.finish(t.Context(), task); err != nil {
		t.Fatal(err)
	}
	put("region=eu", "gpu=a100")
	w.start()
	f.done(b.ID)
	f.done(other.ID)
}

// An attempt that beats for ever ends all the same, and is made again.
func TestShardTakesTooLong(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start(func(c *coordinator.Config) { c.MaxShard = 300 * time.Millisecond })
	b := f.submit(f.app("endless"))
	w := f.worker("w")
	task := w.claimHinted(farm.KindCut)
	f.eventually("the attempt is told to stop", func() bool {
		reply, err := bus.Call[bus.BeatRequest, bus.BeatReply](t.Context(), f.bus, bus.Beat, bus.BeatRequest{ShardID: task.ShardID, Token: task.Token, Worker: w.id})
		return err == nil && reply.Stop
	})
	rec, _, err := f.bus.Shards.Get(t.Context(), task.ShardID)
	if err != nil || len(rec.History) != 1 || rec.History[0].Reason != "not done within 300ms, the longest that a shard may take" {
		t.Errorf("%+v, %v", rec.History, err)
	}
	w.start()
	f.done(b.ID)
}

// A bake that was asked to be quick fails when it is not, and says what it waited for.
func TestTimeout(t *testing.T) {
	t.Parallel()
	f := newFarm(t)
	f.start()
	request := f.app("quick")
	request.Timeout = 4 * time.Second
	b := f.finished(f.submit(request).ID)
	if want := "not done within 4s, as it was asked to be: it waited for a worker with kind=cut"; b.State != farm.BakeFailed || b.Error != want {
		t.Errorf("%s: %q, want %q", b.State, b.Error, want)
	}
}
