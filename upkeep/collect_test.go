package upkeep

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"
	"bakefarm/plan"

	"github.com/opencontainers/go-digest"
)

// withStore gives the world an image store whose packs are in its bus.
func (w *world) withStore() {
	w.Helper()
	server, err := s3embed.Open(w.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret-of-the-test", NoSync: true})
	w.must(err)
	client, bucket, prefix, err := s3store.Dial("http://key:secret-of-the-test@s3.invalid/test", server.Transport())
	w.must(err)
	index, err := openCatalog(w.bus)
	w.must(err)
	store, err := s3store.Open(w.Context(), s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: w.bus.Ledger(), Locator: index, Writer: "test"})
	w.must(err)
	stop := follow(index, store)
	w.Cleanup(func() {
		stop()
		store.Close()
		index.Close()
		server.Close()
	})
	w.u = New(Config{Bus: w.bus, Store: store, Index: index, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now },
		Collect: collect.Config{MinAge: time.Nanosecond, Grace: time.Hour}})
	w.store = store
	w.now = time.Now()
}

// follow runs a catalog until stop.
func follow(index *catalog.Catalog, store *s3store.Store) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- index.Run(ctx, store.ReadIndex, nil) }()
	return func() {
		cancel()
		<-done
	}
}

func openCatalog(b *bus.Bus) (*catalog.Catalog, error) { return catalog.Open("", b.Ledger(), nil, nil) }

func (w *world) put(text string) digest.Digest {
	w.Helper()
	return storetest.Put(w.T, w.store, []byte(text))[0].Digest
}

func (w *world) has(d digest.Digest) bool {
	w.Helper()
	have, err := w.store.Have(w.Context(), []digest.Digest{d})
	w.must(err)
	return have[0]
}

// gc collects, three times, with the grace in between.
func (w *world) gc() (total Collected) {
	w.Helper()
	total.Records = map[string]int{}
	for range 3 {
		gone := map[string]int{}
		c := w.u.Collect
		c.Packs, c.Index, c.Store, c.Roots, c.Now = packs{w.bus.Packs}, w.u.Index, w.u.Store, w.u.roots(false, gone), w.u.Now
		r, err := collect.New(c).Run(w.Context())
		w.must(err)
		total.Deleted += r.Deleted
		for k, n := range gone {
			total.Records[k] += n
		}
		w.now = w.now.Add(61 * time.Minute)
	}
	return total
}

