package apt

import (
	"fmt"
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

func conflict(e enemy, with offer) Unmet {
	reason := "but " + with.Version + " is to be installed"
	if with.Name != e.rel.name {
		reason = "but " + with.Name + " " + with.Version + ", which provides it, is to be installed"
	}
	return Unmet{Package: e.owner.Name, Field: e.field, Alternatives: []Alternative{{Relation: e.rel.String(), Reason: reason}}}
}

// whyNot says why a relation could not be met; options are the candidates that would have met it and could not be installed.
func (s *solver) whyNot(r relation, options []offer) string {
	o, real := s.candidates[r.name]
	switch {
	case len(options) > 0:
		return "but it is not going to be installed"
	case real && !r.accepts(o.Version):
		return "but " + o.Version + " is to be installed"
	case real:
		return "but " + r.name + " is not for other architectures (no Multi-Arch: allowed)"
	case len(s.providersOf(r.name)) > 0:
		return "but it is a virtual package"
	default:
		return "but it is not installable"
	}
}

// didYouMean suggests names that are at most two edits away.
func (s *solver) didYouMean(name string) string {
	type near struct {
		name  string
		edits int
	}
	var found []near
	for other := range s.candidates {
		if d := distance(name, other, 2); d <= 2 && d < len(name) {
			found = append(found, near{other, d})
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
