package apt

import (
	"slices"
	"strings"
)

// find returns the version that is exactly the package asked for, or nil.
func (u *universe) find(e Exact) *version {
	for _, v := range u.versions(e.Name) {
		if v.Version == e.Version && v.Arch == e.Arch && strings.EqualFold(v.SHA256, e.SHA256) {
			return v
		}
	}
	return nil
}

// Find returns the package in the first of the indexes that has exactly it, and which one that is.
func Find(e Exact, indexes []*Index) (p *Package, index int) {
	for i, x := range indexes {
		for j := range x.look().names.of(e.Name) {
			if p := x.Packages[j]; p.Version == e.Version && p.Arch == e.Arch && strings.EqualFold(p.SHA256, e.SHA256) {
				return p, i
			}
		}
	}
	return nil, -1
}

// Offers lists what the indexes have under a name for an architecture, the highest version first.
func Offers(name, arch string, indexes []*Index) []*Package {
	u := universe{arch: arch, indexes: indexes}
	var all []*Package
	for _, v := range u.versions(name) {
		all = append(all, v.Package)
	}
	return all
}

// loosen takes out of stay what stands against a system: what is asked for in another version, else what is asked for at
// all, else what asks. It always takes out something; when the error names nothing of stay, everything.
func (e *UnmetError) loosen(stay []Exact) []Exact {
	other, asked, asking := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, u := range e.Unmet {
		asking[u.Package] = true
		for _, a := range u.Alternatives {
			name := leadingName(a.Relation)
			asked[name] = true
			other[name] = other[name] || strings.HasSuffix(a.Reason, " is to be installed")
		}
	}
	for _, names := range []map[string]bool{other, asked, asking} {
		kept := slices.DeleteFunc(slices.Clone(stay), func(x Exact) bool { return names[x.Name] })
		if len(kept) < len(stay) {
			return kept
		}
	}
	return nil
}
