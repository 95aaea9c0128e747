package bus_test

import (
	"context"
	"testing"

	"bakefarm/bus"
	"bakefarm/farm"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// open starts a bus with an embedded server in a directory of its own.
func open(t testing.TB, c bus.Config) *bus.Bus {
	t.Helper()
	if c.Dir == "" && c.URL == "" {
		c.Dir = t.TempDir()
	}
	b, err := bus.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestOpen(t *testing.T) {
	b := open(t, bus.Config{})
	if err := b.Ready(); err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	rev, err := b.Bakes.Create(ctx, "x", farm.Bake{ID: "x"})
	t.Log(rev, err, b.FarmID())
	l, err := b.Bakes.List(ctx, "")
	t.Log(l, err)
}
