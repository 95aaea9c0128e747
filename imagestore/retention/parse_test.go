package retention

import (
	"errors"
	"fmt"
	"path"
	"reflect"
	"strings"
	"testing"

	"bakefarm/recipe/strict"
)

func TestParsePolicy(t *testing.T) {
	got, err := ParsePolicy("p.yaml", []byte(`
# what the shop needs, then everybody
rules:
- match: shop/checkout
  keepLast: 50
- {match: "shop/**", keepLast: 20, keepFor: 90d}
- {match: "base-[a-z]?/*", keepFor: "8w"}
- match: everything/*
  keepPulledFor: 3d
  keepDeployedFor: 4d
  keepDaily: 7d
  keepWeekly: 4w
  keepMonthly: 365d
  keepTags: ["release-*", "v?"]
  keepLabels:
    tier: gold
    release: "*"
  keepChannels: [prod]
  quota: 20GiB
- {match: "**", keepLast: 5}
quotas: [{match: "shop/**", size: 1TiB}]
trash: 2w
maxExpire: 40%
`))
	want := Policy{Rules: []Rule{
		{Line: 4, Match: "shop/checkout", KeepLast: 50},
		{Line: 6, Match: "shop/**", KeepLast: 20, KeepFor: Duration(90 * day)},
		{Line: 7, Match: "base-[a-z]?/*", KeepFor: Duration(56 * day)},
		{Line: 8, Match: "everything/*", KeepPulledFor: Duration(3 * day), KeepDeployedFor: Duration(4 * day), KeepDaily: Duration(7 * day), KeepWeekly: Duration(28 * day),
			KeepMonthly: Duration(365 * day), KeepTags: []string{"release-*", "v?"}, KeepLabels: []Pattern{{"tier", "gold"}, {"release", "*"}}, KeepChannels: []string{"prod"}, Quota: 20 << 30},
		{Line: 20, Match: "**", KeepLast: 5},
	}, Quotas: []Quota{{Line: 21, Match: "shop/**", Size: 1 << 40}}, Trash: Duration(14 * day), MaxExpire: 40}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := ParsePolicy("p.yaml", []byte("rules: []")); err != nil || len(got.Rules) != 0 {
		t.Errorf("a policy that keeps everything: %+v, %v", got, err)
	}
	got, err = ParsePolicy("default", []byte(DefaultText))
	if err != nil || !reflect.DeepEqual(got, Default) {
		t.Errorf("the default policy as docs/retention.md writes it: %+v, %v", got, err)
	}
}

