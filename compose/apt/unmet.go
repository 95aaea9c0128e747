package apt

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strings"
)

// UnknownError says which names and versions of a request no index has.
type UnknownError struct {
	Problems []string // one sentence each, in the order of the names
}

func (e *UnknownError) add(format string, args ...any) {
	e.Problems = append(e.Problems, fmt.Sprintf(format, args...))
}

func (e *UnknownError) Error() string { return strings.Join(e.Problems, "\n") }

// UnmetError says why there is no set of packages, as apt says it. Unmet goes from what was asked for down to the cause.
type UnmetError struct {
	Unmet []Unmet
}

// Unmet is one thing that stands against a package.
type Unmet struct {
	Package      string
	Field        string        // Depends, PreDepends, Conflicts, Breaks
	Alternatives []Alternative // none of which could be
	Problem      string        // instead of Field and Alternatives: the package's own paragraph is at fault
}

// Alternative is one relation and the reason why it could not be.
type Alternative struct {
	Relation string // bar (>= 2)
	Reason   string // but 1.0 is to be installed
}

// maxUnmet bounds the lines of a message.
const maxUnmet = 20

func (e *UnmetError) Error() string {
	var b strings.Builder
	b.WriteString("The following packages have unmet dependencies:")
	for _, u := range e.Unmet[:min(len(e.Unmet), maxUnmet)] {
		head := fmt.Sprintf("\n %s : ", u.Package)
		if u.Problem != "" {
			b.WriteString(head + u.Problem)
			continue
		}
		head += u.Field + ": "
		for i, a := range u.Alternatives {
			if i > 0 {
				b.WriteString(" or")
				head = "\n" + strings.Repeat(" ", len(head)-1)
			}
			b.WriteString(head + a.Relation + " " + a.Reason)
		}
	}
	return b.String()
}

// unmet says what is broken in the plan: what was asked for first, then what could not be for its sake, down to the cause.
func (s *solver) unmet() error {
	if s.steps > maxSteps {
		return &UnmetError{Unmet: []Unmet{{Package: s.wanted[0].name, Problem: fmt.Sprintf("gave up after trying %d packages", maxSteps)}}}
	}
	e := &UnmetError{}
	var work []*node
	seen := map[*node]bool{}
	visit := func(n *node) {
		if !seen[n] {
			seen[n] = true
			work = append(work, n)
		}
	}
	for _, n := range s.wanted {
		if n.install != n.candidate || n.install == nil || s.problems[n] != nil || s.isBroken(n) {
			visit(n)
		}
	}
	for _, n := range s.planned() {
		if s.isBroken(n) {
			visit(n)
		}
	}
	for i := 0; i < len(work) && len(e.Unmet) < maxUnmet; i++ {
		s.explain(e, work[i], visit)
	}
	s.lead(e)
	if len(e.Unmet) == 0 {
		return nil
	}
	return e
}

// lead puts in front of an error about packages that nobody asked for how the request comes to need the first of them.
func (s *solver) lead(e *UnmetError) {
	if len(e.Unmet) == 0 || slices.ContainsFunc(e.Unmet, func(u Unmet) bool { return slices.Contains(s.wanted, s.node(u.Package)) }) {
		return
	}
	to := s.node(e.Unmet[0].Package)
	from := map[*node]*node{}
	why := map[*node]Unmet{}
	for work := slices.Clone(s.wanted); len(work) > 0 && from[to] == nil; work = work[1:] {
		n := work[0]
		if n.install == nil {
			continue
		}
		f, err := s.factsOf(n.install.Package)
		if err != nil {
			continue
		}
		for _, d := range f.depends {
			for _, r := range d.alternatives {
				for _, q := range s.hits(n, r, false, pickInstall) {
					if d.negative || from[q] != nil || slices.Contains(s.wanted, q) {
						continue
					}
					from[q] = n
					why[q] = Unmet{n.name, d.field, []Alternative{{r.String(), "but it is not going to be installed"}}, ""}
					work = append(work, q)
				}
			}
		}
	}
	var chain []Unmet
	for n := to; from[n] != nil; n = from[n] {
		chain = append(chain, why[n])
	}
	slices.Reverse(chain)
	e.Unmet = append(chain, e.Unmet...)
}

