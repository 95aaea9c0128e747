package apt

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// archive writes an index: one package per line, "name version[/arch] field=value; field=value". Fields: P pre-depends,
// D depends, C conflicts, B breaks, V provides, prio, ess, ma.
func archive(t *testing.T, lines string) *Index {
	t.Helper()
	x := &Index{}
	for line := range strings.Lines(lines) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, rest, _ := strings.Cut(line, " ")
		version, rest, _ := strings.Cut(rest, " ")
		version, arch, ok := strings.Cut(version, "/")
		if !ok {
			arch = "amd64"
		}
		p := Package{Name: name, Version: version, Arch: arch, Priority: "optional", Size: 1,
			SHA256: fmt.Sprintf("%064x", len(x.Packages)), Filename: "pool/" + name + ".deb"}
		for f := range strings.SplitSeq(rest, ";") {
			if f = strings.TrimSpace(f); f == "" {
				continue
			}
			key, value, _ := strings.Cut(f, "=")
			switch key {
			case "P":
				p.PreDepends = value
			case "D":
				p.Depends = value
			case "C":
				p.Conflicts = value
			case "B":
				p.Breaks = value
			case "V":
				p.Provides = value
			case "prio":
				p.Priority = value
			case "ess":
				p.Essential = true
			case "ma":
				p.MultiArch = value
			default:
				t.Fatalf("bad line %q", line)
			}
		}
		x.Packages = append(x.Packages, &p)
	}
	return x
}

func names(s *Solution) []string {
	var list []string
	for _, p := range s.Packages {
		list = append(list, p.Name+" "+p.Version)
	}
	return list
}

