package bus_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// percentiles reports the median and the 99th percentile of what it is given.
func percentiles(b *testing.B, took []time.Duration) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "p50-µs")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
}

func BenchmarkUpdate(b *testing.B) {
	f, ctx := open(b, bus.Config{}), b.Context()
	s := farm.Shard{ID: "s", Label: strings.Repeat("x", 2000)}
	rev, err := f.Shards.Create(ctx, "s", s)
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if rev, err = f.Shards.Update(ctx, "s", s, rev); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkGet(b *testing.B) {
	f, ctx := open(b, bus.Config{}), b.Context()
	if _, err := f.Shards.Create(ctx, "s", farm.Shard{ID: "s", Label: strings.Repeat("x", 2000)}); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, _, err := f.Shards.Get(ctx, "s"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkList(b *testing.B) {
	f, ctx := open(b, bus.Config{}), b.Context()
	for i := range 2000 {
		if _, err := f.Tags.Create(ctx, fmt.Sprintf("repo-%d@%d", i%100, i), farm.Tag{Digest: "sha256:0"}); err != nil {
			b.Fatal(err)
		}
	}
	for prefix, want := range map[string]int{"": 2000, "repo-7@": 20} {
		b.Run(fmt.Sprint(want), func(b *testing.B) {
			for b.Loop() {
				if all, err := f.Tags.List(ctx, prefix); err != nil || len(all) != want {
					b.Fatal(len(all), err)
				}
			}
		})
	}
}

// BenchmarkHint measures from before Enqueue until a worker that waits has the hint.
func BenchmarkHint(b *testing.B) {
	f, ctx := open(b, bus.Config{}), b.Context()
	w := work(b, f, "any.cut")
	got := make(chan time.Time)
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan bool)
	go func() {
		defer close(ended)
		for ctx.Err() == nil {
			hints, _ := w.Fetch(ctx, 2, time.Minute)
			for _, h := range hints {
				got <- time.Now()
				h.Ack()
			}
		}
	}()
	var took []time.Duration
	for b.Loop() {
		time.Sleep(500 * time.Microsecond) // let it wait again
		start := time.Now()
		if err := f.Enqueue(ctx, "any.cut", "s"); err != nil {
			b.Fatal(err)
		}
		took = append(took, (<-got).Sub(start))
	}
	percentiles(b, took)
	cancel()
	<-ended
}

func BenchmarkEnqueueAll(b *testing.B) {
	f, ctx := open(b, bus.Config{}), b.Context()
	ids := make([]string, 500)
	for b.Loop() {
		if err := f.EnqueueAll(ctx, "any.cut", ids); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(ids)), "µs/hint")
}

func BenchmarkCall(b *testing.B) {
	f, ctx := open(b, bus.Config{}), b.Context()
	stop, err := bus.Handle(f, bus.Beat, func(context.Context, bus.BeatRequest) (bus.BeatReply, error) { return bus.BeatReply{}, nil })
	if err != nil {
		b.Fatal(err)
	}
	defer stop()
	var took []time.Duration
	for b.Loop() {
		start := time.Now()
		if _, err := beat(ctx, f, "x"); err != nil {
			b.Fatal(err)
		}
		took = append(took, time.Since(start))
	}
	percentiles(b, took)
}

func BenchmarkOpen(b *testing.B) {
	dir := b.TempDir()
	for b.Loop() {
		f, err := bus.Open(b.Context(), bus.Config{Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		if err := f.Close(); err != nil {
			b.Fatal(err)
		}
	}
}
