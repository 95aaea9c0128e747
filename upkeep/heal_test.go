package upkeep

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"

	"github.com/opencontainers/go-digest"
)

// TestHeal: every worker is asked for what is still lost, and what one says counts when it is true.
func TestHeal(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withStore()
	lost := collect.Lost{Pieces: map[imagestore.Sum]bool{}}
	content := map[digest.Digest]string{}
	for _, text := range []string{"one", "two", "nobody has it"} {
		sum := imagestore.SumOf([]byte(text))
		lost.Pieces[sum], content[sum.Digest()] = true, text
	}
	asked := map[string]int{}
	has := func(worker string, answer func([]digest.Digest) ([]digest.Digest, error)) {
		w.Helper()
		_, err := w.bus.Workers.Put(t.Context(), worker, farm.Worker{Schema: farm.Schema, ID: worker})
		w.must(err)
		if answer == nil {
			return
		}
		stop, err := bus.Handle(w.bus, bus.Restore(worker), func(_ context.Context, r bus.RestoreRequest) (bus.RestoreReply, error) {
			asked[worker] = len(r.Pieces)
			restored, err := answer(r.Pieces)
			return bus.RestoreReply{Restored: restored}, err
		})
		w.must(err)
		t.Cleanup(stop)
	}
	putBack := func(text string) func([]digest.Digest) ([]digest.Digest, error) {
		return func([]digest.Digest) ([]digest.Digest, error) { return []digest.Digest{w.put(text)}, nil }
	}
	has("a-lies", func(all []digest.Digest) ([]digest.Digest, error) { return all, nil })
	has("b-one", putBack("one"))
	has("c-fails", func([]digest.Digest) ([]digest.Digest, error) { return nil, errors.New("disk full") })
	has("d-gone", nil)
	has("e-two", putBack("two"))

	if got, want := w.u.heal(t.Context(), lost), map[string]int{"b-one": 1, "e-two": 1}; !maps.Equal(got, want) {
		t.Errorf("restored %v, want %v", got, want)
	}
	if want := map[string]int{"a-lies": 3, "b-one": 3, "c-fails": 2, "e-two": 2}; !maps.Equal(asked, want) {
		t.Errorf("asked %v, want %v", asked, want)
	}
	for d, text := range content {
		if w.has(d) != (text != "nobody has it") {
			t.Errorf("%s: in the store: %v", text, w.has(d))
		}
	}
}

// TestHurt: a trial run, which has condemned nothing, knows as well whom the damage hurts.
func TestHurt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.withStore()
	shared, own := []byte("a piece that two versions have"), []byte("a piece of one")
	writer := w.store.Begin()
	a, err := writer.Put(t.Context(), shared)
	w.must(err)
	b, err := writer.Put(t.Context(), own)
	w.must(err)
	composite := digest.FromBytes(append(slices.Clip(shared), own...))
	w.must(writer.Compose(t.Context(), imagestore.Blob{Digest: composite, Size: a.Size + b.Size, Parts: []imagestore.Part{a, b}}))
	w.must(writer.Commit(t.Context()))
	for version, blobs := range map[string][]digest.Digest{"composed": {composite}, "itself": {a.Digest}, "fine": {w.put("another")}, "gone": {digest.FromString("not there")}} {
		_, err := w.bus.Versions.Create(t.Context(), "app@"+version, farm.Version{Schema: farm.Schema, Name: "app", Version: version,
			Images: []farm.Image{{Name: "app", Digest: blobs[0], Kind: farm.ImageOCI, Blobs: blobs}}})
		w.must(err)
	}
	sums := func(list ...digest.Digest) map[imagestore.Sum]bool {
		set := map[imagestore.Sum]bool{}
		for _, d := range list {
			sum, err := imagestore.ParseDigest(d)
			w.must(err)
			set[sum] = true
		}
		return set
	}
	for _, c := range []struct {
		lost collect.Lost
		want []string
	}{
		{collect.Lost{}, []string{"app:gone"}},
		{collect.Lost{Pieces: sums(a.Digest)}, []string{"app:composed", "app:gone", "app:itself"}},
		{collect.Lost{Pieces: sums(b.Digest)}, []string{"app:composed", "app:gone"}},
		{collect.Lost{Composites: sums(composite)}, []string{"app:composed", "app:gone"}},
	} {
		got, err := w.u.hurt(t.Context(), collect.Scrubbed{Damage: make([]collect.Damage, 1), Lost: c.lost})
		if err != nil || !slices.Equal(got, c.want) {
			t.Errorf("%+v: %v, %v, want %v", c.lost, got, err, c.want)
		}
	}
}
