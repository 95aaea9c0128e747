package apt

import (
	"bytes"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestParsePackages(t *testing.T) {
	text := "\n\nPackage: a\nVersion: 1:2-3\narchitecture: amd64\nDepends: b (>= 1),\n c | d\nDescription: x\n long: text\n .\n more\n" +
		"Essential: yes\nProtected: yes\nMulti-Arch: same\nSize: 12\nSHA256: ab\nFilename: pool/a.deb\n\n\nPackage: b\nVersion: 1\nArchitecture: all\nSize: -4"
	for name, r := range map[string]io.Reader{
		"at once": strings.NewReader(text), "byte by byte": iotest.OneByteReader(strings.NewReader(text)), "data with EOF": iotest.DataErrReader(strings.NewReader(text)),
	} {
		x, err := ParsePackages(r)
		if err != nil {
			t.Fatal(name, err)
		}
		if len(x.Packages) != 2 {
			t.Fatalf("%s: %d packages", name, len(x.Packages))
		}
		a, b := x.Packages[0], x.Packages[1]
		if a.Name != "a" || a.Version != "1:2-3" || a.Arch != "amd64" || a.Depends != "b (>= 1),\n c | d" || !a.Essential || !a.Important ||
			a.MultiArch != "same" || a.Size != 12 || a.SHA256 != "ab" || a.Filename != "pool/a.deb" {
			t.Errorf("%s: %+v", name, a)
		}
		if b.Name != "b" || b.Arch != "all" || b.Size != -1 || b.Essential {
			t.Errorf("%s: %+v", name, b)
		}
	}
}

// TestParsePackagesBlocks: more text than a block, cut anywhere.
func TestParsePackagesBlocks(t *testing.T) {
	var b bytes.Buffer
	n := 0
	for ; b.Len() < 2*blockSize+blockSize/2; n++ {
		fmt.Fprintf(&b, "Package: p%d\nVersion: %d\nArchitecture: all\nTag: %s\n\n", n, n, strings.Repeat("x,\n ", n%700))
	}
	x, err := ParsePackages(&b)
	if err != nil || len(x.Packages) != n {
		t.Fatalf("%d of %d packages, %v", len(x.Packages), n, err)
	}
	for i, p := range x.Packages {
		if p.Name != fmt.Sprintf("p%d", i) || p.Version != fmt.Sprint(i) {
			t.Fatalf("package %d is %s %s", i, p.Name, p.Version)
		}
	}
}

func TestParsePackagesRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"Package: a\nVersion: 1\nArchitecture: all\n\nVersion: 1": "paragraph 2 has no Package field",
		"Package: a\nArchitecture: all\n":                         "paragraph 1 (a) has no Version field",
		"Package: a\nVersion: 1\n":                                "paragraph 1 (a) has no Architecture field",
		"<html>\n":                                                "paragraph 1: the line \"<html>\" is no field",
		" continued\n":                                            "is no field",
		strings.Repeat("x", MaxParagraph+1):                       "paragraph 1 is longer than",
	} {
		if _, err := ParsePackages(strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v", text, err)
		}
	}
	if _, err := ParsePackages(iotest.ErrReader(io.ErrClosedPipe)); err == nil {
		t.Error("a failing source is no error")
	}
}

func FuzzPackages(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nArchitecture: amd64\nDepends: b (>= 1) | c:any, d\nProvides: e (= 2)\nConflicts: f\n\nPackage: b\nVersion: 2\nArchitecture: all\n")
	f.Add("Package: a\nVersion: 1\nArchitecture: amd64\nDepends: a | b, b\nBreaks: a (<< 1)\nEssential: yes\n\nPackage: apt\nVersion: 2\nArchitecture: all\nPre-Depends: a")
	f.Add("A:\n\n\n B:\n\r\n")
	f.Fuzz(func(t *testing.T, text string) {
		x, err := parseBlocks(strings.NewReader(text), len(text)+1, len(text)+1)
		if err != nil {
			return
		}
		slow, err := parseBlocks(iotest.HalfReader(strings.NewReader(text)), 16, len(text)+1)
		if err != nil || !reflect.DeepEqual(slow.Packages, x.Packages) {
			t.Fatalf("depends on how the text comes: %v", err)
		}
		req := Request{Arch: "amd64", Variant: VariantMinbase}
		for _, p := range x.Packages {
			req.Packages = append(req.Packages, p.Name)
		}
		one, err := Solve(req, []*Index{x})
		two, err2 := Solve(req, []*Index{x})
		if fmt.Sprint(err) != fmt.Sprint(err2) || (err == nil && fmt.Sprint(names(one)) != fmt.Sprint(names(two))) {
			t.Fatalf("two answers: %v, %v", err, err2)
		}
	})
}

func FuzzRelation(f *testing.F) {
	f.Add("libc6 (>= 2.36), a:any | b (<< 1~), c")
	f.Fuzz(func(t *testing.T, text string) {
		groups, err := parseRelations(text)
		if err != nil {
			return
		}
		for _, g := range groups {
			for _, r := range g {
				if r.name == "" || (r.op == "") != (r.version == "") {
					t.Fatalf("%+v", r)
				}
			}
		}
	})
}

func BenchmarkParsePackages(b *testing.B) {
	var text bytes.Buffer
	for i := range 10000 {
		fmt.Fprintf(&text, "Package: lib%d\nSource: src\nVersion: 1.2.%d-1\nInstalled-Size: 100\nMaintainer: Some Body <some@body>\nArchitecture: amd64\n"+
			"Depends: libc6 (>= 2.36), lib%d\nDescription: a library\nDescription-md5: 0123456789abcdef0123456789abcdef\nTag: role::shared-lib,\n implemented-in::c\n"+
			"Section: libs\nPriority: optional\nFilename: pool/main/l/lib%d.deb\nSize: 1234\nSHA256: %064d\n\n", i, i, i/2, i, i)
	}
	b.SetBytes(int64(text.Len()))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := ParsePackages(bytes.NewReader(text.Bytes())); err != nil {
			b.Fatal(err)
		}
	}
}
