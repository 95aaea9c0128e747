package bus_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

func TestCompareAndSet(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	k := b.Shards

	if _, _, err := k.Get(ctx, "a"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("Get of nothing: %v", err)
	}
	one, err := k.Create(ctx, "a", farm.Shard{ID: "a", Label: "one"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := k.Create(ctx, "a", farm.Shard{}); !errors.Is(err, bus.ErrExists) {
		t.Errorf("second Create: %v", err)
	}
	v, rev, err := k.Get(ctx, "a")
	if err != nil || rev != one || v.Label != "one" || v.Schema != farm.Schema {
		t.Errorf("Get: %+v revision %d, %v", v, rev, err)
	}
	two, err := k.Update(ctx, "a", farm.Shard{ID: "a", Label: "two"}, one)
	if err != nil || two <= one {
		t.Fatalf("Update: %d, %v", two, err)
	}
	if _, err := k.Update(ctx, "a", farm.Shard{}, one); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Update of an old revision: %v", err)
	}
	if _, err := k.Update(ctx, "a", farm.Shard{}, 0); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Update from nothing of a record that is there: %v", err)
	}
	if err := k.Delete(ctx, "a", one); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Delete of an old revision: %v", err)
	}
	if err := k.Delete(ctx, "a", two); err != nil {
		t.Fatal(err)
	}
	if _, _, err := k.Get(ctx, "a"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("Get of a deleted record: %v", err)
	}
	if _, err := k.Update(ctx, "a", farm.Shard{}, two); !errors.Is(err, bus.ErrConflict) {
		t.Errorf("Update of a deleted record: %v", err)
	}
	three, err := k.Update(ctx, "a", farm.Shard{Label: "three"}, 0)
	if err != nil || three <= two {
		t.Errorf("Update from nothing after a deletion: %d, %v", three, err)
	}
	if err := k.Delete(ctx, "a", 0); err != nil {
		t.Error(err)
	}
	if err := k.Delete(ctx, "never", 0); err != nil {
		t.Error(err)
	}
	if four, err := k.Put(ctx, "a", farm.Shard{Label: "four"}); err != nil || four <= three {
		t.Errorf("Put: %d, %v", four, err)
	}
}

// One of many that race for a record wins, every time.
func TestOneWins(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	rev, err := b.Shards.Create(ctx, "s", farm.Shard{})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 20 {
		var won atomic.Int32
		var next atomic.Uint64
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				switch r, err := b.Shards.Update(ctx, "s", farm.Shard{Worker: fmt.Sprint(i)}, rev); {
				case err == nil:
					won.Add(1)
					next.Store(r)
				case !errors.Is(err, bus.ErrConflict):
					t.Error(err)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Fatalf("round %d: %d won", round, won.Load())
		}
		rev = next.Load()
	}
}

func TestBounds(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	if _, err := b.Bakes.Create(ctx, strings.Repeat("k", bus.MaxKey+1), farm.Bake{}); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("long key: %v", err)
	}
	longest := strings.Repeat("/", bus.MaxKey)
	if _, err := b.Bakes.Create(ctx, longest, farm.Bake{ID: "long"}); err != nil {
		t.Errorf("longest key: %v", err)
	}
	if v, _, err := b.Bakes.Get(ctx, longest); err != nil || v.ID != "long" {
		t.Errorf("longest key: %+v, %v", v, err)
	}
	if all, err := b.Bakes.List(ctx, ""); err != nil || all[longest].ID != "long" {
		t.Errorf("longest key: %d records, %v", len(all), err)
	}
	if _, err := b.Bakes.Put(ctx, "big", farm.Bake{Error: strings.Repeat("x", 1<<20)}); !errors.Is(err, bus.ErrTooLarge) {
		t.Errorf("big record: %v", err)
	} else if !strings.Contains(err.Error(), "bakes big") {
		t.Errorf("the error does not name the record: %v", err)
	}
	if _, err := b.Bakes.Put(ctx, "fits", farm.Bake{Error: strings.Repeat("x", 1000<<10)}); err != nil {
		t.Errorf("large record: %v", err)
	}
}