// explain adds what stands against a package, and visits the packages that it would have needed.
func (s *solver) explain(e *UnmetError, n *node, visit func(*node)) {
	if err := s.problems[n]; err != nil {
		e.Unmet = append(e.Unmet, Unmet{Package: n.name, Problem: err.Error()})
		return
	}
	v := cmp.Or(n.install, s.candidate(n.name))
	if v == nil {
		return
	}
	f, err := s.factsOf(v.Package)
	if err != nil {
		e.Unmet = append(e.Unmet, Unmet{Package: n.name, Problem: err.Error()})
		return
	}
	for _, d := range f.depends {
		if s.isThere(n, d) {
			continue
		}
		u := Unmet{Package: n.name, Field: d.field}
		for _, r := range d.alternatives {
			u.Alternatives = append(u.Alternatives, Alternative{Relation: r.String(), Reason: s.whyNot(n, r, d.negative)})
			if !d.negative {
				for _, q := range s.hits(n, r, false, func(q *node) *version { return s.candidate(q.name) }) {
					visit(q)
				}
			}
		}
		e.Unmet = append(e.Unmet, u)
	}
}

// whyNot says why a relation is not as it should be.
func (s *solver) whyNot(n *node, r relation, negative bool) string {
	target, offered := s.node(r.name), s.candidate(r.name)
	if negative {
		if target.install != nil && target != n {
			return "but " + target.install.Version + " is to be installed"
		}
		for _, q := range s.hits(n, r, true, pickInstall) {
			return "but " + q.name + " " + q.install.Version + ", which provides it, is to be installed"
		}
	}
	switch {
	case target.install != nil && !r.accepts(target.install.Version):
		return "but " + target.install.Version + " is to be installed"
	case offered != nil && !r.accepts(offered.Version):
		return "but " + offered.Version + " is to be installed"
	case offered != nil && !s.qualifies(r, offered.Package):
		return "but " + r.name + " is not for other architectures (no Multi-Arch: allowed)"
	case offered != nil || s.isHit(n, r, false, func(q *node) *version { return s.candidate(q.name) }):
		return "but it is not going to be installed"
	case len(s.providersOf(r.name)) > 0:
		return "but it is a virtual package"
	default:
		return "but it is not installable"
	}
}

// all goes through the packages of all indexes.
func (s *solver) all() iter.Seq[*Package] {
	return func(yield func(*Package) bool) {
		for _, x := range s.indexes {
			for _, p := range x.Packages {
				if p.fits(s.arch) && !yield(p) {
					return
				}
			}
		}
	}
}

// replacedBy lists the packages that say that they replace a name.
func (s *solver) replacedBy(name string) string {
	var by []string
	for p := range s.all() {
		eachName(p.Replaces, func(other string) {
			if other == name && !slices.Contains(by, p.Name) {
				by = append(by, p.Name)
			}
		})
	}
	if len(by) == 0 {
		return ""
	}
	slices.Sort(by)
	return "; what replaces it: " + enumerate(by, 12)
}

// didYouMean suggests names that are at most two edits away.
func (s *solver) didYouMean(name string) string {
	type near struct {
		name  string
		edits int
	}
	var found []near
	for p := range s.all() {
		if d := distance(name, p.Name, 2); d <= 2 && d < len(name) && !slices.Contains(found, near{p.Name, d}) {
			found = append(found, near{p.Name, d})
		}
	}
	if len(found) == 0 {
		return ""
	}
	slices.SortFunc(found, func(a, b near) int {
		if a.edits != b.edits {
			return a.edits - b.edits
		}
		return strings.Compare(a.name, b.name)
	})
	names := make([]string, 0, 3)
	for _, n := range found[:min(len(found), 3)] {
		names = append(names, n.name)
	}
	return "; did you mean " + strings.Join(names, " or ") + "?"
}

// distance is the Levenshtein distance of two names, or limit+1 when it is more than limit.
func distance(a, b string, limit int) int {
	if len(a) > 100 || len(a)-len(b) > limit || len(b)-len(a) > limit {
		return limit + 1
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		left, best := row[0], i+1
		row[0] = i + 1
		for j := range len(b) {
			cost := left
			if a[i] != b[j] {
				cost++
			}
			left = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
			best = min(best, row[j+1])
		}
		if best > limit {
			return limit + 1
		}
	}
	return row[len(b)]
}

// enumerate joins names, at most limit of them.
func enumerate(names []string, limit int) string {
	if len(names) <= limit {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:limit], ", "), len(names)-limit)
}
