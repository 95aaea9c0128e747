package coordinator

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"bakefarm/farm"
)

// A candidate is a queued shard as choosing sees it.
type candidate struct {
	id         string
	background bool   // only bakes that give way want it
	team       string // whose share it counts against
	bake       string // the oldest bake that wants it: a ULID, so that it sorts by age
	busy       int    // shards of the team that run now
}

// before orders candidates by who is to run first:
//
//	a bake that somebody waits for  >  one in the background
//	a team that runs little         >  one that runs much       (so that a thousand bakes of one don't starve another's one)
//	the older bake                  >  the younger
func (a candidate) before(b candidate) int {
	if a.background != b.background {
		if b.background {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.busy, b.busy), cmp.Compare(a.bake, b.bake), cmp.Compare(a.id, b.id))
}

// choose returns the shard of a class that is to run next: the one that was hinted at, or a more urgent one. Hints are
// alike; each says no more than that there is work in its class. Empty: nothing is queued.
//
// What is chosen counts as granted until chosen ends it: workers ask at the same time, and would all get the same answer.
func (c *Coordinator) choose(class, hinted string, refused []string) (id string, chosen func()) {
	c.choosing.Lock()
	defer c.choosing.Unlock()
	if id = c.best(class, hinted, refused); id == "" {
		return "", nil
	}
	c.granting[id]++
	return id, func() {
		c.choosing.Lock()
		defer c.choosing.Unlock()
		if c.granting[id]--; c.granting[id] == 0 {
			delete(c.granting, id)
		}
	}
}

// best is choose's decision. The caller holds choosing.
func (c *Coordinator) best(class, hinted string, refused []string) string {
	busy := map[string]int{}
	now := time.Now()
	queued := c.shards.pick(func(v *view[farm.Shard]) bool {
		if v.rec.State == farm.ShardClaimed {
			for _, bake := range v.rec.Bakes {
				busy[c.team(bake)]++
			}
		}
		return v.rec.State == farm.ShardQueued && v.rec.Class == class && !v.hinted.After(now) && c.granting[v.rec.ID] == 0 && !slices.Contains(refused, v.rec.ID)
	})
	best := candidate{}
	for _, s := range queued {
		a := candidate{id: s.id, background: true}
		for i, bake := range s.rec.Bakes {
			b, _ := c.bakes.peek(bake)
			team := teamOf(b.Name)
			a.background = a.background && b.Background
			if i == 0 || bake < a.bake {
				a.bake = bake
			}
			if i == 0 || busy[team] < a.busy {
				a.team, a.busy = team, busy[team]
			}
		}
		if best.id == "" || a.before(best) < 0 {
			best = a
		}
	}
	if best.id == "" && c.granting[hinted] == 0 && !slices.Contains(refused, hinted) {
		return hinted // the mirror may not have it yet
	}
	return best.id
}

// team is whose a bake is.
func (c *Coordinator) team(bake string) string {
	b, _ := c.bakes.peek(bake)
	return teamOf(b.Name)
}

// teamOf is the team that an image's name belongs to: its first component.
func teamOf(name string) string {
	team, _, _ := strings.Cut(name, "/")
	return team
}
