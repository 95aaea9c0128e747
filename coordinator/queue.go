package coordinator

import (
	"cmp"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"bakefarm/farm"
)

// A queue is what waits and what runs, in the order in which it is to be given out. It is an index over the mirror of the
// shards, which keeps it up to date: a claim looks at the few teams that wait in its class, however many shards do.
//
//	class ─▶ turn (team, background or not) ─▶ shards that wait, those of the oldest bake first, the largest of these
//
// A shard that several bakes want stands in the turns of all their teams.
type queue struct {
	bake func(id string) (name string, background, known bool)

	mu       sync.Mutex
	classes  map[string]map[turn][]place
	waiting  map[string]*waiter
	running  map[string]runner          // by shard
	busy     map[string]int             // shards of a team that run
	lines    map[string]int             // by class: how many wait
	suspects map[string]int             // by machine: shards that run there and have outlived workers
	wanted   map[string]map[string]bool // by bake: the shards that it wants, waiting or running
	early    map[string]map[string]bool
	granting map[string]int                                        // shards that claims have chosen and not been granted yet
	hosts    map[string]load                                       // what workers run, or are kept shards for
	degree   func(kind farm.Kind, deps []string, cache string) int // how much a cache has of what a shard needs; nil: it does not matter
}

// A load is what a worker has on it.
type load struct {
	shards int
	takes  farm.Resources
}

func (q *queue) loaded(worker string, n int, takes farm.Resources) {
	l := q.hosts[worker]
	l.shards += n
	if l.takes = l.takes.Plus(takes); n < 0 {
		l.takes = l.takes.Minus(takes).Minus(takes)
	}
	if q.hosts[worker] = l; l.shards == 0 {
		delete(q.hosts, worker)
	}
}

// A turn is whose shards are given out one after the other.
type turn struct {
	team       string
	background bool
}

// A place is a shard in a turn.
type place struct {
	bake string // the oldest bake of the turn that wants it: a ULID, so that it sorts by age
	work int64  // farm.Shard's
	id   string
}

func (p place) compare(q place) int {
	return cmp.Or(cmp.Compare(p.bake, q.bake), cmp.Compare(q.work, p.work), cmp.Compare(p.id, q.id))
}

// A waiter is a shard that is queued.
type waiter struct {
	class    string
	requires []string
	bakes    []string
	after    time.Time // its back-off: nobody gets it before
	kind     farm.Kind
	deps     []string
	passed   int       // how often another one was given out before it that the worker had more of
	kept     string    // worker that it is kept for,
	until    time.Time // so long
	takes    farm.Resources
	suspect  bool // it has outlived workers
	places   map[turn]place
}

// A runner is a shard that is claimed.
type runner struct {
	worker string
	token  string
	bakes  []string
	takes  farm.Resources
	teams  []string
	beside string    // the machine on which no other shard may run that has outlived workers too; empty: it has not
	since  time.Time // when this process saw the claim: monotonic
}

func newQueue(bake func(string) (string, bool, bool)) *queue {
	return &queue{
		bake: bake, classes: map[string]map[turn][]place{}, waiting: map[string]*waiter{}, running: map[string]runner{},
		busy: map[string]int{}, wanted: map[string]map[string]bool{}, lines: map[string]int{},
		suspects: map[string]int{}, early: map[string]map[string]bool{}, granting: map[string]int{}, hosts: map[string]load{},
	}
}

// changed takes in a shard as it now is; nil: it is over.
func (q *queue) changed(id string, s *farm.Shard) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.take(id, s)
}

func (q *queue) take(id string, s *farm.Shard) {
	was, ran := q.running[id]
	q.drop(id)
	if s == nil {
		return
	}
	switch s.State {
	case farm.ShardQueued:
		q.wait(id, s)
	case farm.ShardClaimed:
		r := runner{worker: s.Worker, token: s.Token, bakes: s.Bakes, takes: s.Kind.Takes(), since: time.Now()}
		if ran && was.token == s.Token {
			r.since = was.since
		}
		if suspect(s) {
			r.beside = cmp.Or(s.Cache, s.Worker)
			q.suspects[r.beside]++
		}
		for _, bake := range s.Bakes {
			name, _, known := q.bake(bake)
			if !known {
				q.expect(bake, id)
			}
			r.teams = append(r.teams, teamOf(name))
		}
		for _, team := range r.teams {
			q.busy[team]++
		}
		q.running[id] = r
		q.want(id, s.Bakes)
		q.loaded(r.worker, 1, r.takes)
	}
}

