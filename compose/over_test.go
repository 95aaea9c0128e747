package compose

import (
	"bytes"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
)

// unpack lays layers over each other as a container engine does: what was there is replaced, whiteouts remove.
func unpack(layers ...[]File) map[string]File {
	tree := map[string]File{}
	remove := func(p string) {
		delete(tree, p)
		maps.DeleteFunc(tree, func(q string, _ File) bool { return strings.HasPrefix(q, p+"/") })
	}
	for _, layer := range layers {
		for _, f := range layer {
			if dir, name := path.Split(f.Path); strings.HasPrefix(name, whiteout) {
				remove(dir + name[len(whiteout):])
			} else {
				tree[f.Path] = f
			}
		}
	}
	return tree
}

func TestOver(t *testing.T) {
	entries := func(dirs [][]Entry, made ...File) []File {
		files, err := Entries(dirs, made)
		if err != nil {
			t.Fatal(err)
		}
		return files
	}
	a := Owned{"a", Inventory{Dirs: []Entry{dir("etc", 0o755, 1), dir("srv/games", 0o2775, 5), dir("usr/share/a", 0o755, 1)}, Paths: []string{"usr/share/a/x"}}}
	b := Owned{"b", Inventory{Dirs: []Entry{dir("etc", 0o755, 9), dir("srv/games", 0o755, 5), dir("usr/share/b", 0o700, 1)}, Paths: []string{"usr/share/b/y", "etc/became-real"}}}
	status := func(text string) File { return Text("var/lib/dpkg/status", 0o644, []byte(text)) }
	below := entries([][]Entry{a.Dirs}, status("a"), Symlink("etc/choice", "one"), Symlink("etc/slave", "one.1"),
		Text("etc/became-real", 0o644, nil), Text("opt/gone/x", 0o644, nil), Text("opt/gone/y", 0o644, nil), Text("top", 0o644, nil),
		Text("etc/same", 0o600, []byte("same")))
	whole := entries([][]Entry{a.Dirs, b.Dirs}, status("a, b"), Symlink("etc/choice", "two"), Text("etc/same", 0o600, []byte("same")), Text("new/file", 0o644, nil))
	upper := Over(whole, below, []Owned{a, b}, []Owned{b})

	var paths []string
	for _, f := range upper {
		paths = append(paths, f.Path)
	}
	want := []string{
		".wh.opt", // with what was in it
		".wh.top",
		"etc",           // has another time, and a file below it
		"etc/.wh.slave", // etc/became-real is b's
		"etc/choice",
		"new", "new/file",
		"usr", "usr/share", "usr/share/b", // srv/games is as it was
		"var", "var/lib", "var/lib/dpkg", "var/lib/dpkg/status",
	}
	if !slices.Equal(paths, want) {
		t.Errorf("got  %q\nwant %q", paths, want)
	}
	got := unpack(below, upper)
	delete(got, "etc/became-real") // of the lower layer's head: b's member comes over it
	if plain := unpack(whole); !maps.EqualFunc(got, plain, func(f, g File) bool { return f.equal(&g) }) {
		t.Errorf("the two layers have %d entries, one layer has %d", len(got), len(plain))
	}
	if _, err := Head(nil, upper); err != nil {
		t.Error(err)
	}
	if again := Over(whole, whole, []Owned{a, b}, nil); len(again) > 0 {
		t.Errorf("over itself: %+v", again)
	}
	if first := Over(whole, nil, nil, nil); !slices.EqualFunc(first, whole, func(f, g File) bool { return f.Path == g.Path && bytes.Equal(f.Content, g.Content) }) {
		t.Errorf("over nothing: %d entries of %d", len(first), len(whole))
	}
}
