package apt

import (
	"fmt"
	"slices"
	"strings"
)

// version is one version of a package that the archives offer.
type version struct {
	*Package
	index int // which of the indexes has it
}

// node is a package name with what is to become of it.
type node struct {
	name      string
	candidate *version // the only version that may be installed; nil: none, or it proved to be impossible
	current   *version // what the base has
	install   *version // what the system will have
	mode      mode
	protected bool // chosen by the request, or by what it cannot be without: stays as it is
	auto      bool // came as a dependency
	essential bool // may not be removed
}

// mode is the change that a node goes through.
type mode uint8

const (
	modeKeep mode = iota
	modeInstall
	modeDelete
)

// provider is a node under one of the names of its candidate's Provides field.
type provider struct {
	of *node
	*version
	as relation
}

// dependency is one relation field entry: alternatives, of which one has to be there; or, when it is negative, one
// relation that nothing may meet.
type dependency struct {
	field        string // as apt writes it: Depends, PreDepends, Conflicts, Breaks
	negative     bool
	alternatives []relation
}

// facts are the parsed fields of a version.
type facts struct {
	depends  []dependency // in the order in which apt reads them: Pre-Depends, Depends, Conflicts, Breaks
	provides []relation
}

// universe is what the archives offer: for each name the version that policy chooses, and who provides what.
type universe struct {
	arch    string
	indexes []*Index
	policy  *policy

	stay, own map[string]Exact    // by name
	installed map[string]*version // by name: what the system has before anything is asked for

	// What was looked at so far.
	candidates map[string]*version
	nodes      map[string]*node
	providers  map[string][]provider // by provided name
	facts      map[*Package]*facts
}

func newUniverse(req Request, indexes []*Index) (universe, error) {
	policy, err := newPolicy(req.Pins, req.Archives, len(indexes))
	byName := func(list []Exact) map[string]Exact {
		names := make(map[string]Exact, len(list))
		for _, e := range list {
			names[e.Name] = e
		}
		return names
	}
	u := universe{arch: req.Arch, indexes: indexes, policy: policy, stay: byName(req.Stay), own: byName(req.Own), candidates: map[string]*version{}, nodes: map[string]*node{},
		providers: map[string][]provider{}, facts: map[*Package]*facts{}, installed: map[string]*version{}}
	if err == nil {
		u.settleInstalled()
	}
	return u, err
}

// settleInstalled takes the packages of Installed indexes for what the system has. What such a package depends on and does
// not have is not asked for: the system lives without.
func (u *universe) settleInstalled() {
	for i, x := range u.indexes {
		if !x.Installed {
			continue
		}
		for _, p := range x.Packages {
			if p.fits(u.arch) && u.installed[p.Name] == nil {
				u.installed[p.Name] = &version{p, i}
			}
		}
	}
	for name := range u.installed {
		u.node(name)
	}
	for _, v := range u.installed {
		f, err := u.factsOf(v.Package)
		if err != nil {
			u.facts[v.Package] = &facts{} // its paragraph is the base's affair
			continue
		}
		n := u.node(v.Name)
		f.depends = slices.DeleteFunc(f.depends, func(d dependency) bool { return !u.isThere(n, d) })
	}
}

// kept is a version of a name, or what is installed if that is the same version.
func (u *universe) kept(name string, v *version) *version {
	if is := u.installed[name]; is != nil && v != nil && is.Version == v.Version {
		return is
	}
	return v
}

// fits reports whether a package runs on an architecture.
func (p *Package) fits(arch string) bool { return p.Arch == arch || p.Arch == "all" }

