package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
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

// found is the answer to a PackageQuery: the sets that have any of the packages, and each package with its own sets.
type found struct {
	any      setBits
	packages []foundPackage
}

type foundPackage struct {
	Package
	sets setBits
}

// in lists the packages that some of the sets have, sorted.
func (f *found) in(sets []uint32) []Package {
	var list []Package
	for _, p := range f.packages {
		if p.sets.hasAny(sets) {
			list = append(list, p.Package)
		}
	}
	return list
}

// find looks up which sets have a package that answers the question.
func (c *Catalog) find(ctx context.Context, q PackageQuery) (*found, error) {
	condition, name := "name = ?", q.Name
	if strings.ContainsAny(q.Name, "*?") {
		condition = "name GLOB ?"
	}
	byNumber := map[int64]*foundPackage{}
	var numbers []int64
	err := eachRow(ctx, c.db.read, func(rows *sql.Rows) error {
		var num int64
		var p Package
		if err := rows.Scan(&num, &p.Name, &p.Arch, &p.Version); err != nil {
			return err
		}
		if (q.Arch == "" || q.Arch == p.Arch) && q.matches(p.Version) {
			byNumber[num] = &foundPackage{Package: p}
			numbers = append(numbers, num)
		}
		return nil
	}, "SELECT num, name, arch, version FROM packages WHERE "+condition, name)
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", q, err)
	}
	list, err := json.Marshal(numbers)
	if err != nil {
		return nil, err
	}
	answer := &found{}
	err = eachRow(ctx, c.db.read, func(rows *sql.Rows) error {
		var num int64
		var chunk int
		var bits sql.RawBytes
		if err := rows.Scan(&num, &chunk, &bits); err != nil {
			return err
		}
		byNumber[num].sets = byNumber[num].sets.or(chunk*chunkBits/8, bits)
		answer.any = answer.any.or(chunk*chunkBits/8, bits)
		return nil
	}, "SELECT package, chunk, bits FROM postings WHERE package IN (SELECT value FROM json_each(?)) ORDER BY package, chunk", string(list))
	if err != nil {
		return nil, fmt.Errorf("package %s: %w", q, err)
	}
	for _, p := range byNumber {
		if len(p.sets) > 0 {
			answer.packages = append(answer.packages, *p)
		}
	}
	slices.SortFunc(answer.packages, func(a, b foundPackage) int { return comparePackages(a.Package, b.Package) })
	return answer, nil
}

// or adds the bits that begin at byte at.
func (b setBits) or(at int, bits []byte) setBits {
	if grow := at + len(bits) - len(b); grow > 0 {
		b = append(b, make([]byte, grow)...)
	}
	for i, x := range bits {
		b[at+i] |= x
	}
	return b
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
