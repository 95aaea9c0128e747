package catalog

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"

	"bakefarm/farm"
)

// Filter says which images are asked for. Empty fields do not restrict; an image must meet all others.
type Filter struct {
	Name     string // of the image; * (any text, slashes too), ? and [a-z] are wildcards
	Kind     string // "oci" or "disk"
	Platform string // "linux/amd64"; "index" for the indexes over several platforms
	Format   string
	Version  string
	Channel  string   // that points to it; * and ? are wildcards
	Labels   []string // "key" or "key=value", with wildcards in the value; all of them
	Text     string   // words that must all stand somewhere in its row

	Created  Range
	Pulled   Range
	Resolved Range
	Deployed Range
	// Running: an instance reports to run it, and its lease has not ended.
	Running bool
	Trashed bool // those in the trash; else those that are not
	Pinned  bool // only those with a pin or a hold

	Base     string // what it was built on, directly or not: debian:bookworm, a name, a reference; with wildcards
	Parent   string // what it was built on directly
	Packages []PackageQuery

	Sort    Sort // SortCreated when empty
	Reverse bool // the other way round
	Limit   int  // rows of a page: 1 to MaxPage; 0: MaxPage
	// Cursor is where the page begins: what the page before returned, for the same Sort and Reverse.
	Cursor string
}

// Range is a range of times: from After on, before Before. A zero time is no limit. What has never happened is before
// every time, and never after one.
type Range struct{ After, Before time.Time }

func (r Range) empty() bool { return r.After.IsZero() && r.Before.IsZero() }

func (r Range) has(ns int64) bool {
	return (r.After.IsZero() || ns >= r.After.UnixNano() && ns != 0) && (r.Before.IsZero() || ns < r.Before.UnixNano())
}

// query is a Filter made ready.
type query struct {
	match    func(*image) bool
	packages []*found // by Filter.Packages
}

// compile makes a filter ready for one pass over the index, which must be read-locked for the pass and not before: the
// packages' sets are looked up here. The functions that it returns are for one goroutine.
func (c *Catalog) compile(ctx context.Context, f Filter) (*query, error) {
	q := &query{}
	var tests []func(*image) bool
	add := func(test func(*image) bool) { tests = append(tests, test) }
	if f.Kind != "" || f.Format != "" || f.Platform != "" {
		add(perKey(func(i *image) *kind { return i.kind }, func(k *kind) bool {
			platform := f.Platform == "" || f.Platform == k.platform || f.Platform == "index" && k.platform == "" && k.kind == farm.ImageOCI
			return platform && (f.Kind == "" || f.Kind == k.kind) && (f.Format == "" || f.Format == k.format)
		}))
	}
	if f.Version != "" {
		add(func(i *image) bool { return i.of.version == f.Version })
	}
	for _, r := range []struct {
		Range
		of func(*facts) int64
	}{
		{f.Pulled, func(f *facts) int64 { return f.pulled }},
		{f.Resolved, func(f *facts) int64 { return f.resolved }},
		{f.Deployed, func(f *facts) int64 { return f.deployed }},
	} {
		if !r.empty() {
			add(func(i *image) bool {
				return i.of.facts == nil && r.has(0) || i.of.facts != nil && r.has(r.of(i.of.facts))
			})
		}
	}
	if !f.Created.empty() {
		add(func(i *image) bool { return f.Created.has(i.created) })
	}
	add(func(i *image) bool { return i.trashed == f.Trashed })
	if f.Pinned {
		add(func(i *image) bool { return len(i.of.pins) > 0 })
	}
	if f.Running {
		now := time.Now()
		add(func(i *image) bool { return c.index.live(i.of, now) > 0 })
	}
	if f.Channel != "" {
		match, err := glob(f.Channel)
		if err != nil {
			return nil, fmt.Errorf("channel: %w", err)
		}
		add(func(i *image) bool {
			if i.of.facts == nil {
				return false
			}
			for _, channel := range i.of.facts.channels {
				if match(channel) {
					return true
				}
			}
			return false
		})
	}
	for _, label := range f.Labels {
		test, err := hasLabel(label)
		if err != nil {
			return nil, err
		}
		add(test)
	}
	if strings.ContainsAny(f.Name, wildcards) { // else the repository is looked up
		match, err := glob(f.Name)
		if err != nil {
			return nil, fmt.Errorf("name: %w", err)
		}
		add(perKey(func(i *image) *repo { return i.repo }, func(r *repo) bool { return match(r.name) }))
	}
	if words := strings.Fields(strings.ToLower(f.Text)); len(words) > maxWords {
		return nil, fmt.Errorf("%w: %d words: at most %d", ErrBadPattern, len(words), maxWords)
	} else if len(words) > 0 {
		add(c.index.hasWords(words))
	}
	if err := c.index.compileBase(f, add); err != nil {
		return nil, err
	}
	var err error
	if q.packages, err = c.findAll(ctx, f.Packages); err != nil {
		return nil, err
	}
	for _, found := range q.packages {
		add(found.any.hasImage)
	}
	q.match = func(i *image) bool {
		for _, test := range tests {
			if !test(i) {
				return false
			}
		}
		return true
	}
	return q, nil
}

