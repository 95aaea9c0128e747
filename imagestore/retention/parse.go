package retention

import (
	"fmt"
	"path"
	"regexp"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe/strict"
)

// Bounds of a policy's text.
const (
	MaxPolicy   = 1 << 18 // bytes
	MaxRules    = 1000
	MaxKeepLast = 1_000_000
	maxGlob     = 256 // bytes; names have at most 128
)

// language is what messages say about policies.
var language = strict.Language{
	Noun: "policy", Plural: "policies", Max: MaxPolicy, Advice: "let globs match many names",
	Begin: `a policy such as rules: [{match: "**", keepLast: 10, keepFor: 30d}]`,
}

// ParsePolicy reads a policy:
//
//	rules:
//	- {match: "shop/*", keepLast: 20, keepFor: 90d}
//	- {match: "**", keepLast: 5}
//
// file is its name for messages. The error is of type strict.Errors and has everything that is wrong, also rules that can
// never decide because an earlier one takes every name that they match. Such a rule is a mistake about the order, and
// its author believes something to be kept that is not.
func ParsePolicy(file string, data []byte) (Policy, error) {
	doc, err := strict.Parse(language, file, data)
	if err != nil {
		return Policy{}, err
	}
	p := readPolicy(doc.Root())
	if err := doc.Err(); err != nil {
		return Policy{}, err
	}
	return p, nil
}

func readPolicy(v strict.Value) Policy {
	const example = `rules: [{match: "**", keepLast: 10, keepFor: 30d}]`
	var p Policy
	f, ok := v.Fields(example, "rules")
	if !ok {
		return p
	}
	rules, ok := f.Need("rules", example)
	if !ok {
		return p
	}
	items, _ := rules.Items(`[{match: "**", keepLast: 10, keepFor: 30d}]`)
	if len(items) > MaxRules {
		rules.Refuse("has %d rules; write at most %d: globs match many names", len(items), MaxRules)
		return p
	}
	for _, item := range items {
		p.Rules = append(p.Rules, readRule(item, p))
	}
	return p
}

// readRule reads one rule. before are the rules above it, with an empty Match where it could not be read.
func readRule(v strict.Value, before Policy) (r Rule) {
	f, ok := v.Fields(`{match: "shop/*", keepLast: 10, keepFor: 30d}`, "match", "keepLast", "keepFor")
	if !ok {
		return r
	}
	_, last := f.Get("keepLast")
	_, long := f.Get("keepFor")
	if !last && !long {
		v.Refuse("has neither keepLast nor keepFor, so that it would keep nothing; write one of them, or both")
	}
	if v, ok := f.Get("keepLast"); ok {
		n, _ := v.Number("keepLast: 10", 1, MaxKeepLast)
		r.KeepLast = int(n)
	}
	if v, ok := f.Get("keepFor"); ok {
		if s, ok := v.TextOrInteger("keepFor: 30d"); ok {
			d, err := ParseDuration(strict.Clip(s))
			if err != nil {
				v.Refuse("%v", err)
			}
			r.KeepFor = d
		}
	}
	if v, ok := f.Need("match", `match: "shop/*"`); ok {
		if s, ok := v.Text(`match: "shop/*"`); ok {
			if why := badGlob(s); why != "" {
				v.Refuse("%q %s", strict.Clip(s), why)
				return r
			}
			if number, taken := before.taker(s); taken != nil {
				v.Refuse("%q never decides: rule %d (%s) above matches all of it; move this rule up, or leave it out", s, number, taken.Match)
			}
			r.Match = s
		}
	}
	return r
}

// globText is what may stand in a glob over names: the characters of names and of path.Match, but for the escapes, which
// names have no need of.
var globText = regexp.MustCompile(`^[a-z0-9._/*?\[\]^-]+$`)

// badGlob says what is wrong with a glob, or "".
func badGlob(glob string) string {
	switch {
	case glob == "":
		return `matches nothing; write "**" for every name`
	case len(glob) > maxGlob:
		return fmt.Sprintf("is longer than %d bytes; names have at most 128", maxGlob)
	case !globText.MatchString(glob):
		return "has a character that no image name has; write lower-case letters, digits and . _ - /, with *, ? or [a-z] among them"
	case strings.HasPrefix(glob, "/"), strings.HasSuffix(glob, "/"), strings.Contains(glob, "//"):
		return "has an empty path component; write it as the names are: team/app"
	case strings.Contains(strings.TrimSuffix("/"+glob, "/**"), "**"):
		return `has ** where it means nothing; write it alone for every name, or at the end for every name below: "shop/**"`
	}
	for part := range strings.SplitSeq(glob, "/") {
		if _, err := path.Match(part, ""); err != nil {
			return "is no glob: a [ without its ], or a range without its end; write [a-z]"
		}
	}
	if name := strings.TrimSuffix(glob, "/**"); isName(name) && farm.ValidateName(name) != nil {
		return "can be no image's name: write lower-case letters and digits, separated by one of . _ __ - or /"
	}
	return ""
}

// isName reports whether a glob is a plain name.
func isName(glob string) bool { return !strings.ContainsAny(glob, "*?[") }

// taker finds an earlier rule that is known to match every name that the glob matches, and its number. It finds equal
// globs, globs that stand for names alone, and globs below a ** above; other overlaps are left to their author.
func (p Policy) taker(glob string) (int, *Rule) {
	for i := range p.Rules {
		r := &p.Rules[i]
		tree, isTree := strings.CutSuffix(r.Match, "/**")
		switch {
		case r.Match == "":
		case r.Match == glob, r.Match == "**",
			isName(glob) && r.matches(glob),
			isTree && isName(tree) && strings.HasPrefix(glob, tree+"/"):
			return i + 1, r
		}
	}
	return 0, nil
}
