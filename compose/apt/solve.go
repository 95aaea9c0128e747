package apt

import (
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
	VariantBase    = "base"    // what is named and not in the Installed index, and what that depends on; the answer has no more
)

// Request says what a system must have.
type Request struct {
	Arch     string   // Debian architecture: amd64
	Variant  string   // VariantMinbase, VariantNone or VariantBase
	Packages []string // name, name:arch or name=version, also with a pattern; of two that exclude each other's dependencies the first one decides, as for apt

	Archives []Archive // where the indexes come from, in their order; empty: nothing is known of any
	Pins     []Pin     // in the order in which apt reads them: the first that fits counts

	// Stay are packages of an earlier solution: candidates whatever the priorities are, unless a name=version of Packages
	// says otherwise. One that no index has, or that leaves no system, is chosen anew.
	Stay []Exact
	// Own are packages that must be there like those of Packages, after these, and in no other version.
	Own []Exact
}

// Exact is one package by content.
type Exact struct {
	Name, Version, Arch string
	SHA256              string // of the .deb, hex
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
	Base   bool          // the variant has a package of this name, in this version or another, without what the request names
}

// Solve chooses the packages. The answer is a function of the arguments. Errors that people can act on are *UnknownError
// (names and versions that no index has) and *UnmetError (in apt's own words).
func Solve(req Request, indexes []*Index) (*Solution, error) {
	for {
		solution, err := solve(req, indexes)
		var unmet *UnmetError
		if !errors.As(err, &unmet) || len(req.Stay) == 0 {
			return solution, err
		}
		req.Stay = unmet.loosen(req.Stay)
	}
}

// solve is Solve of a request whose Stay is not to be touched.
func solve(req Request, indexes []*Index) (*Solution, error) {
	if req.Arch == "" {
		return nil, errors.New("solve: no architecture is given")
	}
	u, err := newUniverse(req, indexes)
	if err != nil {
		return nil, err
	}
	s := &solver{universe: u, problems: map[*node]error{}}
	wanted, err := s.resolve(req.Packages, req.Own)
	if err != nil {
		return nil, err
	}
	switch req.Variant {
	case VariantMinbase:
		base, err := s.minbase()
		if err != nil {
			return nil, err
		}
		if err := s.install(base); err != nil {
			return nil, err
		}
		s.settle()
	case VariantNone, VariantBase:
	default:
		return nil, fmt.Errorf("solve: variant %q: use %q, %q or %q", req.Variant, VariantMinbase, VariantNone, VariantBase)
	}
	if err := s.install(wanted); err != nil {
		return nil, err
	}
	return s.solution()
}

// solver is a universe with a plan in the making.
type solver struct {
	universe
	wanted   []*node         // what the running step asks for
	problems map[*node]error // candidates whose paragraphs are at fault
	steps    int
}

