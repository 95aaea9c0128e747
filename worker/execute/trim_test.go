package execute_test

import (
	"archive/tar"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/plan"
)

// patterns are those of the presets docs and locales, and one that takes everything out of a place.
var patterns = []string{
	"/usr/share/doc/*", "!/usr/share/doc/*/copyright", "/usr/share/locale/*", "!/usr/share/locale/locale.alias",
	"/usr/share/icons", "/usr/share/icons/*", "/etc/tool.d/*",
}

var documented = debtest.Package{Name: "documented", Version: "1.0-1", Architecture: "amd64",
	Control: map[string]string{"conffiles": "/etc/tool.conf\n/etc/tool.d/more\n"},
	Entries: []debtest.Entry{
		{Name: "./etc/"}, {Name: "./etc/tool.conf", Content: "x"}, {Name: "./etc/tool.d/"}, {Name: "./etc/tool.d/more", Content: "y"},
		{Name: "./usr/"}, {Name: "./usr/share/"},
		{Name: "./usr/share/doc/"}, {Name: "./usr/share/doc/documented/"},
		{Name: "./usr/share/doc/documented/changelog", Content: strings.Repeat("changed\n", 10_000)},
		{Name: "./usr/share/doc/documented/copyright", Content: "mine"},
		{Name: "./usr/share/doc/documented/examples/", Mode: 0o750}, {Name: "./usr/share/doc/documented/examples/a", Content: "a"},
		{Name: "./usr/share/doc/documented-dev", Link: "documented"},
		{Name: "./usr/share/icons/"}, {Name: "./usr/share/icons/a.png", Content: "icon"},
		{Name: "./usr/share/locale/"}, {Name: "./usr/share/locale/de/"}, {Name: "./usr/share/locale/de/x.mo", Content: "translated"},
		{Name: "./usr/share/locale/locale.alias", Content: "alias"},
		{Name: "./usr/share/tool/"}, {Name: "./usr/share/tool/data", Content: strings.Repeat("data", 1000), Mode: 0o600},
	}}

func (b *bench) trim(p debtest.Package) (converted, trimmed plan.Member) {
	b.t.Helper()
	c := b.offer(p)
	b.must(farm.KindConvert, c, &converted)
	b.must(farm.KindTrim, plan.TrimSpec{Package: c.Package, Exclude: patterns}, &trimmed, converted)
	return converted, trimmed
}

// layerOf assembles packages without what the patterns exclude.
func (b *bench) layerOf(packages ...debtest.Package) map[string]entry {
	b.t.Helper()
	spec := plan.AssembleSpec{Role: plan.RoleOS, OS: &plan.AssembleOS{Suite: "bookworm", Arch: "amd64", Exclude: patterns}}
	var members []any
	for _, p := range packages {
		_, m := b.trim(p)
		spec.OS.Packages, members = append(spec.OS.Packages, b.offer(p).Package), append(members, m)
	}
	var l plan.Layer
	b.must(farm.KindAssemble, spec, &l, members...)
	return b.layer(l)
}

