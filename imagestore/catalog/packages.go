package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"bakefarm/compose/apt"
)

// PackageQuery asks for images that contain a package: "openssl", "openssl<3.0.15", "libc6:arm64>=2.36-9", "libssl*=3.0.11-1".
type PackageQuery struct {
	Name    string // * and ? are wildcards
	Arch    string // Debian architecture; empty: any
	Op      string // "", "<", "<=", "=", ">=" or ">"; versions are compared as dpkg does
	Version string
}

// maxPackageQuery is the length in bytes of the longest text of a question.
const maxPackageQuery = 256

var packageQuery = regexp.MustCompile(`^([a-z0-9*?][a-z0-9+.*?-]*)(?::([a-z0-9-]+))?\s*(?:(<<|<=|<|>>|>=|>|==|=)\s*([0-9A-Za-z.+:~-]+))?$`)

// ParsePackageQuery reads a question. dpkg's << and >> may stand for < and >.
func ParsePackageQuery(s string) (PackageQuery, error) {
	m := packageQuery.FindStringSubmatch(strings.TrimSpace(s))
	if m == nil || len(s) > maxPackageQuery {
		return PackageQuery{}, fmt.Errorf("package %q: write a name, perhaps with an architecture, and perhaps <, <=, =, >= or > and a version: openssl<3.0.15, libc6:arm64", clip(s))
	}
	q := PackageQuery{Name: m[1], Arch: m[2], Op: m[3], Version: m[4]}
	switch q.Op {
	case "<<", ">>", "==":
		q.Op = q.Op[:1]
	}
	return q, nil
}

func (q PackageQuery) String() string {
	s := q.Name
	if q.Arch != "" {
		s += ":" + q.Arch
	}
	return s + q.Op + q.Version
}

// matches reports whether a version answers the question.
func (q PackageQuery) matches(version string) bool { return apt.Accepts(version, q.Op, q.Version) }

// clip shortens what came from outside, for messages.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// Package is a version of a Debian package.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

// setBits is a set of numbers of package sets.
type setBits []byte

func (b setBits) set(set uint32) { b[set/8] |= 1 << (set % 8) }

// upTo makes room for a set.
func (b setBits) upTo(set uint32) setBits {
	if grow := int(set/8) + 1 - len(b); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	return b
}

func (b setBits) has(set uint32) bool {
	at := int(set / 8)
	return at < len(b) && b[at]&(1<<(set%8)) != 0
}

// hasAny reports whether one of the sets is in it.
func (b setBits) hasAny(sets []uint32) bool {
	for _, s := range sets {
		if b.has(s) {
			return true
		}
	}
	return false
}

// hasImage reports whether a set that the image has is in it.
func (b setBits) hasImage(i *image) bool {
	if i.set != 0 {
		return b.has(i.set)
	}
	return b.hasAny(i.many)
}

// found is the answer to a PackageQuery: the sets that have any of the packages, and each package with its own sets.
type found struct {
	any      setBits
	packages []foundPackage // sorted
}

type foundPackage struct {
	Package
	in posting
}

// packagesIn lists, for each of some lists of sets, the packages that were found in any of these, by question and sorted. It
// passes over what was found once, however many lists there are: a question such as lib* finds much.
func packagesIn(lists [][]uint32, questions []*found) [][]Package {
	in := make([][]Package, len(lists))
	wanted := map[uint32][]int{}
	for n, sets := range lists {
		for _, set := range sets {
			wanted[set] = append(wanted[set], n)
		}
	}
	for _, q := range questions {
		for _, p := range q.packages {
			p.in.each(func(set uint32) {
				for _, n := range wanted[set] {
					if have := in[n]; len(have) == 0 || have[len(have)-1] != p.Package { // of several sets of one list
						in[n] = append(have, p.Package)
					}
				}
			})
		}
	}
	return in
}

// find looks up which sets have a package that answers the question.
func (c *Catalog) find(ctx context.Context, q PackageQuery) (*found, error) {
	condition, name := "name = ?", q.Name
	if strings.ContainsAny(q.Name, "*?") {
		condition = "name GLOB ?"
	}
	answer := &found{}
	err := eachRow(ctx, c.db.read, func(rows *sql.Rows) error {
		var num int64
		var p Package
		if err := rows.Scan(&num, &p.Name, &p.Arch, &p.Version); err != nil {
			return err
		}
		if (q.Arch == "" || q.Arch == p.Arch) && q.matches(p.Version) {
			if in := c.sets.with(num); len(in.packed) > 0 {
				answer.packages = append(answer.packages, foundPackage{p, in})
				answer.any = answer.any.upTo(in.last)
				in.each(answer.any.set)
			}
		}
		return nil
	}, "SELECT num, name, arch, version FROM packages WHERE "+condition, name)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", q, err)
	}
	slices.SortFunc(answer.packages, func(a, b foundPackage) int { return comparePackages(a.Package, b.Package) })
	return answer, nil
}

// comparePackages orders packages by name, version and architecture.
func comparePackages(a, b Package) int {
	if c := strings.Compare(a.Name, b.Name); c != 0 {
		return c
	}
	if c := apt.CompareVersions(a.Version, b.Version); c != 0 {
		return c
	}
	return strings.Compare(a.Arch, b.Arch)
}
