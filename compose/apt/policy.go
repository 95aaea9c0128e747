package apt

import (
	"fmt"
	"math"
	"path"
	"regexp"
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
	general  []int // of each index
	specific []specificPin
	archives []Archive
}

// specificPin is a pin for some packages.
type specificPin struct {
	Pin
	name     pattern
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
	p := &policy{general: make([]int, n), archives: archives}
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
		if pin.Package == "*" {
			for i, a := range archives {
				match, err := pin.matchesArchive(a)
				if err != nil {
					return nil, err
				}
				if match && (!fixed[i] || priority == never) && p.general[i] != never {
					p.general[i], fixed[i] = priority, true
				}
			}
			continue
		}
		for _, name := range strings.Fields(pin.Package) {
			name, arch, qualified := strings.Cut(name, ":")
			if name == "src" && qualified {
				return nil, fmt.Errorf("preferences: Package: src:%s: pins by source package are not supported: name the binary packages", arch)
			}
			x, err := newPattern(name)
			if err != nil {
				return nil, fmt.Errorf("preferences: Package: %w", err)
			}
			p.specific = append(p.specific, specificPin{pin, x, priority})
		}
	}
	return p, nil
}

// plain reports whether every version has the same priority, so that the highest is the candidate.
func (p *policy) plain() bool {
	for _, priority := range p.general {
		if priority != p.general[0] || priority <= 0 {
			return false
		}
	}
	return len(p.specific) == 0
}

// pinned reports whether a pin is about the name.
func (p *policy) pinned(name string) bool {
	for _, s := range p.specific {
		if s.name.matches(name) {
			return true
		}
	}
	return false
}

// priority is that of a version of a package that is in the given indexes.
func (p *policy) priority(name, version string, indexes []int) (int, error) {
	highest := math.MinInt
	for _, i := range indexes {
		highest = max(highest, p.general[i])
	}
	for _, s := range p.specific {
		if !s.name.matches(name) {
			continue
		}
		match, err := s.matches(version, indexes, p.archives)
		if err != nil {
			return 0, err
		}
		if match {
			if highest == never {
				return never, nil
			}
			return s.priority, nil
		}
	}
	return highest, nil
}

func (p Pin) matches(version string, indexes []int, archives []Archive) (bool, error) {
	kind, rest := p.split()
	if kind == "version" {
		x, err := newPattern(rest)
		if err != nil {
			return false, fmt.Errorf("preferences: Pin: version %w", err)
		}
		return x.matches(version), nil
	}
	for _, i := range indexes {
		if match, err := p.matchesArchive(archives[i]); match || err != nil {
			return match, err
		}
	}
	return false, nil
}

func (p Pin) split() (kind, rest string) {
	kind, rest, _ = strings.Cut(strings.TrimSpace(p.Pin), " ")
	return strings.ToLower(kind), strings.TrimSpace(rest)
}

// matchesArchive is for pins by release and origin.
func (p Pin) matchesArchive(a Archive) (bool, error) {
	kind, rest := p.split()
	match := func(text, value string) (bool, error) {
		x, err := newPattern(text)
		if err != nil {
			return false, fmt.Errorf("preferences: Pin: %s %w", kind, err)
		}
		return x.matches(value), nil
	}
	switch kind {
	case "origin":
		if len(rest) >= 2 && rest[0] == '"' && rest[len(rest)-1] == '"' {
			rest = rest[1 : len(rest)-1]
		}
		return match(rest, a.Site)
	case "release":
	default:
		return false, fmt.Errorf("preferences: Pin: %.60q: use release, origin or version (version only with the name of a package)", p.Pin)
	}
	if rest == "*" {
		return true, nil
	}
	if rest == "" {
		return false, nil
	}
	if !strings.Contains(rest, "=") {
		if rest[0] >= '0' && rest[0] <= '9' {
			return match(rest, a.Version)
		}
		bySuite, err := match(rest, a.Suite)
		if bySuite || err != nil {
			return bySuite, err
		}
		return match(rest, a.Codename)
	}
	some := false
	for part := range strings.SplitSeq(rest, ",") {
		key, text, _ := strings.Cut(strings.TrimSpace(part), "=")
		if text == "" {
			continue
		}
		value, ok := map[string]string{"v": a.Version, "o": a.Origin, "a": a.Suite, "n": a.Codename, "l": a.Label,
			"c": a.Component, "b": a.Arch}[strings.ToLower(key)]
		if !ok {
			continue
		}
		some = true
		if match, err := match(text, value); !match || err != nil {
			return false, err
		}
	}
	return some, nil
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
