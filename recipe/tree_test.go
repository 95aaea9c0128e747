package recipe

import (
	"bytes"
	_ "crypto/sha512" // what a digest may also be, and chunks may not
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

// files makes a valid context of a text: "path", "path*" executable, "path/" directory, "path -> target" link.
func files(t *testing.T, names ...string) *Context {
	t.Helper()
	c := &Context{}
	for _, name := range names {
		var f ContextFile
		path, link, isLink := strings.Cut(name, " -> ")
		switch {
		case isLink:
			f = ContextFile{Path: path, Link: link}
		case strings.HasSuffix(name, "/"):
			f = ContextFile{Path: strings.TrimSuffix(name, "/"), Dir: true}
		default:
			path, exec := strings.CutSuffix(name, "*")
			f = ContextFile{Path: path, Exec: exec, Size: 3, Chunks: []digest.Digest{sha(path)}}
		}
		c.Files = append(c.Files, f)
	}
	slices.SortFunc(c.Files, func(a, b ContextFile) int { return strings.Compare(a.Path, b.Path) })
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	return c
}

// list shows a tree: "755 0:0 opt/", "644 1:2 opt/a" or "777 0:0 b -> a"; a ~ before it is implied.
func list(tree *Tree) []string {
	var lines []string
	for _, e := range tree.Entries {
		line := fmt.Sprintf("%o %d:%d %s", e.Mode, e.UID, e.GID, e.Path)
		switch e.Type {
		case TypeDir:
			line += "/"
		case TypeLink:
			line += " -> " + e.Link
		}
		if e.Implied {
			line = "~" + line
		}
		lines = append(lines, line)
	}
	return lines
}

func equal(t *testing.T, got []string, want string) {
	t.Helper()
	if g, w := strings.Join(got, "\n"), strings.ReplaceAll(strings.TrimSpace(want), "\t", ""); g != w {
		t.Errorf("got\n%s\nwant\n%s", g, w)
	}
}

func TestBuildTree(t *testing.T) {
	ctx := []string{"dist/bin/tool*", "dist/conf", "dist/cur -> bin/tool", "dist/empty/", "dist-old/x", "dist.txt", "run.sh*", "tmp/x"}
	mode := uint32(0o600)
	for _, test := range []struct {
		name string
		item AppItem
		want string
	}{
		{"directory to directory", AppItem{Copy: "dist", To: "/opt/app", UID: 1000, GID: 1001}, `
			~755 0:0 opt/
			755 1000:1001 opt/app/
			755 1000:1001 opt/app/bin/
			755 1000:1001 opt/app/bin/tool
			644 1000:1001 opt/app/conf
			777 1000:1001 opt/app/cur -> bin/tool
			755 1000:1001 opt/app/empty/`},
		{"a trailing slash makes no difference to a directory", AppItem{Copy: "dist/empty", To: "/opt/app", ToDir: true}, `
			~755 0:0 opt/
			755 0:0 opt/app/`},
		{"directory to the root", AppItem{Copy: "dist", To: "/", ToDir: true, UID: 5, GID: 6}, `
			755 0:0 bin/
			755 5:6 bin/tool
			644 5:6 conf
			777 5:6 cur -> bin/tool
			755 5:6 empty/`},
		{"mode is for files", AppItem{Copy: "dist", To: "/d", Mode: &mode}, `
			755 0:0 d/
			755 0:0 d/bin/
			600 0:0 d/bin/tool
			600 0:0 d/conf
			777 0:0 d/cur -> bin/tool
			755 0:0 d/empty/`},
		{"file to file", AppItem{Copy: "run.sh", To: "/usr/bin/run", UID: 7, GID: 8}, `
			~755 0:0 usr/
			~755 0:0 usr/bin/
			755 7:8 usr/bin/run`},
		{"file into directory", AppItem{Copy: "dist/conf", To: "/srv/x", ToDir: true}, `
			~755 0:0 srv/
			~755 0:0 srv/x/
			644 0:0 srv/x/conf`},
		{"file into the root", AppItem{Copy: "dist/conf", To: "/"}, `644 0:0 conf`},
		{"a link stays a link", AppItem{Copy: "dist/cur", To: "/x"}, `777 0:0 x -> bin/tool`},
		{"everything", AppItem{Copy: ".", To: "/", UID: 1}, `
			755 1:0 dist/
			755 1:0 dist-old/
			644 1:0 dist-old/x
			644 1:0 dist.txt
			755 1:0 dist/bin/
			755 1:0 dist/bin/tool
			644 1:0 dist/conf
			777 1:0 dist/cur -> bin/tool
			755 1:0 dist/empty/
			755 1:0 run.sh
			1777 0:0 tmp/
			644 1:0 tmp/x`},
		{"system directories stay the system's", AppItem{Copy: "dist/bin", To: "/usr/local/bin", UID: 9, GID: 9}, `
			~755 0:0 usr/
			~755 0:0 usr/local/
			755 0:0 usr/local/bin/
			755 9:9 usr/local/bin/tool`},
		{"below /root and /tmp", AppItem{Copy: "dist/conf", To: "/root/.conf"}, `
			~700 0:0 root/
			644 0:0 root/.conf`},
	} {
		t.Run(test.name, func(t *testing.T) {
			tree, err := BuildTree(files(t, ctx...), test.item)
			if err != nil {
				t.Fatal(err)
			}
			equal(t, list(tree), test.want)
			again, err := DecodeTree(tree.Encode())
			if err != nil || !reflect.DeepEqual(again, tree) || !bytes.Equal(again.Encode(), tree.Encode()) {
				t.Errorf("the tree does not survive its encoding: %v", err)
			}
		})
	}
}

// A context that lists its directories makes the same tree as one that does not.
func TestListedDirectoriesMakeNoDifference(t *testing.T) {
	without := files(t, "dist/a/b/c", "dist/d")
	with := files(t, "dist/", "dist/a/", "dist/a/b/", "dist/a/b/c", "dist/d")
	for _, item := range []AppItem{{Copy: "dist", To: "/x", UID: 3}, {Copy: ".", To: "/"}, {Copy: ".", To: "/y"}, {Copy: "dist/a", To: "/", UID: 1}} {
		a, errA := BuildTree(without, item)
		b, errB := BuildTree(with, item)
		if errA != nil || errB != nil || !reflect.DeepEqual(a, b) {
			t.Errorf("%+v:\n%q, %v\n%q, %v", item, list(a), errA, list(b), errB)
		}
	}
}

func TestBuildTreesErrors(t *testing.T) {
	ctx := files(t, "a", "b/.wh.x", "b/c")
	for _, test := range []struct {
		ctx  *Context
		item AppItem
		want string
	}{
		{ctx, AppItem{Copy: "dist", To: "/"}, `app[1].copy: "./dist" is not in the context`},
		{ctx, AppItem{Copy: "a/b", To: "/"}, `app[1].copy: "./a/b" is not in the context`},
		{ctx, AppItem{Copy: "*.txt", To: "/"}, `app[1].copy: "./*.txt" is not in the context; patterns are not expanded: copy the directory, and leave files out with .bakeignore`},
		{ctx, AppItem{Copy: "b", To: "/"}, `app[1].to: "/.wh.x": a name that begins with .wh. means a deleted file in an OCI layer; rename it or leave it out with .bakeignore`},
		{ctx, AppItem{Copy: "a", To: "/" + strings.Repeat("x", 300)}, `app[1].to: "/` + strings.Repeat("x", 79) + `…": "` + strings.Repeat("x", 80) + `…" is longer than 255 bytes`},
		{ctx, AppItem{Copy: "a", To: strings.Repeat("/x", 200)}, `app[1].to: "` + strings.Repeat("/x", 40) + `…": path has more than 128 components`},
		{&Context{}, AppItem{Copy: ".", To: "/x"}, `app[1].copy: "." has no file: the context is empty`},
		{nil, AppItem{Copy: "a", To: "/x"}, `app[1].copy: "./a" is not in the context`},
	} {
		items := []AppItem{{Copy: "a", To: "/a"}, test.item}
		base := test.ctx
		if base == nil || len(base.Files) == 0 {
			_, err := BuildTree(base, test.item)
			if err == nil || "app[1]."+err.Error() != test.want {
				t.Errorf("%+v: %v, want %s", test.item, err, test.want)
			}
			continue
		}
		if _, err := BuildTrees(base, items); err == nil || err.Error() != test.want {
			t.Errorf("%+v:\n got %v\nwant %s", test.item, err, test.want)
		}
	}
}

func TestDeepTreesAreBounded(t *testing.T) {
	c := &Context{}
	for i := range 3200 { // each of them in 127 directories of its own
		c.Files = append(c.Files, ContextFile{Path: fmt.Sprintf("%05d%s/f", i, strings.Repeat("/d", 126))})
	}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	if _, err := BuildTree(c, AppItem{Copy: ".", To: "/"}); err == nil || !strings.Contains(err.Error(), "more than 400000 entries") {
		t.Errorf("%v", err)
	}
}

func TestMergeTrees(t *testing.T) {
	ctx := files(t, "a/x", "a/y", "b/x", "b/sub/z", "f")
	build := func(items ...AppItem) []*Tree {
		t.Helper()
		trees, err := BuildTrees(ctx, items)
		if err != nil {
			t.Fatal(err)
		}
		return trees
	}
	// A later file wins; a directory on the way does not take the owner's away.
	tree, err := MergeTrees(build(
		AppItem{Copy: "a", To: "/opt/app", UID: 1, GID: 1},
		AppItem{Copy: "f", To: "/opt/app/y", UID: 2, GID: 2},
		AppItem{Copy: "b", To: "/opt/other"})...)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, list(tree), `
		755 0:0 opt/
		755 1:1 opt/app/
		644 1:1 opt/app/x
		644 2:2 opt/app/y
		755 0:0 opt/other/
		755 0:0 opt/other/sub/
		644 0:0 opt/other/sub/z
		644 0:0 opt/other/x`)
	if tree.Entries[3].Chunks[0] != sha("f") {
		t.Error("the earlier file is there")
	}
	// The owner does not depend on who comes first either.
	tree, err = MergeTrees(build(AppItem{Copy: "f", To: "/opt/app/y"}, AppItem{Copy: "a", To: "/opt/app", UID: 1, GID: 1})...)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, list(tree)[:2], "755 0:0 opt/\n755 1:1 opt/app/")

	for _, test := range []struct {
		items []AppItem
		want  string
	}{
		{[]AppItem{{Copy: "f", To: "/opt/app"}, {Copy: "a", To: "/opt/app"}},
			`app[1].to: "/opt/app" is a dir, but app[0] makes it a file; copy one of them elsewhere`},
		{[]AppItem{{Copy: "a", To: "/opt/app"}, {Copy: "f", To: "/opt/app"}},
			`app[1].to: "/opt/app" is a file, but app[0] makes it a dir; copy one of them elsewhere`},
		{[]AppItem{{Copy: "f", To: "/opt"}, {Copy: "f", To: "/x"}, {Copy: "f", To: "/opt/y"}},
			`app[2].to: "/opt" is a dir, but app[0] makes it a file; copy one of them elsewhere`},
	} {
		if _, err := MergeTrees(build(test.items...)...); err == nil || err.Error() != test.want {
			t.Errorf("got %v, want %s", err, test.want)
		}
	}
	if tree, err := MergeTrees(); err != nil || len(tree.Entries) != 0 {
		t.Errorf("of none: %v, %v", tree, err)
	}
}