func TestList(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	keys := []string{"", "@", "a", "a@", "a@@", "a@@x", "a@1", "a@2.0", "a@2@z", "aa@1", "a/b@1", "a.b@1", "é@1", "@a", "b", "gone@1"}
	for _, key := range keys {
		if _, err := b.Tags.Create(ctx, key, farm.Tag{Digest: key}); err != nil {
			t.Fatalf("%q: %v", key, err)
		}
	}
	if err := b.Tags.Delete(ctx, "gone@1", 0); err != nil {
		t.Fatal(err)
	}
	keys = slices.DeleteFunc(keys, func(key string) bool { return key == "gone@1" })
	for _, prefix := range append(slices.Clone(keys), "a@2", "nothing", "nothing@", "gone@", "a/", "é") {
		got, err := b.Tags.List(ctx, prefix)
		if err != nil {
			t.Errorf("%q: %v", prefix, err)
		}
		var want []string
		for _, key := range keys {
			if strings.HasPrefix(key, prefix) {
				want = append(want, key)
			}
		}
		slices.Sort(want)
		if have := slices.Sorted(maps.Keys(got)); !slices.Equal(have, want) {
			t.Errorf("List(%q) = %q, want %q", prefix, have, want)
		}
		for key, tag := range got {
			if tag.Digest != key {
				t.Errorf("%q has the record of %q", key, tag.Digest)
			}
		}
	}
}

// change is what a follower saw.
type change struct {
	seq   uint64
	key   string
	label string // "-" for a deletion
}

// follow collects n changes.
func follow(ctx context.Context, k *bus.Bucket[farm.Shard], after uint64, n int) (seen []change, err error) {
	err = k.Follow(ctx, after, func(seq uint64, key string, v *farm.Shard) error {
		c := change{seq, key, "-"}
		if v != nil {
			c.label = v.Label
		}
		if seen = append(seen, c); len(seen) == n {
			return bus.ErrStop
		}
		return nil
	})
	return seen, err
}

func put(t *testing.T, k *bus.Bucket[farm.Shard], key, label string) uint64 {
	t.Helper()
	seq, err := k.Put(t.Context(), key, farm.Shard{Label: label})
	if err != nil {
		t.Fatal(err)
	}
	return seq
}

func TestFollow(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	k := b.Shards
	put(t, k, "a", "a1")
	put(t, k, "b", "b1")
	seqA := put(t, k, "a", "a2")
	if err := k.Delete(ctx, "b", 0); err != nil {
		t.Fatal(err)
	}
	seqC := put(t, k, "c/d@e", "c1")

	want := []change{{seqA, "a", "a2"}, {seqA + 1, "b", "-"}, {seqC, "c/d@e", "c1"}}
	if got, err := follow(ctx, k, 0, 3); err != nil || !slices.Equal(got, want) {
		t.Errorf("from the start: %v, %v; want %v", got, err, want)
	}
	if got, err := follow(ctx, k, seqA, 2); err != nil || !slices.Equal(got, want[1:]) {
		t.Errorf("resumed: %v, %v; want %v", got, err, want[1:])
	}
	if last, err := k.Last(ctx); err != nil || last != seqC {
		t.Errorf("Last: %d, %v; want %d", last, err, seqC)
	}
	if _, err := follow(ctx, k, seqC+1, 1); !errors.Is(err, bus.ErrRewound) {
		t.Errorf("after what never was: %v", err)
	}

	// Live, from the last.
	type result struct {
		seen []change
		err  error
	}
	live := make(chan result, 1)
	go func() {
		seen, err := follow(ctx, k, seqC, 3)
		live <- result{seen, err}
	}()
	d := put(t, k, "d", "d1")
	put(t, k, "d", "d2")
	if err := k.Delete(ctx, "d", 0); err != nil {
		t.Fatal(err)
	}
	put(t, k, "e", "e1")
	put(t, k, "f", "f1")
	r := <-live
	if r.err != nil || len(r.seen) != 3 || r.seen[0].seq < d {
		t.Errorf("live: %v, %v", r.seen, r.err)
	}
	for i := 1; i < len(r.seen); i++ {
		if r.seen[i].seq <= r.seen[i-1].seq {
			t.Errorf("out of order: %v", r.seen)
		}
	}

	// It ends with the caller's error, or with the context's.
	broken := errors.New("broken")
	if err := k.Follow(ctx, 0, func(uint64, string, *farm.Shard) error { return broken }); !errors.Is(err, broken) {
		t.Errorf("fn's error: %v", err)
	}
	short, cancel := context.WithCancelCause(ctx)
	time.AfterFunc(50*time.Millisecond, func() { cancel(broken) })
	if err := k.Follow(short, 0, func(uint64, string, *farm.Shard) error { return nil }); !errors.Is(err, broken) {
		t.Errorf("context's cause: %v", err)
	}
}

