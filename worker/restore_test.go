package worker_test

import (
	"encoding/json"
	"errors"
	"slices"
	"testing"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/worker"
	"bakefarm/worker/workertest"

	"github.com/opencontainers/go-digest"
)

// TestRestore: a worker puts back what a store has lost, as far as its cache has it.
func TestRestore(t *testing.T) {
	t.Parallel()
	b := newBus(t)
	d := newDesk(t, b)
	host, err := worker.OpenHost(t.TempDir(), 0, farm.Resources{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	d.offer("s1", farm.KindConvert, convertSpec(t))
	start(t, b, func(c *worker.Config) { c.Host, c.Mirror = host, serve(t) })
	var made plan.Member
	if err := json.Unmarshal(d.awaitReport("s1").Output, &made); err != nil {
		t.Fatal(err)
	}
	piece, other := made.Pieces[0].Digest, digest.FromString("nobody has it")
	restore := func(worker string, pieces ...digest.Digest) []digest.Digest {
		t.Helper()
		reply, err := bus.Call[bus.RestoreRequest, bus.RestoreReply](t.Context(), b, bus.Restore(worker), bus.RestoreRequest{Pieces: pieces})
		if err != nil {
			t.Fatal(err)
		}
		return reply.Restored
	}
	if got := restore("w1", piece, other); len(got) != 0 {
		t.Errorf("restored what the store has: %v", got)
	}

	lost := workertest.NewStore(t)
	start(t, b, func(c *worker.Config) { c.ID, c.Host, c.Store = "w2", host, lost })
	d.offer("s2", farm.KindConvert, convertSpec(t)) // so that it is at work
	d.await("the worker", func() bool { return d.claims["s2"] > 0 })
	if got := restore("w2", other, piece); !slices.Equal(got, []digest.Digest{piece}) {
		t.Errorf("restored %v, want %s", got, piece)
	}
	if _, err := imagestore.ReadAll(t.Context(), lost, piece, imagestore.MaxPiece); err != nil {
		t.Error(err)
	}
	if got := restore("w2", piece); len(got) != 0 {
		t.Errorf("restored again: %v", got)
	}
	for _, bad := range [][]digest.Digest{{"sha256:short"}, make([]digest.Digest, bus.MaxRestore+1)} {
		_, err := bus.Call[bus.RestoreRequest, bus.RestoreReply](t.Context(), b, bus.Restore("w2"), bus.RestoreRequest{Pieces: bad})
		if !errors.Is(err, bus.ErrInvalid) {
			t.Errorf("%d pieces: %v", len(bad), err)
		}
	}
}
