package recipe

import (
	"fmt"
	"path"
	"strings"
)

// IgnoreFile is the name of the file, at the top of the context directory, whose patterns say what is no part of it.
const IgnoreFile = ".bakeignore"

// Bounds of an ignore file.
const (
	MaxIgnore         = 1 << 20 // bytes
	maxIgnorePatterns = 10_000
)

// IgnoreMatcher decides what the context leaves out, by the rules of gitignore(5): the last pattern that matches
// decides, "!" takes back in, a trailing "/" matches directories only, a "/" elsewhere anchors the pattern at the top,
// "**" stands for any directories. What lies in an ignored directory is ignored, whatever the patterns say of it.
//
// The nil matcher ignores nothing.
type IgnoreMatcher struct {
	patterns []ignorePattern
}

type ignorePattern struct {
	parts  []string // components for path.Match, or "**"
	negate bool
	dir    bool
}

// ParseIgnore reads an ignore file. file is its name for messages. The error is of type Errors.
func ParseIgnore(file string, data []byte) (*IgnoreMatcher, error) {
	if len(data) > MaxIgnore {
		return nil, Errors{{File: file, Line: 1, Column: 1, Message: fmt.Sprintf("is %d bytes long; at most %d", len(data), MaxIgnore)}}
	}
	var m IgnoreMatcher
	var errs Errors
	number := 0
	for line := range strings.Lines(strings.TrimPrefix(string(data), "\ufeff")) {
		number++
		p, ok, why := parsePattern(strings.TrimRight(line, "\r\n"))
		switch {
		case why != "":
			errs = append(errs, &Error{File: file, Line: number, Column: 1, Message: fmt.Sprintf("pattern %q %s", clip(strings.TrimSpace(line)), why)})
		case ok && len(m.patterns) == maxIgnorePatterns:
			errs = append(errs, &Error{File: file, Line: number, Column: 1, Message: fmt.Sprintf("is the %dth pattern; at most %d", maxIgnorePatterns+1, maxIgnorePatterns)})
			return nil, errs.Err()
		case ok:
			m.patterns = append(m.patterns, p)
		}
	}
	if err := errs.Err(); err != nil {
		return nil, err
	}
	return &m, nil
}

// parsePattern reads one line; ok is false for a blank line or a comment, why says what is wrong.
func parsePattern(line string) (p ignorePattern, ok bool, why string) {
	line = trimSpaces(line)
	if line == "" || line[0] == '#' {
		return p, false, ""
	}
	if line[0] == '!' {
		p.negate, line = true, line[1:]
	}
	if rest, isDir := strings.CutSuffix(line, "/"); isDir {
		p.dir, line = true, rest
	}
	anchored := strings.Contains(line, "/")
	line = strings.TrimPrefix(line, "/")
	if line == "" {
		return p, false, "names nothing"
	}
	if !anchored {
		p.parts = append(p.parts, "**")
	}
	for part := range strings.SplitSeq(line, "/") {
		if part == "" || part == "." || part == ".." {
			return p, false, "has an empty, . or .. component, which no path in the context has"
		}
		if part == "**" {
			if len(p.parts) == 0 || p.parts[len(p.parts)-1] != "**" {
				p.parts = append(p.parts, part)
			}
			continue
		}
		if strings.Contains(part, "[[:") {
			return p, false, "has a class such as [[:alpha:]]; write it out: [a-zA-Z]"
		}
		part = strings.ReplaceAll(part, "[!", "[^") // the shell's negation, path.Match's
		if _, err := path.Match(part, ""); err != nil {
			return p, false, `is malformed; a [ needs its ], and \ a character after it`
		}
		p.parts = append(p.parts, part)
	}
	if last := len(p.parts) - 1; p.parts[last] == "**" { // "a/**" is what is in a, not a itself
		p.parts = append(p.parts, "*")
	}
	return p, true, ""
}

// trimSpaces takes trailing spaces away, but the one behind a backslash.
func trimSpaces(line string) string {
	trimmed := strings.TrimRight(line, " \t")
	if backslashes := len(trimmed) - len(strings.TrimRight(trimmed, `\`)); backslashes%2 == 1 && len(trimmed) < len(line) {
		trimmed = line[:len(trimmed)+1]
	}
	return trimmed
}

// Ignores reports whether a path of the context directory is left out: relative, slash-separated, clean. A client that
// walks the directory need not enter an ignored one.
func (m *IgnoreMatcher) Ignores(name string, isDir bool) bool {
	if m == nil || name == "." || len(m.patterns) == 0 {
		return false
	}
	parts := strings.Split(name, "/")
	for n := 1; n <= len(parts); n++ {
		if m.decide(parts[:n], n < len(parts) || isDir) {
			return true
		}
	}
	return false
}

// decide asks the patterns about one path, without regard to its parents.
func (m *IgnoreMatcher) decide(parts []string, isDir bool) bool {
	for i := len(m.patterns) - 1; i >= 0; i-- {
		if p := &m.patterns[i]; (isDir || !p.dir) && matchParts(p.parts, parts) {
			return !p.negate
		}
	}
	return false
}

// matchParts matches components, "**" any number of them. Like a glob with one kind of star, only the last "**" ever
// needs another try: the time is the product of the lengths at most.
func matchParts(pattern, parts []string) bool {
	p, s := 0, 0
	star, resume := -1, 0
	for s < len(parts) {
		switch {
		case p < len(pattern) && pattern[p] == "**":
			star, resume = p, s
			p++
		case p < len(pattern) && matchPart(pattern[p], parts[s]):
			p, s = p+1, s+1
		case star >= 0:
			resume++
			p, s = star+1, resume
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == "**" {
		p++
	}
	return p == len(pattern)
}

func matchPart(pattern, part string) bool {
	ok, err := path.Match(pattern, part)
	return ok && err == nil
}
