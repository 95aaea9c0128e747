package execute

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/apt"
	"bakefarm/compose/deb"
)

// overwrite settles which package has a path that several bring, as dpkg does when it unpacks them in the set's order:
// a package that declares Replaces takes the path over from the other, whichever comes first; two that replace each
// other leave it to the later one. The loser's member is made anew without the path, and its record forgets it: both
// slices are changed. What no Replaces allows is refused in dpkg's words.
func (l *layer) overwrite(ctx context.Context, members []compose.Member, records []*deb.Record) error {
	lost, err := losses(records)
	if err != nil {
		return err
	}
	for _, i := range slices.Sorted(maps.Keys(lost)) {
		r := records[i]
		l.say("%s: %d paths are replaced by other packages", r.Package, len(lost[i]))
		member, err := l.remake(ctx, members[i], lost[i])
		if err != nil {
			return fmt.Errorf("package %s %s without the paths that others replace: %w", r.Package, r.Version, err)
		}
		members[i], records[i] = member, forget(r, lost[i])
	}
	return nil
}

// losses finds the paths that each package loses to another.
func losses(records []*deb.Record) (map[int]map[string]bool, error) {
	lost := map[int]map[string]bool{}
	owner := map[string]int{}
	for i, r := range records {
		for _, p := range r.Inventory.Paths {
			first, taken := owner[p]
			if !taken {
				owner[p] = i
				continue
			}
			loser := first
			switch {
			case replaces(r, records[first]):
				owner[p] = i
			case replaces(records[first], r):
				loser = i
			default:
				return nil, fmt.Errorf("package %s %s: trying to overwrite '/%s', which is also in package %s %s",
					r.Package, r.Version, p, records[first].Package, records[first].Version)
			}
			if lost[loser] == nil {
				lost[loser] = map[string]bool{}
			}
			lost[loser][p] = true
		}
	}
	return lost, nil
}

// replaces reports whether a's Replaces field names b in its version (deb-control(5); virtual packages do not count).
func replaces(a, b *deb.Record) bool {
	fields, err := deb.ParseParagraph(a.Control)
	if err != nil {
		return false // can't be: the record was validated
	}
	for _, f := range fields {
		if !strings.EqualFold(f.Name, "Replaces") {
			continue
		}
		for relation := range strings.SplitSeq(f.Value, ",") {
			if names(relation, b) {
				return true
			}
		}
	}
	return false
}

// names reports whether a relation, such as "libfoo:any (<< 1.2)", is about the package in its version.
func names(relation string, r *deb.Record) bool {
	relation = strings.TrimSpace(relation)
	name, constraint, constrained := strings.Cut(relation, "(")
	name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
	if name != r.Package {
		return false
	}
	if !constrained {
		return true
	}
	constraint = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(constraint), ")"))
	version := strings.TrimLeft(constraint, "<>=")
	order := apt.CompareVersions(r.Version, strings.TrimSpace(version))
	switch strings.TrimSuffix(constraint, version) {
	case "<<":
		return order < 0
	case "<=", "<": // deb-control(5): "<" is an old way to write "<="
		return order <= 0
	case "=":
		return order == 0
	case ">=", ">":
		return order >= 0
	case ">>":
		return order > 0
	}
	return false
}

// forget returns a record without paths that the package lost. As in dpkg's database, md5sums keeps their lines.
func forget(r *deb.Record, lost map[string]bool) *deb.Record {
	kept := *r
	kept.Inventory.Paths = slices.DeleteFunc(slices.Clone(r.Inventory.Paths), func(p string) bool { return lost[p] })
	gone := func(absolute string) bool {
		p := strings.TrimPrefix(absolute, "/")
		if top, _, below := strings.Cut(p, "/"); below && slices.Contains(r.Aliases, top) {
			p = "usr/" + p
		}
		return lost[p]
	}
	kept.List = slices.DeleteFunc(slices.Clone(r.List), gone)
	kept.Conffiles = slices.DeleteFunc(slices.Clone(r.Conffiles), func(c deb.Conffile) bool { return gone(c.Path) })
	return &kept
}

// remake makes a member without some of its entries. It is committed on its own: the layer reads it back like any other.
func (l *layer) remake(ctx context.Context, m compose.Member, lost map[string]bool) (compose.Member, error) {
	w := l.Store.Begin()
	made, err := l.without(ctx, w, m, lost)
	if err != nil {
		return compose.Member{}, err
	}
	return made, w.Commit(ctx)
}