// TestParsePolicyErrors has, for each text, every error that it must give, in order.
func TestParsePolicyErrors(t *testing.T) {
	rule := func(fields string) string { return "rules:\n- {" + fields + "}\n" }
	match := func(globs ...string) string {
		text := "rules:\n"
		for _, g := range globs {
			text += fmt.Sprintf("- {keepLast: 1, match: %q}\n", g)
		}
		return text
	}
	const odd = "has a character that no image name has; write lower-case letters, digits and . _ - /, with *, ? or [a-z] among them"
	const stars = `has ** where it means nothing; write it alone for every name, or at the end for every name below: "shop/**"`
	tests := []struct {
		name, text string
		want       []string
	}{
		{"empty", "", []string{`p:1:1: is empty; write a policy such as rules: [{match: "**", keepLast: 10, keepFor: 30d}]`}},
		{"a list", "- {match: a}", []string{`p:1:1: is a list where a mapping is wanted; write rules: [{match: "**", keepLast: 10, keepFor: 30d}]`}},
		{"no rules", "{}", []string{`p:1:1: rules: is missing; write rules: [{match: "**", keepLast: 10, keepFor: 30d}]`}},
		{"rules is a mapping", "rules: {}", []string{`p:1:8: rules: is a mapping where a list is wanted; write [{match: "**", keepLast: 10, keepFor: 30d}]`}},
		{"no YAML", "rules: [", []string{`p:1:1: is not YAML: did not find expected node content`}},
		{"two documents", "rules: []\n---\nrules: []", []string{`p:2:1: a second YAML document begins here; write one policy a file`}},
		{"control character", "rules: \x02", []string{`p:1:8: control character 0x02 is not allowed; a policy is plain UTF-8 text`}},
		{"anchor", "rules: &a []", []string{`p:1:8: rules: anchors (&a) are not part of policies; write the value out where it is needed`}},
		{"unknown field", "ruels: []\nrules: []", []string{`p:1:1: ruels: unknown field; did you mean rules?`}},
		{"unknown field of a rule", rule("match: a, keepLast: 1, keepFro: 3d"), []string{`p:2:27: rules[0].keepFro: unknown field; did you mean keepFor?`}},
		{"twice", rule("match: a, keepLast: 1, keepLast: 2"), []string{`p:2:27: rules[0].keepLast: stands here a second time (first in line 2); keep one of them`}},
		{"keeps nothing", rule("match: a"), []string{`p:2:3: rules[0]: has no keepLast, keepFor or other keep, nor a quota, so that it would keep nothing; write at least one of them`}},
		{"matches nothing", rule("keepLast: 1"), []string{`p:2:3: rules[0].match: is missing; write match: "shop/*"`}},
		{"no size", rule("match: a, keepLast: 1, quota: 1GB"), []string{`p:2:34: rules[0].quota: "1GB" is no size: write a whole number and a unit, such as 500MiB, 20GiB or 1TiB`}},
		{"daily within keepFor", rule("match: a, keepFor: 30d, keepDaily: 2w"), []string{`p:2:39: rules[0].keepDaily: 2w keeps nothing that keepFor: 30d does not keep anyway; make it longer, or leave it out`}},
		{"no tags", rule("match: a, keepTags: []"), []string{`p:2:24: rules[0].keepTags: is empty; write keepTags: ["release-*"], or leave it out`}},
		{"odd tags", rule(`match: a, keepTags: ["", "[a"], keepLabels: {x: "[", y: "*"}`), []string{
			`p:2:25: rules[0].keepTags[0]: "" matches nothing; write "*" for any`,
			`p:2:29: rules[0].keepTags[1]: "[a" is no glob: a [ without its ], or a range without its end; write [a-z]`,
			`p:2:52: rules[0].keepLabels.x: "[" is no glob: a [ without its ], or a range without its end; write [a-z]`}},
		{"quotas twice", "rules: []\nquotas:\n- {match: a/**, size: 1GiB}\n- {match: a/**, size: 2GiB}\n- {match: b}", []string{
			`p:4:11: quotas[1].match: "a/**" has a quota already: quota 1, in line 3; keep one of them`,
			`p:5:3: quotas[2].size: is missing; write size: 200GiB`}},
		{"no share", "rules: []\nmaxExpire: 0%\ntrash: 0d", []string{
			`p:2:12: maxExpire: "0%" is no share; write a percentage from 1% to 100%, such as maxExpire: 25%`,
			`p:3:8: trash: "0d" is no length of time: write a whole number and a unit, such as 12h, 30d or 8w, at most 100 years`}},
		{"keepLast 0", rule("match: a, keepLast: 0"), []string{`p:2:24: rules[0].keepLast: is the number 0; write a whole number from 1 to 1000000, such as keepLast: 10`}},
		{"keepLast too many", rule("match: a, keepLast: 99999999999999999999"), []string{`p:2:24: rules[0].keepLast: is the number 99999999999999999999; write a whole number from 1 to 1000000, such as keepLast: 10`}},
		{"keepLast a half", rule("match: a, keepLast: 0.5"), []string{`p:2:24: rules[0].keepLast: is the number 0.5; write a whole number from 1 to 1000000, such as keepLast: 10`}},
		{"keepLast in hex", rule("match: a, keepLast: 0x10"), []string{`p:2:24: rules[0].keepLast: is the number 0x10; write a whole number from 1 to 1000000, such as keepLast: 10`}},
		{"keepLast text", rule("match: a, keepLast: ten"), []string{`p:2:24: rules[0].keepLast: is the text "ten" where a whole number is wanted; write keepLast: 10`}},
		{"keepLast null", rule("match: a, keepLast: null"), []string{`p:2:24: rules[0].keepLast: is empty where a whole number is wanted; write keepLast: 10`}},
		{"keepFor without a unit", rule("match: a, keepFor: 30"), []string{
			`p:2:23: rules[0].keepFor: "30" is no length of time: write a whole number and a unit, such as 12h, 30d or 8w, at most 100 years`}},
		{"all at once", rule("match: A, keepLast: -1, keepFor: 1y"), []string{
			`p:2:11: rules[0].match: "A" ` + odd,
			`p:2:24: rules[0].keepLast: is the number -1; write a whole number from 1 to 1000000, such as keepLast: 10`,
			`p:2:37: rules[0].keepFor: "1y" is no length of time: write a whole number and a unit, such as 12h, 30d or 8w, at most 100 years`}},

		{"odd globs", match("", "a b", `a\*`, "/a", "a/", "a//b", "a**", "**/a", "a/**/b", "***", "[a", "[a-]", "[a/b]", "a..b", "a]", strings.Repeat("a", 300)), []string{
			`p:2:24: rules[0].match: "" matches nothing; write "**" for every name`,
			`p:3:24: rules[1].match: "a b" ` + odd,
			`p:4:24: rules[2].match: "a\\*" ` + odd,
			`p:5:24: rules[3].match: "/a" has an empty path component; write it as the names are: team/app`,
			`p:6:24: rules[4].match: "a/" has an empty path component; write it as the names are: team/app`,
			`p:7:24: rules[5].match: "a//b" has an empty path component; write it as the names are: team/app`,
			`p:8:24: rules[6].match: "a**" ` + stars,
			`p:9:24: rules[7].match: "**/a" ` + stars,
			`p:10:24: rules[8].match: "a/**/b" ` + stars,
			`p:11:24: rules[9].match: "***" ` + stars,
			`p:12:24: rules[10].match: "[a" is no glob: a [ without its ], or a range without its end; write [a-z]`,
			`p:13:24: rules[11].match: "[a-]" is no glob: a [ without its ], or a range without its end; write [a-z]`,
			`p:14:24: rules[12].match: "[a/b]" is no glob: a [ without its ], or a range without its end; write [a-z]`,
			`p:15:24: rules[13].match: "a..b" can be no image's name: write lower-case letters and digits, separated by one of . _ __ - or /`,
			`p:16:24: rules[14].match: "a]" can be no image's name: write lower-case letters and digits, separated by one of . _ __ - or /`,
			`p:17:24: rules[15].match: "` + strings.Repeat("a", 80) + `…" is longer than 256 bytes; names have at most 128`}},
		{"never decides", match("shop/*", "shop/*", "shop/cart", "base/**", "base/x*/y", "**", "other"), []string{
			`p:3:24: rules[1].match: "shop/*" never decides: rule 1 (shop/*) above matches all of it; move this rule up, or leave it out`,
			`p:4:24: rules[2].match: "shop/cart" never decides: rule 1 (shop/*) above matches all of it; move this rule up, or leave it out`,
			`p:6:24: rules[4].match: "base/x*/y" never decides: rule 4 (base/**) above matches all of it; move this rule up, or leave it out`,
			`p:8:24: rules[6].match: "other" never decides: rule 6 (**) above matches all of it; move this rule up, or leave it out`}},
		{"too many", "rules: [" + strings.Repeat("{}, ", 1001) + "]", []string{
			`p:1:8: rules: has 1001 rules; write at most 1000: globs match many names`}},
		{"too long", "rules: [] #" + strings.Repeat("x", MaxPolicy), []string{
			`p:1:1: is 262155 bytes long; a policy has at most 262144: let globs match many names`}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParsePolicy("p", []byte(test.text))
			if err == nil {
				t.Fatal("no error")
			}
			var all strict.Errors
			if !errors.As(err, &all) {
				t.Fatalf("%T", err)
			}
			if got, want := err.Error(), strings.Join(test.want, "\n"); got != want {
				t.Errorf("got\n%s\nwant\n%s", got, want)
			}
		})
	}
}

