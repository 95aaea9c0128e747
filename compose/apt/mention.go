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
	before := 0
	for _, x := range u.indexes {
		mentions := x.mentions(u.arch)
		if at, ok := mentions[name]; ok {
			return before + int(at)
		}
		before += len(mentions)
	}
	return math.MaxInt
}

// isMentioned reports whether any paragraph names a package.
func (u *universe) isMentioned(name string) bool { return u.mention(name) != math.MaxInt }

// mentions numbers all names of an index in the order in which an architecture's packages mention them.
func (x *Index) mentions(arch string) map[string]int32 {
	l := x.look()
	l.mu.Lock()
	defer l.mu.Unlock()
	if known, ok := l.mentions[arch]; ok {
		return known
	}
	all := make(map[string]int32, len(x.Packages)*3/2)
	number := func(name string) {
		if _, ok := all[name]; !ok {
			all[name] = int32(len(all))
		}
	}
	for _, p := range x.Packages {
		if p.fits(arch) {
			number(p.Name)
			for _, text := range p.relationFields() {
				eachName(text, number)
			}
		}
	}
	if l.mentions == nil {
		l.mentions = map[string]map[string]int32{}
	}
	l.mentions[arch] = all
	return all
}

// relationFields are the fields that name other packages, in the order in which apt reads them.
func (p *Package) relationFields() [9]string {
	return [9]string{p.PreDepends, p.Depends, p.Conflicts, p.Breaks, p.Recommends, p.Suggests, p.Replaces, p.Enhances, p.Provides}
}

// eachName calls fn for each name of a relation field.
func eachName(text string, fn func(string)) {
	for text != "" {
		name := leadingName(text)
		if name != "" {
			fn(name)
		}
		i := strings.IndexAny(text, ",|")
		if i < 0 {
			return
		}
		text = text[i+1:]
	}
}