// wait puts a queued shard into the turns of those who want it.
func (q *queue) wait(id string, s *farm.Shard) {
	w := &waiter{class: s.Class, requires: s.Requires, bakes: s.Bakes, kind: s.Kind, deps: s.Deps, suspect: suspect(s), places: map[turn]place{}}
	for _, bake := range s.Bakes {
		name, background, known := q.bake(bake)
		if !known {
			q.expect(bake, id)
		}
		t := turn{teamOf(name), background}
		if p, has := w.places[t]; !has || bake < p.bake {
			w.places[t] = place{bake, s.Work, id}
		}
	}
	turns := q.classes[s.Class]
	if turns == nil {
		turns = map[turn][]place{}
		q.classes[s.Class] = turns
	}
	for t, p := range w.places {
		line := turns[t]
		i, _ := slices.BinarySearchFunc(line, p, place.compare)
		turns[t] = slices.Insert(line, i, p)
	}
	q.waiting[id] = w
	q.lines[w.class]++
	q.want(id, s.Bakes)
}

func (q *queue) want(id string, bakes []string) {
	for _, bake := range bakes {
		if q.wanted[bake] == nil {
			q.wanted[bake] = map[string]bool{}
		}
		q.wanted[bake][id] = true
	}
}

func (q *queue) unwant(id string, bakes []string) {
	for _, bake := range bakes {
		delete(q.wanted[bake], id)
		if len(q.wanted[bake]) == 0 {
			delete(q.wanted, bake)
		}
	}
}

// waitIn is how many shards wait in a class.
func (q *queue) waitIn(class string) int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.lines[class]
}

// wantedBy are the shards that a bake wants and that are not over.
func (q *queue) wantedBy(bake string) []string {
	q.mu.Lock()
	defer q.mu.Unlock()
	return slices.Collect(maps.Keys(q.wanted[bake]))
}

// drop takes a shard out of everything.
func (q *queue) drop(id string) {
	if w := q.waiting[id]; w != nil {
		turns := q.classes[w.class]
		for t, p := range w.places {
			line := turns[t]
			if i, found := slices.BinarySearchFunc(line, p, place.compare); found {
				line = slices.Delete(line, i, i+1)
			}
			if turns[t] = line; len(line) == 0 {
				delete(turns, t)
			}
		}
		q.release(w)
		q.unwant(id, w.bakes)
		if q.lines[w.class]--; q.lines[w.class] == 0 {
			delete(q.lines, w.class)
		}
		delete(q.waiting, id)
	}
	if r, runs := q.running[id]; runs {
		for _, team := range r.teams {
			if q.busy[team]--; q.busy[team] == 0 {
				delete(q.busy, team)
			}
		}
		q.loaded(r.worker, -1, r.takes)
		q.unwant(id, r.bakes)
		if r.beside != "" {
			if q.suspects[r.beside]--; q.suspects[r.beside] == 0 {
				delete(q.suspects, r.beside)
			}
		}
		delete(q.running, id)
	}
}

// suspect reports whether a shard may be what kills its workers: so many have gone while they ran it. What runs beside such
// a shard goes with it and looks the same, until each of them runs with no other such shard beside it: then only the one
// that does it loses workers.
func suspect(s *farm.Shard) bool { return s.Lost >= farm.MaxSuspicion }

// release ends that a shard is kept for a worker.
func (q *queue) release(w *waiter) {
	if w.kept != "" {
		q.loaded(w.kept, -1, w.takes)
		w.kept = ""
	}
}

// keepFor keeps a queued shard for a worker. It reports false when the shard does not wait any more.
func (q *queue) keepFor(id, worker string, takes farm.Resources, until time.Time) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	w := q.waiting[id]
	if w == nil {
		return false
	}
	q.release(w)
	w.kept, w.takes, w.until = worker, takes, until
	q.loaded(worker, 1, takes)
	return true
}

// roomFor reports whether a worker has room for one more shard, as far as is known here.
func (q *queue) roomFor(w farm.Worker, takes farm.Resources) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := q.hosts[w.ID]
	if l.shards >= w.Slots {
		return false
	}
	left := w.Has.Minus(l.takes)
	return (w.Has.CPU == 0 || min(takes.CPU, w.Has.CPU) <= left.CPU) && (w.Has.Memory == 0 || takes.Memory <= left.Memory)
}

// expect has a shard taken in again when a bake is known that wants it: the records of both come in by themselves.
func (q *queue) expect(bake, shard string) {
	if q.early[bake] == nil {
		q.early[bake] = map[string]bool{}
	}
	q.early[bake][shard] = true
}