func TestMergeUsr(t *testing.T) {
	build := func(to string, names ...string) *Tree {
		t.Helper()
		tree, err := BuildTree(files(t, names...), AppItem{Copy: ".", To: to, UID: 4, GID: 4})
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	merged, err := build("/", "bin/a", "lib64/l", "sbinx/c", "usr/bin/b", "usr/share/d").MergeUsr()
	if err != nil {
		t.Fatal(err)
	}
	equal(t, list(merged), `
		755 4:4 sbinx/
		644 4:4 sbinx/c
		755 0:0 usr/
		755 0:0 usr/bin/
		644 4:4 usr/bin/a
		644 4:4 usr/bin/b
		755 0:0 usr/lib64/
		644 4:4 usr/lib64/l
		755 0:0 usr/share/
		644 4:4 usr/share/d`)
	if err := merged.Validate(); err != nil {
		t.Error(err)
	}
	if merged, err := build("/bin", "a").MergeUsr(); err != nil || strings.Join(list(merged), "|") != "~755 0:0 usr/|755 0:0 usr/bin/|644 4:4 usr/bin/a" {
		t.Errorf("%q, %v", list(merged), err)
	}
	if merged, err := build("/", "bin -> usr/bin", "usr/bin/a").MergeUsr(); err != nil || list(merged)[0] != "777 4:4 bin -> usr/bin" {
		t.Errorf("%v, %v", merged, err)
	}
	if _, err := build("/", "bin/a", "usr/bin/a").MergeUsr(); err == nil || err.Error() != "to: /usr/bin/a is copied to both /bin/a and /usr/bin/a, which are the same place; copy it once" {
		t.Errorf("%v", err)
	}
	if _, err := build("/", "bin -> elsewhere").MergeUsr(); err == nil || !strings.HasPrefix(err.Error(), "to: /bin is a link, but a link to usr/bin in the system") {
		t.Errorf("%v", err)
	}
}

func TestLocked(t *testing.T) {
	tree, err := BuildTree(files(t, "a/b", "a/c -> b"), AppItem{Copy: "a", To: "/x"})
	if err != nil {
		t.Fatal(err)
	}
	if l := tree.Locked(); l.Files != 2 || l.Bytes != 3 || l.Tree != digest.FromBytes(tree.Encode()) {
		t.Errorf("%+v", l)
	}
}

func TestContextValidate(t *testing.T) {
	d := sha("x")
	long := func(n int) []digest.Digest { return slices.Repeat([]digest.Digest{d}, n) }
	good := []ContextFile{
		{Path: "a"}, {Path: "a-b", Dir: true}, {Path: "a-b/c", Size: ChunkSize + 1, Chunks: long(2)}, {Path: "a.b", Link: "../../etc/passwd"},
		{Path: "z/y/x", Size: ChunkSize, Chunks: long(1), Exec: true}, {Path: "ä\n", Size: 1, Chunks: long(1)},
	}
	c := &Context{Files: good}
	if err := c.Validate(); err != nil {
		t.Fatal(err)
	}
	again, err := DecodeContext(c.Encode())
	if err != nil || !reflect.DeepEqual(again, c) {
		t.Errorf("the context does not survive its encoding: %v", err)
	}
	for _, test := range []struct {
		files []ContextFile
		want  string
	}{
		{[]ContextFile{{Path: ""}}, "clean relative path"},
		{[]ContextFile{{Path: "."}}, "clean relative path"},
		{[]ContextFile{{Path: "/a"}}, "clean relative path"},
		{[]ContextFile{{Path: "../a"}}, "clean relative path"},
		{[]ContextFile{{Path: "a/../b"}}, "clean relative path"},
		{[]ContextFile{{Path: "a//b"}}, "clean relative path"},
		{[]ContextFile{{Path: "a/"}}, "clean relative path"},
		{[]ContextFile{{Path: "a\x00b"}}, "zero byte"},
		{[]ContextFile{{Path: "a\xff"}}, "not UTF-8"},
		{[]ContextFile{{Path: strings.Repeat("a", 256)}}, "longer than 255 bytes"},
		{[]ContextFile{{Path: strings.Repeat("abcd/", 1000) + "a"}}, "longer than 4096 bytes"},
		{[]ContextFile{{Path: strings.Repeat("a/", 128) + "a"}}, "more than 128 components"},
		{[]ContextFile{{Path: "b"}, {Path: "a"}}, `"a" comes after "b"`},
		{[]ContextFile{{Path: "a"}, {Path: "a"}}, `"a" comes after "a"`},
		{[]ContextFile{{Path: "a"}, {Path: "a-b"}, {Path: "a/b"}}, `"a/b": "a" is no directory`},
		{[]ContextFile{{Path: "a", Link: "b"}, {Path: "a/b/c/d"}}, `"a/b/c/d": "a" is no directory`},
		{[]ContextFile{{Path: "a", Dir: true, Link: "b"}}, "both a directory and a link"},
		{[]ContextFile{{Path: "a", Dir: true, Size: 1}}, "only a file has"},
		{[]ContextFile{{Path: "a", Link: "b", Exec: true}}, "only a file has"},
		{[]ContextFile{{Path: "a", Link: "b", Chunks: long(1)}}, "only a file has"},
		{[]ContextFile{{Path: "a", Link: strings.Repeat("x", MaxPath+1)}}, "link target"},
		{[]ContextFile{{Path: "a", Link: "x\x00"}}, "link target"},
		{[]ContextFile{{Path: "a", Size: -1}}, "size -1"},
		{[]ContextFile{{Path: "a", Size: MaxContextBytes + 1}}, "size 68719476737"},
		{[]ContextFile{{Path: "a", Size: 1}}, "0 chunks for 1 bytes: want 1"},
		{[]ContextFile{{Path: "a", Size: 0, Chunks: long(1)}}, "1 chunks for 0 bytes: want 0"},
		{[]ContextFile{{Path: "a", Size: ChunkSize, Chunks: long(2)}}, "want 1"},
		{[]ContextFile{{Path: "a", Size: 1, Chunks: []digest.Digest{"sha256:xyz"}}}, "no sha256 digest"},
		{[]ContextFile{{Path: "a", Size: 1, Chunks: []digest.Digest{digest.SHA512.FromString("x")}}}, "no sha256 digest"},
		{[]ContextFile{{Path: "a", Size: MaxContextBytes, Chunks: long(MaxContextBytes / ChunkSize)}, {Path: "b", Size: 1, Chunks: long(1)}}, `more than 68719476736 bytes, up to "b"`},
		{make([]ContextFile, MaxContextFiles+1), "more than 200000"},
	} {
		c := &Context{Files: test.files}
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: want %s", err, test.want)
		}
		if strings.Contains(test.want, "UTF-8") {
			continue // JSON makes it another path
		}
		if _, err := DecodeContext(c.Encode()); err == nil {
			t.Errorf("decoded in spite of: %s", test.want)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, raw := range []string{
		``, `null`, `[]`, `{}`, `{"files":null}`, `{"files":{}}`, `{"files":[`, `{"files":[]`, `{"files":[]}x`, `{"files":[],"more":1}`,
		`{"entries":[]}`, `{"files":[{"path":"a","mode":7}]}`, `{"files":[1]}`, `{"files":["a"]}`, `{"files":[],"files":[]}`,
		`{"files":[` + strings.Repeat(`{},`, MaxContextFiles) + `{}]}`,
		`{"files":[{"path":"` + strings.Repeat("a", maxElement) + `"}]}`,
		strings.Repeat(" ", MaxManifest) + `{"files":[]}`,
	} {
		if _, err := DecodeContext([]byte(raw)); err == nil || !strings.HasPrefix(err.Error(), "context: ") {
			t.Errorf("%s: %v", clip(raw), err)
		}
	}
	large := `{"files":[{"path":"0"},{"path":"` + strings.Repeat("a", maxElement) + `"}]}`
	if _, err := DecodeContext([]byte(large)); err == nil || !strings.Contains(err.Error(), "files[1]: ") {
		t.Errorf("an entry that is too large must be named: %v", err)
	}
	if c, err := DecodeContext([]byte(" {\"files\" : [ ] }\n")); err != nil || len(c.Files) != 0 {
		t.Errorf("an empty context: %v", err)
	}
	for _, raw := range []string{
		`{"files":[]}`,
		`{"entries":[{"path":"a/b","type":"file","mode":420,"uid":0,"gid":0}]}`,                                                                  // no parent
		`{"entries":[{"path":"a","type":"link","mode":511,"uid":0,"gid":0,"link":"x"},{"path":"a/b","type":"file","mode":420,"uid":0,"gid":0}]}`, // below a link
		`{"entries":[{"path":"b","type":"dir","mode":493,"uid":0,"gid":0},{"path":"a","type":"dir","mode":493,"uid":0,"gid":0}]}`,
		`{"entries":[{"path":"a","type":"dir","mode":493,"uid":-1,"gid":0}]}`,
		`{"entries":[{"path":"a","type":"dir","mode":65535,"uid":0,"gid":0}]}`,
		`{"entries":[{"path":"a","type":"fifo","mode":420,"uid":0,"gid":0}]}`,
		`{"entries":[{"path":"a","type":"dir","mode":493,"uid":0,"gid":0,"size":1}]}`,
		`{"entries":[{"path":"a","type":"file","mode":420,"uid":0,"gid":0,"size":1}]}`,
		`{"entries":[{"path":"a","type":"file","mode":420,"uid":0,"gid":0,"implied":true}]}`,
		`{"entries":[{"path":".wh.a","type":"file","mode":420,"uid":0,"gid":0}]}`,
		`{"entries":[{"path":"../a","type":"file","mode":420,"uid":0,"gid":0}]}`,
		`{"entries":[{"path":"a","type":"link","mode":511,"uid":0,"gid":0}]}`,
	} {
		if _, err := DecodeTree([]byte(raw)); err == nil || !strings.HasPrefix(err.Error(), "tree: ") {
			t.Errorf("%s: %v", raw, err)
		}
	}
}

func FuzzDecodeContext(f *testing.F) {
	d := sha("x")
	f.Add((&Context{Files: []ContextFile{{Path: "a", Size: 1, Chunks: []digest.Digest{d}}, {Path: "b/c", Link: "/d"}, {Path: "e", Dir: true}}}).Encode(), "b", "/x/")
	f.Add([]byte(`{"files":[{"path":".wh.x"}]}`), ".", "/")
	f.Fuzz(func(t *testing.T, raw []byte, from, to string) {
		c, err := DecodeContext(raw)
		if err != nil {
			return
		}
		again, err := DecodeContext(c.Encode())
		if err != nil || !bytes.Equal(again.Encode(), c.Encode()) {
			t.Fatalf("not canonical: %v", err)
		}
		if badRelative(from) != "" || !strings.HasPrefix(to, "/") {
			return
		}
		tree, err := BuildTree(c, AppItem{Copy: from, To: to})
		if err != nil {
			return
		}
		if err := tree.Validate(); err != nil {
			t.Fatalf("a tree that is not valid: %v", err)
		}
		if merged, err := tree.MergeUsr(); err == nil {
			if err := merged.Validate(); err != nil {
				t.Fatalf("merged /usr: %v", err)
			}
		}
	})
}

func BenchmarkDecodeContext(b *testing.B) {
	c := &Context{}
	for i := range 100_000 {
		c.Files = append(c.Files, ContextFile{Path: fmt.Sprintf("node_modules/package-%04d/lib/file-%05d.js", i/20, i), Size: 3, Chunks: []digest.Digest{sha("x")}})
	}
	raw := c.Encode()
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		if _, err := DecodeContext(raw); err != nil {
			b.Fatal(err)
		}
	}
}

func TestMeasureList(t *testing.T) {
	for _, c := range []struct {
		raw                string
		count, longest, at int
	}{
		{`{"files":[]}`, 0, 0, 0},
		{`{"files":[ ]}`, 0, 0, 0},
		{`{"files":[{}]}`, 1, 2, 0},
		{`{"files":[{"a":[1,2]},{"b":"],}\"],"},3]}`, 3, len(`{"b":"],}\"],"}`), 1},
		{`{"files":["\\",{}]}`, 2, 4, 0},
		{`{"files":[1,2`, 1, 1, 0},
		{`{"files":["`, 0, 0, 0},
		{`]]]]`, 0, 0, 0},
	} {
		if count, longest, at := measureList([]byte(c.raw)); count != c.count || longest != c.longest || at != c.at {
			t.Errorf("%s: %d elements, the longest of %d bytes at %d; want %d, %d, %d", c.raw, count, longest, at, c.count, c.longest, c.at)
		}
	}
}
