package apt

import (
	"cmp"
	"slices"
)

// maxSteps bounds how many packages are tried, undone ones included. The largest desktops try some thousands; an archive
// that is made to exhaust alternatives would try for ever.
const maxSteps = 200_000

// maxDepth bounds how deep dependencies are followed, as apt does.
const maxDepth = 3000

// allowed reports whether a node may change to a mode: what the request settled stays, and what is essential too.
func (n *node) allowed(m mode, depth int, fromUser bool) bool {
	switch {
	case depth > maxDepth:
		return false
	case fromUser, n.mode == m:
		return true
	case n.protected, m == modeDelete && n.essential:
		return false
	}
	return true
}

// markKeep leaves a node as the base has it.
func (s *solver) markKeep(n *node, depth int) bool {
	if !n.allowed(modeKeep, depth, false) {
		return false
	}
	if n.mode != modeKeep {
		n.mode, n.install = modeKeep, n.current
	}
	return true
}

// markDelete takes a node out of the system.
func (s *solver) markDelete(n *node, depth int) bool {
	if !n.allowed(modeDelete, depth, false) {
		return false
	}
	if n.mode == modeDelete || n.install == nil {
		return true
	}
	if n.current == nil {
		if !n.auto { // what was asked for
			return false
		}
		n.mode = modeKeep
	} else {
		n.mode = modeDelete
	}
	n.install = nil
	return true
}

// discardInstall undoes a mark and gives the candidate up.
func discardInstall(n *node) {
	if n.mode == modeKeep && n.install == n.candidate && n.candidate == n.current {
		return
	}
	n.install, n.mode = n.current, modeKeep
	n.candidate = n.install
}

// setInstall plans the candidate.
func setInstall(n *node, fromUser bool) {
	if n.protected && n.install == n.candidate {
		return
	}
	if n.current == nil {
		n.auto = !fromUser
	} else if fromUser {
		n.auto = false
	}
	n.mode, n.install = modeInstall, n.candidate
	if n.candidate == n.current {
		n.mode = modeKeep
	}
}

// markInstall plans a node's candidate and, with follow, what it depends on, as pkgDepCache::MarkInstall of apt 2.6 does:
// depth first, in the order of the fields, and undone when something essential to it cannot be. It reports whether all is
// well; what the request names (fromUser) stays planned even when it is not.
func (s *solver) markInstall(n *node, follow bool, depth int, fromUser bool) bool {
	settled := n.protected && n.mode == modeKeep && n.candidate != nil && n.candidate == n.current
	if !settled && !n.allowed(modeInstall, depth, fromUser) || n.candidate == nil {
		return false
	}
	if !n.protected && !s.isBroken(n) {
		if n.candidate == n.current {
			return n.install != nil || s.markKeep(n, depth+1)
		}
		if n.mode == modeInstall {
			return true
		}
	}
	if s.steps++; s.steps > maxSteps {
		return false
	}
	if follow && !s.possible(n) {
		return false
	}
	if fromUser {
		setInstall(n, fromUser)
	}
	if !follow {
		if !fromUser {
			setInstall(n, fromUser)
		}
		return true
	}
	return s.markWithDependencies(n, depth, fromUser)
}

// markWithDependencies is the second half of markInstall.
func (s *solver) markWithDependencies(n *node, depth int, fromUser bool) bool {
	patient := n.protected || fromUser // goes on after a failure, so that everything that is wrong is found
	failed := false
	need, refuse := s.collect(n)
	remove, ok := s.refuse(n, refuse, depth, patient)
	if !ok {
		if !patient {
			return false
		}
		failed = true
	}
	if !fromUser {
		setInstall(n, fromUser)
	}
	wasProtected := n.protected
	n.protected = true
	defer func() { n.protected = wasProtected }()
	if !s.need(n, need, depth, wasProtected, fromUser) {
		if !patient {
			discardInstall(n)
			return false
		}
		failed = true
	}
	for _, r := range remove {
		if !s.markDelete(r, depth) {
			if !patient {
				discardInstall(n)
				return false
			}
			failed = true
		}
	}
	return !failed
}

// possible reports whether each dependency of the candidate could be met by the system or by candidates. A candidate for
// which one cannot is given up for good.
func (s *solver) possible(n *node) bool {
	if n.candidate == n.current {
		return true
	}
	f, err := s.factsOf(n.candidate.Package)
	if err != nil {
		s.problems[n] = err
		if !n.protected {
			n.candidate = n.current
		}
		return false
	}
	for _, d := range f.depends {
		if d.negative || slices.ContainsFunc(d.alternatives, func(r relation) bool {
			return s.isHit(n, r, false, pickInstall) || s.isHit(n, r, false, pickCandidate)
		}) {
			continue
		}
		if !n.protected {
			n.candidate = n.current
			if n.mode != modeDelete {
				n.mode = modeKeep
			}
		}
		return false
	}
	return true
}

// collect lists what the candidate of a node asks for beyond what is planned. For a protected node that is everything:
// its protection reaches what it cannot be without.
func (s *solver) collect(n *node) (need, refuse []dependency) {
	f, err := s.factsOf(n.candidate.Package)
	if err != nil {
		return nil, nil // possible has said it
	}
	for _, d := range f.depends {
		switch {
		case !n.protected && s.isThere(n, d):
		case d.negative:
			refuse = append(refuse, d)
		default:
			need = append(need, d)
		}
	}
	return need, refuse
}

