package coordinator

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"bakefarm/farm"
)

func TestWhoIsFirst(t *testing.T) {
	at := func(bake string) place { return place{bake: bake, id: bake} }
	want := []candidate{
		{turn{"b", false}, at("2"), 0, 0},
		{turn{"b", false}, at("3"), 0, 0},
		{turn{"a", false}, at("1"), 7, 0},
		{turn{"c", true}, at("0"), 0, 0},
		{turn{"a", true}, at("0"), 7, 0},
	}
	have := slices.Clone(want)
	slices.Reverse(have)
	slices.SortFunc(have, candidate.before)
	if !slices.Equal(have, want) {
		t.Errorf("%+v", have)
	}
}

// The largest shards of the oldest bake are first.
func TestPlaces(t *testing.T) {
	want := []place{{"1", 9, "b"}, {"1", 3, "a"}, {"1", 3, "c"}, {"1", 0, "a"}, {"2", 20, "a"}}
	have := slices.Clone(want)
	slices.Reverse(have)
	slices.SortFunc(have, place.compare)
	if !slices.Equal(have, want) {
		t.Errorf("%+v", have)
	}
}

func TestTeams(t *testing.T) {
	for name, team := range map[string]string{"shop/checkout": "shop", "shop/eu/checkout": "shop", "base": "base", "": ""} {
		if teamOf(name) != team {
			t.Errorf("%q: %q", name, teamOf(name))
		}
	}
}

// bakesNamed are bakes whose ID is "<number>-<team>", in the background with a final "~".
func bakesNamed(id string) (string, bool, bool) {
	var number int
	var team string
	if n, _ := fmt.Sscanf(id, "%d-%s", &number, &team); n != 2 {
		return "", false, false
	}
	background := team[len(team)-1] == '~'
	return team + "/app", background, true
}

func queuedShard(class string, bakes ...string) *farm.Shard {
	return &farm.Shard{State: farm.ShardQueued, Class: class, Bakes: bakes}
}

// next has the shard given out that comes first.
func (q *queue) next(labels ...string) string {
	id, chosen, _ := q.choose("any.cut", "hint of nothing", farm.Worker{ID: "w", Labels: labels}, []string{"hint of nothing"})
	if id != "" {
		defer chosen()
		w := q.waiting[id]
		defer q.changed(id, &farm.Shard{State: farm.ShardClaimed, Class: w.class, Bakes: w.bakes, Token: "t"})
	}
	return id
}

func TestQueue(t *testing.T) {
	q := newQueue(bakesNamed)
	q.changed("wave", queuedShard("any.cut", "1-auto~"))
	q.changed("a1", queuedShard("any.cut", "2-a"))
	q.changed("a2", queuedShard("any.cut", "3-a"))
	q.changed("both", queuedShard("any.cut", "9-b", "4-auto~"))
	q.changed("other class", queuedShard("any.image", "0-a"))
	labelled := queuedShard("any.cut", "0-a")
	labelled.Requires = []string{"gpu"}
	q.changed("gpu", labelled)
	q.changed("late", queuedShard("any.cut", "1-a"))
	q.holdUntil("late", time.Now().Add(time.Hour))
	q.changed("gone", queuedShard("any.cut", "0-c"))
	q.changed("gone", nil)
	var order []string
	for id := q.next(); id != ""; id = q.next() {
		order = append(order, id)
	}
	if want := []string{"a1", "both", "a2", "wave"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
	if _, _, left := q.choose("any.cut", "a1", farm.Worker{}, []string{"a1"}); !left {
		t.Error("what is left for a worker with a GPU is not told")
	}
	if id := q.next("gpu=x"); id != "gpu" {
		t.Errorf("%q for a worker with a GPU", id)
	}
	if q.busy["a"] != 3 || q.busy["b"] != 1 {
		t.Error(q.busy)
	}
	for _, id := range []string{"a1", "a2", "gpu", "both", "wave", "late"} {
		q.changed(id, nil)
	}
	if len(q.busy)+len(q.running)+len(q.granting)+len(q.classes["any.cut"]) > 0 || len(q.waiting) != 1 {
		t.Errorf("something is left: %+v", q)
	}
}

// A shard whose bake is not known yet stands in the right turn once that is.
func TestQueueBeforeItsBake(t *testing.T) {
	known := false
	q := newQueue(func(id string) (string, bool, bool) {
		if !known {
			return "", false, false
		}
		return bakesNamed(id)
	})
	s := queuedShard("any.cut", "5-team~")
	q.changed("s", s)
	known = true
	q.bakeKnown("5-team~", func(string) (farm.Shard, bool) { return *s, true })
	if _, right := q.classes["any.cut"][turn{"team~", true}]; !right || len(q.classes["any.cut"]) != 1 || len(q.early) != 0 {
		t.Errorf("%+v", q)
	}
}

func BenchmarkChoose(b *testing.B) {
	for _, n := range []int{100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			q := newQueue(bakesNamed)
			for i := range n {
				q.changed(fmt.Sprint("s", i), queuedShard("any.cut", fmt.Sprintf("%06d-team%d", i, i%20)))
			}
			for b.Loop() {
				id, chosen, _ := q.choose("any.cut", "s0", farm.Worker{}, nil)
				s := queuedShard("any.cut", q.waiting[id].bakes...)
				q.changed(id, nil)
				chosen()
				q.changed(id, s)
			}
		})
	}
}

// Of the shards that have outlived workers no two run on one machine: the one that kills its workers takes no other with it.
func TestSuspectsRunApart(t *testing.T) {
	q := newQueue(func(string) (string, bool, bool) { return "team/app", false, true })
	for i, id := range []string{"a", "b", "c"} {
		s := &farm.Shard{State: farm.ShardQueued, Class: "any.cut", Kind: farm.KindCut, Bakes: []string{id}, Lost: 2 * min(i, 1)}
		if id == "a" {
			s.Lost = farm.MaxSuspicion
		}
		q.changed(id, s)
	}
	choose := func(w farm.Worker) string {
		id, done, _ := q.choose("any.cut", "", w, nil)
		if id != "" {
			done()
		}
		return id
	}
	here, there := farm.Worker{ID: "w1", CacheID: "here"}, farm.Worker{ID: "w2", CacheID: "there"}
	if got := choose(here); got != "a" {
		t.Fatalf("chose %q", got)
	}
	q.changed("a", &farm.Shard{State: farm.ShardClaimed, Class: "any.cut", Kind: farm.KindCut, Bakes: []string{"a"}, Lost: 2, Worker: "w0", Cache: "here", Token: "t"})
	if got := choose(here); got != "" {
		t.Errorf("%q is to run beside a", got)
	}
	if got := choose(there); got != "b" {
		t.Errorf("elsewhere %q is to run", got)
	}
	q.changed("d", &farm.Shard{State: farm.ShardQueued, Class: "any.cut", Kind: farm.KindCut, Bakes: []string{"d"}})
	if got := choose(here); got != "d" {
		t.Errorf("%q is to run beside a, which is above suspicion", got)
	}
	q.changed("a", nil)
	if got := choose(here); got != "b" {
		t.Errorf("after a: %q", got)
	}
	for _, id := range []string{"b", "c", "d"} {
		q.changed(id, nil)
	}
	if len(q.suspects)+len(q.wanted)+len(q.lines)+len(q.running)+len(q.waiting) != 0 {
		t.Errorf("left over: %+v", q)
	}
}