func TestRuleMatches(t *testing.T) {
	for glob, names := range map[string]struct{ yes, no string }{
		"**":        {"a shop/cart a/b/c", ""},
		"*":         {"a b", "a/b"},
		"shop/*":    {"shop/cart shop/a", "shop shop/a/b shopping/a"},
		"shop/**":   {"shop/cart shop/a/b", "shop shopping/a"},
		"*/base/**": {"x/base/a x/base/a/b", "x/base base/a x/y/base/a"},
		"[a-c]?-*":  {"ab-c cc-x", "db-c a-b abc"},
		"[^a]":      {"b", "a bb"},
	} {
		for name := range strings.FieldsSeq(names.yes) {
			if !matches(glob, name) {
				t.Errorf("%s does not match %s", glob, name)
			}
		}
		for name := range strings.FieldsSeq(names.no) {
			if matches(glob, name) {
				t.Errorf("%s matches %s", glob, name)
			}
		}
	}
}

func FuzzParsePolicy(f *testing.F) {
	f.Add([]byte(`rules: [{match: "**", keepLast: 10, keepFor: 30d}]`))
	f.Add([]byte("rules:\n- {match: 'shop/**', keepLast: 3}\n- {match: '[a-z]?/*', keepFor: 8w}\n"))
	f.Add([]byte("rules: &a [*a, {match: !!str x, <<: *a}]"))
	f.Add([]byte("rules: [{match: 'a[b', keepLast: 0x1, keepFor: 99999999w}, {}]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := ParsePolicy("p", data)
		if err != nil {
			var all strict.Errors
			if !errors.As(err, &all) || len(all) == 0 || len(all) > strict.MaxErrors {
				t.Fatalf("%T with %d errors", err, len(all))
			}
			for _, e := range all {
				if e.Line < 1 || e.Column < 1 || e.Message == "" {
					t.Fatalf("error without a place: %+v", e)
				}
			}
			return
		}
		for i, r := range p.Rules {
			if r.KeepLast < 0 || r.KeepFor < 0 {
				t.Fatalf("a rule that keeps less than nothing: %+v", r)
			}
			if _, err := path.Match(strings.TrimSuffix(r.Match, "/**"), "x"); err != nil {
				t.Fatalf("a glob that can't be read: %q", r.Match)
			}
			if _, other := (Policy{Rules: p.Rules[:i]}).taker(r.Match); other != nil {
				t.Fatalf("rule %q never decides, for %q", r.Match, other.Match)
			}
		}
		text := p.Encode()
		if len(text) > MaxPolicy {
			return
		}
		if again, err := ParsePolicy("again", []byte(text)); err != nil || again.Encode() != text {
			t.Fatalf("%+v is written as\n%sand read as %+v, %v", p, text, again, err)
		}
	})
}
