package bus_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

func handle[Req, Resp any](t testing.TB, b *bus.Bus, s bus.Subject, fn func(context.Context, Req) (Resp, error)) (stop func()) {
	t.Helper()
	stop, err := bus.Handle(b, s, fn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	return stop
}

func beat(ctx context.Context, b *bus.Bus, token string) (bus.BeatReply, error) {
	return bus.Call[bus.BeatRequest, bus.BeatReply](ctx, b, bus.Beat, bus.BeatRequest{Token: token})
}

func TestCall(t *testing.T) {
	b, ctx := open(t, bus.Config{Log: new(logged).logger()}), t.Context()
	handle(t, b, bus.Beat, func(_ context.Context, r bus.BeatRequest) (bus.BeatReply, error) {
		switch r.Token {
		case "panic":
			panic("of the handler")
		case "missing":
			_, _, err := b.Shards.Get(ctx, "missing")
			return bus.BeatReply{}, err
		case "own":
			return bus.BeatReply{}, fmt.Errorf("beat: %w", &bus.RemoteError{Code: "frozen", Message: "the channel is frozen"})
		case "plain":
			return bus.BeatReply{}, errors.New("plain")
		case "large":
			return bus.BeatReply{Reason: strings.Repeat("x", 1<<20)}, nil
		}
		return bus.BeatReply{Stop: true, Reason: r.Token, Schema: 99}, nil
	})
	if r, err := beat(ctx, b, "hello"); err != nil || !r.Stop || r.Reason != "hello" || r.Schema != farm.Schema {
		t.Errorf("%+v, %v", r, err)
	}
	for token, want := range map[string]struct {
		code, message string
		is            error
	}{
		"missing": {"not-found", "shards missing: not found", bus.ErrNotFound},
		"own":     {"frozen", "beat: the channel is frozen", nil},
		"plain":   {"internal", "plain", nil},
		"panic":   {"internal", "request beat: the handler panicked: of the handler", nil},
		"large":   {"too-large", "reply beat is 10486", bus.ErrTooLarge},
	} {
		_, err := beat(ctx, b, token)
		remote := (*bus.RemoteError)(nil)
		if !errors.As(err, &remote) || remote.Code != want.code || !strings.HasPrefix(err.Error(), want.message) {
			t.Errorf("%s: %v", token, err)
		}
		if want.is != nil && !errors.Is(err, want.is) {
			t.Errorf("%s: %v is not %v", token, err, want.is)
		}
	}
	if _, err := beat(ctx, b, strings.Repeat("x", 1<<20)); !errors.Is(err, bus.ErrTooLarge) || errors.As(err, new(*bus.RemoteError)) {
		t.Errorf("large request: %v", err)
	}
	// A message of another kind is refused, not misread.
	_, err := bus.Call[bus.Empty, bus.BeatReply](ctx, b, bus.Beat, bus.Empty{})
	if !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("a request without a schema: %v", err)
	}
}