// resolve turns the names of a request into nodes, in their order, each once. A pinned version becomes the candidate of its
// name. Own packages come after those that are named.
func (s *solver) resolve(names []string, own []Exact) ([]*node, error) {
	unknown := &UnknownError{}
	pins := map[string]string{}
	bare := make([]string, len(names))
	for i, text := range names {
		name, wanted, pinned := strings.Cut(text, "=")
		name, arch, _ := strings.Cut(name, ":")
		if arch != "" && arch != s.arch && arch != "native" && arch != "all" {
			unknown.add("%s: this system is %s; packages of other architectures cannot be added", text, s.arch)
			continue
		}
		bare[i] = name
		if !pinned {
			continue
		}
		if other, ok := pins[name]; ok && other != wanted {
			unknown.add("%s: version %s is asked for as well", text, other)
			continue
		}
		pins[name] = wanted
		if e, ok := s.own[name]; ok && e.Version != wanted {
			unknown.add("%s: the version %s is added as a file", text, e.Version)
			continue
		}
		if err := s.pin(name, wanted); err != nil {
			unknown.add("%s", err)
			bare[i] = ""
		}
		if n, ok := s.nodes[name]; ok { // of the installed system
			n.candidate = s.candidates[name]
		}
	}
	var list []*node
	for _, name := range bare {
		if name == "" {
			continue
		}
		n, err := s.named(name)
		if err == nil && n.current != nil && pins[n.name] == "" { // what is there is what was asked for
			s.candidates[n.name], n.candidate = n.current, n.current
		}
		if err != nil {
			unknown.add("%s", err)
		} else if !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	for _, e := range own {
		if n := s.node(e.Name); n.candidate == nil {
			unknown.add("Package %s %s (%s) is not for %s", e.Name, e.Version, e.Arch, s.arch)
		} else if !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	if len(unknown.Problems) > 0 {
		return nil, unknown
	}
	return list, nil
}

// named finds the package that a request means by a name: the package of the name, or the only one that provides it.
func (s *solver) named(name string) (*node, error) {
	if s.candidate(name) != nil {
		return s.node(name), nil
	}
	var by []*node
	for _, p := range s.providersOf(name) {
		if !slices.Contains(by, p.of) {
			by = append(by, p.of)
		}
	}
	switch {
	case len(by) == 0 && len(s.versions(name)) > 0:
		return nil, fmt.Errorf("Package '%s' has no installation candidate: preferences keep its versions out", name)
	case len(by) == 0 && s.isMentioned(name):
		return nil, fmt.Errorf("Package '%s' has no installation candidate: other packages refer to it, and no source has it%s", name, s.replacedBy(name))
	case len(by) == 0:
		return nil, fmt.Errorf("Unable to locate package %s%s", name, s.didYouMean(name))
	case len(by) == 1:
		return by[0], nil
	}
	names := make([]string, len(by))
	for i, n := range by {
		names[i] = n.name
	}
	slices.Sort(names)
	return nil, fmt.Errorf("Package %s is a virtual package provided by %s: name one of them", name, enumerate(names, 12))
}

// pin makes one version of a name its candidate.
func (s *solver) pin(name, wanted string) error {
	all := s.versions(name)
	if len(all) == 0 {
		return fmt.Errorf("Unable to locate package %s%s", name, s.didYouMean(name))
	}
	x, err := newPattern(wanted)
	if err != nil {
		return err
	}
	var have []string
	for _, v := range all {
		if v.Version == wanted || x.matches(v.Version) {
			s.candidates[name] = s.kept(name, v)
			return nil
		}
		have = append(have, v.Version)
	}
	return fmt.Errorf("Version '%s' for '%s' was not found; there is %s", wanted, name, enumerate(slices.Compact(have), 12))
}

// minbase lists the roots of VariantMinbase, by name.
func (s *solver) minbase() ([]*node, error) {
	if s.candidate("apt") == nil {
		return nil, &UnknownError{Problems: []string{
			"Unable to locate package apt, which variant minbase installs: the indexes are not those of a whole suite"}}
	}
	roots := []*node{s.node("apt")}
	for _, x := range s.indexes {
		for _, i := range x.look().base {
			n := s.node(x.Packages[i].Name)
			if v := n.candidate; v != nil && (v.Essential || v.Priority == "required") && !slices.Contains(roots, n) {
				roots = append(roots, n)
			}
		}
	}
	slices.SortFunc(roots, func(a, b *node) int { return strings.Compare(a.name, b.name) })
	return roots, nil
}

// install plans what is wanted with all that it needs: first what is named, so that it counts when a dependency has
// alternatives, then what that depends on, then what is still broken, and at last without what proved needless.
func (s *solver) install(wanted []*node) error {
	s.wanted = wanted
	for _, n := range wanted {
		n.protected = true
		s.markInstall(n, false, 0, true)
	}
	for _, n := range wanted {
		s.markInstall(n, true, 0, true)
	}
	s.repair()
	if err := s.unmet(); err != nil {
		return err
	}
	s.sweep()
	return nil
}

// settle makes what is planned so far the base of what comes.
func (s *solver) settle() {
	for _, n := range s.nodes {
		n.current, n.candidate, n.mode, n.protected, n.auto = n.install, s.candidate(n.name), modeKeep, false, false
	}
	clear(s.problems)
}

// sweep takes out what came as somebody's dependency and nobody needs any more, since the attempt failed that it came
// with. What is recommended or suggested counts as needed, as for apt.
func (s *solver) sweep() {
	needed := map[*node]bool{}
	var work []*node
	for _, n := range s.planned() {
		if !n.auto {
			needed[n] = true
			work = append(work, n)
		}
	}
	for len(work) > 0 {
		n := work[len(work)-1]
		work = work[:len(work)-1]
		for _, text := range []string{n.install.PreDepends, n.install.Depends, n.install.Recommends, n.install.Suggests} {
			groups, err := parseRelations(text)
			if err != nil {
				continue // of a field that is not asked for
			}
			for _, g := range groups {
				for _, r := range g {
					for _, q := range s.hits(n, r, false, pickInstall) {
						if !needed[q] {
							needed[q] = true
							work = append(work, q)
						}
					}
				}
			}
		}
	}
	for _, n := range s.planned() {
		if !needed[n] && n.current == nil {
			n.install, n.mode = nil, modeKeep
		}
	}
}

// solution checks what the chosen packages say about themselves: their names become paths and URLs.
func (s *solver) solution() (*Solution, error) {
	out := &Solution{}
	if err := s.removed(); err != nil {
		return nil, err
	}
	for _, n := range s.planned() {
		o := n.install
		if s.indexes[o.index].Installed {
			continue
		}
		c := Chosen{Package: o.Package, Index: o.index, Base: n.current != nil && s.installed[n.name] == nil}
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
		case !s.indexes[o.index].Unlisted && !validFilename(o.Filename):
			return nil, fmt.Errorf("package %s %s has the bad Filename %.200q in the index", o.Name, o.Version, o.Filename)
		}
		out.Packages = append(out.Packages, c)
	}
	return out, nil
}

// removed refuses a system that lacks what is installed: nobody runs what a package does when it goes.
func (s *solver) removed() error {
	e := &RemovedError{}
	for _, n := range s.sorted(func(n *node) bool { return s.installed[n.name] != nil && n.install == nil }) {
		e.Packages = append(e.Packages, n.name+" "+n.current.Version)
	}
	if len(e.Packages) == 0 {
		return nil
	}
	return e
}

// RemovedError says that the request has no answer that leaves all installed packages where they are.
type RemovedError struct{ Packages []string }

func (e *RemovedError) Error() string {
	return "what is asked for conflicts with packages of the base, which would have to be removed: " + strings.Join(e.Packages, ", ")
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
