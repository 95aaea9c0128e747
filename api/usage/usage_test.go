package usage_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"bakefarm/api/usage"
	"bakefarm/bus"
	"bakefarm/farm"
)

// table is a bucket in memory that counts its writes.
type table struct {
	mu     sync.Mutex
	rows   map[string]farm.Usage
	writes int
	fail   error
	rival  func() // called once before a write, as somebody who is faster
}

func (b *table) Get(_ context.Context, key string) (farm.Usage, uint64, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	u, ok := b.rows[key]
	if !ok {
		return u, 0, errors.Join(bus.ErrNotFound, b.fail)
	}
	return u, uint64(b.writes), b.fail
}

func (b *table) Update(_ context.Context, key string, u farm.Usage, revision uint64) (uint64, error) {
	if rival := b.rival; rival != nil {
		b.rival = nil
		rival()
		return 0, bus.ErrConflict
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.fail != nil {
		return 0, b.fail
	}
	b.rows[key] = u
	b.writes++
	return uint64(b.writes), nil
}

// record runs a Recorder within a bubble of fake time.
func record(t *testing.T, test func(t *testing.T, b *table, r *usage.Recorder)) {
	synctest.Test(t, func(t *testing.T) {
		b := &table{rows: map[string]farm.Usage{}}
		r := usage.New(b, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- r.Run(ctx) }()
		test(t, b, r)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestAWriteAMinute(t *testing.T) {
	record(t, func(t *testing.T, b *table, r *usage.Recorder) {
		for range 10 * 60 * 10 { // ten minutes, ten pulls a second
			r.Note("shop/cart", "v1", usage.Pulled)
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(2 * time.Second)
		if b.writes < 9 || b.writes > 12 {
			t.Errorf("%d writes in ten minutes", b.writes)
		}
		if u := b.rows["shop/cart@v1"]; u.Name != "shop/cart" || time.Since(u.PulledAt) > farm.UsageGrain+5*time.Second || !u.ResolvedAt.IsZero() {
			t.Errorf("%+v", u)
		}
		r.Note("shop/cart", "v1", usage.Resolved) // another kind of use is news
		time.Sleep(2 * time.Second)
		if u := b.rows["shop/cart@v1"]; u.ResolvedAt.IsZero() || u.PulledAt.IsZero() {
			t.Errorf("%+v", u)
		}
	})
}

func TestTroubleLosesNothing(t *testing.T) {
	record(t, func(t *testing.T, b *table, r *usage.Recorder) {
		b.fail = errors.New("no route to host")
		r.Note("a", "1", usage.Deployed)
		time.Sleep(10 * time.Second)
		b.mu.Lock()
		b.fail = nil
		b.mu.Unlock()
		time.Sleep(2 * time.Second)
		if b.rows["a@1"].DeployedAt.IsZero() {
			t.Error("the use was forgotten")
		}
	})
}

// TestTimesOnlyGrow: of two who write the same record, nobody takes back what the other wrote.
func TestTimesOnlyGrow(t *testing.T) {
	record(t, func(t *testing.T, b *table, r *usage.Recorder) {
		later := time.Now().Add(time.Hour)
		b.rival = func() { b.rows["a@1"] = farm.Usage{PulledAt: later} }
		r.Note("a", "1", usage.Pulled)
		r.Note("a", "1", usage.Resolved)
		time.Sleep(2 * time.Second)
		if u := b.rows["a@1"]; !u.PulledAt.Equal(later) || u.ResolvedAt.IsZero() {
			t.Errorf("%+v", u)
		}
	})
}

// TestStopsWithEverythingWritten: what is pending when it is told to stop is written, and a nil Recorder is none.
func TestStopsWithEverythingWritten(t *testing.T) {
	var b *table
	record(t, func(t *testing.T, table *table, r *usage.Recorder) {
		b = table
		r.Note("a", "1", usage.Pulled)
	})
	if b.rows["a@1"].PulledAt.IsZero() {
		t.Error("lost")
	}
	var none *usage.Recorder
	none.Note("a", "1", usage.Pulled)
}