// TestSolve is a table over small archives, one for each rule. That the rules together are apt's is what tests/apt shows.
// Every row is solved several times: no answer may depend on the order of a map.
func TestSolve(t *testing.T) {
	for _, test := range []struct {
		name, archive, update string
		want                  string // request
		none                  bool   // variant
		get                   string // "name version, …", or part of the error
	}{
		{"minbase is required, essential and apt", "a 1 ess\nb 1 prio=required; D=c\nc 1\nd 1 prio=important\napt 2 D=e\ne 1", "", "", false, "a 1, apt 2, b 1, c 1, e 1"},
		{"none is what is named", "a 1 ess\nb 1 D=c\nc 1\napt 1", "", "b", true, "b 1, c 1"},
		{"pre-depends and cycles", "a 1 P=b\nb 1 D=c\nc 1 D=a", "", "a", true, "a 1, b 1, c 1"},
		{"highest version of all indexes", "a 1 D=b\nb 1", "b 2\nb 1.5", "a", true, "a 1, b 2"},
		{"a pinned version", "a 1 D=b\nb 1", "b 2", "a b=1", true, "a 1, b 1"},
		{"a pinned version that is not there", "b 1", "b 2", "b=3", true, "Version '3' for 'b' was not found; there is 2, 1"},
		{"two versions at once", "b 1", "b 2", "b=2 b=1", true, "b=1: version 2 is asked for as well"},
		{"first alternative", "a 1 D=b | c\nb 1\nc 1", "", "a", true, "a 1, b 1"},
		{"alternative that is named", "a 1 D=b | c\nb 1\nc 1", "", "a c", true, "a 1, c 1"},
		{"alternative that is in the base", "a 1 D=b | c\nb 1\nc 1 ess\napt 1", "", "a", false, "a 1, apt 1, c 1"},
		{"first alternative is not there", "a 1 D=b | c\nc 1", "", "a", true, "a 1, c 1"},
		{"first alternative is too old", "a 1 D=b (>= 2) | c\nb 1\nc 1", "", "a", true, "a 1, c 1"},
		{"first alternative cannot be installed", "a 1 D=b | c\nb 1 D=d, nothing\nd 1\nc 1", "", "a", true, "a 1, c 1"},
		{"first alternative conflicts", "a 1 D=b | c\nb 1 C=x\nc 1\nx 1", "", "a x", true, "a 1, c 1, x 1"},
		{"first alternative shuts out a necessity", "a 1 D=b | c, d\nb 1\nc 1\nd 1 C=b", "", "a", true, "a 1, c 1, d 1"},
		{"merged-/usr wins", "a 1 D=usrmerge | usr-is-merged\nusrmerge 1 D=perl; V=usr-is-merged\nusr-is-merged 1\nperl 1", "", "a", true, "a 1, usr-is-merged 1"},
		{"virtual package: priority, then name", "a 1 D=v\nx 1 V=v\ny 1 V=v; prio=important\nw 1 V=v", "", "a", true, "a 1, y 1"},
		{"virtual package: the one that is mentioned last", "a 1 D=v\nx 1 V=v\nw 1 V=v\ny 1 V=v", "", "a", true, "a 1, y 1"},
		{"virtual package: mentioned by relations too", "a 1 D=v\nx 1 V=v; D=y\nw 1 V=v\ny 1 V=v", "", "a", true, "a 1, w 1"},
		{"virtual package: the real one first", "a 1 D=v\nb 1 V=v; prio=required\nv 1", "", "a", true, "a 1, v 1"},
		{"virtual package: one in the set", "a 1 D=v\nx 1 V=v\nw 1 V=v", "", "a x", true, "a 1, x 1"},
		{"versioned provides", "a 1 D=v (>= 2)\nb 1 V=v\nc 1 V=v (= 2.1)\nd 1 V=v (= 1)", "", "a", true, "a 1, c 1"},
		{"real one too old, provided new enough", "a 1 D=v (>= 2)\nv 1\nc 1 V=v (= 2)", "", "a", true, "a 1, c 1"},
		{"naming a virtual package of one", "x 1 V=v", "", "v", true, "x 1"},
		{"naming a virtual package of many", "x 1 V=v\ny 1 V=v", "", "v", true, "Package v is a virtual package provided by x, y: name one of them"},
		{":any needs Multi-Arch: allowed", "a 1 D=p:any\np 1 ma=allowed", "", "a", true, "a 1, p 1"},
		{":any without it", "a 1 D=p:any\np 1 ma=foreign", "", "a", true, " a : Depends: p:any but "},
		{":native and the architecture's own name", "a 1 D=b:native, c:amd64\nb 1\nc 1/all", "", "a", true, "a 1, b 1, c 1"},
		{"another architecture", "a 1 D=b:i386\nb 1\nb 1/i386", "", "a", true, " a : Depends: b:i386 but "},
		{"naming another architecture", "a 1", "", "a:i386", true, "this system is amd64"},
		{"packages of other architectures do not count", "a 1\na 2/arm64\na 1.5/all", "", "a", true, "a 1.5"},
		{"self-conflict through provides", "a 1 C=v; V=v", "", "a", true, "a 1"},
		{"conflict between two that are named", "a 1 C=b\nb 2", "", "a b", true, " a : Conflicts: b but 2 is to be installed"},
		{"conflict with a provider", "a 1 C=v\nb 2 V=v", "", "a b", true, " a : Conflicts: v but b 2, which provides it, is to be installed"},
		{"versioned conflict does not meet provides without version", "a 1 C=v (<< 2)\nb 2 V=v", "", "a b", true, "a 1, b 2"},
		{"breaks an older one", "a 1 B=b (<< 3)\nb 2", "", "a b", true, " a : Breaks: b (< 3) but 2 is to be installed"},
		{"breaks no newer one", "a 1 B=b (<< 2)\nb 2", "", "a b", true, "a 1, b 2"},
		{"conflict in a dependency", "a 1 D=c\nb 1\nc 1 C=b", "", "a b", true, " c : Conflicts: b but 1 is to be installed"},
		{"too old", "foo 1 D=bar (>= 2)\nbar 1.0", "", "foo", true, "The following packages have unmet dependencies:\n foo : Depends: bar (>= 2) but 1.0 is to be installed"},
		{"not there", "foo 1 D=bar", "", "foo", true, " foo : Depends: bar but it is not installable"},
		{"not there, deeper", "foo 1 D=bar\nbar 1 P=baz", "", "foo", true, " foo : Depends: bar but it is not going to be installed\n bar : PreDepends: baz but it is not installable"},
		{"no alternative", "foo 1 D=bar | v (>= 1)\nx 1 V=v", "", "foo", true, " foo : Depends: bar but it is not installable or\n                v (>= 1) but it is a virtual package"},
		{"unknown", "nginx 1\nnginy 1", "", "ngnix zzzzzz", true, "Unable to locate package ngnix; did you mean nginx?\nUnable to locate package zzzzzz"},
		{"referred to", "a 1 C=zzz", "", "zzz", true, "Package 'zzz' has no installation candidate: other packages refer to it"},
		{"a version by pattern", "a 1.1\na 1.2\na 2", "", "a=1.*", true, "a 1.2"},
		{"the first of two decides", "a 1 D=b | c\nd 1 D=c | b\nb 1 C=c\nc 1", "", "d a", true, "a 1, c 1, d 1"},
		{"the first of two decides, the other way", "a 1 D=b | c\nd 1 D=c | b\nb 1 C=c\nc 1", "", "a d", true, "a 1, b 1, d 1"},
		{"what failed leaves nothing behind", "a 1 D=b | c\nb 1 D=d, e\nd 1\ne 1 D=f\nf 1 D=nothing\nc 1", "", "a", true, "a 1, c 1"},
		{"minbase without apt", "a 1 ess", "", "", false, "Unable to locate package apt"},
		{"nonsense in a field", "a 1 D=b (>> \nb 1", "", "a", true, " a : Depends: \"b (>>\" is no relation"},
		{"nonsense in a field that nobody needs", "a 1\nb 1 D=b (>> ", "", "a", true, "a 1"},
	} {
		t.Run(test.name, func(t *testing.T) {
			req := Request{Arch: "amd64", Variant: VariantMinbase, Packages: strings.Fields(test.want)}
			if test.none {
				req.Variant = VariantNone
			}
			indexes := []*Index{archive(t, test.archive), archive(t, test.update)}
			for range 5 {
				s, err := Solve(req, indexes)
				got := ""
				if err != nil {
					if got = err.Error(); !strings.Contains(got, test.get) {
						t.Fatalf("error:\n%s\nwant:\n%s", got, test.get)
					}
				} else if got = strings.Join(names(s), ", "); got != test.get {
					t.Fatalf("got  %s\nwant %s", got, test.get)
				}
			}
		})
	}
}

