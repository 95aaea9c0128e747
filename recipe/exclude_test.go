package recipe

import (
	"slices"
	"strings"
	"testing"
)

func excluding(t *testing.T, list string) *Debian {
	t.Helper()
	r, err := Parse("f", []byte("apiVersion: bakefarm/v1\nname: a\nos: {debian: {suite: bookworm, scripts: skip, exclude: "+list+"}}\n"))
	if err != nil {
		t.Fatal(err)
	}
	return r.OS.Debian
}

func TestExcludes(t *testing.T) {
	for _, test := range []struct{ list, out, in, dirs string }{ // dirs: out, but not as directories or links
		{"[docs]", "usr/share/doc/x/changelog.gz usr/share/doc/x/a/b usr/share/info/dir usr/share/lintian/overrides/x",
			"usr/share/doc/x/copyright usr/share/doc usr/share/man/man1/x.1.gz etc/x usr/share/documentation/x", "usr/share/doc/x usr/share/doc/x/examples"},
		{"[man]", "usr/share/man/man1/x.1.gz usr/share/man/de/man1 usr/share/man/de/man1/x.1.gz", "usr/share/man/man1 usr/share/man/de usr/share/mandelbrot", ""},
		{"[locales]", "usr/share/locale/de usr/share/locale/de/LC_MESSAGES/x.mo", "usr/share/locale/locale.alias usr/lib/locale/C.utf8/LC_CTYPE", ""},
		{`[locales, "!/usr/share/locale/de"]`, "usr/share/locale/fr/x usr/share/locale/fr usr/share/locale/den/x", "usr/share/locale/de usr/share/locale/de/LC_MESSAGES/x.mo", ""},
		{"[/usr/share/icons]", "usr/share/icons usr/share/icons/a/b", "usr/share/iconset usr/share", ""},
		{"[/bin/ba*, /lib/x/]", "usr/bin/bash usr/bin/banner/x usr/lib/x usr/lib/x/y", "bin/bash usr/lib/xy", ""},
		{"['/a/[!b-d]?', '/b/\\*', '/c/[]x]', '/d/[a\\]]']", "a/xy a/ee b/* c/] c/x d/a d/]", "a/by a/x b/x c/y d/b", ""},
	} {
		x, err := NewExcludes(excluding(t, test.list).Exclude)
		if err != nil {
			t.Errorf("%s: %v", test.list, err)
			continue
		}
		check := func(paths string, dir, want bool) {
			for p := range strings.FieldsSeq(paths) {
				if got := x.Excludes(p, dir); got != want {
					t.Errorf("%s: excludes %s (directory: %t): %t", test.list, p, dir, got)
				}
			}
		}
		check(test.out, false, true)
		check(test.in, false, false)
		check(test.in, true, false)
		check(test.dirs, false, true)
		check(test.dirs, true, false)
	}
	var none *Excludes
	if none.Excludes("usr/share/doc/x", false) {
		t.Error("nil excludes")
	}
}

func TestExcludeOrder(t *testing.T) {
	if a, b := excluding(t, "[man, docs, man]").Exclude, excluding(t, "[docs, man]").Exclude; !slices.Equal(a, b) || len(a) < 3 {
		t.Errorf("presets in another order: %q, not %q", a, b)
	}
	if got, want := excluding(t, `[/a, "!/a/b*", man]`).Exclude, []string{"/a", "/a/*", "!/a/b*", "/usr/share/man/*/*"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestExcludeRefuses(t *testing.T) {
	for item, want := range map[string]string{
		"dcos":                          `is neither a preset (docs, locales, man) nor an absolute pattern; write one, such as /usr/share/icons`,
		"usr/share/doc":                 "is neither a preset",
		"'!docs'":                       "is no absolute pattern; write one, such as !/usr/share/locale/de",
		"/":                             "is everything",
		"/a/../b":                       "has an empty, . or .. component",
		"//a":                           "has an empty, . or .. component",
		"'/a[b'":                        "is malformed",
		"'/a[z-a]'":                     "is malformed",
		`'/a\'`:                         "is malformed",
		"'/a[[:alpha:]]'":               "has a class such as [[:alpha:]]; write it out",
		`"/a\nb"`:                       "has a line feed",
		"/" + strings.Repeat("a", 2000): "is 2001 bytes long; at most 1024",
	} {
		_, err := Parse("f", []byte("apiVersion: bakefarm/v1\nname: a\nos:\n  debian:\n    suite: bookworm\n    scripts: skip\n    exclude:\n    - "+item+"\n"))
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "f:8:7: os.debian.exclude[0]: ") {
			t.Errorf("%.50s: %v, want %s", item, err, want)
		}
	}
	if _, err := NewExcludes([]string{"docs"}); err == nil {
		t.Error("a preset is a pattern")
	}
}

func FuzzExcludes(f *testing.F) {
	f.Add("/usr/share/doc/*", "usr/share/doc/x")
	f.Add("!/a[!b-d]\\*?", "ab*c")
	f.Add("/[]a-]", "]")
	f.Fuzz(func(t *testing.T, pattern, path string) {
		x, err := NewExcludes([]string{pattern})
		if err != nil {
			return
		}
		if x.Excludes(path, false) && strings.HasPrefix(pattern, "!") {
			t.Error("a pattern that takes back in leaves out")
		}
		x.Excludes(path, true)
	})
}
