package apt

import (
	"fmt"
	"math"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// Archive is what is known about where an index comes from: what priorities depend on (apt_preferences(5)).
type Archive struct {
	Origin, Label, Suite, Codename, Version string // of the Release file
	Component, Arch                         string // of the index
	Site                                    string // host of the mirror, without port; "" for files
	NotAutomatic, ButAutomaticUpgrades      bool   // of the Release file
}

// Pin is one record of apt's preferences, as it is written there.
type Pin struct {
	Package  string // names, globs or /regular expressions/, separated by spaces; "*": all
	Pin      string // release …, origin … or version …
	Priority string // a number, or "never"
}

// never is the priority of what may not be installed whatever else is said.
const never = math.MinInt16

// priority reads the priority of a pin.
func (p Pin) priority() (int, error) {
	if p.Priority == "never" {
		return never, nil
	}
	n, err := strconv.ParseInt(p.Priority, 10, 16)
	if err != nil || n == 0 || n == never {
		return 0, fmt.Errorf("preferences: Pin-Priority %q of Package %.60s is no number from -32767 to 32767 other than 0", p.Priority, p.Package)
	}
	return int(n), nil
}

// policy gives the versions of packages their priorities.
type policy struct {
	general  []int         // of each index
	specific []specificPin // in order
}

// specificPin is a pin for some packages.
type specificPin struct {
	name     pattern
	match    func(version string, indexes []int) bool
	priority int
}

// newPolicy applies pins to n indexes. archives are as many as there are indexes, or none.
func newPolicy(pins []Pin, archives []Archive, n int) (*policy, error) {
	if len(archives) == 0 {
		archives = make([]Archive, n)
	}
	if len(archives) != n {
		return nil, fmt.Errorf("solve: %d archives for %d indexes", len(archives), n)
	}
	p := &policy{general: make([]int, n)}
	for i, a := range archives {
		switch {
		case a.ButAutomaticUpgrades:
			p.general[i] = 100
		case a.NotAutomatic:
			p.general[i] = 1
		default:
			p.general[i] = 500
		}
	}
	fixed := make([]bool, n)
	for _, pin := range pins {
		priority, err := pin.priority()
		if err != nil {
			return nil, err
		}
		if pin.Package != "*" {
			if err := p.addSpecific(pin, priority, archives); err != nil {
				return nil, err
			}
			continue
		}
		match, err := pin.archives()
		if err != nil {
			return nil, err
		}
		for i, a := range archives {
			if (!fixed[i] || priority == never) && p.general[i] != never && match(a) {
				p.general[i], fixed[i] = priority, true
			}
		}
	}
	return p, nil
}

func (p *policy) addSpecific(pin Pin, priority int, archives []Archive) error {
	match, err := pin.versions(archives)
	if err != nil {
		return err
	}
	for _, name := range strings.Fields(pin.Package) {
		name, rest, qualified := strings.Cut(name, ":")
		if name == "src" && qualified {
			return fmt.Errorf("preferences: Package: src:%s: pins by source package are not supported: name the binary packages", rest)
		}
		x, err := newPattern(name)
		if err != nil {
			return fmt.Errorf("preferences: Package: %w", err)
		}
		p.specific = append(p.specific, specificPin{x, match, priority})
	}
	return nil
}

// choose finds the candidate among all versions of a name, which come with the highest first: of those with the highest
// priority the highest one, of equal versions the first. Priorities of 0 and below are no candidates.
func (p *policy) choose(name string, all []*version) *version {
	var best *version
	highest := 0
	for i := 0; i < len(all); {
		one, indexes := all[i], []int(nil)
		for ; i < len(all) && all[i].Version == one.Version; i++ {
			indexes = append(indexes, all[i].index)
		}
		if priority := p.priority(name, one.Version, indexes); priority > highest {
			best, highest = one, priority
		}
	}
	return best
}

// priority is that of a version of a package that is in the given indexes.
func (p *policy) priority(name, version string, indexes []int) int {
	highest := math.MinInt
	for _, i := range indexes {
		highest = max(highest, p.general[i])
	}
	for _, s := range p.specific {
		if highest != never && s.name.matches(name) && s.match(version, indexes) {
			return s.priority
		}
	}
	return highest
}

func (p Pin) split() (kind, rest string) {
	kind, rest, _ = strings.Cut(strings.TrimSpace(p.Pin), " ")
	return strings.ToLower(kind), strings.TrimSpace(rest)
}

// versions compiles a pin of some packages.
func (p Pin) versions(archives []Archive) (func(version string, indexes []int) bool, error) {
	if kind, rest := p.split(); kind == "version" {
		x, err := newPattern(rest)
		if err != nil {
			return nil, fmt.Errorf("preferences: Pin: version %w", err)
		}
		return func(version string, _ []int) bool { return x.matches(version) }, nil
	}
	match, err := p.archives()
	return func(_ string, indexes []int) bool {
		return slices.ContainsFunc(indexes, func(i int) bool { return match(archives[i]) })
	}, err
}

// archives compiles a pin by release or origin.
func (p Pin) archives() (func(Archive) bool, error) {
	kind, rest := p.split()
	switch {
	case kind == "origin":
		if len(rest) >= 2 && rest[0] == '"' && rest[len(rest)-1] == '"' {
			rest = rest[1 : len(rest)-1]
		}
		return p.field(rest, func(a Archive) []string { return []string{a.Site} })
	case kind != "release":
		return nil, fmt.Errorf("preferences: Pin: %.60q: use release, origin or version (version only with the name of a package)", p.Pin)
	case rest == "*":
		return func(Archive) bool { return true }, nil
	case !strings.Contains(rest, "=") && rest != "" && isDigit(rest[0]):
		return p.field(rest, releaseFields["v"])
	case !strings.Contains(rest, "="):
		return p.field(rest, func(a Archive) []string { return []string{a.Suite, a.Codename} })
	}
	var all []func(Archive) bool
	for part := range strings.SplitSeq(rest, ",") {
		key, text, _ := strings.Cut(strings.TrimSpace(part), "=")
		values, ok := releaseFields[strings.ToLower(key)]
		if !ok || text == "" {
			continue // as by apt
		}
		match, err := p.field(text, values)
		if err != nil {
			return nil, err
		}
		all = append(all, match)
	}
	return func(a Archive) bool {
		return len(all) > 0 && !slices.ContainsFunc(all, func(match func(Archive) bool) bool { return !match(a) })
	}, nil
}

// releaseFields are what a pin by release names.
var releaseFields = map[string]func(Archive) []string{
	"v": func(a Archive) []string { return []string{a.Version} },
	"o": func(a Archive) []string { return []string{a.Origin} },
	"a": func(a Archive) []string { return []string{a.Suite} },
	"n": func(a Archive) []string { return []string{a.Codename} },
	"l": func(a Archive) []string { return []string{a.Label} },
	"c": func(a Archive) []string { return []string{a.Component} },
	"b": func(a Archive) []string { return []string{a.Arch} },
}

// field compiles a pattern for one of the values.
func (p Pin) field(text string, values func(Archive) []string) (func(Archive) bool, error) {
	x, err := newPattern(text)
	if err != nil {
		return nil, fmt.Errorf("preferences: Pin: %.60q: %w", p.Pin, err)
	}
	return func(a Archive) bool { return slices.ContainsFunc(values(a), x.matches) }, nil
}

// pattern is a glob, a regular expression between slashes, or plain text.
type pattern struct {
	glob string
	re   *regexp.Regexp
}

func newPattern(text string) (pattern, error) {
	if len(text) > 1 && text[0] == '/' && text[len(text)-1] == '/' {
		re, err := regexp.Compile("(?i)" + text[1:len(text)-1])
		if err != nil {
			return pattern{}, fmt.Errorf("%.60q: %w", text, err)
		}
		return pattern{re: re}, nil
	}
	// The slash is like any other character to fnmatch without FNM_PATHNAME, but not to path.Match.
	glob := strings.ReplaceAll(text, "/", "\x00")
	if _, err := path.Match(glob, ""); err != nil {
		return pattern{}, fmt.Errorf("%.60q is no pattern", text)
	}
	return pattern{glob: glob}, nil
}

func (p pattern) matches(value string) bool {
	if p.re != nil {
		return p.re.MatchString(value)
	}
	ok, err := path.Match(strings.ToLower(p.glob), strings.ToLower(strings.ReplaceAll(value, "/", "\x00")))
	return ok && err == nil
}