// refuse takes out of the plan what the candidate of n conflicts with. What is in the base is returned, to be deleted
// once the rest of n has worked out.
func (s *solver) refuse(n *node, list []dependency, depth int, patient bool) (remove []*node, ok bool) {
	ok = true
	for _, d := range list {
		for _, q := range s.solutions(n, d) {
			done := true
			switch {
			case q.current != q.candidate:
				if q.mode == modeInstall && !s.markKeep(q, depth) {
					done = false
				} else if n.protected {
					q.candidate = q.install
					if q.current == nil {
						q.protected = true
					}
				}
			case n.protected:
				if done = q.mode == modeDelete || s.markDelete(q, depth+1); done {
					q.candidate, q.protected = q.install, true
				}
			case q.mode != modeDelete:
				if done = q.allowed(modeDelete, depth, false); done {
					remove = append(remove, q)
				}
			}
			if !done {
				if ok = false; !patient {
					return remove, ok
				}
			}
		}
	}
	return remove, ok
}

// need meets dependencies of n one after the other.
func (s *solver) need(n *node, list []dependency, depth int, protected, fromUser bool) bool {
	ok := true
	for _, d := range list {
		if s.isThere(n, d) {
			if !protected {
				continue
			}
			// What a protected package cannot be without is protected too.
			only := s.possibleOnly(n, d)
			if only == nil || only.protected {
				continue
			}
			only.protected = true
			if !s.markInstall(only, true, depth+1, false) {
				ok = false
			}
			continue
		}
		options := s.solutions(n, d)
		found := false
		for _, q := range options {
			if q.candidate == nil { // given up while an earlier one was tried
				continue
			}
			if protected && len(options) == 1 {
				if !s.markInstall(q, false, depth+1, false) {
					continue
				}
				q.protected = true
			}
			if found = s.markInstall(q, true, depth+1, false); found {
				break
			}
		}
		if !found {
			if ok = false; !protected && !fromUser {
				return false
			}
		}
	}
	return ok
}

// possibleOnly returns the node that meets a dependency when no other could.
func (s *solver) possibleOnly(n *node, d dependency) *node {
	var only *node
	for _, r := range d.alternatives {
		for _, pick := range []func(*node) *version{pickCandidate, func(n *node) *version { return n.current }} {
			for _, q := range s.hits(n, r, false, pick) {
				if only != nil && q != only {
					return nil
				}
				only = q
			}
		}
	}
	return only
}

// solutions lists the nodes whose candidates meet a dependency, in the order in which apt tries them: what is in the
// base before what is not, what stays before what would be new, then the alternatives from left to right, of each the best
// provider first. Of a negative dependency they are what it refuses.
func (s *solver) solutions(n *node, d dependency) []*node {
	var base, staying, others []*node
	for _, r := range s.preferred(d.alternatives) {
		list := s.hits(n, r, d.negative, pickCandidate)
		slices.SortFunc(list, func(a, b *node) int { return s.compareProviders(r.name, a, b) })
		for _, q := range list {
			to := &others
			if q.current != nil {
				to = &base
			} else if _, stays := s.stay[q.name]; stays {
				to = &staying
			}
			if !slices.Contains(*to, q) {
				*to = append(*to, q)
			}
		}
	}
	all := slices.Concat(base, staying, others)
	if !d.negative {
		all = slices.DeleteFunc(all, func(q *node) bool {
			return q.protected && (q.mode == modeDelete || q.mode == modeKeep && q.current == nil)
		})
	}
	return all
}

// preferred puts usr-is-merged first; see the package comment.
func (s *solver) preferred(alternatives []relation) []relation {
	i := slices.IndexFunc(alternatives, func(r relation) bool { return r.name == "usr-is-merged" })
	if i <= 0 {
		return alternatives
	}
	return slices.Insert(slices.Delete(slices.Clone(alternatives), i, i+1), 0, alternatives[i])
}

// compareProviders orders two nodes that meet a relation on a name: negative when a is tried first.
func (s *solver) compareProviders(name string, a, b *node) int {
	prefer := func(x, y bool) int { return cmp.Compare(rank(!x), rank(!y)) }
	same := func(n *node) bool { return n.candidate.MultiArch == "same" && n.current != nil }
	return cmp.Or(
		prefer(a.protected, b.protected),
		prefer(same(a), same(b)),
		prefer(a.current != nil, b.current != nil),
		prefer(a.name == name, b.name == name),
		prefer(a.candidate.Essential, b.candidate.Essential),
		prefer(a.candidate.Important, b.candidate.Important),
		cmp.Compare(priorityRank(a.candidate.Priority), priorityRank(b.candidate.Priority)),
		s.compareMentions(a.name, b.name))
}

// compareMentions puts the name first that apt's cache came to know last.
func (s *solver) compareMentions(a, b string) int {
	if a == b {
		return 0
	}
	return cmp.Compare(s.mention(b), s.mention(a))
}

// priorityRank orders the values of Priority as apt does: a package without one is above all others.
func priorityRank(priority string) int {
	if i := slices.Index([]string{"", "required", "important", "standard", "optional", "extra"}, priority); i >= 0 {
		return i
	}
	return 5 // apt reads what it does not know as extra
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}