func TestNoResponder(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	start := time.Now()
	_, err := beat(ctx, b, "x")
	if !errors.Is(err, bus.ErrNoResponder) || !strings.Contains(err.Error(), "no coordinator answers on bakefarm.rpc.beat") {
		t.Error(err)
	}
	if took := time.Since(start); took < bus.ResponderWait || took > bus.ResponderWait+2*time.Second {
		t.Errorf("took %v", took)
	}
	// A coordinator that starts meanwhile is waited for.
	time.AfterFunc(300*time.Millisecond, func() {
		handle(t, b, bus.Beat, func(context.Context, bus.BeatRequest) (bus.BeatReply, error) { return bus.BeatReply{Stop: true}, nil })
	})
	if r, err := beat(ctx, b, "x"); err != nil || !r.Stop {
		t.Errorf("%+v, %v", r, err)
	}
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	_, err = bus.Call[bus.ClaimRequest, bus.ClaimReply](short, b, bus.Claim, bus.ClaimRequest{})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

// The handler's context ends when the caller stops waiting.
func TestDeadlineTravels(t *testing.T) {
	b := open(t, bus.Config{})
	handled := make(chan time.Duration, 1)
	handle(t, b, bus.Beat, func(ctx context.Context, _ bus.BeatRequest) (bus.BeatReply, error) {
		start := time.Now()
		<-ctx.Done()
		handled <- time.Since(start)
		return bus.BeatReply{}, ctx.Err()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := beat(ctx, b, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if took := <-handled; took > time.Second {
		t.Errorf("the handler's context ended after %v", took)
	}
}

func TestConcurrencyIsBounded(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	var now, most atomic.Int32
	full, release := make(chan bool), make(chan bool)
	fill := sync.OnceFunc(func() { close(full) })
	handle(t, b, bus.Beat, func(context.Context, bus.BeatRequest) (bus.BeatReply, error) {
		n := now.Add(1)
		defer now.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		if n == bus.MaxConcurrency {
			fill()
		}
		<-release
		return bus.BeatReply{}, nil
	})
	var all sync.WaitGroup
	for range 2 * bus.MaxConcurrency {
		all.Go(func() {
			if _, err := beat(ctx, b, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	<-full
	time.Sleep(50 * time.Millisecond) // others would come now
	if n := most.Load(); n != bus.MaxConcurrency {
		t.Errorf("%d at a time, want %d", n, bus.MaxConcurrency)
	}
	close(release)
	all.Wait()
}

// stop lets what has begun be answered, and ends the patience with what does not end.
func TestStopWaits(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	begun := make(chan bool, 2)
	stop := handle(t, b, bus.Beat, func(ctx context.Context, r bus.BeatRequest) (bus.BeatReply, error) {
		begun <- true
		if r.Token == "slow" {
			time.Sleep(200 * time.Millisecond)
			return bus.BeatReply{Stop: true}, nil
		}
		<-ctx.Done()
		return bus.BeatReply{}, ctx.Err()
	})
	var all sync.WaitGroup
	all.Go(func() {
		if r, err := beat(ctx, b, "slow"); err != nil || !r.Stop {
			t.Errorf("%+v, %v", r, err)
		}
	})
	all.Go(func() {
		if _, err := beat(ctx, b, "endless"); !errors.Is(err, bus.ErrNoResponder) || errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	})
	<-begun
	<-begun
	start := time.Now()
	stop()
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("stop took %v", took)
	}
	all.Wait()
	stop() // a second time does nothing
}

// One of the processes that serve a subject gets each request.
func TestQueueGroup(t *testing.T) {
	first := open(t, bus.Config{Listen: "127.0.0.1:0"})
	second := open(t, bus.Config{URL: first.ClientURL()})
	var counts [2]atomic.Int32
	for i, b := range []*bus.Bus{first, second} {
		handle(t, b, bus.Beat, func(context.Context, bus.BeatRequest) (bus.BeatReply, error) {
			counts[i].Add(1)
			return bus.BeatReply{}, nil
		})
	}
	for range 100 {
		if _, err := beat(t.Context(), second, "x"); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := counts[0].Load(), counts[1].Load(); a+b != 100 || a == 0 || b == 0 {
		t.Errorf("%d and %d requests", a, b)
	}
}

func TestBroadcast(t *testing.T) {
	first := open(t, bus.Config{Listen: "127.0.0.1:0"})
	second := open(t, bus.Config{URL: first.ClientURL()})
	got := make(chan bus.CancelShard, 4)
	for _, b := range []*bus.Bus{first, second} {
		stop, err := b.Subscribe(func(c bus.CancelShard) { got <- c })
		if err != nil {
			t.Fatal(err)
		}
		defer stop()
	}
	if err := second.Broadcast(t.Context(), bus.CancelShard{ShardID: "s", Token: "t"}); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if c := <-got; c.ShardID != "s" || c.Token != "t" {
			t.Errorf("%+v", c)
		}
	}
}

func TestLedger(t *testing.T) {
	b, ctx := open(t, bus.Config{}), t.Context()
	handle(t, b, bus.RegisterPack, func(ctx context.Context, p farm.Pack) (bus.Empty, error) {
		return bus.Empty{}, b.Ledger().Register(ctx, p)
	})
	for name, l := range map[string]interface {
		Register(context.Context, farm.Pack) error
		Follow(context.Context, uint64, func(farm.PackChange) error) error
		Last(context.Context) (uint64, error)
	}{"direct": b.Ledger(), "remote": b.RemoteLedger()} {
		before, err := l.Last(ctx)
		if err != nil {
			t.Fatal(err)
		}
		p := farm.Pack{ID: name, State: farm.PackLive, Size: 5, Index: digest.FromString("x"), At: time.Now()}
		for range 2 {
			if err := l.Register(ctx, p); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		other := p
		other.Size++
		if err := l.Register(ctx, other); !errors.Is(err, bus.ErrConflict) {
			t.Errorf("%s: another pack of the same ID: %v", name, err)
		}
		last, err := l.Last(ctx)
		if err != nil || last != before+1 {
			t.Errorf("%s: last %d, %v; want %d", name, last, err, before+1)
		}
		err = l.Follow(ctx, before, func(c farm.PackChange) error {
			if c.ID != name || c.Seq != last || c.Pack == nil || c.Pack.Size != 5 {
				t.Errorf("%s: %+v", name, c)
			}
			return bus.ErrStop
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