func TestSolveErrorsAreTyped(t *testing.T) {
	x := []*Index{archive(t, "a 1 D=b")}
	_, err := Solve(Request{Arch: "amd64", Variant: VariantNone, Packages: []string{"a"}}, x)
	var unmet *UnmetError
	if !errors.As(err, &unmet) || unmet.Unmet[0].Package != "a" {
		t.Error(err)
	}
	_, err = Solve(Request{Arch: "amd64", Variant: VariantNone, Packages: []string{"z"}}, x)
	var unknown *UnknownError
	if !errors.As(err, &unknown) || len(unknown.Problems) != 1 {
		t.Error(err)
	}
	if _, err = Solve(Request{Arch: "amd64", Variant: "big"}, x); err == nil || !strings.Contains(err.Error(), `variant "big"`) {
		t.Error(err)
	}
}

// TestSolveRefusesBadRecords: what becomes a path, a URL or a digest is checked when it is chosen.
func TestSolveRefusesBadRecords(t *testing.T) {
	for want, spoil := range map[string]func(*Package){
		"bad Filename":    func(p *Package) { p.Filename = "pool/../../../etc/passwd" },
		"bad name":        func(p *Package) { p.Name = "../a" },
		"bad version":     func(p *Package) { p.Version = "1/2" },
		"no valid SHA256": func(p *Package) { p.SHA256 = "abc" },
		"no valid Size":   func(p *Package) { p.Size = -1 },
	} {
		x := archive(t, "a 1")
		spoil(x.Packages[0])
		if _, err := Solve(Request{Arch: "amd64", Variant: VariantNone, Packages: []string{x.Packages[0].Name}}, []*Index{x}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestSolveGivesUp: an archive of alternatives that all fail late ends in an error, not in a hang.
func TestSolveGivesUp(t *testing.T) {
	var b strings.Builder
	for i := range 40 {
		fmt.Fprintf(&b, "a%d 1 D=a%d | b%d\nb%d 1 D=a%d | b%d\n", i, i+1, i+1, i, i+1, i+1)
	}
	b.WriteString("a40 1 D=nothing\nb40 1 D=nothing\n")
	_, err := Solve(Request{Arch: "amd64", Variant: VariantNone, Packages: []string{"a0"}}, []*Index{archive(t, b.String())})
	if err == nil {
		t.Fatal("solved")
	}
}

func TestBase(t *testing.T) {
	x := archive(t, "a 1 ess\na 2 ess\napt 1 D=e\ne 1\nb 1 D=c\nc 1 D=e\nd 1 C=e; V=e")
	for _, test := range []struct {
		variant, packages string
		want              string // base packages in brackets
	}{
		{VariantMinbase, "", "(a 2) (apt 1) (e 1)"},
		{VariantMinbase, "b a", "(a 2) (apt 1) b 1 c 1 (e 1)"}, // naming a package of the base changes nothing
		{VariantMinbase, "b a=1", "(a 1) (apt 1) b 1 c 1 (e 1)"},
		{VariantMinbase, "d", "(a 2) (apt 1) d 1"},
		{VariantNone, "b a", "a 2 b 1 c 1 e 1"},
	} {
		s, err := Solve(Request{Arch: "amd64", Variant: test.variant, Packages: strings.Fields(test.packages)}, []*Index{x})
		if err != nil {
			t.Errorf("%s %s: %v", test.variant, test.packages, err)
			continue
		}
		var got []string
		for _, p := range s.Packages {
			if text := p.Name + " " + p.Version; p.Base {
				got = append(got, "("+text+")")
			} else {
				got = append(got, text)
			}
		}
		if strings.Join(got, " ") != test.want {
			t.Errorf("%s with %q: %s, want %s", test.variant, test.packages, strings.Join(got, " "), test.want)
		}
	}
}