// TestTrimIsDpkgs lays a package with dpkg --path-exclude, and compares.
func TestTrimIsDpkgs(t *testing.T) {
	b := newBench(t, newStore(t))
	got := b.layerOf(documented)

	root := t.TempDir()
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(filepath.Join(root, "var/lib/dpkg", dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.WriteFile(filepath.Join(root, "var/lib/dpkg/status"), nil, 0o644)
	file := filepath.Join(t.TempDir(), "documented.deb")
	if err := os.WriteFile(file, documented.Build(t), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"--root=" + root, "--force-not-root", "--force-architecture", "--force-script-chrootless", "--force-unsafe-io", "--log=/dev/null"}
	for _, p := range patterns {
		if glob, include := strings.CutPrefix(p, "!"); include {
			args = append(args, "--path-include="+glob)
		} else {
			args = append(args, "--path-exclude="+p)
		}
	}
	if out, err := exec.Command("dpkg", append(args, "--install", file)...).CombinedOutput(); err != nil {
		t.Fatalf("dpkg: %v\n%s", err, out)
	}
	want := map[string]string{}
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if rel, _ := filepath.Rel(root, p); err == nil && rel != "." && !strings.HasPrefix(rel, "var") {
			info, _ := d.Info()
			want[rel] = fmt.Sprint(info.Mode().Perm(), d.IsDir(), d.Type()&fs.ModeSymlink != 0)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	have := map[string]string{}
	for p, e := range got {
		top, _, _ := strings.Cut(p, "/")
		if e.Linkname == "usr/"+top || strings.HasPrefix(p, "usr/lib") || p == "usr/bin" || p == "usr/sbin" || top == "var" {
			continue // merged-/usr, dpkg's database
		}
		have[p] = fmt.Sprint(fs.FileMode(e.Mode).Perm(), e.Typeflag == tar.TypeDir, e.Typeflag == tar.TypeSymlink)
	}
	if !maps.Equal(have, want) {
		t.Errorf("got  %v\ndpkg %v", have, want)
	}
	list, err := os.ReadFile(filepath.Join(root, "var/lib/dpkg/info/documented.list"))
	lines := func(text string) []string { return slices.Sorted(strings.Lines(text)) } // dpkg notes links last
	if err != nil || !slices.Equal(lines(got["var/lib/dpkg/info/documented.list"].content), lines(string(list))) {
		t.Errorf("file list: %v\n%s\ndpkg's:\n%s", err, got["var/lib/dpkg/info/documented.list"].content, list)
	}
	// dpkg 1.21 notes a conffile that it leaves out as "newconffile", for a configuration that will never see it.
	if status := got["var/lib/dpkg/status"].content; strings.Contains(status, "/etc/tool.d/more") || !strings.Contains(status, "/etc/tool.conf") {
		t.Errorf("status:\n%s", status)
	}
}

func TestTrim(t *testing.T) {
	b := newBench(t, newStore(t))
	if converted, trimmed := b.trim(hello); trimmed.TarDigest != converted.TarDigest || trimmed.Inventory != converted.Inventory {
		t.Error("a package that nothing is left out of was made anew")
	}
	_, first := b.trim(documented)
	other := newBench(t, b.store) // with nothing in its cache
	var again plan.Member
	converted, _ := b.trim(documented)
	other.must(farm.KindTrim, plan.TrimSpec{Exclude: patterns}, &again, converted)
	if again.TarDigest != first.TarDigest || again.Inventory != first.Inventory || !slices.Equal(again.Pieces, first.Pieces) {
		t.Errorf("another worker made %+v, not %+v", again, first)
	}

	// Files that are left out may have other names that stay, and all of a package may go.
	links := debtest.Package{Name: "links", Entries: []debtest.Entry{
		{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/icons/"}, {Name: "./usr/share/icons/one", Content: "same"},
		{Name: "./usr/share/kept/"}, {Name: "./usr/share/kept/two", Type: tar.TypeLink, Link: "./usr/share/icons/one"},
	}}
	nothing := debtest.Package{Name: "nothing", Entries: []debtest.Entry{
		{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/icons/"}, {Name: "./usr/share/icons/x", Content: "x"},
	}}
	dpkg := debtest.Package{Name: "dpkg", Entries: []debtest.Entry{{Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/dpkg", Content: "dpkg"}}}
	got := b.layerOf(dpkg, links, nothing)
	if e := got["usr/share/kept/two"]; e.Header == nil || e.Typeflag != tar.TypeReg || e.content != "same" {
		t.Errorf("the name that stays: %+v", e.Header)
	}
	for p := range got {
		if strings.HasPrefix(p, "usr/share/icons") {
			t.Errorf("%s is there", p)
		}
	}
	config := got["etc/dpkg/dpkg.cfg.d/bakefarm"].content
	if !strings.Contains(config, "path-exclude=/usr/share/doc/*\npath-include=/usr/share/doc/*/copyright\n") {
		t.Errorf("dpkg is told %q", config)
	}
}

func TestTrimRefuses(t *testing.T) {
	b := newBench(t, newStore(t))
	c := b.offer(documented)
	var m plan.Member
	b.must(farm.KindConvert, c, &m)
	for want, run := range map[string]func() error{
		"want the package's":  func() error { return b.run(farm.KindTrim, plan.TrimSpec{Exclude: patterns}, nil, m, m) },
		"is no absolute path": func() error { return b.run(farm.KindTrim, plan.TrimSpec{Exclude: []string{"docs"}}, nil, m) },
		"package documented 1.0-1 (amd64): record": func() error {
			m.Inventory = m.TarDigest
			return b.run(farm.KindTrim, plan.TrimSpec{Package: c.Package, Exclude: patterns}, nil, m)
		},
	} {
		if err := run(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want %s", err, want)
		}
	}
}
