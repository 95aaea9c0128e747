package retention

import (
	"fmt"
	"path"
	"regexp"
	"strconv"
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
//	- {match: "shop/*", keepLast: 20, keepFor: 90d, keepTags: ["release-*"], quota: 20GiB}
//	- {match: "**", keepLast: 5}
//	quotas: [{match: "shop/**", size: 200GiB}]
//	trash: 7d
//	maxExpire: 25%
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

const ruleExample = `{match: "shop/*", keepLast: 10, keepFor: 30d}`

func readPolicy(v strict.Value) Policy {
	const example = `rules: [{match: "**", keepLast: 10, keepFor: 30d}]`
	var p Policy
	f, ok := v.Fields(example, "rules", "quotas", "trash", "maxExpire")
	if !ok {
		return p
	}
	if v, ok := f.Get("trash"); ok {
		p.Trash = readDuration(v, "trash: 7d")
	}
	if v, ok := f.Get("maxExpire"); ok {
		p.MaxExpire = readShare(v)
	}
	if v, ok := f.Get("quotas"); ok {
		p.Quotas = readQuotas(v)
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

// readShare reads a percentage: 25%.
func readShare(v strict.Value) int {
	const example = "maxExpire: 25%"
	s, ok := v.TextOrInteger(example)
	if !ok {
		return 0
	}
	digits, found := strings.CutSuffix(s, "%")
	n, err := strconv.Atoi(digits)
	if !found || err != nil || n < 1 || n > 100 {
		v.Refuse("%q is no share; write a percentage from 1%% to 100%%, such as %s", strict.Clip(s), example)
	}
	return n
}

func readDuration(v strict.Value, example string) Duration {
	s, ok := v.TextOrInteger(example)
	if !ok {
		return 0
	}
	d, err := ParseDuration(strict.Clip(s))
	if err != nil {
		v.Refuse("%v", err)
	}
	return d
}

func readSize(v strict.Value, example string) int64 {
	s, ok := v.TextOrInteger(example)
	if !ok {
		return 0
	}
	n, err := ParseSize(strict.Clip(s))
	if err != nil {
		v.Refuse("%v", err)
	}
	return n
}

func readQuotas(v strict.Value) (quotas []Quota) {
	const example = `{match: "shop/**", size: 200GiB}`
	items, _ := v.Items("[" + example + "]")
	if len(items) > MaxRules {
		v.Refuse("has %d quotas; write at most %d: globs match many names", len(items), MaxRules)
		return nil
	}
	for _, item := range items {
		q := Quota{Line: item.Line()}
		f, ok := item.Fields(example, "match", "size")
		if !ok {
			continue
		}
		if v, ok := f.Need("size", "size: 200GiB"); ok {
			q.Size = readSize(v, "size: 200GiB")
		}
		if v, ok := f.Need("match", `match: "shop/**"`); ok {
			if q.Match = readGlob(v, `match: "shop/**"`); q.Match != "" {
				for i, before := range quotas {
					if before.Match == q.Match {
						v.Refuse("%q has a quota already: quota %d, in line %d; keep one of them", q.Match, i+1, before.Line)
					}
				}
			}
		}
		quotas = append(quotas, q)
	}
	return quotas
}

// readGlob reads a glob over image names; "" when it was refused.
func readGlob(v strict.Value, example string) string {
	s, ok := v.Text(example)
	if !ok {
		return ""
	}
	if why := badGlob(s); why != "" {
		v.Refuse("%q %s", strict.Clip(s), why)
		return ""
	}
	return s
}

// readRule reads one rule. before are the rules above it, with an empty Match where it could not be read.
func readRule(v strict.Value, before Policy) (r Rule) {
	f, ok := v.Fields(ruleExample, "match", "keepLast", "keepFor", "keepPulledFor", "keepDeployedFor",
		"keepDaily", "keepWeekly", "keepMonthly", "keepTags", "keepLabels", "keepChannels", "quota")
	if !ok {
		return r
	}
	r.Line = v.Line()
	keeps := false
	field := func(key string, read func(strict.Value)) {
		if v, ok := f.Get(key); ok {
			keeps = true
			read(v)
		}
	}
	times := []struct {
		key string
		to  *Duration
	}{
		{"keepFor", &r.KeepFor}, {"keepPulledFor", &r.KeepPulledFor}, {"keepDeployedFor", &r.KeepDeployedFor},
		{"keepDaily", &r.KeepDaily}, {"keepWeekly", &r.KeepWeekly}, {"keepMonthly", &r.KeepMonthly},
	}
	for _, t := range times {
		field(t.key, func(v strict.Value) {
			*t.to = readDuration(v, t.key+": 30d")
			if t.to != &r.KeepFor && strings.HasSuffix(t.key, "ly") && *t.to > 0 && *t.to <= r.KeepFor {
				v.Refuse("%s keeps nothing that keepFor: %s does not keep anyway; make it longer, or leave it out", *t.to, r.KeepFor)
			}
		})
	}
	field("keepLast", func(v strict.Value) {
		n, _ := v.Number("keepLast: 10", 1, MaxKeepLast)
		r.KeepLast = int(n)
	})
	field("keepTags", func(v strict.Value) { r.KeepTags = readGlobs(v, `keepTags: ["release-*"]`) })
	field("keepChannels", func(v strict.Value) { r.KeepChannels = readGlobs(v, `keepChannels: [prod]`) })
	field("keepLabels", func(v strict.Value) { r.KeepLabels = readLabels(v) })
	field("quota", func(v strict.Value) { r.Quota = readSize(v, "quota: 20GiB") })
	if !keeps {
		v.Refuse("has no keepLast, keepFor or other keep, nor a quota, so that it would keep nothing; write at least one of them")
	}
	if v, ok := f.Need("match", `match: "shop/*"`); ok {
		s := readGlob(v, `match: "shop/*"`)
		if s == "" {
			return r
		}
		if number, taken := before.taker(s); taken != nil {
			v.Refuse("%q never decides: rule %d (%s) above matches all of it; move this rule up, or leave it out", s, number, taken.Match)
		}
		r.Match = s
	}
	return r
}

// readGlobs reads globs over tags or channels.
func readGlobs(v strict.Value, example string) []string {
	texts, values, ok := v.Texts(example)
	if !ok {
		return nil
	}
	if len(texts) == 0 {
		v.Refuse("is empty; write %s, or leave it out", example)
	}
	for i, s := range texts {
		if why := badPattern(s); why != "" {
			values[i].Refuse("%q %s", strict.Clip(s), why)
		}
	}
	return texts
}

// badPattern says what is wrong with a glob over a tag, a channel or a label's value, or "".
func badPattern(s string) string {
	switch _, err := path.Match(s, ""); {
	case s == "":
		return `matches nothing; write "*" for any`
	case len(s) > maxGlob:
		return fmt.Sprintf("is longer than %d bytes", maxGlob)
	case err != nil:
		return "is no glob: a [ without its ], or a range without its end; write [a-z]"
	}
	return ""
}

// readLabels reads labels with globs over their values: {release: "*", tier: "gold-*"}.
func readLabels(v strict.Value) (patterns []Pattern) {
	const example = `{release: "*"}`
	f, ok := v.Mapping(example)
	if !ok {
		return nil
	}
	if len(f.Entries) == 0 {
		v.Refuse("is empty; write %s, or leave it out", example)
	}
	for _, e := range f.Entries {
		glob, ok := e.Value.Literally(example)
		if !ok {
			continue
		}
		if why := badPattern(glob); why != "" {
			e.Value.Refuse("%q %s", strict.Clip(glob), why)
		}
		patterns = append(patterns, Pattern{e.Key, glob})
	}
	return patterns
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
			isName(glob) && matches(r.Match, glob),
			isTree && isName(tree) && strings.HasPrefix(glob, tree+"/"):
			return i + 1, r
		}
	}
	return 0, nil
}
