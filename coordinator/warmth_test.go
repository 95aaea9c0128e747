package coordinator

import (
	"fmt"
	"testing"
	"time"

	"bakefarm/farm"
)

func TestWarmth(t *testing.T) {
	var m warmth
	m.noted(&farm.Shard{ID: "layer", Kind: farm.KindAssemble, State: farm.ShardDone, Deps: []string{"libc", "bash"}, Cache: "a"})
	m.noted(&farm.Shard{ID: "image", Kind: farm.KindImage, State: farm.ShardDone, Deps: []string{"layer", "app"}, Cache: "b"})
	m.noted(&farm.Shard{ID: "run", Kind: farm.KindRun, State: farm.ShardDone, Deps: []string{"image"}, Cache: "e"})
	m.noted(&farm.Shard{ID: "queued", State: farm.ShardQueued, Deps: []string{"bash"}, Cache: "c"})
	m.noted(&farm.Shard{ID: "other", Kind: farm.KindAssemble, State: farm.ShardClaimed, Deps: []string{"libc"}, Cache: "d"})
	for _, test := range []struct {
		kind farm.Kind
		deps string
		want map[string]int
	}{
		{farm.KindAssemble, "libc", map[string]int{"a": 1, "d": 1, "b": 0}},
		{farm.KindDisk, "layer", map[string]int{"a": 3, "b": 0, "d": 1, "e": 1}}, // with what it was made of
		{farm.KindRun, "image", map[string]int{"b": 1, "a": 1, "e": 3}},          // whoever made it has read none of it
		{farm.KindImage, "layer", map[string]int{"a": 0}},
		{farm.KindAssemble, "new", map[string]int{"a": 0}},
	} {
		degrees := m.degrees(test.kind, []string{test.deps})
		for cache, n := range test.want {
			if degrees[cache] != n || m.degree(test.kind, []string{test.deps}, cache) != n {
				t.Errorf("%s of %s: %s has %d of it, want %d", test.kind, test.deps, cache, degrees[cache], n)
			}
		}
	}
	for i := range 3 * warmShards {
		m.in(fmt.Sprint(i), "e")
		m.in("libc", fmt.Sprint("cache", i))
	}
	if n := len(m.where.young) + len(m.where.old); n > 2*warmShards {
		t.Errorf("%d shards are remembered", n)
	}
	if in, _ := m.where.get("libc"); len(in) != warmCaches || in[0] != fmt.Sprint("cache", 3*warmShards-1) {
		t.Errorf("%v", in)
	}
}

// A worker gets what it has most of, out of the first few; none of them is passed for ever.
func TestWarmestFirst(t *testing.T) {
	q := newQueue(bakesNamed)
	q.degree = func(_ farm.Kind, deps []string, cache string) int {
		if len(deps) > 0 && deps[0] == cache {
			return 1
		}
		return 0
	}
	add := func(i int, os string) {
		s := queuedShard("any.disk", fmt.Sprintf("%03d-team", i))
		s.Deps = []string{os}
		q.changed(fmt.Sprint(os, i), s)
	}
	choose := func(cache string) string {
		id, chosen, _ := q.choose("any.disk", "none", farm.Worker{ID: cache, CacheID: cache}, []string{"none"})
		chosen()
		q.changed(id, nil)
		return id
	}
	for i := range 10 {
		add(2*i, "debian")
		add(2*i+1, "other")
	}
	for want, cache := range map[string]string{"other1": "other", "debian0": "debian"} {
		if id := choose(cache); id != want {
			t.Errorf("%s for %s", id, cache)
		}
	}
	passed := 0
	for i := 100; passed < 100; i++ {
		add(i, "other")
		if id := choose("other"); id == "debian2" {
			break
		}
		passed++
	}
	if passed != window {
		t.Errorf("the oldest shard was passed %d times, want %d", passed, window)
	}
}

// A shard that is kept for a worker is no other's for a while, and that worker is busy with it.
func TestKept(t *testing.T) {
	q := newQueue(bakesNamed)
	q.changed("s", queuedShard("any.disk", "1-team"))
	w, other := farm.Worker{ID: "w", Slots: 1}, farm.Worker{ID: "other", Slots: 1}
	takes := farm.KindDisk.Takes()
	if !q.roomFor(w, takes) || !q.keepFor("s", "w", takes, time.Now().Add(time.Hour)) || q.roomFor(w, takes) || !q.roomFor(other, takes) {
		t.Error("it is not kept for the worker, or not counted")
	}
	if id, _, left := q.choose("any.disk", "none", other, []string{"none"}); id != "" || !left {
		t.Errorf("another worker gets %q, %t", id, left)
	}
	if id, chosen, _ := q.choose("any.disk", "none", w, []string{"none"}); id != "s" {
		t.Errorf("the worker gets %q", id)
	} else {
		chosen()
	}
	q.keepFor("s", "w", takes, time.Now().Add(-time.Second))
	if id, chosen, _ := q.choose("any.disk", "none", other, []string{"none"}); id != "s" || !q.roomFor(w, takes) {
		t.Errorf("kept for too long: %q", id)
	} else {
		chosen()
	}
	q.changed("s", &farm.Shard{State: farm.ShardClaimed, Kind: farm.KindBoot, Worker: "w", Token: "t", Bakes: []string{"1-team"}})
	w.Slots, w.Has = 4, farm.Resources{CPU: 2000, Memory: 8 << 30}
	if q.roomFor(w, farm.KindCut.Takes()) || !q.roomFor(w, farm.Resources{Memory: 1 << 30}) || q.roomFor(w, farm.Resources{Memory: 7 << 30}) {
		t.Error("what runs is not counted")
	}
	q.changed("s", nil)
	if len(q.hosts) != 0 {
		t.Errorf("%+v is left", q.hosts)
	}
}