// versions lists all versions of a name, the highest first, of equal ones that of the first index.
func (u *universe) versions(name string) []*version {
	var all []*version
	for i, x := range u.indexes {
		for j := range x.look().names.of(name) {
			if p := x.Packages[j]; p.fits(u.arch) {
				all = append(all, &version{p, i})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *version) int { return CompareVersions(b.Version, a.Version) })
	return all
}

// candidate is the version of a name that may be installed, or nil.
func (u *universe) candidate(name string) *version {
	v, ok := u.candidates[name]
	if !ok {
		e, owned := u.own[name]
		if owned {
			v = u.find(e)
		} else if e, stays := u.stay[name]; stays {
			v = u.find(e)
		}
		if v == nil && !owned {
			v = u.kept(name, u.policy.choose(name, u.versions(name)))
		}
		u.candidates[name] = v
	}
	return v
}

// node returns the node of a name, also of one that no archive has.
func (u *universe) node(name string) *node {
	n, ok := u.nodes[name]
	if !ok {
		n = &node{name: name, candidate: u.candidate(name)}
		n.current = u.installed[name]
		n.install = n.current
		n.essential = n.candidate != nil && (n.candidate.Essential || n.candidate.Important) || name == "apt"
		u.nodes[name] = n
	}
	return n
}

// sorted lists the nodes that were looked at and pass, by name.
func (u *universe) sorted(pass func(*node) bool) []*node {
	var list []*node
	for _, n := range u.nodes {
		if pass(n) {
			list = append(list, n)
		}
	}
	slices.SortFunc(list, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return list
}

// providersOf lists the nodes whose candidates provide a name.
func (u *universe) providersOf(name string) []provider {
	list, ok := u.providers[name]
	if ok {
		return list
	}
	for _, x := range u.indexes {
		for j := range x.look().provided.of(name) {
			p := x.Packages[j]
			v := u.candidate(p.Name)
			if is := u.installed[p.Name]; is != nil && is.Package == p {
				v = is
			}
			if v == nil || v.Package != p {
				continue
			}
			f, err := u.factsOf(p)
			if err != nil {
				continue // said when the package itself is chosen
			}
			for _, as := range f.provides {
				if one := (provider{u.node(p.Name), v, as}); as.name == name && !slices.Contains(list, one) {
					list = append(list, one)
				}
			}
		}
	}
	u.providers[name] = list
	return list
}

// factsOf parses and checks the fields of a package, once.
func (u *universe) factsOf(p *Package) (*facts, error) {
	if f, ok := u.facts[p]; ok {
		return f, nil
	}
	f := &facts{}
	for _, x := range []struct {
		field, text string
		negative    bool
	}{{"PreDepends", p.PreDepends, false}, {"Depends", p.Depends, false}, {"Conflicts", p.Conflicts, true}, {"Breaks", p.Breaks, true}} {
		groups, err := parseRelations(x.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.field, err)
		}
		for _, g := range groups {
			if !x.negative {
				f.depends = append(f.depends, dependency{x.field, false, g})
				continue
			}
			for i := range g {
				f.depends = append(f.depends, dependency{x.field, true, g[i : i+1]})
			}
		}
	}
	groups, err := parseRelations(p.Provides)
	if err != nil {
		return nil, fmt.Errorf("Provides: %w", err)
	}
	for _, g := range groups {
		f.provides = append(f.provides, g[0])
	}
	u.facts[p] = f
	return f, nil
}

// hits lists the nodes whose picked version is what a relation of owner asks for, the node of the name itself first. A
// package is never hit by its own negative relations, not even through a name that it provides.
func (u *universe) hits(owner *node, r relation, negative bool, pick func(*node) *version) []*node {
	var found []*node
	u.eachHit(owner, r, negative, pick, func(n *node) bool {
		if !slices.Contains(found, n) {
			found = append(found, n)
		}
		return true
	})
	return found
}

// isHit reports whether there is such a node.
func (u *universe) isHit(owner *node, r relation, negative bool, pick func(*node) *version) bool {
	found := false
	u.eachHit(owner, r, negative, pick, func(*node) bool {
		found = true
		return false
	})
	return found
}

func (u *universe) eachHit(owner *node, r relation, negative bool, pick func(*node) *version, yield func(*node) bool) {
	target := u.node(r.name)
	if !(negative && target == owner) {
		if v := pick(target); v != nil && r.accepts(v.Version) && u.qualifies(r, v.Package) && !yield(target) {
			return
		}
	}
	for _, p := range u.providersOf(r.name) {
		if negative && p.of == owner {
			continue
		}
		if v := pick(p.of); v != nil && v.Package == p.Package && u.meets(r, v.Package, p.as) && !yield(p.of) {
			return
		}
	}
}

// meets reports whether one Provides entry of a package is what a relation asks for: an entry without a version does not
// meet a relation with one (Policy 7.5).
func (u *universe) meets(r relation, p *Package, as relation) bool {
	if as.name != r.name || (as.op != "" && as.op != "=") || (r.op != "" && (as.op == "" || !r.accepts(as.version))) {
		return false
	}
	return u.qualifies(r, p) || as.qualifier == r.qualifier
}

// qualifies checks the architecture qualifier of a relation on a system of one architecture.
func (u *universe) qualifies(r relation, p *Package) bool {
	switch r.qualifier {
	case "", "native", u.arch:
		return true
	case "any":
		return p.MultiArch == "allowed"
	default:
		return false
	}
}

func pickInstall(n *node) *version   { return n.install }
func pickCandidate(n *node) *version { return n.candidate }

// isThere reports whether one alternative of a dependency is as it should be in the system as it is planned now.
func (u *universe) isThere(owner *node, d dependency) bool {
	for _, r := range d.alternatives {
		if u.isHit(owner, r, d.negative, pickInstall) != d.negative {
			return true
		}
	}
	return false
}

// broken lists the dependencies of a planned package that are not as they should be.
func (u *universe) broken(n *node) []dependency {
	if n.install == nil {
		return nil
	}
	f, err := u.factsOf(n.install.Package)
	if err != nil {
		return nil // such a version is never planned
	}
	var list []dependency
	for _, d := range f.depends {
		if !u.isThere(n, d) {
			list = append(list, d)
		}
	}
	return list
}

// isBroken is broken without the list.
func (u *universe) isBroken(n *node) bool {
	if n.install == nil {
		return false
	}
	f, err := u.factsOf(n.install.Package)
	return err == nil && slices.ContainsFunc(f.depends, func(d dependency) bool { return !u.isThere(n, d) })
}
