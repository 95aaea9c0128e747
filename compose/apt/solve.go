package apt

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// The variants of a Request.
const (
	VariantMinbase = "minbase" // Essential: yes or Priority: required, and apt; what they depend on
	VariantNone    = "none"    // only the named packages and what they depend on
)

// Request says what a system must have.
type Request struct {
	Arch     string   // Debian architecture: amd64
	Variant  string   // VariantMinbase or VariantNone
	Packages []string // name, name:arch or name=version; the order has no meaning
}

// Solution is the exact packages of a system, sorted by name.
type Solution struct {
	Packages []Chosen
}

// Chosen is one package of a solution.
type Chosen struct {
	*Package
	Digest digest.Digest // of the .deb
	Index  int           // which of the indexes has it
}

// maxSteps bounds how many packages a solver may try, undone ones included. The largest desktops try some thousands; an
// archive that is made to exhaust alternatives would try for ever.
const maxSteps = 100_000

// preferred are alternatives that win wherever they stand; see the package comment.
var preferred = map[string]bool{"usr-is-merged": true}

// Solve chooses the packages. The answer is a function of the arguments, and does not depend on the order of
// req.Packages. Errors that people can act on are *UnknownError (names and versions that no index has) and *UnmetError
// (in apt's own words).
func Solve(req Request, indexes []*Index) (*Solution, error) {
	if req.Arch == "" {
		return nil, errors.New("solve: no architecture is given")
	}
	s := newSolver(req.Arch, indexes)
	wanted, err := s.resolve(req.Packages)
	if err != nil {
		return nil, err
	}
	switch req.Variant {
	case VariantMinbase:
		base, err := s.minbase()
		if err != nil {
			return nil, err
		}
		if err := s.installAll(base); err != nil {
			return nil, err
		}
	case VariantNone:
	default:
		return nil, fmt.Errorf("solve: variant %q: use %q or %q", req.Variant, VariantMinbase, VariantNone)
	}
	if err := s.installAll(wanted); err != nil {
		return nil, err
	}
	return s.solution()
}

// offer is a package as an index has it.
type offer struct {
	*Package
	index int
}

// provider is an offer under one of the names of its Provides field.
type provider struct {
	offer
	as relation
}

// enemy is one Conflicts or Breaks entry of a package of the set.
type enemy struct {
	owner offer
	field string
	rel   relation
}

// facts are the parsed fields of a package.
type facts struct {
	depends   []dependency
	conflicts []enemy
	provides  []relation
}

type dependency struct {
	field        string
	alternatives []relation
}

// solver holds the candidates and the set as it grows.
type solver struct {
	arch       string
	indexes    []*Index
	candidates map[string]offer      // the one version of a name that may be installed
	providers  map[string][]provider // candidates by the virtual names that they provide; made on first use
	facts      map[*Package]*facts

	set    set // what is chosen so far
	forced set // what every set for this request has: reached through dependencies that leave no choice
	steps  int
}

func newSolver(arch string, indexes []*Index) *solver {
	s := &solver{
		arch: arch, indexes: indexes, facts: map[*Package]*facts{}, set: newSet(), forced: newSet(),
	}
	n := 0
	for _, x := range indexes {
		n += len(x.Packages)
	}
	s.candidates = make(map[string]offer, n)
	for i, x := range indexes {
		for j := range x.Packages {
			p := &x.Packages[j]
			if !s.fits(p) {
				continue
			}
			if old, ok := s.candidates[p.Name]; !ok || CompareVersions(p.Version, old.Version) > 0 {
				s.candidates[p.Name] = offer{p, i}
			}
		}
	}
	return s
}

// fits reports whether a package runs on the architecture.
func (s *solver) fits(p *Package) bool { return p.Arch == s.arch || p.Arch == "all" }

// resolve turns the names of a request into candidates, sorted by name. A pinned version becomes the candidate of its name.
func (s *solver) resolve(names []string) ([]offer, error) {
	unknown := &UnknownError{}
	byName := map[string]offer{}
	names = slices.Clone(names)
	slices.Sort(names)
	pins := map[string]string{}
	for _, text := range slices.Compact(names) {
		name, version, pinned := strings.Cut(text, "=")
		name, arch, _ := strings.Cut(name, ":")
		if arch != "" && arch != s.arch && arch != "native" && arch != "all" {
			unknown.add("%s: this system is %s; packages of other architectures cannot be added", text, s.arch)
			continue
		}
		if pinned {
			if other, ok := pins[name]; ok && other != version {
				unknown.add("%s: version %s is asked for as well", text, other)
				continue
			}
			pins[name] = version
			if err := s.pin(name, version); err != nil {
				unknown.add("%s", err)
				continue
			}
		}
		o, err := s.named(name)
		if err != nil {
			unknown.add("%s", err)
			continue
		}
		byName[o.Name] = o
	}
	if len(unknown.Problems) > 0 {
		return nil, unknown
	}
	return sortedByName(byName), nil
}

