package apt

import (
	"math"
	"strings"
)

// mention says where a name occurs first in the indexes, as a package or in a relation: the larger, the later.
//
// Where nothing else distinguishes two providers of a name, apt takes the one that its cache came to know last. Its cache
// knows a package from the moment that any paragraph names it, and reads paragraphs in the order of the sources and
// files, and fields in the order of relationFields.
func (u *universe) mention(name string) int {
	if at, ok := u.mentions[name]; ok {
		return at
	}
	at, before := math.MaxInt, 0
search:
	for _, x := range u.indexes {
		for i := range x.Packages {
			p := &x.Packages[i]
			if !u.fits(p) {
				continue
			}
			if p.Name == name {
				at = (before + i) << 23
				break search
			}
			offset := 1
			for _, text := range p.relationFields() {
				if found := findName(text, name); found >= 0 {
					at = (before+i)<<23 + offset + found
					break search
				}
				offset += len(text)
			}
		}
		before += len(x.Packages)
	}
	u.mentions[name] = at
	return at
}

// isMentioned reports whether any paragraph names a package.
func (u *universe) isMentioned(name string) bool { return u.mention(name) != math.MaxInt }

// relationFields are the fields that name other packages, in the order in which apt reads them.
func (p *Package) relationFields() [9]string {
	return [9]string{p.PreDepends, p.Depends, p.Conflicts, p.Breaks, p.Recommends, p.Suggests, p.Replaces, p.Enhances, p.Provides}
}

// findName returns where a relation field names a package, or -1. Versions, which are in parentheses, are no names.
func findName(text, name string) int {
	for from := 0; ; {
		i := strings.Index(text[from:], name)
		if i < 0 {
			return -1
		}
		i += from
		end := i + len(name)
		if (i == 0 || strings.IndexByte(" ,|\n\t", text[i-1]) >= 0) &&
			(end == len(text) || strings.IndexByte(" ,|(\n\t:", text[end]) >= 0) &&
			strings.LastIndexByte(text[:i], '(') <= strings.LastIndexByte(text[:i], ')') {
			return i
		}
		from = i + 1
	}
}
