package apt

import (
	"fmt"
	"strings"
)

// relation is one alternative of a dependency, or one entry of Conflicts, Breaks or Provides: name[:qualifier] [(op version)].
type relation struct {
	name      string
	qualifier string // "", any, native, or an architecture
	op        string // "", <<, <=, =, >=, >>
	version   string
}

// String writes a relation as apt does in its messages.
func (r relation) String() string {
	s := r.name
	if r.qualifier != "" {
		s += ":" + r.qualifier
	}
	switch r.op {
	case "":
		return s
	case "<<", ">>":
		return s + " (" + r.op[:1] + " " + r.version + ")"
	default:
		return s + " (" + r.op + " " + r.version + ")"
	}
}

// accepts reports whether a version is one that the relation asks for.
func (r relation) accepts(version string) bool {
	return Accepts(version, r.op, r.version)
}

// Accepts reports whether a version stands in the relation op to another one: "<<" or "<", "<=", "=", ">=", ">>" or ">", as dpkg
// compares. Without an op every version does.
func Accepts(version, op, other string) bool {
	if op == "" {
		return true
	}
	switch c := CompareVersions(version, other); op {
	case "<<", "<":
		return c < 0
	case "<=":
		return c <= 0
	case "=":
		return c == 0
	case ">=":
		return c >= 0
	default:
		return c > 0
	}
}

// maxRelations bounds the relations of one field of one package; Debian's longest has some hundreds.
const maxRelations = 20000

// parseRelations reads a relation field: groups separated by commas, alternatives within a group by bars
// (deb-control(5), Debian Policy 7.1).
func parseRelations(text string) ([][]relation, error) {
	var groups [][]relation
	count := 0
	for text != "" {
		var group string
		group, text, _ = strings.Cut(text, ",")
		if strings.TrimSpace(group) == "" {
			continue // a trailing comma, as apt tolerates it
		}
		var alternatives []relation
		for more := true; more; {
			var one string
			one, group, more = strings.Cut(group, "|")
			r, err := parseRelation(one)
			if err != nil {
				return nil, err
			}
			if count++; count > maxRelations {
				return nil, fmt.Errorf("more than %d relations", maxRelations)
			}
			alternatives = append(alternatives, r)
		}
		groups = append(groups, alternatives)
	}
	return groups, nil
}

func parseRelation(text string) (relation, error) {
	text = strings.TrimSpace(text)
	name, constraint, constrained := strings.Cut(text, "(")
	var r relation
	r.name, r.qualifier, _ = strings.Cut(strings.TrimSpace(name), ":")
	if r.name == "" || strings.ContainsAny(name[:len(strings.TrimRight(name, " \t\n"))], " \t\n[]<>()") {
		return r, fmt.Errorf("%.80q is no relation such as \"libc6 (>= 2.36)\"", text)
	}
	if !constrained {
		return r, nil
	}
	constraint, rest, closed := strings.Cut(constraint, ")")
	constraint = strings.TrimSpace(constraint)
	r.version = strings.TrimLeft(constraint, "<>=")
	r.op = constraint[:len(constraint)-len(r.version)]
	r.version = strings.TrimSpace(r.version)
	switch r.op {
	case "<<", "<=", "=", ">=", ">>":
	case "<", ">": // Policy 7.1: the obsolete forms include equality
		r.op += "="
	default:
		closed = false
	}
	if !closed || r.version == "" || strings.ContainsAny(r.version, " \t\n") || strings.TrimSpace(rest) != "" {
		return r, fmt.Errorf("%.80q is no relation such as \"libc6 (>= 2.36)\"", text)
	}
	return r, nil
}