// named finds the package that a request means by a name: the package of the name, or the only one that provides it.
func (s *solver) named(name string) (offer, error) {
	if o, ok := s.candidates[name]; ok {
		return o, nil
	}
	by := map[string]offer{}
	for _, p := range s.providersOf(name) {
		by[p.Name] = p.offer
	}
	switch all := sortedByName(by); len(all) {
	case 0:
		return offer{}, fmt.Errorf("Unable to locate package %s%s", name, s.didYouMean(name))
	case 1:
		return all[0], nil
	default:
		names := make([]string, len(all))
		for i, o := range all {
			names[i] = o.Name
		}
		return offer{}, fmt.Errorf("Package %s is a virtual package provided by %s: name one of them", name, enumerate(names, 12))
	}
}

func (s *solver) pin(name, version string) error {
	var have []string
	for i, x := range s.indexes {
		for j := range x.Packages {
			p := &x.Packages[j]
			if p.Name != name || !s.fits(p) {
				continue
			}
			if p.Version == version {
				s.candidates[name] = offer{p, i}
				s.providers = nil
				return nil
			}
			have = append(have, p.Version)
		}
	}
	if have == nil {
		return fmt.Errorf("Unable to locate package %s%s", name, s.didYouMean(name))
	}
	slices.SortFunc(have, func(a, b string) int { return CompareVersions(b, a) })
	return fmt.Errorf("Version '%s' for '%s' was not found; there is %s", version, name, enumerate(slices.Compact(have), 12))
}

// minbase lists the roots of VariantMinbase, sorted by name.
func (s *solver) minbase() ([]offer, error) {
	roots := map[string]offer{}
	for name, o := range s.candidates {
		if o.Essential || o.Priority == "required" {
			roots[name] = o
		}
	}
	apt, ok := s.candidates["apt"]
	if !ok {
		return nil, &UnknownError{Problems: []string{
			"Unable to locate package apt, which variant minbase installs: the indexes are not those of a whole suite"}}
	}
	roots["apt"] = apt
	return sortedByName(roots), nil
}

// installAll adds packages to the set, first all of them and then what each depends on, so that what is named counts when
// a dependency has alternatives.
func (s *solver) installAll(roots []offer) error {
	if err := s.force(roots); err != nil {
		return &UnmetError{Unmet: err}
	}
	for _, o := range roots {
		if err := s.mark(o); err != nil {
			return &UnmetError{Unmet: err}
		}
	}
	for _, o := range roots {
		if err := s.follow(o); err != nil {
			return &UnmetError{Unmet: err}
		}
	}
	return nil
}

// force collects what the roots cannot be without: the packages reached through dependencies with a single option. What
// conflicts with one of them is no option anywhere, so a choice early on cannot shut out a necessity met later.
func (s *solver) force(roots []offer) []Unmet {
	work := slices.Clone(roots)
	for len(work) > 0 {
		o := work[len(work)-1]
		work = work[:len(work)-1]
		if s.forced.has(o) {
			continue
		}
		f, err := s.factsOf(o)
		if err != nil {
			return []Unmet{{Package: o.Name, Problem: err.Error()}}
		}
		s.forced.add(o, f)
		for _, d := range f.depends {
			if only, ok := s.onlyOption(d); ok {
				work = append(work, only)
			}
		}
	}
	return nil
}

// onlyOption returns the package that meets a dependency when there is just one.
func (s *solver) onlyOption(d dependency) (only offer, ok bool) {
	for _, r := range d.alternatives {
		for _, o := range s.options(r) {
			if ok && o.Name != only.Name {
				return offer{}, false
			}
			only, ok = o, true
		}
	}
	return only, ok
}

// install adds a package and what it depends on, or leaves the set as it was and says why.
func (s *solver) install(o offer) []Unmet {
	if s.set.has(o) {
		return nil // only candidates are chosen, so it is this version
	}
	before := len(s.set.trail)
	err := s.mark(o)
	if err == nil {
		err = s.follow(o)
	}
	if err != nil {
		s.set.undo(before, s.facts)
	}
	return err
}

