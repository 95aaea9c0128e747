package bus_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// freeAddress is a loopback address that nobody listens on now.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Three embedded servers are one NATS: what one writes the others read, and two of them go on without the third, which
// comes back under its own name.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("elections take seconds")
	}
	t.Parallel()
	configs := make([]bus.Config, 3)
	var routes []string
	for i := range configs {
		routes = append(routes, freeAddress(t))
		said := new(logged)
		t.Cleanup(func() {
			if t.Failed() {
				t.Logf("node %d said:\n%s", i, said)
			}
		})
		configs[i] = bus.Config{Dir: t.TempDir(), Log: said.logger(), Secret: "s3cret"}
	}
	for i := range configs {
		configs[i].Cluster = bus.Cluster{Name: "test", Listen: routes[i], Routes: routes}
	}
	configs[0].Listen = "127.0.0.1:0"
	nodes := make([]*bus.Bus, 3)
	var wg sync.WaitGroup
	ctx, cancel := context.WithTimeout(t.Context(), 40*time.Second)
	defer cancel()
	for i := range nodes {
		wg.Go(func() {
			var err error
			if nodes[i], err = bus.Open(ctx, configs[i]); err != nil {
				t.Errorf("node %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
	closeNode := func(i int) {
		if err := nodes[i].Close(); err != nil {
			t.Error(err)
		}
	}
	defer func() {
		for i := range nodes {
			wg.Go(func() { closeNode(i) })
		}
		wg.Wait()
	}()
	if nodes[0].FarmID() != nodes[1].FarmID() || nodes[1].FarmID() != nodes[2].FarmID() {
		t.Error("the nodes are not one farm")
	}
	eventually := func(what string, try func() error) {
		t.Helper()
		var err error
		for until := time.Now().Add(25 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
			if err = try(); err == nil {
				return
			}
		}
		t.Fatalf("%s: %v", what, err)
	}
	write := func(b *bus.Bus, key string) error {
		_, err := b.Shards.Create(ctx, key, farm.Shard{Label: key})
		if errors.Is(err, bus.ErrExists) {
			return nil
		}
		return err
	}
	read := func(b *bus.Bus, key string) error {
		_, _, err := b.Shards.Get(ctx, key)
		return err
	}
	eventually("write", func() error { return write(nodes[0], "one") })
	eventually("read elsewhere", func() error { return read(nodes[2], "one") })

	if _, err := bus.Open(ctx, bus.Config{URL: nodes[0].ClientURL(), Log: new(logged).logger()}); err == nil {
		t.Error("somebody without the secret was let in")
	}
	outside, err := bus.Open(ctx, bus.Config{URL: strings.Replace(nodes[0].ClientURL(), "://", "://bakefarm:s3cret@", 1), Log: new(logged).logger()})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(read(outside, "one"), outside.Close()); err != nil {
		t.Error(err)
	}

	closeNode(1)
	eventually("write without one of three", func() error { return write(nodes[0], "two") })
	eventually("read without one of three", func() error { return read(nodes[2], "two") })
	if nodes[1], err = bus.Open(ctx, configs[1]); err != nil {
		t.Fatal(err)
	}
	eventually("read where it was away", func() error { return read(nodes[1], "two") })
	w, err := nodes[1].Work(ctx, "any.cut")
	if err != nil {
		t.Fatal(err)
	}
	eventually("hint", func() error { return nodes[0].Enqueue(ctx, "any.cut", "two") })
	eventually("fetch", func() error {
		hints, err := w.Fetch(ctx, 1, time.Second)
		if err == nil && len(hints) == 0 {
			err = errors.New("no hint")
		}
		for _, h := range hints {
			err = errors.Join(err, h.Ack())
		}
		return err
	})
}

func TestWrongCluster(t *testing.T) {
	for want, c := range map[string]bus.Cluster{
		"needs both":     {Listen: "127.0.0.1:0"},
		"route \"x\"":    {Listen: "127.0.0.1:0", Routes: []string{"x"}},
		"not loopback":   {Listen: "0.0.0.0:0", Routes: []string{"127.0.0.1:1"}},
		"want no spaces": {Name: "a b", Listen: "127.0.0.1:0", Routes: []string{"127.0.0.1:1"}},
	} {
		_, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Cluster: c})
		if err == nil || !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%+v: %v; want something with %q", c, err, want)
		}
	}
}
