package coordinator

import (
	"reflect"
	"testing"
	"time"

	"bakefarm/farm"
)

// diamond is two members under two layers under one image, the second member shared by both layers.
var diamond = []step{{}, {}, {deps: []int{0, 1}}, {deps: []int{1}}, {deps: []int{2, 3}}}

func TestDecide(t *testing.T) {
	for name, test := range map[string]struct {
		standings []standing
		want      moves
	}{
		"nothing known":     {[]standing{unknown, unknown, unknown, unknown, unknown}, moves{lookup: []int{4}}},
		"image missing":     {[]standing{unknown, unknown, unknown, unknown, missing}, moves{lookup: []int{2, 3}}},
		"a layer is a hit":  {[]standing{unknown, unknown, ready, missing, missing}, moves{lookup: []int{1}}},
		"members missing":   {[]standing{missing, missing, missing, missing, missing}, moves{dispatch: []int{0, 1}}},
		"one member runs":   {[]standing{running, missing, missing, missing, missing}, moves{dispatch: []int{1}}},
		"one is there":      {[]standing{running, ready, missing, missing, missing}, moves{dispatch: []int{3}}},
		"layers run":        {[]standing{ready, ready, running, running, missing}, moves{}},
		"layers are there":  {[]standing{ready, ready, ready, ready, missing}, moves{dispatch: []int{4}}},
		"all there":         {[]standing{ready, ready, ready, ready, ready}, moves{done: true}},
		"image is a hit":    {[]standing{unknown, unknown, unknown, unknown, ready}, moves{done: true}},
		"a member broke":    {[]standing{broken, running, missing, missing, missing}, moves{broken: []int{0}}},
		"broke, not needed": {[]standing{broken, unknown, unknown, unknown, ready}, moves{done: true}},
		"taken up again":    {[]standing{unknown, unknown, running, unknown, missing}, moves{lookup: []int{3}}},
	} {
		if got := decide(diamond, []int{4}, test.standings); !reflect.DeepEqual(got, test.want) {
			t.Errorf("%s: %+v, want %+v", name, got, test.want)
		}
	}
}

func TestDecideReachesTheEnd(t *testing.T) {
	// Whatever exists at the start, and in whichever order shards end: every step is dispatched at most once, after all that
	// it needs, and the roots come to be ready.
	for exists := range 1 << len(diamond) {
		standings := make([]standing, len(diamond))
		dispatched := map[int]bool{}
		for round := 0; ; round++ {
			if round > 50 {
				t.Fatalf("existing %05b: no end: %v", exists, standings)
			}
			m := decide(diamond, []int{4}, standings)
			if m.done {
				break
			}
			for _, i := range m.lookup {
				standings[i] = missing
				if exists&(1<<i) != 0 {
					standings[i] = ready
				}
			}
			for _, i := range m.dispatch {
				for _, d := range diamond[i].deps {
					if standings[d] != ready {
						t.Fatalf("existing %05b: %d dispatched before %d", exists, i, d)
					}
				}
				if dispatched[i] || exists&(1<<i) != 0 {
					t.Fatalf("existing %05b: %d dispatched", exists, i)
				}
				dispatched[i] = true
				standings[i] = running
			}
			if len(m.lookup)+len(m.dispatch) == 0 { // something ends
				for i, s := range standings {
					if s == running {
						standings[i] = ready
						break
					}
				}
			}
		}
	}
}

func TestVisited(t *testing.T) {
	hit := func(hits ...int) func(int) bool {
		return func(i int) bool {
			for _, h := range hits {
				if h == i {
					return true
				}
			}
			return false
		}
	}
	for _, test := range []struct {
		hits []int
		want []bool
	}{
		{nil, []bool{true, true, true, true, true}},
		{[]int{4}, []bool{false, false, false, false, true}},
		{[]int{2}, []bool{false, true, true, true, true}},
		{[]int{2, 3}, []bool{false, false, true, true, true}},
	} {
		if got := visited(diamond, []int{4}, hit(test.hits...)); !reflect.DeepEqual(got, test.want) {
			t.Errorf("hits %v: %v, want %v", test.hits, got, test.want)
		}
	}
}

