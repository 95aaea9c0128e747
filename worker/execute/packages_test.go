package execute_test

import (
	"archive/tar"
	"encoding/json"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/plan"
	"bakefarm/recipe"
)

// editors install an alternative each; the first has a manual as well.
func editor(name, priority string, slave bool) debtest.Package {
	p := debtest.Package{Name: name, Version: "1.0-1", Entries: []debtest.Entry{
		{Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/" + name, Content: name, Mode: 0o755},
		{Name: "./usr/share/"}, {Name: "./usr/share/man/"}, {Name: "./usr/share/man/man1/"}, {Name: "./usr/share/man/man1/" + name + ".1.gz", Content: "manual"},
	}}
	script := "#!/bin/sh\nupdate-alternatives --install /usr/bin/editor editor /usr/bin/" + name + " " + priority
	if slave {
		script += " --slave /usr/share/man/man1/editor.1.gz editor.1.gz /usr/share/man/man1/" + name + ".1.gz"
	}
	p.Control = map[string]string{"postinst": script + "\n"}
	return p
}

// over lays a layer over a tree as a container engine does. Hard links become what they are on a disk: the file.
func over(tree, layer map[string]entry) {
	for p, e := range layer {
		dir, name := path.Split(p)
		gone := p
		if hidden, ok := strings.CutPrefix(name, ".wh."); ok {
			gone = dir + hidden
		} else if e.Typeflag == tar.TypeDir {
			continue
		}
		maps.DeleteFunc(tree, func(q string, _ entry) bool { return q == gone || strings.HasPrefix(q, gone+"/") })
	}
	for p, e := range layer {
		if e.Typeflag == tar.TypeLink {
			e = layer[e.Linkname]
		}
		if !strings.HasPrefix(path.Base(p), ".wh.") {
			tree[p] = e
		}
	}
}

// Two layers are what one layer of the same packages is, whatever the upper packages do to the lower ones.
func TestLayersOfVariantAndPackages(t *testing.T) {
	old, tool := toolPackages("old (<< 2.0~)") // takes paths over from a package of the lower layer
	base := []debtest.Package{libhello, old, editor("ed", "10", true)}
	added := []debtest.Package{hello, editor("vim", "50", false), tool}
	b := newBench(t, newStore(t))
	one, err := b.bakeOS(slices.Concat(base, added)...)
	if err != nil {
		t.Fatal(err)
	}
	lower, err := b.bakeOS(base...)
	if err != nil {
		t.Fatal(err)
	}
	spec, members := b.specOf(slices.Concat(base, added)...)
	spec.Role, spec.OS.Below = plan.RolePackages, len(base)
	var upper plan.Layer
	b.must(farm.KindAssemble, spec, &upper, members...)

	top, want, tree := b.layer(upper), map[string]entry{}, map[string]entry{}
	over(want, b.layer(one))
	over(tree, b.layer(lower))
	over(tree, top)
	for p, e := range want {
		got, ok := tree[p]
		switch {
		case !ok:
			t.Errorf("%s is missing", p)
		case got.Typeflag != e.Typeflag, got.Mode != e.Mode, got.Uid != e.Uid, got.Gid != e.Gid,
			!got.ModTime.Equal(e.ModTime), got.Linkname != e.Linkname, got.content != e.content:
			t.Errorf("%s is %+v, want %+v", p, got.Header, e.Header)
		}
	}
	for p := range tree {
		if _, ok := want[p]; !ok {
			t.Errorf("%s is too much", p)
		}
	}
	for _, p := range []string{"usr/lib/x86_64-linux-gnu/libhello.so.1.0", "usr/bin/tool-1", "usr/bin/ed", "bin", "var/lib/dpkg/info/libhello.list"} {
		if _, ok := top[p]; ok {
			t.Errorf("%s is in the upper layer again", p)
		}
	}
	for _, p := range []string{"usr/share/man/man1/.wh.editor.1.gz", "var/lib/dpkg/status", "var/lib/dpkg/info/old.list", "usr", "usr/share"} {
		if _, ok := top[p]; !ok {
			t.Errorf("%s is not in the upper layer", p)
		}
	}
	var packages []recipe.LockedPackage
	if err := json.Unmarshal(b.read(upper.Packages), &packages); err != nil || len(packages) != 6 || packages[0].Name != "ed" {
		t.Errorf("package list of the upper layer: %+v, %v", packages, err)
	}

	other := newBench(t, b.store) // with nothing in its cache
	var again plan.Layer
	other.must(farm.KindAssemble, spec, &again, members...)
	if !reflect.DeepEqual(again, upper) {
		t.Errorf("another worker made %+v, not %+v", again, upper)
	}

	for want, spoil := range map[string]func(*plan.AssembleSpec){
		`role "os"`:       func(s *plan.AssembleSpec) { s.Role = plan.RoleOS },
		`role "packages"`: func(s *plan.AssembleSpec) { s.OS.Below = 0 },
		"6 of them below": func(s *plan.AssembleSpec) { s.OS.Below = 6 },
	} {
		bad, system := spec, *spec.OS
		bad.OS = &system
		spoil(&bad)
		if err := b.run(farm.KindAssemble, bad, nil, members...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("err = %v, want %s", err, want)
		}
	}
}
