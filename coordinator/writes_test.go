package coordinator_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/bus/bustest"
	"bakefarm/coordinator"
	"bakefarm/farm"
)

// isWrite reports whether a subject takes something that is kept, or the answer to a request.
func isWrite(subject string) bool {
	return strings.HasPrefix(subject, "$KV.") || strings.HasPrefix(subject, "bakefarm.") || strings.HasPrefix(subject, "_INBOX.")
}

// TestDiesBetweenAnyTwoWrites bakes again and again. Each time the coordinator is gone after one write more: it wrote that, and
// nothing ever after. Another one finishes the bake as if nothing had happened.
func TestDiesBetweenAnyTwoWrites(t *testing.T) {
	step := 1
	if testing.Short() {
		step = 9
	}
	const lanes = 8
	for lane := range lanes {
		t.Run(fmt.Sprint("lane", lane), func(t *testing.T) {
			t.Parallel()
			f := newFarm(t, func(c *bus.Config) { c.Listen = "127.0.0.1:0" })
			f.workTolerantly()
			for n := 1 + lane*step; ; n += lanes * step {
				if !f.bakeDying(n) {
					break // it did not live long enough to die
				}
			}
		})
	}
}

// workTolerantly has a worker that goes on whatever coordinators do.
func (f *testFarm) workTolerantly() {
	ctx, cancel := context.WithCancel(context.Background())
	var loops sync.WaitGroup
	f.t.Cleanup(func() { cancel(); loops.Wait() })
	w := f.worker("w")
	for _, q := range w.work {
		loops.Go(func() {
			for ctx.Err() == nil {
				hints, _ := q.Fetch(ctx, 4, 100*time.Millisecond)
				for _, h := range hints {
					patient, cancel := context.WithTimeout(ctx, time.Second)
					if w.serve(patient, h) != nil {
						_ = h.Nak(time.Millisecond)
					}
					cancel()
				}
			}
		})
	}
}

// bakeDying bakes with a coordinator that is cut off for ever after its nth write, and then with another one. It reports
// whether the first one has died.
func (f *testFarm) bakeDying(n int) bool {
	t := f.t
	wire := bustest.New(t, strings.TrimPrefix(f.bus.ClientURL(), "nats://"))
	mortal, err := bus.Open(t.Context(), bus.Config{URL: "nats://" + wire.Address(), Log: testLog()})
	if err != nil {
		t.Fatal(err)
	}
	short := func(c *coordinator.Config) { c.Lease = 300 * time.Millisecond; c.MaxAttempts = 100 }
	config := coordinator.Config{Bus: mortal, Store: f.pieces(), Tags: f.tags, Log: testLog()}
	short(&config)
	first := coordinator.New(config)
	running, stop := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); _ = first.Run(running) }() // what it says when it is cut off does not matter
	<-first.Ready()
	end := sync.OnceFunc(func() { // without its bus it learns at once that nobody hears it
		stop()
		if err := mortal.Close(); err != nil {
			t.Error(err)
		}
		<-ended
	})
	defer end()
	died := make(chan struct{})
	wire.After(n, isWrite, func() { wire.Cut(true); close(died) })
	request := f.request(debianRecipe, map[string]string{"server": fmt.Sprint("app ", n)})
	submit := func() (farm.Bake, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		return bus.Call[bus.SubmitRequest, farm.Bake](ctx, f.bus, bus.SubmitBake, request)
	}
	answered := make(chan error, 1)
	go func() { _, err := submit(); answered <- err }()
	over := func() bool { // its log is the last thing that is written about it
		b, _, err := f.bus.Bakes.Get(t.Context(), request.ID)
		return err == nil && b.Log != ""
	}
	dead := false
	for !dead && !over() {
		select {
		case <-died:
			dead = true
		case <-time.After(5 * time.Millisecond):
		}
	}
	select {
	case <-died: // with the very write that ended it all
		dead = true
	default:
	}
	if dead {
		end()
		defer f.start(short)()
	}
	if err := <-answered; err != nil {
		if !dead {
			t.Fatal(err)
		}
		for range 3 { // a client asks again, under the same ID
			if _, err = submit(); err == nil {
				break
			}
		}
		if err != nil {
			t.Fatalf("write %d was the last one: the bake is not accepted by the next coordinator: %v", n, err)
		}
	}
	b := f.waitFor(request.ID, func(b farm.Bake) bool { return b.Log != "" || b.State.Finished() && b.State != farm.BakeDone })
	v, _, err := f.bus.Versions.Get(t.Context(), b.Name+"@"+b.Version)
	if b.State != farm.BakeDone || err != nil || v.Bake != b.ID || v.Images[0].Digest != b.Images[0].Digest {
		t.Errorf("write %d was the last one: bake %s (%s), version of bake %s, %v", n, b.State, b.Error, v.Bake, err)
	}
	ends := 0
	err = f.bus.EventsSoFar(t.Context(), b.ID, 0, func(_ uint64, e farm.Event) error {
		if e.Type == farm.EventBake && e.State.Finished() {
			ends++
		}
		return nil
	})
	if ends != 1 || err != nil {
		t.Errorf("write %d was the last one: %d ends are told, %v", n, ends, err)
	}
	return dead
}