func TestHintDue(t *testing.T) {
	start := time.Now()
	at := func(d time.Duration) time.Time { return start.Add(d) }
	queued := farm.Shard{State: farm.ShardQueued}
	for name, test := range map[string]struct {
		v    view[farm.Shard]
		now  time.Time
		want bool
	}{
		"never, just queued":  {view[farm.Shard]{rec: queued, changed: start}, at(time.Second), false},
		"never, for long":     {view[farm.Shard]{rec: queued, changed: start}, at(4 * time.Second), true},
		"backing off":         {view[farm.Shard]{rec: queued, changed: start, hinted: at(time.Second)}, at(900 * time.Millisecond), false},
		"backed off":          {view[farm.Shard]{rec: queued, changed: start, hinted: at(time.Second)}, at(time.Second), true},
		"once":                {view[farm.Shard]{rec: queued, changed: start, hinted: start, hints: 1}, at(2 * time.Second), false},
		"once, for long":      {view[farm.Shard]{rec: queued, changed: start, hinted: start, hints: 1}, at(4 * time.Second), true},
		"often":               {view[farm.Shard]{rec: queued, changed: start, hinted: start, hints: 4}, at(20 * time.Second), false},
		"often, for long":     {view[farm.Shard]{rec: queued, changed: start, hinted: start, hints: 4}, at(25 * time.Second), true},
		"very often":          {view[farm.Shard]{rec: queued, changed: start, hinted: start, hints: 400}, at(59 * time.Second), false},
		"very often for long": {view[farm.Shard]{rec: queued, changed: start, hinted: start, hints: 400}, at(61 * time.Second), true},
	} {
		if got := hintDue(&test.v, test.now); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestLeaseOut(t *testing.T) {
	start := time.Now()
	const lease = 15 * time.Second
	claimed := &view[farm.Shard]{rec: farm.Shard{State: farm.ShardClaimed, Lease: lease}, changed: start}
	c := &Coordinator{}
	if c.leaseOut(claimed, start.Add(14*time.Second)) || !c.leaseOut(claimed, start.Add(16*time.Second)) {
		t.Error("a lease is as long as the record says")
	}
	for after := time.Duration(0); after <= time.Minute; after += time.Second {
		c.attention.tick(start.Add(after), lease)
	}
	if !c.leaseOut(claimed, start.Add(time.Minute)) {
		t.Error("a lease is over while somebody looks")
	}
	c.attention.tick(start.Add(time.Hour), lease) // this process was stopped
	if c.leaseOut(claimed, start.Add(time.Hour+14*time.Second)) || !c.leaseOut(claimed, start.Add(time.Hour+16*time.Second)) {
		t.Error("the time in which nobody looked is no silence of the worker's")
	}
	claimed.rec.State = farm.ShardQueued
	if c.leaseOut(claimed, start.Add(2*time.Hour)) {
		t.Error("only a claim has a lease")
	}
}

func TestClip(t *testing.T) {
	for _, test := range []struct {
		in   string
		n    int
		want string
	}{
		{"short", 10, "short"}, {"exactly", 7, "exactly"}, {"too long", 6, "too…"}, {"äöü", 5, "ä…"}, {"a\xffb", 9, "a\uFFFDb"}, {"abcdef", 3, "…"},
	} {
		if got := clip(test.in, test.n); got != test.want || len(got) > test.n {
			t.Errorf("clip(%q, %d) = %q", test.in, test.n, got)
		}
	}
}

func TestMemo(t *testing.T) {
	m := newMemo(1000)
	m.put("a", []byte("1"), "first")
	m.put("a", []byte("2"), "second")
	if out, origin, ok := m.get("a"); !ok || string(out) != "2" || origin != "second" {
		t.Errorf("%s %s %v", out, origin, ok)
	}
	m.put("b", make([]byte, 400), "")
	m.get("a")
	m.put("c", make([]byte, 400), "") // no room for all three
	if _, _, ok := m.get("b"); ok {
		t.Error("what was used least stays")
	}
	if _, _, ok := m.get("a"); !ok {
		t.Error("what was used last is gone")
	}
	m.forget("a")
	m.forget("c")
	if _, _, ok := m.get("a"); ok || m.room != 1000 || m.used.Len() != 0 {
		t.Errorf("after forgetting: %d bytes of room, %d entries", m.room, m.used.Len())
	}
}