// Followers that begin while records change see every record's last change, in order.
func TestFollowConcurrently(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	const writers, writes = 4, 300
	final := fmt.Sprint(writes)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for i := range writes + 1 {
				if _, err := b.Shards.Put(ctx, fmt.Sprint(w), farm.Shard{Label: fmt.Sprint(i)}); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 4 {
		all.Go(func() {
			done, last := map[string]bool{}, uint64(0)
			err := b.Shards.Follow(ctx, 0, func(seq uint64, key string, v *farm.Shard) error {
				if seq <= last {
					return fmt.Errorf("sequence %d after %d", seq, last)
				}
				if last = seq; v.Label == final {
					done[key] = true
				}
				if len(done) == writers {
					return bus.ErrStop
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// A worker that no longer renews its record vanishes, and followers are told.
func TestWorkersExpire(t *testing.T) {
	b, ctx := open(t, bus.Config{WorkerTTL: 2 * time.Second}), t.Context()
	if _, err := b.Workers.Put(ctx, "w1", farm.Worker{ID: "w1"}); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	var seen []string
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err := b.Workers.Follow(ctx, 0, func(_ uint64, key string, v *farm.Worker) error {
		seen = append(seen, fmt.Sprint(key, " ", v != nil))
		if v == nil {
			return bus.ErrStop
		}
		return nil
	})
	if want := []string{"w1 true", "w1 false"}; err != nil || !slices.Equal(seen, want) {
		t.Errorf("%q, %v; want %q", seen, err, want)
	}
	t.Logf("seen to expire after %v", time.Since(start).Round(10*time.Millisecond))
	if _, _, err := b.Workers.Get(ctx, "w1"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("Get of an expired record: %v", err)
	}
	if all, err := b.Workers.List(ctx, ""); err != nil || len(all) != 0 {
		t.Errorf("List: %v, %v", all, err)
	}
	if _, err := b.Workers.Create(ctx, "w1", farm.Worker{ID: "w1"}); err != nil {
		t.Errorf("Create after expiry: %v", err)
	}
}

func TestIdentity(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	packs, err := b.Packs.Identity(ctx)
	if err != nil || packs == "" {
		t.Fatal(packs, err)
	}
	if again, err := b.Ledger().Identity(ctx); err != nil || again != packs {
		t.Errorf("%q, %v; want %q", again, err, packs)
	}
	if other, err := b.Versions.Identity(ctx); err != nil || other == packs {
		t.Errorf("%q, %v", other, err)
	}
	elsewhere := open(t, bus.Config{})
	if other, err := elsewhere.Packs.Identity(ctx); err != nil || other == packs {
		t.Errorf("another farm's: %q, %v", other, err)
	}
	if elsewhere.FarmID() == b.FarmID() || b.FarmID() == "" {
		t.Errorf("farms %q and %q", b.FarmID(), elsewhere.FarmID())
	}
}