// mark adds one package to the set, unless it and the set refuse each other.
func (s *solver) mark(o offer) []Unmet {
	if s.set.has(o) {
		return nil
	}
	if s.steps++; s.steps > maxSteps {
		return []Unmet{{Package: o.Name, Problem: fmt.Sprintf("gave up after trying %d packages", maxSteps)}}
	}
	f, err := s.factsOf(o)
	if err != nil {
		return []Unmet{{Package: o.Name, Problem: err.Error()}}
	}
	if err := s.refused(&s.set, o, f); err != nil {
		return err
	}
	if !s.forced.has(o) {
		if err := s.refused(&s.forced, o, f); err != nil {
			return err
		}
	}
	s.set.add(o, f)
	return nil
}

// refused looks for Conflicts and Breaks between a package and a set, in both directions. A package never conflicts with
// itself, not even through a name that it provides.
func (s *solver) refused(in *set, o offer, f *facts) []Unmet {
	for _, e := range f.conflicts {
		if q, ok := in.names[e.rel.name]; ok && q.Name != o.Name && s.satisfies(e.rel, q) {
			return []Unmet{conflict(e, q)}
		}
		for _, q := range in.stands[e.rel.name] {
			if q.Name != o.Name && s.satisfies(e.rel, q) {
				return []Unmet{conflict(e, q)}
			}
		}
	}
	for _, e := range in.enemies[o.Name] {
		if e.owner.Name != o.Name && s.satisfies(e.rel, o) {
			return []Unmet{conflict(e, o)}
		}
	}
	for _, r := range f.provides {
		for _, e := range in.enemies[r.name] {
			if e.owner.Name != o.Name && s.satisfies(e.rel, o) {
				return []Unmet{conflict(e, o)}
			}
		}
	}
	return nil
}

// follow meets the dependencies of a package of the set.
func (s *solver) follow(o offer) []Unmet {
	f, err := s.factsOf(o)
	if err != nil {
		return []Unmet{{Package: o.Name, Problem: err.Error()}}
	}
	for _, d := range f.depends {
		if err := s.meet(o, d); err != nil {
			return err
		}
	}
	return nil
}

// meet makes one dependency true.
func (s *solver) meet(o offer, d dependency) []Unmet {
	alternatives := d.alternatives
	if slices.ContainsFunc(alternatives, func(r relation) bool { return preferred[r.name] }) {
		alternatives = slices.Clone(alternatives)
		slices.SortStableFunc(alternatives, func(a, b relation) int {
			return cmp.Compare(rank(!preferred[a.name]), rank(!preferred[b.name]))
		})
	}
	for _, r := range alternatives {
		if q, ok := s.set.names[r.name]; ok && s.satisfies(r, q) {
			return nil
		}
		if slices.ContainsFunc(s.set.stands[r.name], func(q offer) bool { return s.satisfies(r, q) }) {
			return nil
		}
	}
	unmet := Unmet{Package: o.Name, Field: d.field}
	var deeper []Unmet
	for _, r := range alternatives {
		options := s.options(r)
		for _, q := range options {
			err := s.install(q)
			if err == nil {
				return nil
			}
			if s.steps > maxSteps {
				return err
			}
			deeper = append(deeper, err...)
		}
		unmet.Alternatives = append(unmet.Alternatives, Alternative{Relation: r.String(), Reason: s.whyNot(r, options)})
	}
	return append([]Unmet{unmet}, deeper[:min(len(deeper), maxUnmet)]...)
}

// options lists the candidates that meet a relation, in the order in which they are tried.
func (s *solver) options(r relation) []offer {
	var options []offer
	if o, ok := s.candidates[r.name]; ok && s.satisfies(r, o) {
		options = append(options, o)
	}
	var others []offer
	for _, p := range s.providersOf(r.name) {
		if p.Name != r.name && s.meets(r, p.offer, p.as) && !slices.ContainsFunc(others, func(o offer) bool { return o.Name == p.Name }) {
			others = append(others, p.offer)
		}
	}
	slices.SortFunc(others, func(a, b offer) int {
		return cmp.Or(
			cmp.Compare(rank(!a.Essential), rank(!b.Essential)),
			cmp.Compare(rank(!a.Important), rank(!b.Important)),
			cmp.Compare(priorityRank(a.Priority), priorityRank(b.Priority)),
			strings.Compare(a.Name, b.Name))
	})
	return append(options, others...)
}

// satisfies reports whether a package, by its name or by one that it provides, is what a relation asks for.
func (s *solver) satisfies(r relation, o offer) bool {
	if o.Name == r.name && r.accepts(o.Version) && s.qualifies(r, o) {
		return true
	}
	if o.Provides == "" {
		return false
	}
	f, err := s.factsOf(o)
	return err == nil && slices.ContainsFunc(f.provides, func(as relation) bool { return s.meets(r, o, as) })
}

