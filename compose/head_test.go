package compose

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
)

func readTar(t *testing.T, data []byte) []*tar.Header {
	t.Helper()
	var headers []*tar.Header
	tr := tar.NewReader(bytes.NewReader(data))
	for {
		h, err := tr.Next()
		if err == io.EOF {
			return headers
		} else if err != nil {
			t.Fatal(err)
		}
		headers = append(headers, h)
	}
}

func dir(p string, mode int64, mtime int64) Entry {
	return Entry{Path: p, Type: tar.TypeDir, Mode: mode, ModTime: mtime}
}

func TestHead(t *testing.T) {
	members := [][]Entry{
		{dir("tmp", 0o755, 50), dir("usr", 0o755, 10), dir("var/games", 0o2775, 10)},
		{dir("tmp", 0o1777, 20), dir("usr", 0o755, 30), dir("var/games", 0o700, 30)},
	}
	made := []File{Text("var/lib/dpkg/status", 0o644, []byte("x")), Symlink("bin", "usr/bin"), {Entry: dir("usr/bin", 0o755, 1)}}
	head, err := Head(members, made)
	if err != nil {
		t.Fatal(err)
	}
	type entry struct {
		name  string
		mode  int64
		mtime int64
	}
	var got []entry
	for _, h := range readTar(t, head) {
		got = append(got, entry{h.Name, h.Mode, h.ModTime.Unix()})
	}
	want := []entry{
		{"bin", 0o777, ModTime},
		{"tmp/", 0o1777, 50}, // special wins, the latest time counts
		{"usr/", 0o755, 30},
		{"usr/bin/", 0o755, 1},
		{"var/", 0o755, ModTime},   // nobody's
		{"var/games/", 0o2775, 30}, // the first of two special ones
		{"var/lib/", 0o755, ModTime},
		{"var/lib/dpkg/", 0o755, ModTime},
		{"var/lib/dpkg/status", 0o644, ModTime},
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}

	slices.Reverse(made)
	for _, m := range members {
		slices.Reverse(m)
	}
	if again, err := Head(members, made); err != nil || !bytes.Equal(again, head) {
		t.Errorf("the order of files and directories changes the head (%v)", err)
	}
}

func TestHeadRefusesConflicts(t *testing.T) {
	for name, c := range map[string]struct {
		dirs [][]Entry
		made []File
		kind ConflictKind
	}{
		"made twice":        {nil, []File{Text("a", 0o644, nil), Text("a", 0o644, nil)}, Twice},
		"dir and made file": {[][]Entry{{dir("a", 0o755, 1)}}, []File{Text("a", 0o644, nil)}, DirAndFile},
		"below made link":   {[][]Entry{{dir("bin/x", 0o755, 1)}}, []File{Symlink("bin", "usr/bin")}, BelowFile},
	} {
		_, err := Head(c.dirs, c.made)
		var conflict *Conflict
		if !errors.As(err, &conflict) || conflict.Kind != c.kind {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestCheckUnique(t *testing.T) {
	a := Owned{"a", Inventory{Dirs: []Entry{dir("usr", 0o755, 1), dir("usr/share", 0o755, 1)}, Paths: []string{"usr/share/x", "usr/share/y"}}}
	made := []File{Symlink("bin", "usr/bin"), {Entry: dir("usr", 0o755, 1)}, Text("etc/hosts", 0o644, nil)}
	ok := Owned{"ok", Inventory{Dirs: []Entry{dir("usr", 0o755, 1)}, Paths: []string{"usr/share/z", "usr/share/xy"}}}
	if err := CheckUnique(made, []Owned{a, ok}); err != nil {
		t.Error(err)
	}
	for _, c := range []struct {
		b    Inventory
		want string
	}{
		{Inventory{Paths: []string{"usr/share/y"}}, "/usr/share/y is both in a and in b"},
		{Inventory{Paths: []string{"etc/hosts"}}, "/etc/hosts is both in the files made for the layer and in b"},
		{Inventory{Paths: []string{"usr/share"}}, "/usr/share is a directory in a, but not in b"},
		{Inventory{Dirs: []Entry{dir("usr/share/x", 0o755, 1)}}, "/usr/share/x is a directory in b, but not in a"},
		{Inventory{Paths: []string{"usr/share/x/deep/file"}}, "/usr/share/x in a is no directory, but b has something below it"},
		{Inventory{Paths: []string{"etc"}}, "/etc in b is no directory, but the files made for the layer has something below it"},
		{Inventory{Paths: []string{"bin/sh"}}, "/bin in the files made for the layer is no directory, but b has something below it"},
		{Inventory{Dirs: []Entry{dir("bin", 0o755, 1)}}, "/bin is a directory in b, but not in the files made for the layer"},
	} {
		err := CheckUnique(made, []Owned{a, {"b", c.b}})
		if err == nil || err.Error() != c.want {
			t.Errorf("got %v, want %s", err, c.want)
		}
	}
}
