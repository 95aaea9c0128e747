package recipe

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"bakefarm/recipe/strict"
)

// Bounds of what is excluded.
const (
	maxExcludes = 256
	maxExclude  = 1024 // bytes, of a pattern
)

// excludePresets are the words of os.debian.exclude and the patterns that they stand for.
//
// With docs, copyright files stay, which licences ask for, and so do links between documentation directories, through
// which packages have them. With man, the directories of the sections stay: update-alternatives makes links in them.
var excludePresets = map[string][]string{
	"docs": {
		"/usr/share/doc/*", "/usr/share/doc-base/*", "/usr/share/gtk-doc/*", "/usr/share/info/*", "/usr/share/lintian/*", "/usr/share/linda/*",
		"!/usr/share/doc/*/copyright",
	},
	"locales": {"/usr/share/locale/*", "!/usr/share/locale/locale.alias"},
	"man":     {"/usr/share/man/*/*"},
}

// Excludes says which files of packages are left out, by the rules of dpkg(1), --path-exclude and --path-include: the
// last pattern that matches a path decides, one that begins with "!" takes back in. Patterns are those of fnmatch(3)
// without flags: * and ? also match a slash, and a dot in front. Paths are those of a merged-/usr system.
//
// The nil Excludes leaves nothing out.
type Excludes struct {
	rules []excludeRule
}

type excludeRule struct {
	match   *regexp.Regexp
	include bool
	prefix  string // of an include: what stands before the first wildcard
}

// NewExcludes reads patterns as a Lock has them: absolute, with "!" in front of those that take back in.
func NewExcludes(patterns []string) (*Excludes, error) {
	x := &Excludes{}
	for _, p := range patterns {
		glob, include := strings.CutPrefix(p, "!")
		match, why := compileGlob(glob)
		if why != "" {
			return nil, fmt.Errorf("exclude: %q %s", clip(p), why)
		}
		prefix := glob
		if i := strings.IndexAny(glob, `*?[\`); i >= 0 {
			prefix = glob[:i]
		}
		x.rules = append(x.rules, excludeRule{match, include, strings.TrimRight(prefix, "/")})
	}
	return x, nil
}

// Excludes reports whether the patterns leave a path out: relative, merged-/usr, as it stands in a layer. Of directories
// and symbolic links (which may lead to directories) those stay that something below them may have been taken back in
// through, as in dpkg.
func (x *Excludes) Excludes(name string, dirOrLink bool) bool {
	if x == nil {
		return false
	}
	name = "/" + name
	for i := len(x.rules) - 1; i >= 0; i-- {
		r := &x.rules[i]
		if !r.match.MatchString(name) {
			continue
		}
		return !r.include && !(dirOrLink && slices.ContainsFunc(x.rules, func(r excludeRule) bool {
			return r.include && strings.HasPrefix(name, r.prefix)
		}))
	}
	return false
}

// compileGlob translates a pattern; why says what is wrong with it.
func compileGlob(glob string) (match *regexp.Regexp, why string) {
	const malformed = `is malformed; a [ needs its ], and \ a character after it`
	switch {
	case !strings.HasPrefix(glob, "/"):
		return nil, "is no absolute path"
	case len(glob) > maxExclude:
		return nil, fmt.Sprintf("is %d bytes long; at most %d", len(glob), maxExclude)
	case strings.ContainsAny(glob, "\n\x00"):
		return nil, "has a line feed or a NUL in it"
	case strings.Contains(glob, "[[:"):
		return nil, "has a class such as [[:alpha:]]; write it out: [a-zA-Z]"
	}
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for rest := glob; rest != ""; {
		c := rest[0]
		switch {
		case c == '*':
			b.WriteString(`.*`)
		case c == '?':
			b.WriteString(`.`)
		case c == '\\' && len(rest) == 1:
			return nil, malformed
		case c == '\\':
			rest = rest[1:]
			b.WriteString(regexp.QuoteMeta(rest[:1]))
		case c == '[':
			class, after, ok := cutClass(rest)
			if !ok {
				return nil, malformed
			}
			b.WriteString(class)
			rest = after
			continue
		default:
			b.WriteString(regexp.QuoteMeta(rest[:1]))
		}
		rest = rest[1:]
	}
	b.WriteString(`$`)
	match, err := regexp.Compile(b.String())
	if err != nil {
		return nil, malformed // a range the wrong way round
	}
	return match, ""
}

// cutClass translates the bracket expression that a pattern begins with.
func cutClass(glob string) (class, after string, ok bool) {
	b := []byte{'['}
	i := 1
	if i < len(glob) && (glob[i] == '!' || glob[i] == '^') {
		b = append(b, '^')
		i++
	}
	for first := i; i < len(glob); i++ {
		switch c := glob[i]; {
		case c == ']' && i > first:
			return string(append(b, ']')), glob[i+1:], true
		case c == '\\' && i+1 == len(glob):
			return "", "", false
		case c == '\\':
			i++
			b = append(b, '\\', glob[i])
		case c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80:
			b = append(b, c)
		default:
			b = append(b, '\\', c)
		}
	}
	return "", "", false
}

// readExcludes reads presets and patterns, and returns patterns only.
func readExcludes(v strict.Value) []string {
	const example = `[docs, man, /usr/share/icons]`
	texts, at, _ := v.Texts(example)
	if len(texts) > maxExcludes {
		v.Refuse("has %d items; at most %d", len(texts), maxExcludes)
		return nil
	}
	var patterns, presets []string
	flush := func() { // presets are about different files: their order means nothing
		slices.Sort(presets)
		for _, name := range slices.Compact(presets) {
			patterns = append(patterns, excludePresets[name]...)
		}
		presets = nil
	}
	for i, text := range texts {
		if excludePresets[text] != nil {
			presets = append(presets, text)
			continue
		}
		flush()
		expanded, why := expandExclude(text)
		if why != "" {
			at[i].Refuse("%q %s", clip(text), why)
			continue
		}
		patterns = append(patterns, expanded...)
	}
	flush()
	return patterns
}

// expandExclude makes the patterns of one that a person writes, who means a directory with all that is in it.
func expandExclude(text string) (patterns []string, why string) {
	glob, include := strings.CutPrefix(text, "!")
	words := strings.Join(slices.Sorted(maps.Keys(excludePresets)), ", ")
	switch {
	case !strings.HasPrefix(glob, "/") && include:
		return nil, "is no absolute pattern; write one, such as !/usr/share/locale/de"
	case !strings.HasPrefix(glob, "/"):
		return nil, fmt.Sprintf("is neither a preset (%s) nor an absolute pattern; write one, such as /usr/share/icons", words)
	}
	glob = strings.TrimRight(glob, "/")
	if glob == "" {
		return nil, "is everything; write what is not wanted, such as /usr/share/icons"
	}
	for part := range strings.SplitSeq(glob[1:], "/") {
		if part == "" || part == "." || part == ".." {
			return nil, "has an empty, . or .. component, which no path has"
		}
	}
	if top, _, _ := strings.Cut(glob[1:], "/"); slices.Contains(mergedUsr, top) {
		glob = "/usr" + glob
	}
	if _, why := compileGlob(glob); why != "" {
		return nil, why
	}
	all := []string{glob}
	if !strings.HasSuffix(glob, "*") {
		all = append(all, glob+"/*")
	}
	for _, p := range all {
		if include {
			p = "!" + p
		}
		patterns = append(patterns, p)
	}
	return patterns, ""
}