// meets reports whether one Provides entry of a package is what a relation asks for: an entry without a version does not
// meet a relation with one (Policy 7.5).
func (s *solver) meets(r relation, o offer, as relation) bool {
	if as.name != r.name || (r.op != "" && (as.op != "=" || !r.accepts(as.version))) {
		return false
	}
	return s.qualifies(r, o) || as.qualifier == r.qualifier
}

// qualifies checks the architecture qualifier of a relation on a system of one architecture.
func (s *solver) qualifies(r relation, o offer) bool {
	switch r.qualifier {
	case "", "native", s.arch:
		return true
	case "any":
		return o.MultiArch == "allowed"
	default:
		return false
	}
}

func (s *solver) providersOf(name string) []provider {
	if s.providers == nil {
		s.providers = map[string][]provider{}
		for _, o := range s.candidates { // the order within a name is settled by those who use it
			if o.Provides == "" {
				continue
			}
			groups, err := parseRelations(o.Provides)
			if err != nil {
				continue // said when the package itself is chosen
			}
			for _, g := range groups {
				s.providers[g[0].name] = append(s.providers[g[0].name], provider{o, g[0]})
			}
		}
	}
	return s.providers[name]
}

// factsOf parses and checks the fields of a package, once.
func (s *solver) factsOf(o offer) (*facts, error) {
	if f, ok := s.facts[o.Package]; ok {
		return f, nil
	}
	f := &facts{}
	for _, x := range []struct{ field, text string }{{"PreDepends", o.PreDepends}, {"Depends", o.Depends}} {
		groups, err := parseRelations(x.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.field, err)
		}
		for _, g := range groups {
			f.depends = append(f.depends, dependency{x.field, g})
		}
	}
	for _, x := range []struct{ field, text string }{{"Conflicts", o.Conflicts}, {"Breaks", o.Breaks}} {
		groups, err := parseRelations(x.text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", x.field, err)
		}
		for _, g := range groups {
			for _, r := range g {
				f.conflicts = append(f.conflicts, enemy{o, x.field, r})
			}
		}
	}
	groups, err := parseRelations(o.Provides)
	if err != nil {
		return nil, fmt.Errorf("Provides: %w", err)
	}
	for _, g := range groups {
		f.provides = append(f.provides, g[0])
	}
	s.facts[o.Package] = f
	return f, nil
}

// solution checks what the chosen packages say about themselves: their names become paths and URLs.
func (s *solver) solution() (*Solution, error) {
	out := &Solution{}
	for _, o := range sortedByName(s.set.names) {
		c := Chosen{Package: o.Package, Index: o.index}
		c.Digest = digest.NewDigestFromEncoded(digest.SHA256, strings.ToLower(o.SHA256))
		switch {
		case !validName(o.Name):
			return nil, fmt.Errorf("the index has a package with the bad name %.80q", o.Name)
		case strings.ContainsAny(o.Version, "/ \t\n\x00"):
			return nil, fmt.Errorf("package %s has the bad version %.80q in the index", o.Name, o.Version)
		case c.Digest.Validate() != nil:
			return nil, fmt.Errorf("package %s %s has no valid SHA256 in the index", o.Name, o.Version)
		case o.Size < 0:
			return nil, fmt.Errorf("package %s %s has no valid Size in the index", o.Name, o.Version)
		case !validFilename(o.Filename):
			return nil, fmt.Errorf("package %s %s has the bad Filename %.200q in the index", o.Name, o.Version, o.Filename)
		}
		out.Packages = append(out.Packages, c)
	}
	return out, nil
}

// validName checks a package name (Policy 5.6.1; upper case is tolerated as dpkg does).
func validName(name string) bool {
	for i := range len(name) {
		c := name[i]
		alnum := isDigit(c) || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
		if !alnum && (i == 0 || c != '+' && c != '-' && c != '.') {
			return false
		}
	}
	return name != "" && len(name) <= 200
}

// validFilename checks that a path stays below the archive's base.
func validFilename(name string) bool {
	clean := path.Clean(strings.TrimPrefix(name, "./"))
	return name != "" && clean != "." && clean != ".." && !strings.HasPrefix(clean, "../") && !path.IsAbs(clean) &&
		!strings.ContainsAny(name, "?#\\ \t\n\x00")
}

func sortedByName(byName map[string]offer) []offer {
	list := make([]offer, 0, len(byName))
	for _, o := range byName {
		list = append(list, o)
	}
	slices.SortFunc(list, func(a, b offer) int { return strings.Compare(a.Name, b.Name) })
	return list
}

func priorityRank(priority string) int {
	if i := slices.Index([]string{"required", "important", "standard", "optional", "extra"}, priority); i >= 0 {
		return i
	}
	return 5
}

func rank(b bool) int {
	if b {
		return 1
	}
	return 0
}
