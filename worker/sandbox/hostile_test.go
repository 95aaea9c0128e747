package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bakefarm/worker/sandbox"

	"github.com/opencontainers/go-digest"
)

// Each of these must not touch anything outside of the layer. Where the tar makes no sense it's refused; where it would
// be sound as somebody's root, it's unpacked as that.
func TestHostileLayers(t *testing.T) {
	outside := t.TempDir()
	victim := filepath.Join(outside, "victim")
	if err := os.WriteFile(victim, []byte("untouched"), 0o644); err != nil {
		t.Fatal(err)
	}
	r := open(t, sandbox.Config{})
	file := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o666} }
	link := func(name, to string) tar.Header {
		return tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: to}
	}
	hard := func(name, to string) tar.Header { return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: to} }
	dir := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755} }
	for _, c := range []struct {
		name    string
		entries []tar.Header
		good    bool
	}{
		{"dots", []tar.Header{file("../victim")}, false},
		{"dots within", []tar.Header{file("a/../../victim")}, false},
		{"absolute is relative", []tar.Header{file(victim)}, true},
		{"through an absolute link", []tar.Header{dir(outside), link("out", outside), file("out/victim")}, true},
		{"through an absolute link to nothing", []tar.Header{link("out", outside), file("out/victim")}, false},
		{"through dots", []tar.Header{link("out", strings.Repeat("../", 20)+outside), file("out/victim")}, false},
		{"through the root's parent", []tar.Header{link("out", "/../../.."), file("out/victim")}, true},
		{"through /proc", []tar.Header{link("out", "/proc/self/cwd"), file("out/victim")}, false},
		{"over a link", []tar.Header{link("victim", victim), file("victim")}, true},
		{"link in a loop", []tar.Header{link("a", "b"), link("b", "a"), file("a/x")}, false},
		{"hard link outside", []tar.Header{hard("out", victim)}, false},
		{"hard link through dots", []tar.Header{hard("out", "../victim")}, false},
		{"hard link to a link", []tar.Header{link("s", victim), hard("out", "s"), file("out")}, true},
		{"hard link to itself", []tar.Header{hard("a", "a")}, false},
		{"whiteout of the parent", []tar.Header{file(".wh...")}, false},
		{"whiteout of nothing", []tar.Header{file("a/.wh.")}, false},
		{"a file as a directory", []tar.Header{file("a"), file("a/b")}, false},
		{"twice", []tar.Header{file("a"), link("a", victim), file("a"), dir("a"), file("a/b"), file("a")}, true},
		{"an overlay's mark", []tar.Header{{Typeflag: tar.TypeChar, Name: "x"}}, os.Getuid() != 0},
		{"an overlay's redirect", []tar.Header{{Typeflag: tar.TypeDir, Name: "x", Mode: 0o755, PAXRecords: map[string]string{
			"SCHILY.xattr.trusted.overlay.redirect": outside, "SCHILY.xattr.user.overlay.redirect": outside}}}, true},
		{"a name too long", []tar.Header{file(strings.Repeat("x", 300))}, false},
		{"/dev is a file", []tar.Header{file("dev")}, false},
		{"/proc leads out", []tar.Header{link("proc", outside)}, false},
		{"/usr/sbin leads out", []tar.Header{dir("usr"), link("usr/sbin", outside)}, true},
		{"/usr leads out", []tar.Header{link("usr", "/"), dir("sbin")}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			contents := map[string]string{}
			for _, e := range c.entries {
				if e.Typeflag == tar.TypeReg {
					contents[e.Name] = "attack"
				}
			}
			root, err := r.Root(t.Context(), []sandbox.Layer{layer(archive(t, c.entries, contents))})
			switch {
			case err == nil && !c.good:
				t.Error("was unpacked")
			case err != nil && c.good:
				t.Error(err)
			}
			if err == nil {
				if err := root.Close(); err != nil {
					t.Error(err)
				}
			}
			if names, err := os.ReadDir(outside); err != nil || len(names) != 1 {
				t.Errorf("outside: %v %v", names, err)
			}
			if data, err := os.ReadFile(victim); err != nil || string(data) != "untouched" {
				t.Errorf("the file outside: %q %v", data, err)
			}
		})
	}
}

func TestDamagedLayers(t *testing.T) {
	good := archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "a", Mode: 0o644}}, map[string]string{"a": strings.Repeat("x", 3000)})
	r := open(t, sandbox.Config{LayerBytes: 10_000})
	failed := errors.New("connection reset")
	for _, c := range []struct {
		name string
		open io.Reader
		want error
	}{
		{"torn", bytes.NewReader(good[:2000]), sandbox.ErrLayer},
		{"other bytes", bytes.NewReader(archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "b", Mode: 0o644}}, nil)), sandbox.ErrLayer},
		{"no tar", strings.NewReader(strings.Repeat("x", 4096)), sandbox.ErrLayer},
		{"nothing", strings.NewReader(""), sandbox.ErrLayer},
		{"too large", bytes.NewReader(archive(t, []tar.Header{{Typeflag: tar.TypeReg, Name: "b", Mode: 0o644}}, map[string]string{"b": strings.Repeat("x", 20_000)})), sandbox.ErrLayer},
		{"fails", io.MultiReader(bytes.NewReader(good[:1024]), failing{failed}), failed},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := r.Root(t.Context(), []sandbox.Layer{{DiffID: digest.FromBytes(good), Open: func(context.Context) (io.ReadCloser, error) { return io.NopCloser(c.open), nil }}})
			if !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
		})
	}
	// None of these has spoilt the layer's name.
	root, err := r.Root(t.Context(), []sandbox.Layer{layer(good)})
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Close(); err != nil {
		t.Fatal(err)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
