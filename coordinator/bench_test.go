package coordinator_test

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/coordinator"
	"bakefarm/farm"
)

// BenchmarkBakes measures bakes of three shards each (cut, assemble, image), all bytes new, 16 at a time, with workers
// that do no work: what the farm's own bookkeeping costs.
func BenchmarkBakes(b *testing.B) {
	f := newFarm(b)
	ended := newWaiters()
	f.start(func(c *coordinator.Config) { c.OnDone = ended.tell })
	for i := range 4 {
		f.worker(fmt.Sprint("w", i)).start()
	}
	requests := make([]bus.SubmitRequest, b.N)
	for i := range requests {
		requests[i] = f.app(fmt.Sprint("content ", i))
	}
	var next atomic.Int64
	var all sync.WaitGroup
	b.ResetTimer()
	for range 16 {
		all.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= len(requests) {
					return
				}
				over := ended.expect(requests[i].ID)
				f.submit(requests[i])
				if bake := <-over; bake.State != farm.BakeDone {
					b.Errorf("%s: %s", bake.State, bake.Error)
				}
			}
		})
	}
	all.Wait()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "bakes/s")
	b.ReportMetric(3*float64(b.N)/b.Elapsed().Seconds(), "shards/s")
}

// BenchmarkManyShards measures one bake of 600 shards.
func BenchmarkManyShards(b *testing.B) {
	f := newFarm(b)
	ended := newWaiters()
	f.start(func(c *coordinator.Config) { c.OnDone = ended.tell })
	for i := range 4 {
		f.worker(fmt.Sprint("w", i)).start()
	}
	shards := 0
	for n := range b.N {
		b.StopTimer()
		files := map[string]string{}
		for i := range 10_000 {
			files[fmt.Sprintf("dir%d/file%d", i%100, i)] = fmt.Sprintf("%d %d", n, i%7)
		}
		r := f.request(scratchRecipe, files)
		b.StartTimer()
		over := ended.expect(r.ID)
		f.submit(r)
		bake := <-over
		if bake.State != farm.BakeDone {
			b.Fatal(bake.Error)
		}
		shards += len(bake.Shards)
	}
	b.ReportMetric(float64(shards)/b.Elapsed().Seconds(), "shards/s")
}

// BenchmarkCached measures the answer to a bake that was done before, one at a time, as its client sees it.
func BenchmarkCached(b *testing.B) {
	for name, text := range map[string]string{"scratch": scratchRecipe, "debian": debianRecipe} {
		b.Run(name, func(b *testing.B) {
			f := newFarm(b)
			f.onS3()
			f.start(func(c *coordinator.Config) { c.MaxAge = time.Hour })
			f.worker("w").start()
			f.done(f.submit(f.request(text, map[string]string{"server": "one"})).ID)
			requests := make([]bus.SubmitRequest, b.N)
			for i := range requests {
				requests[i] = f.request(text, map[string]string{"server": "one"})
			}
			took := make([]time.Duration, b.N)
			b.ResetTimer()
			for i, r := range requests {
				start := time.Now()
				if bake := f.submit(r); !bake.Cached {
					b.Fatalf("%+v", bake)
				}
				took[i] = time.Since(start)
			}
			report(b, took)
		})
	}
}

// BenchmarkFirstClaim measures the time from submitting a bake to its first shard being granted to a waiting worker.
func BenchmarkFirstClaim(b *testing.B) {
	f := newFarm(b)
	f.onS3()
	f.start()
	claimed := make(chan time.Time, 1)
	f.worker("w", func(w *worker) {
		w.before = func(task farm.Task) error {
			if task.Kind == farm.KindCut {
				claimed <- time.Now()
			}
			return nil
		}
	}).start()
	took := make([]time.Duration, b.N)
	for i := range b.N {
		b.StopTimer()
		r := f.app(fmt.Sprint("content ", i))
		b.StartTimer()
		start := time.Now()
		f.submit(r)
		took[i] = (<-claimed).Sub(start)
		b.StopTimer()
		f.done(r.ID)
		b.StartTimer()
	}
	report(b, took)
}

func report(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms/p50")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms/p99")
}

// waiters wait for the ends of bakes.
type waiters struct {
	mu   sync.Mutex
	over map[string]chan farm.Bake
}

func newWaiters() *waiters { return &waiters{over: map[string]chan farm.Bake{}} }

func (w *waiters) expect(id string) chan farm.Bake {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over[id] = make(chan farm.Bake, 1)
	return w.over[id]
}

func (w *waiters) tell(b farm.Bake) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if c := w.over[b.ID]; c != nil {
		c <- b
		delete(w.over, b.ID)
	}
}
