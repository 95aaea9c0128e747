package execute_test

import (
	"archive/tar"
	"reflect"
	"strings"
	"testing"

	"bakefarm/compose/deb/debtest"
)

// old and new both have usr/bin/tool and its manual; old has another name for the tool.
func toolPackages(replaces string) (old, new debtest.Package) {
	old = debtest.Package{Name: "old", Version: "1.0-1", Entries: []debtest.Entry{
		{Name: "./bin/"}, {Name: "./bin/tool", Content: "old tool", Mode: 0o755},
		{Name: "./bin/tool-1", Type: tar.TypeLink, Link: "./bin/tool"},
		{Name: "./bin/tool-2", Type: tar.TypeLink, Link: "./bin/tool"},
		{Name: "./etc/"}, {Name: "./etc/tool.conf", Content: "old"},
		{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/doc", Content: strings.Repeat("long ", 100_000)},
	}, Control: map[string]string{"conffiles": "/etc/tool.conf\n"}}
	new = debtest.Package{Name: "zz-new", Version: "2.0-1", Entries: []debtest.Entry{
		{Name: "./etc/"}, {Name: "./etc/tool.conf", Content: "new"},
		{Name: "./usr/"}, {Name: "./usr/bin/"}, {Name: "./usr/bin/tool", Content: "new tool", Mode: 0o755},
	}}
	if replaces != "" {
		new.Fields = map[string]string{"Replaces": replaces}
	}
	return old, new
}

func TestOverwrite(t *testing.T) {
	old, new := toolPackages("other (<< 1), old (<< 2.0~)")
	b := newBench(t, newStore(t))
	l, err := b.bakeOS(old, new)
	if err != nil {
		t.Fatal(err)
	}
	got := b.layer(l)
	for path, want := range map[string]string{"usr/bin/tool": "new tool", "usr/bin/tool-1": "old tool", "etc/tool.conf": "new"} {
		if got[path].content != want {
			t.Errorf("%s is %q, want %q", path, got[path].content, want)
		}
	}
	if e := got["usr/bin/tool-2"]; e.Header == nil || e.Typeflag != tar.TypeLink || e.Linkname != "usr/bin/tool-1" {
		t.Errorf("the second name of the replaced file: %+v", e.Header)
	}
	if e := got["usr/bin/tool-1"]; e.Header == nil || e.Typeflag != tar.TypeReg || e.Mode != 0o755 {
		t.Errorf("the first name of the replaced file: %+v", e.Header)
	}
	lists := got["var/lib/dpkg/info/old.list"].content
	if strings.Contains(lists, "/bin/tool\n") || strings.Contains(lists, "/etc/tool.conf\n") || !strings.Contains(lists, "/bin/tool-1\n") {
		t.Errorf("old.list:\n%s", lists)
	}
	if !strings.Contains(got["var/lib/dpkg/info/zz-new.list"].content, "/usr/bin/tool\n") {
		t.Error("zz-new.list lacks /usr/bin/tool")
	}
	if strings.Contains(got["var/lib/dpkg/status"].content, "/etc/tool.conf") {
		t.Error("the status still has the replaced conffile")
	}

	// A worker with nothing in its cache makes the same.
	spec, members := b.specOf(old, new)
	other := newBench(t, b.store)
	var again = l
	other.must("assemble", spec, &again, members...)
	if !reflect.DeepEqual(again, l) {
		t.Errorf("another worker made %+v, not %+v", again, l)
	}
}

func TestOverwriteNeedsReplaces(t *testing.T) {
	for name, replaces := range map[string]string{"none": "", "other version": "old (<< 1.0)", "other package": "older"} {
		t.Run(name, func(t *testing.T) {
			old, new := toolPackages(replaces)
			b := newBench(t, newStore(t))
			spec, members := b.specOf(old, new)
			b.commits.Store(0)
			err := b.run("assemble", spec, nil, members...)
			want := "package zz-new 2.0-1: trying to overwrite '/etc/tool.conf', which is also in package old 1.0-1"
			if err == nil || err.Error() != want {
				t.Errorf("err = %v, want %q", err, want)
			}
			b.nothingStored()
		})
	}
}

// A package that comes first by name may replace files of one that comes later.
func TestOverwriteByTheFirst(t *testing.T) {
	old, new := toolPackages("old")
	new.Name = "a-new"
	b := newBench(t, newStore(t))
	l, err := b.bakeOS(new, old)
	if err != nil {
		t.Fatal(err)
	}
	if got := b.layer(l); got["usr/bin/tool"].content != "new tool" || got["etc/tool.conf"].content != "new" {
		t.Errorf("usr/bin/tool is %q", got["usr/bin/tool"].content)
	}
}
