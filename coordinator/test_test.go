package coordinator_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"bakefarm/bus"
	"bakefarm/farm"
)

const testedRecipe = scratchRecipe + `config: {entrypoint: [/opt/app/server]}
tests: [{http: {port: 8080}, within: 5s}]
publish: {channel: dev}
`

// What fails its tests exists, and is not published; what has passed is not tested again, unless it is baked again.
func TestTests(t *testing.T) {
	f := newFarm(t)
	f.start()
	var failing atomic.Bool
	w := f.worker("w1", func(w *worker) {
		w.before = func(task farm.Task) error {
			if task.Kind == farm.KindRun && failing.Load() {
				return errors.New("test http port 8080 /: not within 5s")
			}
			return nil
		}
	})
	w.start()
	var moves atomic.Int32
	stop, err := bus.Handle(f.bus, bus.Promote, func(context.Context, bus.PromoteRequest) (farm.Channel, error) {
		return farm.Channel{Schema: farm.Schema, Move: uint64(moves.Add(1))}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	tested := func() (n int) {
		for _, label := range w.labels() {
			if strings.HasPrefix(label, "run ") {
				n++
			}
		}
		return n
	}
	request := func(content string) bus.SubmitRequest {
		return f.request(testedRecipe, map[string]string{"server": content})
	}

	failing.Store(true)
	first := f.finished(f.submit(request("one")).ID)
	if first.State != farm.BakeFailed || !strings.Contains(first.Error, "run linux/amd64: test http port 8080 /: not within 5s") ||
		!strings.Contains(first.Error, "was not published") {
		t.Errorf("%s: %s", first.State, first.Error)
	}
	if len(first.Images) != 1 || len(first.Tests) != 1 || first.Tests[0].State != farm.ShardFailed || moves.Load() != 0 {
		t.Errorf("images %+v, tests %+v, %d moves of the channel", first.Images, first.Tests, moves.Load())
	}
	if _, _, err := f.bus.Versions.Get(t.Context(), "test/app@"+first.Version); err != nil {
		t.Errorf("its version: %v", err)
	}
	if _, _, err := f.tags.Tag(t.Context(), "test/app", first.Version); err != nil {
		t.Errorf("its tag: %v", err)
	}
	if _, _, err := f.tags.Tag(t.Context(), "test/app", "latest"); err == nil {
		t.Error("is the latest")
	}

	failing.Store(false) // a failure is never kept
	second := f.done(f.submit(request("one")).ID)
	if !second.Cached || second.Version != first.Version || moves.Load() != 1 || tested() != 2 || second.Tests[0].State != farm.ShardDone {
		t.Errorf("%+v, %d moves, %d tested", second, moves.Load(), tested())
	}
	third := f.submit(request("one"))
	if third.State != farm.BakeDone || tested() != 2 || moves.Load() != 2 || third.Tests[0].Source != farm.SourceHit {
		t.Errorf("what has passed: %+v, %d moves, %d tested", third, moves.Load(), tested())
	}
	again := request("one")
	again.Rebake = true
	if b := f.done(f.submit(again).ID); tested() != 3 || b.Tests[0].Source != farm.SourceMiss {
		t.Errorf("baked again: %d tested, %+v", tested(), b.Tests)
	}
	other := f.request(strings.Replace(testedRecipe, "8080", "8081", 1), map[string]string{"server": "one"})
	if b := f.done(f.submit(other).ID); b.Version != first.Version || tested() != 4 {
		t.Errorf("another test of the same image: version %s, %d tested", b.Version, tested())
	}
}

// A bake that is tested can be cancelled; its images stay.
func TestCancelTests(t *testing.T) {
	f := newFarm(t)
	stop := f.start()
	w := f.worker("w1")
	for _, kind := range []farm.Kind{farm.KindRun} {
		delete(w.work, kind)
	}
	w.start()
	b := f.submit(f.request(testedRecipe, map[string]string{"server": "one"}))
	f.waitFor(b.ID, func(b farm.Bake) bool { return b.State == farm.BakeTesting })
	stop() // and taken up by another coordinator
	f.start()
	f.shard("run linux/amd64", farm.ShardQueued)
	if b := f.cancel(b.ID); b.State != farm.BakeCancelled || len(b.Images) != 1 {
		t.Errorf("%+v", b)
	}
	f.shard("run linux/amd64", farm.ShardCancelled)
}