// bakeKnown says that a bake is known now. shard looks up those that came before it.
func (q *queue) bakeKnown(bake string, shard func(string) (farm.Shard, bool)) {
	q.mu.Lock()
	ids := q.early[bake]
	delete(q.early, bake)
	q.mu.Unlock()
	for id := range ids {
		s, known := shard(id)
		q.mu.Lock()
		// What has changed since it was looked up has been taken in as it now is.
		w, r := q.waiting[id], q.running[id]
		if known && (w != nil && s.State == farm.ShardQueued && slices.Equal(w.bakes, s.Bakes) || r.token != "" && r.token == s.Token && slices.Equal(r.bakes, s.Bakes)) {
			q.take(id, &s)
		}
		q.mu.Unlock()
	}
}

// holdUntil keeps a shard back for its back-off.
func (q *queue) holdUntil(id string, at time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if w := q.waiting[id]; w != nil {
		w.after = at
	}
}

// since is when an attempt began, as far as this process saw it.
func (q *queue) since(id string) time.Time {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.running[id].since
}

// A candidate is the first shard of a turn that a worker may have.
type candidate struct {
	turn
	place
	busy int // shards of the team that run now
	at   int // where it stands in the line
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
	return cmp.Or(cmp.Compare(a.busy, b.busy), a.compare(b.place))
}

// Of the first window shards of a turn, a worker gets that of which its cache has most. None is passed more than window times.
const window = 16

// choose returns the shard of a class that is to run next, out of those that are not refused: the one that was hinted at, or
// a more urgent one. Hints are alike; each says no more than that there is work in its class. Empty: there is none for this
// worker; left says that there is for others.
//
// What is chosen counts as granted until chosen ends it: workers ask at the same time, and would all get the same answer.
func (q *queue) choose(class, hinted string, worker farm.Worker, refused []string) (id string, chosen func(), left bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	var best candidate
	for t, line := range q.classes[class] {
		a := candidate{turn: t, busy: q.busy[t.team]}
		for i, p := range line {
			open, others := q.open(p.id, worker, now)
			left = left || others
			if open && !slices.Contains(refused, p.id) {
				a.place, a.at = p, i
				break
			}
		}
		if a.id != "" && (best.id == "" || a.before(best) < 0) {
			best = a
		}
	}
	if id = best.id; id != "" {
		id = q.warmest(q.classes[class][best.turn][best.at:], worker, refused, now)
	}
	if id == "" && q.waiting[hinted] == nil && q.granting[hinted] == 0 && !slices.Contains(refused, hinted) {
		id = hinted // the mirror may not have it yet
	}
	if id == "" {
		return "", nil, left
	}
	q.granting[id]++
	return id, func() {
		q.mu.Lock()
		defer q.mu.Unlock()
		if q.granting[id]--; q.granting[id] == 0 {
			delete(q.granting, id)
		}
	}, left
}

// open reports whether a worker may have a shard that waits; if not, whether that is because it is for others.
func (q *queue) open(id string, worker farm.Worker, now time.Time) (open, others bool) {
	w := q.waiting[id]
	if w.kept != "" && !now.Before(w.until) {
		q.release(w)
	}
	switch {
	case w.after.After(now) || q.granting[id] > 0:
		return false, false
	case w.suspect && q.suspects[cmp.Or(worker.CacheID, worker.ID)] > 0: // of what runs there one may be what kills its workers
		return false, true
	case !farm.Meets(worker.Labels, w.requires), w.kept != "" && w.kept != worker.ID:
		return false, true
	}
	return true, false
}

// warmest is which of the first shards of a line a worker is to have. The first one is open to it.
func (q *queue) warmest(line []place, worker farm.Worker, refused []string, now time.Time) string {
	first := q.waiting[line[0].id]
	if q.degree == nil || first.passed >= window {
		return line[0].id
	}
	best, most := line[0].id, q.degree(first.kind, first.deps, worker.CacheID)
	for _, p := range line[1:min(window, len(line))] {
		w := q.waiting[p.id]
		if len(w.deps) == 0 || slices.Contains(refused, p.id) {
			continue
		}
		if n := q.degree(w.kind, w.deps, worker.CacheID); n > most {
			if open, _ := q.open(p.id, worker, now); open {
				best, most = p.id, n
			}
		}
	}
	if best != line[0].id {
		first.passed++
	}
	return best
}

// teamOf is the team that an image's name belongs to: its first component.
func teamOf(name string) string {
	team, _, _ := strings.Cut(name, "/")
	return team
}
