package apt

import (
	"cmp"
	"slices"
)

// repairer settles what is broken after all packages were marked, as apt's problem resolver does: every package has a
// score, and from the highest to the lowest each that is broken is either held back, or what stands against it is.
type repairer struct {
	*solver
	scores   map[*node]int
	order    []*node
	upgraded map[*node]bool // was tried to be installed once
	change   bool
}

// maxRounds bounds how often all packages are gone through, as apt does.
const maxRounds = 20

// repair tries to make the plan whole. What is still broken afterwards cannot be.
func (s *solver) repair() {
	broken := func() bool { return slices.ContainsFunc(s.planned(), s.isBroken) }
	if !broken() {
		return
	}
	r := &repairer{solver: s, upgraded: map[*node]bool{}, change: true}
	r.score()
	for round := 0; round < maxRounds && r.change && s.steps <= maxSteps; round++ {
		r.change = false
		for _, n := range r.order {
			if s.isBroken(n) {
				r.fix(n, round)
			}
		}
	}
}

// planned lists the packages of the system as it is planned, by name.
func (s *solver) planned() []*node { return s.sorted(func(n *node) bool { return n.install != nil }) }

// score computes how much breaks when a package goes.
func (r *repairer) score() {
	r.scores = map[*node]int{}
	priorities := []int{0, 3, 2, 1, -1, -2}
	planned := r.planned()
	spread := func(n *node, give func(d dependency, to relation)) {
		f, err := r.factsOf(n.install.Package)
		if err != nil {
			return
		}
		list := f.depends
		if groups, err := parseRelations(n.install.Recommends); err == nil {
			for _, g := range groups {
				list = append(slices.Clip(list), dependency{"Recommends", false, g})
			}
		}
		for _, d := range list {
			for _, to := range d.alternatives {
				give(d, to)
			}
		}
	}
	for _, n := range planned {
		if n.essential {
			r.scores[n] += 100
		}
		r.scores[n] += priorities[priorityRank(n.install.Priority)]
		if n.current != nil && n.candidate != nil {
			r.scores[n]++
		}
		spread(n, func(d dependency, to relation) {
			points := 1
			if d.negative {
				points = -1
			}
			target := r.node(to.name)
			if to.op == "" && !(d.negative && target == n) && (target.install == nil || !slices.Contains(r.hits(n, to, d.negative, pickInstall), target)) {
				r.scores[target] += points
			}
			for _, hit := range r.hits(n, to, d.negative, pickInstall) {
				r.scores[hit] += points
			}
		})
	}
	old := make(map[*node]int, len(r.scores))
	for n, score := range r.scores {
		old[n] = score
	}
	for _, n := range planned {
		spread(n, func(d dependency, to relation) {
			if target := r.node(to.name); !d.negative && target.install != nil && old[n] > 0 {
				r.scores[target] += old[n]
			}
		})
	}
	for _, n := range planned {
		transfer := r.scores[n] - old[n]
		for _, p := range r.providersOf(n.name) {
			if p.of.install != nil && p.of.install.Package == p.Package {
				r.scores[p.of] += max(transfer, -transfer)
			}
		}
	}
	for _, n := range planned {
		if slices.Contains(r.wanted, n) {
			r.scores[n] += 10000
		}
		if n.essential {
			r.scores[n] += 5000
		}
	}
	r.order = r.sorted(func(*node) bool { return true })
	slices.SortStableFunc(r.order, func(a, b *node) int { return cmp.Compare(r.scores[b], r.scores[a]) })
}

// kill is a package that may have to go for the sake of a dependency.
type kill struct {
	n   *node
	dep dependency
}

// fix looks at the broken dependencies of one package.
func (r *repairer) fix(n *node, round int) {
	f, err := r.factsOf(n.install.Package)
	if err != nil {
		return
	}
	var kills []kill
	for _, d := range f.depends {
		if n.install == nil {
			break
		}
		if r.isThere(n, d) {
			continue
		}
		before, keep, done := len(kills), false, false
		for _, rel := range d.alternatives {
			if r.isThere(n, d) {
				break
			}
			kills, keep, done = r.fixOne(n, d, rel, kills, keep, round)
			if done && len(d.alternatives) == 1 {
				break
			}
		}
		if len(d.alternatives) > 1 {
			if len(kills) == before && n.install != nil && !r.isThere(n, d) {
				switch {
				case keep:
					r.markKeep(n, 0)
					r.change = true
				case !n.protected:
					r.markDelete(n, 0)
					r.change = true
				}
			}
			continue
		}
		if done {
			break
		}
	}
	if n.install == nil {
		return
	}
	for _, k := range kills {
		found := false
		if was := r.now(n, k.dep); !was {
			found = k.dep.negative && r.markDelete(k.n, 0)
		} else {
			found = r.markKeep(k.n, 0)
		}
		if (!found || round > 1) && r.scores[n] > r.scores[k.n] {
			r.scores[k.n] = r.scores[n]
			r.change = true
		}
		r.change = r.change || found
	}
}