// TestRoots: what each kind of record leads to is kept, for as long as the record is.
func TestRoots(t *testing.T) {
	w := newWorld(t)
	w.withStore()
	ctx := t.Context()
	const day = 24 * time.Hour

	type thing struct {
		what   string
		digest digest.Digest
		until  time.Duration // 0: for ever
	}
	var things []thing
	thingOf := func(what string, until time.Duration) digest.Digest {
		d := w.put(what)
		things = append(things, thing{what, d, until})
		return d
	}
	document := func(what string, until time.Duration, names ...digest.Digest) digest.Digest {
		raw, err := json.Marshal(map[string]any{"what": what, "names": names})
		w.must(err)
		d := w.put(string(raw))
		things = append(things, thing{what, d, until})
		return d
	}
	put := func(err error) { t.Helper(); w.must(err) }

	// An unfinished bake: its context with chunks, its Lock with trees and their chunks, and the old hits in its plan.
	hit := digest.FromString("old hit")
	_, err := w.bus.Bakes.Create(ctx, "RUNS", farm.Bake{Schema: farm.Schema, ID: "RUNS", Name: "app", State: farm.BakeBaking, Recipe: thingOf("recipe", 0),
		Context: document("context", 0, thingOf("chunk of the context", 0)), Lock: document("lock", 0, document("tree", 0, thingOf("chunk of a tree", 0))),
		Shards: []farm.ShardRef{{ID: hit.Encoded(), Source: farm.SourceHit}}, AcceptedAt: w.now})
	put(err)
	_, err = w.bus.Actions.Create(ctx, hit.Encoded(), farm.ActionEntry{Schema: farm.Schema, Key: hit, Output: output(thingOf("old hit's output", 0)), At: w.now.Add(-100 * day)})
	put(err)
	_, err = w.bus.Shards.Create(ctx, "waits", farm.Shard{Schema: farm.Schema, ID: "waits", State: farm.ShardQueued, Bakes: []string{"RUNS"},
		Spec: farm.Payload{Piece: document("spec", 0, thingOf("named by a spec", 0))}, QueuedAt: w.now})
	put(err)

	// Finished ones.
	_, err = w.bus.Bakes.Create(ctx, "FAILED", farm.Bake{Schema: farm.Schema, ID: "FAILED", State: farm.BakeFailed, DoneAt: w.now, Log: thingOf("log", 30*day),
		Context: document("context of a failed one", 30*day, thingOf("its chunk", day)), Images: []farm.Image{{Digest: thingOf("image that came to nothing", -1)}}})
	put(err)

	// The action cache: young, old, and old but of an image that is kept.
	action := func(name string, age time.Duration, names ...digest.Digest) {
		key := digest.FromString(name)
		_, err := w.bus.Actions.Create(ctx, key.Encoded(), farm.ActionEntry{Schema: farm.Schema, Key: key, Output: output(names...), At: w.now.Add(-age)})
		put(err)
	}
	layer := thingOf("layer", 0)
	action("young", 0, thingOf("young output", 14*day))
	action("old", 20*day, thingOf("old output", -1))
	action("old of an image", 20*day, layer, thingOf("inventory of the layer", 0))
	// A member whose uncompressed bytes are an uploaded chunk: that is not kept by it, and what it is made of is.
	for name, age := range map[string]time.Duration{"young member": 0, "old member": 20 * day} {
		key := digest.FromString(name)
		raw, err := json.Marshal(plan.Member{TarDigest: thingOf("chunk that is the tar of a "+name, -1), Inventory: layer})
		put(err)
		_, err = w.bus.Actions.Create(ctx, key.Encoded(), farm.ActionEntry{Schema: farm.Schema, Key: key, Output: raw, At: w.now.Add(-age)})
		put(err)
	}

	// A version, another one in the trash, and a record of a later release.
	manifest := document("manifest", 0, thingOf("config that only the manifest names", 0))
	_, err = w.bus.Versions.Create(ctx, "app@v", farm.Version{Schema: farm.Schema, Name: "app", Version: "v", Lock: thingOf("the version's lock", 0), Bake: "B",
		Images: []farm.Image{{Name: "app", Digest: manifest, Blobs: []digest.Digest{layer}}}})
	put(err)
	_, err = w.bus.Versions.Create(ctx, "app@t", farm.Version{Schema: farm.Schema, Name: "app", Version: "t", Bake: "B", Trash: &farm.Trash{Until: w.now.Add(1000 * day)},
		Images: []farm.Image{{Name: "app", Digest: thingOf("in the trash", 0)}}})
	put(err)
	_, err = w.bus.Observations.Put(ctx, "o", farm.Observation{Schema: farm.Schema, Output: output(thingOf("packages index", 7*day)), At: w.now})
	put(err)

	nothing := w.put("of no record")
	start := w.now
	for _, after := range []time.Duration{0, 2 * day, 8 * day, 15 * day, 31 * day} {
		w.now = start.Add(after)
		w.gc()
		if w.has(nothing) {
			t.Errorf("after %s, what no record names is still there", after)
		}
		for _, th := range things {
			want := th.until == 0 || after < th.until
			if got := w.has(th.digest); got != want {
				t.Errorf("after %s, %s: there %v, want %v", after, th.what, got, want)
			}
		}
		if t.Failed() {
			t.FailNow()
		}
	}
	for _, key := range []string{digest.FromString("old").Encoded(), digest.FromString("young").Encoded()} {
		if _, _, err := w.bus.Actions.Get(ctx, key); err == nil {
			t.Error("an action cache entry is there without its pieces")
		}
	}
	if _, _, err := w.bus.Bakes.Get(ctx, "FAILED"); err == nil {
		t.Error("the failed bake's record is still there")
	}
}

func output(names ...digest.Digest) json.RawMessage {
	raw, _ := json.Marshal(map[string]any{"pieces": names})
	return raw
}