// perKey makes a test out of one that is asked once for each key.
func perKey[K comparable](of func(*image) K, test func(K) bool) func(*image) bool {
	known := map[K]bool{}
	var last K // neighbours often have the same
	var lastAnswer bool
	return func(i *image) bool {
		key := of(i)
		if key == last && len(known) > 0 {
			return lastAnswer
		}
		answer, ok := known[key]
		if !ok {
			answer = test(key)
			known[key] = answer
		}
		last, lastAnswer = key, answer
		return answer
	}
}

func hasLabel(label string) (func(*image) bool, error) {
	key, value, given := strings.Cut(label, "=")
	if key == "" {
		return nil, fmt.Errorf("%w: label %q: write key or key=value", ErrBadPattern, clip(label))
	}
	match, err := glob(value)
	if err != nil {
		return nil, fmt.Errorf("label %s: %w", clip(key), err)
	}
	return func(i *image) bool {
		have, ok := i.labels[key]
		return ok && (!given || match(have))
	}, nil
}

// compileBase adds the tests for what an image was built on.
func (x *index) compileBase(f Filter, add func(func(*image) bool)) error {
	for _, ask := range []struct {
		what, pattern string
		deep          bool
	}{{"base", f.Base, true}, {"parent", f.Parent, false}} {
		if ask.pattern == "" {
			continue
		}
		match, err := glob(ask.pattern)
		if err != nil {
			return fmt.Errorf("%s: %w", ask.what, err)
		}
		direct := func(b farm.Base) bool {
			return match(b.Ref) || b.Name != "" && (match(b.Name) || match(b.Name+":"+b.Version))
		}
		// What an image is built on says what that was built on, and so on.
		add(perKey(func(i *image) *farm.Base { return i.base }, func(b *farm.Base) bool {
			for range maxAncestors {
				if direct(*b) {
					return true
				}
				parent := x.versions[parentKey(b)]
				if !ask.deep || parent == nil {
					return false
				}
				b = parent.base
			}
			return false
		}))
	}
	return nil
}

// maxAncestors bounds every walk along ancestors.
const maxAncestors = 1000

// wildcards are the characters by which a pattern differs from a plain text.
const wildcards = "*?["

var character = regexp.MustCompile(`\[\^?[^\]\\[]+\]`)

// glob compiles a pattern in which * is any text, ? any character, and [a-z] one of some.
func glob(pattern string) (func(string) bool, error) {
	if !strings.ContainsAny(pattern, wildcards) {
		return func(s string) bool { return s == pattern }, nil
	}
	var b strings.Builder
	b.WriteString("^(?s:")
	quote := func(s string) {
		b.WriteString(strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(s)))
	}
	rest := pattern
	for {
		at := character.FindStringIndex(rest)
		if at == nil {
			break
		}
		quote(rest[:at[0]])
		b.WriteString(rest[at[0]:at[1]])
		rest = rest[at[1]:]
	}
	quote(rest)
	b.WriteString(")$")
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil, fmt.Errorf("%w: %q: * is any text, ? any character, [a-z] one of some", ErrBadPattern, clip(pattern))
	}
	return re.MatchString, nil
}