// now reports whether a dependency was as it should be in the base.
func (r *repairer) now(n *node, d dependency) bool {
	for _, rel := range d.alternatives {
		if r.isHit(n, rel, d.negative, func(n *node) *version { return n.current }) != d.negative {
			return true
		}
	}
	return false
}

// fixOne tries one alternative of a broken dependency.
func (r *repairer) fixOne(n *node, d dependency, rel relation, kills []kill, keep bool, round int) (_ []kill, _, done bool) {
	inOr := len(d.alternatives) > 1
	targets := r.targets(n, d, rel)
	if len(targets) == 0 && !d.negative {
		if n.protected {
			return kills, keep, false
		}
		keep = r.holdBack(n, inOr) || keep
		r.change = true
		return kills, keep, true
	}
	for _, q := range targets {
		if d.negative && q.install == nil {
			continue
		}
		if r.scores[n] > r.scores[q] && (d.negative || r.now(n, d)) {
			if d.field == "Breaks" && q.candidate != nil && q.candidate != q.install && !r.refuses(n, rel, q) {
				r.markInstall(q, false, 0, false)
				continue
			}
			if q.protected && q.mode != modeDelete {
				continue
			}
			kills = append(kills, kill{q, d})
			if !d.negative {
				break
			}
			continue
		}
		if n.protected {
			if r.upgrade(q, 0) {
				r.scores[q] = min(r.scores[q], r.scores[n])
				break
			}
			continue
		}
		installed := n.mode == modeInstall
		r.markKeep(n, 0)
		switch target := r.node(rel.name); {
		case !r.isBroken(n):
			keep = true
			if inOr && installed {
				r.markInstall(n, false, 0, false)
			}
		case r.upgrade(n, 0):
		case !inOr:
			r.markDelete(n, 0)
			if round > 1 {
				r.scores[n] = max(r.scores[n], r.scores[q])
			}
		case target.current == nil && target.mode != modeDelete && target.candidate != nil:
			before := r.brokenCount()
			r.markInstall(target, true, 1, false)
			if r.isBroken(target) || r.brokenCount() > before {
				r.markDelete(target, 1)
			}
		}
		r.change = true
		return kills, keep, true
	}
	return kills, keep, false
}

// targets lists who could meet a relation, or who a negative one refuses.
func (r *repairer) targets(n *node, d dependency, rel relation) []*node {
	list := r.hits(n, rel, d.negative, func(q *node) *version { return r.candidate(q.name) })
	slices.SortFunc(list, func(a, b *node) int {
		return cmp.Or(cmp.Compare(rank(a.name != rel.name), rank(b.name != rel.name)), r.compareMentions(b.name, a.name))
	})
	return list
}

// holdBack tries whether a package is whole without its change, and otherwise takes it out.
func (r *repairer) holdBack(n *node, inOr bool) (keep bool) {
	installed := n.mode == modeInstall
	r.markKeep(n, 0)
	if !r.isBroken(n) {
		if inOr && installed {
			r.markInstall(n, false, 0, false)
		}
		return true
	}
	if !inOr {
		r.markDelete(n, 0)
	}
	return false
}

func (r *repairer) refuses(n *node, rel relation, q *node) bool {
	return slices.Contains(r.hits(n, rel, true, pickCandidate), q)
}

func (r *repairer) brokenCount() int {
	count := 0
	for _, n := range r.nodes {
		count += rank(r.isBroken(n))
	}
	return count
}

// upgrade plans a package again with what it needs, one by one, or leaves it as it was.
func (r *repairer) upgrade(n *node, depth int) bool {
	if r.upgraded[n] || n.candidate == nil || n.candidate == n.current || n.protected || depth > maxDepth {
		return false
	}
	r.upgraded[n] = true
	kept := n.mode == modeKeep
	if !r.markInstall(n, false, 0, false) || n.install == nil {
		return false
	}
	for _, d := range r.broken(n) {
		ok := false
		for _, rel := range d.alternatives {
			if ok = r.isThere(n, d); ok {
				break
			}
			q := r.smartTarget(n, d, rel)
			if q.protected {
				continue
			}
			if !d.negative && r.isHit(n, rel, false, pickCandidate) && r.upgrade(q, depth+1) {
				ok = true
				break
			}
			if d.negative {
				ok = true // the next round deals with conflicts
			}
		}
		if !ok {
			if kept {
				r.markKeep(n, 0)
			} else {
				r.markDelete(n, 0)
			}
			return false
		}
	}
	return true
}

// smartTarget is the package that a relation most likely means.
func (r *repairer) smartTarget(n *node, d dependency, rel relation) *node {
	target := r.node(rel.name)
	if r.candidate(rel.name) != nil {
		return target
	}
	if hits := r.hits(n, rel, d.negative, pickCandidate); len(hits) > 0 {
		return hits[0]
	}
	return target
}