// TestFreesCountsSharedOnce: a plan says what is really freed.
func TestFreesCountsSharedOnce(t *testing.T) {
	w := newWorld(t)
	w.withStore()
	shared, a, b, c := w.put(fmt.Sprintf("%01000d", 1)), w.put(fmt.Sprintf("%0100d", 2)), w.put(fmt.Sprintf("%0200d", 3)), w.put(fmt.Sprintf("%0400d", 4))
	f := Facts{Records: map[string]farm.Version{}}
	add := func(name string, trash bool, blobs ...digest.Digest) {
		v := farm.Version{Name: "app", Version: name, Images: []farm.Image{{Digest: blobs[0], Blobs: blobs}}}
		if trash {
			v.Trash = &farm.Trash{}
		}
		f.Records["app@"+name] = v
	}
	add("kept", false, a, shared)
	add("one", false, b, shared, c)
	add("two", false, b)
	add("gone", true, c)
	gc := collect.New(collect.Config{Index: w.u.Index, Store: w.store})
	for _, tc := range []struct {
		expired []string
		want    int64
	}{{nil, 0}, {[]string{"one"}, 400}, {[]string{"two"}, 0}, {[]string{"one", "two"}, 600}, {[]string{"one", "two", "kept"}, 1700}} {
		var items []bus.KeepItem
		for _, v := range tc.expired {
			items = append(items, bus.KeepItem{Name: "app", Version: v})
		}
		if got, err := Frees(t.Context(), gc, f, items); err != nil || got != tc.want {
			t.Errorf("%v frees %d, %v; want %d", tc.expired, got, err, tc.want)
		}
	}
}

// TestWeigh: what other versions have as well, also those in the trash, is shared.
func TestWeigh(t *testing.T) {
	w := newWorld(t)
	w.withStore()
	system, app, other := w.put(fmt.Sprintf("%01000d", 1)), w.put(fmt.Sprintf("%0100d", 2)), w.put(fmt.Sprintf("%0200d", 3))
	versions := map[string]farm.Version{
		"shop@one": {Name: "shop", Version: "one", Images: []farm.Image{{Digest: app, Blobs: []digest.Digest{system}}, {Digest: app, Blobs: []digest.Digest{system}}}},
		"shop@two": {Name: "shop", Version: "two", Images: []farm.Image{{Digest: other, Blobs: []digest.Digest{system}}}, Trash: &farm.Trash{}},
	}
	gc := collect.New(collect.Config{Index: w.u.Index, Store: w.store})
	if own, shared, err := Weigh(t.Context(), gc, versions, "shop", "one"); err != nil || own != 100 || shared != 1000 {
		t.Errorf("%d own, %d shared, %v; want 100, 1000", own, shared, err)
	}
	delete(versions, "shop@two")
	if own, shared, err := Weigh(t.Context(), gc, versions, "shop", "one"); err != nil || own != 1100 || shared != 0 {
		t.Errorf("alone: %d own, %d shared, %v; want 1100, 0", own, shared, err)
	}
}

// TestOneSweepAtATime: who wants one while one runs has that; one whose owner is gone is taken over.
func TestOneSweepAtATime(t *testing.T) {
	w := newWorld(t)
	w.withStore()
	ctx, cancel := context.WithCancel(t.Context())
	w.u.sweeps.ctx = ctx
	had := farm.Sweep{Schema: farm.Schema, Kind: farm.SweepCollect, ID: "FIRST", State: farm.SweepRunning, Owner: "elsewhere", Seen: time.Now()}
	_, err := w.bus.Sweeps.Put(t.Context(), "gc", had)
	w.must(err)
	if s, err := w.u.startSweep(ctx, bus.SweepRequest{Kind: farm.SweepCollect}); err != nil || s.ID != "FIRST" {
		t.Errorf("%+v, %v", s, err)
	}
	had.Seen = time.Now().Add(-2 * farm.SweepPatience)
	_, err = w.bus.Sweeps.Put(t.Context(), "gc", had)
	w.must(err)
	s, err := w.u.startSweep(ctx, bus.SweepRequest{Kind: farm.SweepCollect, By: "ann"})
	if err != nil || s.ID == "FIRST" || s.By != "ann" {
		t.Errorf("%+v, %v", s, err)
	}
	w.u.sweeps.running.Wait()
	last, _, err := w.bus.Sweeps.Get(t.Context(), "gc")
	if err != nil || last.ID != s.ID || last.State != farm.SweepDone || len(last.Result) == 0 {
		t.Errorf("%+v, %v", last, err)
	}
	cancel()
	if _, err := w.u.startSweep(t.Context(), bus.SweepRequest{Kind: "burn"}); err == nil {
		t.Error("an unknown kind was taken")
	}
}
