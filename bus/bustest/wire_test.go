package bustest_test

import (
	"context"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/bus/bustest"
	"bakefarm/farm"
)

// A farm's connection through a wire works, sees its messages twice, and comes back after it was cut or held.
func TestWire(t *testing.T) {
	quiet := slog.New(slog.DiscardHandler)
	server, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Listen: "127.0.0.1:0", Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	wire := bustest.New(t, strings.TrimPrefix(server.ClientURL(), "nats://"))
	client, err := bus.Open(t.Context(), bus.Config{URL: "nats://" + wire.Address(), Log: quiet})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	var calls atomic.Int64
	stop, err := bus.Handle(server, bus.WorkerGone, func(context.Context, bus.WorkerGoneRequest) (bus.Empty, error) {
		calls.Add(1)
		return bus.Empty{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	call := func(within time.Duration) error {
		ctx, cancel := context.WithTimeout(t.Context(), within)
		defer cancel()
		_, err := bus.Call[bus.WorkerGoneRequest, bus.Empty](ctx, client, bus.WorkerGone, bus.WorkerGoneRequest{Worker: "w"})
		return err
	}
	wire.Twice(1)
	if err := call(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	for until := time.Now().Add(10 * time.Second); calls.Load() != 2 && time.Now().Before(until); {
		time.Sleep(time.Millisecond)
	}
	if n := calls.Load(); n != 2 {
		t.Errorf("a message that was sent twice arrived %d times", n)
	}
	wire.Twice(0)
	wire.Hold(true)
	if call(300*time.Millisecond) == nil {
		t.Error("a held wire lets through")
	}
	wire.Hold(false)
	if err := call(10 * time.Second); err != nil {
		t.Error("after it was held:", err)
	}
	cut := make(chan struct{})
	wire.After(2, nil, func() { wire.Cut(true); close(cut) })
	before := wire.Published()
	for range 3 {
		_ = call(200 * time.Millisecond) // the second one breaks the connection
	}
	<-cut
	if n := wire.Published() - before; n != 2 {
		t.Errorf("%d messages passed, want 2", n)
	}
	wire.Cut(false)
	for until := time.Now().Add(20 * time.Second); ; {
		if _, err := client.Workers.Put(t.Context(), "w", farm.Worker{}); err == nil {
			break
		} else if time.Now().After(until) {
			t.Fatal("after it was cut:", err)
		}
	}
}
