package bus_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

func work(t testing.TB, b *bus.Bus, class string) *bus.Work {
	t.Helper()
	w, err := b.Work(context.Background(), class)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func ids(hints []bus.Hint) (ids []string) {
	for _, h := range hints {
		ids = append(ids, h.ShardID)
	}
	return ids
}

func TestWork(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	// Hints wait for the first worker of their class.
	if err := b.EnqueueAll(ctx, "amd64.convert", []string{"1", "2", "3", "~é/"}); err != nil {
		t.Fatal(err)
	}
	if err := b.Enqueue(ctx, "any.cut", "other"); err != nil {
		t.Fatal(err)
	}
	w := work(t, b, "amd64.convert")
	first, err := w.Fetch(ctx, 3, time.Minute)
	if err != nil || !slices.Equal(ids(first), []string{"1", "2", "3"}) {
		t.Fatalf("%q, %v", ids(first), err)
	}
	second, err := work(t, b, "amd64.convert").Fetch(ctx, 10, time.Minute)
	if err != nil || !slices.Equal(ids(second), []string{"~é/"}) {
		t.Errorf("%q, %v", ids(second), err)
	}
	start := time.Now()
	if none, err := w.Fetch(ctx, 3, 200*time.Millisecond); err != nil || len(none) != 0 {
		t.Errorf("%q, %v", ids(none), err)
	}
	if took := time.Since(start); took < 150*time.Millisecond || took > time.Second {
		t.Errorf("an empty fetch took %v", took)
	}
	// Handed back, it comes again; acked, it does not.
	if err := errors.Join(first[0].Nak(0), first[1].InProgress(), first[1].Nak(100*time.Millisecond), first[2].Ack(), second[0].Ack()); err != nil {
		t.Fatal(err)
	}
	if again, err := w.Fetch(ctx, 10, time.Second); err != nil || !slices.Equal(ids(again), []string{"1"}) {
		t.Errorf("%q, %v", ids(again), err)
	}
	if later, err := w.Fetch(ctx, 10, 5*time.Second); err != nil || !slices.Equal(ids(later), []string{"2"}) {
		t.Errorf("%q, %v", ids(later), err)
	}
	if none, err := w.Fetch(ctx, 10, 50*time.Millisecond); err != nil || len(none) != 0 {
		t.Errorf("%q, %v", ids(none), err)
	}
	if others, err := work(t, b, "any.cut").Fetch(ctx, 10, time.Second); err != nil || !slices.Equal(ids(others), []string{"other"}) {
		t.Errorf("%q, %v", ids(others), err)
	}
}

func TestFetchEndsWithContext(t *testing.T) {
	b := open(t, bus.Config{})
	w := work(t, b, "any.cut")
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	start := time.Now()
	if _, err := w.Fetch(ctx, 3, time.Minute); !errors.Is(err, context.Canceled) || time.Since(start) > time.Second {
		t.Errorf("%v after %v", err, time.Since(start))
	}
	// Nothing is taken for the one who has gone.
	if err := b.Enqueue(t.Context(), "any.cut", "s"); err != nil {
		t.Fatal(err)
	}
	if hints, err := w.Fetch(t.Context(), 1, time.Second); err != nil || len(hints) != 1 {
		t.Errorf("%q, %v", ids(hints), err)
	}
}

func TestClassNames(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	for _, class := range []string{"", "amd64", "amd64.", ".convert", "a.b.c", "*.convert", "amd64.>", "a_b.c", "a b.c"} {
		if err := b.Enqueue(ctx, class, "s"); err == nil || !strings.Contains(err.Error(), "<arch>.<kind>") {
			t.Errorf("Enqueue %q: %v", class, err)
		}
		if _, err := b.Work(ctx, class); err == nil || !strings.Contains(err.Error(), "<arch>.<kind>") {
			t.Errorf("Work %q: %v", class, err)
		}
	}
}

// Every hint goes to exactly one of many workers.
func TestManyWorkers(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	const shards = 500
	var want []string
	for i := range shards {
		want = append(want, fmt.Sprintf("%03d", i))
	}
	var mu sync.Mutex
	var got []string
	var all sync.WaitGroup
	ctx, done := context.WithCancel(ctx)
	defer done()
	for range 4 {
		w := work(t, b, "any.cut")
		all.Go(func() {
			for ctx.Err() == nil {
				hints, err := w.Fetch(ctx, 3, time.Second)
				if err != nil && ctx.Err() == nil {
					t.Error(err)
					return
				}
				for _, h := range hints {
					if err := h.Ack(); err != nil {
						t.Error(err)
					}
				}
				mu.Lock()
				if got = append(got, ids(hints)...); len(got) >= shards {
					done()
				}
				mu.Unlock()
			}
		})
	}
	if err := b.EnqueueAll(t.Context(), "any.cut", want); err != nil {
		t.Error(err)
	}
	all.Wait()
	if slices.Sort(got); !slices.Equal(got, want) {
		t.Errorf("%d hints arrived, want %d, each once", len(got), shards)
	}
}

// Several coordinators may tell the same end: it is heard once.
func TestEndsAreToldOnce(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	done := farm.Event{Bake: "b", Type: farm.EventShard, Shard: "s", Status: farm.ShardDone, Worker: "w", Took: 5}
	again := done // after its output had gone
	again.Took = 6
	end := farm.Event{Bake: "b", Type: farm.EventBake, State: farm.BakeDone}
	queued := farm.Event{Bake: "b", Type: farm.EventShard, Shard: "s", Status: farm.ShardQueued}
	for _, e := range []farm.Event{queued, done, done, queued, again, end, end} {
		if err := b.PublishEvent(ctx, e); err != nil {
			t.Fatal(err)
		}
	}
	var got []farm.ShardState
	if err := b.EventsSoFar(ctx, "b", 0, func(_ uint64, e farm.Event) error {
		got = append(got, e.Status)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if want := []farm.ShardState{farm.ShardQueued, farm.ShardDone, farm.ShardQueued, farm.ShardDone, ""}; !slices.Equal(got, want) {
		t.Errorf("heard %q, want %q", got, want)
	}
}

func TestEvents(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	var lines []farm.Event
	for i := range 300 {
		lines = append(lines, farm.Event{Type: farm.EventLog, Line: fmt.Sprint(i)})
	}
	if err := b.PublishEvents(ctx, "one", lines[:200]); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishEvent(ctx, farm.Event{Bake: "two", Line: "not mine"}); err != nil {
		t.Fatal(err)
	}
	if err := b.PublishEvents(ctx, "one", nil); err != nil {
		t.Error(err)
	}
	if err := b.PublishEvent(ctx, farm.Event{}); err == nil {
		t.Error("an event of no bake was published")
	}
	// Replay, then live.
	read := func(after uint64, n int) (got []string, last uint64, err error) {
		err = b.Events(ctx, "one", after, func(seq uint64, e farm.Event) error {
			if seq <= last || e.Bake != "one" || e.Schema != farm.Schema {
				return fmt.Errorf("sequence %d after %d: %+v", seq, last, e)
			}
			if got, last = append(got, e.Line), seq; len(got) == n {
				return fmt.Errorf("enough: %w", bus.ErrStop)
			}
			return nil
		})
		return got, last, err
	}
	var live sync.WaitGroup
	live.Go(func() {
		if got, _, err := read(0, 300); err != nil || len(got) != 300 || got[0] != "0" || got[299] != "299" {
			t.Errorf("%d events, %v", len(got), err)
		}
	})
	got, last, err := read(0, 150)
	if err != nil || got[149] != "149" {
		t.Fatal(got, err)
	}
	if err := b.PublishEvents(ctx, "one", lines[200:]); err != nil {
		t.Fatal(err)
	}
	live.Wait()
	if got, _, err := read(last, 150); err != nil || got[0] != "150" || got[149] != "299" {
		t.Errorf("resumed: %v, %v", got, err)
	}
	// A sequence that never was: of a farm that was made anew.
	if got, _, err := read(1_000_000, 1); err != nil || got[0] != "0" {
		t.Errorf("from the future: %v, %v", got, err)
	}
	// Only what is there.
	for after, want := range map[uint64]int{0: 300, last: 150} {
		n := 0
		if err := b.EventsSoFar(ctx, "one", after, func(uint64, farm.Event) error { n++; return nil }); err != nil || n != want {
			t.Errorf("so far after %d: %d events, %v; want %d", after, n, err, want)
		}
	}
	if err := b.EventsSoFar(ctx, "nobody", 0, func(uint64, farm.Event) error { return errors.New("an event of nobody") }); err != nil {
		t.Error(err)
	}
	broken := errors.New("broken")
	if err := b.Events(ctx, "one", 0, func(uint64, farm.Event) error { return broken }); !errors.Is(err, broken) {
		t.Error(err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if err := b.Events(short, "nobody.*", 0, func(uint64, farm.Event) error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

func TestMoves(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	move := func(n uint64) farm.ChannelMove {
		return farm.ChannelMove{Name: "shop/checkout", Channel: "prod", Move: n, Action: "promote", To: fmt.Sprint("v", n), At: time.Unix(int64(n), 0)}
	}
	for n := range uint64(30) {
		if err := b.AppendMove(ctx, move(n+1)); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.AppendMove(ctx, farm.ChannelMove{Name: "shop/checkout", Channel: "dev", Move: 1, To: "other"}); err != nil {
		t.Fatal(err)
	}
	for _, n := range []uint64{30, 1, 17} {
		if err := b.AppendMove(ctx, move(n)); err != nil {
			t.Errorf("move %d again: %v", n, err)
		}
		other := move(n)
		other.To = "other"
		if err := b.AppendMove(ctx, other); !errors.Is(err, bus.ErrConflict) {
			t.Errorf("another move %d: %v", n, err)
		}
	}
	for max, want := range map[int]int{-1: 0, 0: 0, 1: 1, 7: 7, 29: 29, 30: 30, 31: 30, 1 << 40: 30} {
		got, err := b.Moves(ctx, "shop/checkout", "prod", max)
		if err != nil || len(got) != want {
			t.Errorf("Moves of at most %d: %d, %v", max, len(got), err)
		}
		for i, m := range got {
			if m.Move != uint64(30-i) || m.To != fmt.Sprint("v", 30-i) {
				t.Errorf("Moves of at most %d: at %d is %+v", max, i, m)
			}
		}
	}
	if none, err := b.Moves(ctx, "shop", "prod", 10); err != nil || len(none) != 0 {
		t.Errorf("%v, %v", none, err)
	}
}

// Of many moves with one number, one is in the history.
func TestMovesRace(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			err := b.AppendMove(ctx, farm.ChannelMove{Name: "n", Channel: "c", Move: 1, To: fmt.Sprint(i)})
			if err != nil && !errors.Is(err, bus.ErrConflict) {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if moves, err := b.Moves(ctx, "n", "c", 100); err != nil || len(moves) != 1 {
		t.Errorf("%+v, %v", moves, err)
	}
}

// Hints are counted as long as nobody has fetched them, whether anybody ever worked on the class or not.
func TestHints(t *testing.T) {
	b := open(t, bus.Config{})
	count := func(want int) {
		t.Helper()
		if n, err := b.Hints(t.Context(), "any.cut"); err != nil || n != want {
			t.Errorf("%d hints, want %d: %v", n, want, err)
		}
	}
	count(0)
	if err := b.EnqueueAll(t.Context(), "any.cut", []string{"a", "b", "c"}); err != nil {
		t.Fatal(err)
	}
	count(3)
	w, err := b.Work(t.Context(), "any.cut")
	if err != nil {
		t.Fatal(err)
	}
	count(3)
	if hints, err := w.Fetch(t.Context(), 2, 0); err != nil || len(hints) != 2 {
		t.Fatal(hints, err)
	}
	count(1)
}
