package coordinator_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/coordinator"
	"bakefarm/farm"
)

// TestKilledAgainAndAgain stops the coordinator every few milliseconds, in the middle of whatever it does, and starts
// another: the bakes end as if nothing had happened, and shards are run once each, but for those whose report was lost.
func TestKilledAgainAndAgain(t *testing.T) {
	f := newFarm(t)
	short := func(c *coordinator.Config) { c.Lease = 500 * time.Millisecond; c.MaxAttempts = 1000 }
	stop := f.start(short)
	var ids []string
	for i := range 6 {
		ids = append(ids, f.submit(f.request(debianRecipe, map[string]string{"server": fmt.Sprint(i / 2)})).ID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var workers sync.WaitGroup
	defer workers.Wait()
	defer cancel()
	for _, name := range []string{"w1", "w2"} {
		w := f.worker(name)
		for _, kind := range farm.Kinds {
			workers.Go(func() { // gives up when nobody answers, and tries again
				for ctx.Err() == nil {
					hints, _ := w.work[kind].Fetch(ctx, 4, 100*time.Millisecond)
					for _, h := range hints {
						if w.serve(ctx, h) != nil {
							h.Nak(time.Millisecond)
						}
					}
				}
			})
		}
	}
	rng := rand.New(rand.NewPCG(1, 2))
	over := map[string]farm.Bake{}
	for round := 0; len(over) < len(ids); round++ {
		if round > 1000 {
			t.Fatalf("%d of %d bakes are over", len(over), len(ids))
		}
		time.Sleep(time.Duration(rng.IntN(40)) * time.Millisecond)
		stop()
		stop = f.start(short)
		for _, id := range ids {
			if b, _, err := f.bus.Bakes.Get(t.Context(), id); err == nil && b.State.Finished() {
				over[id] = b
			}
		}
	}
	byContent := map[int]farm.Bake{}
	for i, id := range ids {
		b := over[id]
		if b.State != farm.BakeDone || len(b.Images) != 1 {
			t.Fatalf("%s: %s", b.State, b.Error)
		}
		if first, ok := byContent[i/2]; ok && first.Images[0].Digest != b.Images[0].Digest {
			t.Errorf("the same request led to %s and %s", first.Images[0].Digest, b.Images[0].Digest)
		}
		byContent[i/2] = b
	}
	if v, err := f.bus.Versions.List(t.Context(), ""); err != nil || len(v) != 3 {
		t.Errorf("%d versions, %v", len(v), err)
	}
	for _, id := range ids { // and every one is told to those who watch
		err := f.bus.Events(t.Context(), id, 0, func(_ uint64, e farm.Event) error {
			if e.Type == farm.EventBake && e.State.Finished() {
				return bus.ErrStop
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}
