package sandbox_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/compose"
	"bakefarm/worker/sandbox"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	sandbox.Enter()
	goleak.VerifyTestMain(m)
}

// open opens a Runner in a directory of its own, and demands in the end that nothing is left: no process, no mount, no
// root, no cgroup.
func open(t *testing.T, c sandbox.Config) *sandbox.Runner {
	t.Helper()
	if c.Dir == "" {
		c.Dir = t.TempDir()
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	r, err := sandbox.Open(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		nothingLeft(t, c.Dir)
	})
	return r
}

func nothingLeft(t *testing.T, dir string) {
	t.Helper()
	for _, sub := range []string{"roots", "tmp"} {
		names, err := os.ReadDir(filepath.Join(dir, sub))
		if err != nil {
			t.Error(err)
		}
		for _, n := range names {
			t.Errorf("%s is left", filepath.Join(sub, n.Name()))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	if bytes.Contains(mounts, []byte(dir)) {
		t.Error("a mount is left")
	}
	if groups, err := filepath.Glob("/sys/fs/cgroup/*" + sandbox.CgroupOf(dir)); err != nil || len(groups) > 0 {
		t.Errorf("cgroups are left: %v %v", groups, err)
	}
	if helpers := helpersOf(t, dir); len(helpers) > 0 {
		t.Errorf("helpers are left: %v", helpers)
	}
}

// helpersOf are the processes that work in a directory.
func helpersOf(t *testing.T, dir string) []string {
	t.Helper()
	var found []string
	links, err := filepath.Glob("/proc/[0-9]*/cwd")
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		if cwd, err := os.Readlink(l); err == nil && (cwd == dir || strings.HasPrefix(cwd, dir+"/")) {
			found = append(found, l)
		}
	}
	return found
}

func layer(data []byte) sandbox.Layer {
	return sandbox.Layer{
		DiffID: digest.FromBytes(data),
		Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

// archive makes a tar of entries; contents are by path.
func archive(t testing.TB, entries []tar.Header, contents map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range entries {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = contents[h.Name]
		}
		h.Size = int64(len(content))
		if h.ModTime.IsZero() {
			h.ModTime = time.Unix(compose.ModTime, 0)
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tools are the programs of this machine that the tests' root has, with the libraries that they need.
var tools = []string{
	"sh", "cat", "ls", "id", "touch", "mkdir", "rm", "rmdir", "mv", "cp", "ln", "chmod", "chown", "stat", "env", "sleep", "head", "mount",
	"mknod", "mkfifo", "readlink", "setsid", "dd", "true", "sync", "unshare", "getpcaps", "od", "tr", "sort", "sed",
}

// toolsLayer is a root with the tools, like a small Debian.
var toolsLayer = sync.OnceValues(func() ([]byte, error) {
	files := map[string]string{} // path in the root → path on the machine
	for _, tool := range tools {
		path, err := exec.LookPath(tool)
		if err != nil {
			if tool == "getpcaps" {
				continue
			}
			return nil, err
		}
		files["usr/bin/"+tool] = path
		out, err := exec.Command("ldd", path).Output()
		if err != nil {
			return nil, fmt.Errorf("ldd %s: %w", path, err)
		}
		for word := range strings.FieldsSeq(string(out)) {
			if strings.HasPrefix(word, "/") {
				name := strings.TrimPrefix(word, "/usr")
				files["usr"+name] = word
			}
		}
	}
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	add := func(h tar.Header, content []byte) error {
		h.Size, h.ModTime = int64(len(content)), time.Unix(compose.ModTime, 0)
		if err := w.WriteHeader(&h); err != nil {
			return err
		}
		_, err := w.Write(content)
		return err
	}
	var errs []error
	for _, d := range []string{"etc", "home", "usr", "usr/bin", "usr/sbin", "usr/lib", "var"} {
		errs = append(errs, add(tar.Header{Typeflag: tar.TypeDir, Name: d + "/", Mode: 0o755}, nil))
	}
	for _, l := range []string{"bin", "sbin", "lib"} {
		errs = append(errs, add(tar.Header{Typeflag: tar.TypeSymlink, Name: l, Linkname: "usr/" + l, Mode: 0o777}, nil))
	}
	if _, err := os.Stat("/lib64"); err == nil {
		errs = append(errs, add(tar.Header{Typeflag: tar.TypeSymlink, Name: "lib64", Linkname: "usr/lib64", Mode: 0o777}, nil))
	}
	var names []string
	for name := range files {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		data, err := os.ReadFile(files[name])
		errs = append(errs, err, add(tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755}, data))
	}
	errs = append(errs,
		add(tar.Header{Typeflag: tar.TypeReg, Name: "etc/passwd", Mode: 0o644}, []byte("root:x:0:0:root:/root:/bin/sh\n")),
		add(tar.Header{Typeflag: tar.TypeReg, Name: "usr/sbin/start-stop-daemon", Mode: 0o755}, []byte("#!/bin/sh\necho started\n")),
		w.Close())
	return b.Bytes(), errors.Join(errs...)
})

// debian makes a root of the tools and more layers.
func debian(t *testing.T, r *sandbox.Runner, more ...sandbox.Layer) *sandbox.Root {
	t.Helper()
	data, err := toolsLayer()
	if err != nil {
		t.Fatal(err)
	}
	root, err := r.Root(t.Context(), append([]sandbox.Layer{layer(data)}, more...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := root.Close(); err != nil {
			t.Error(err)
		}
	})
	return root
}

// script runs a shell script in a root and returns its output.
func script(t *testing.T, root *sandbox.Root, text string) string {
	t.Helper()
	var out bytes.Buffer
	if err := root.Run(t.Context(), sandbox.Command{Args: []string{"sh", "-euc", text}, Stdout: &out, Stderr: &out}); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	return out.String()
}

// changes lists a root's changes, a line each.
func changes(t *testing.T, root *sandbox.Root) []string {
	t.Helper()
	var list []string
	err := root.Changes(t.Context(), func(e sandbox.Change, content io.Reader) error {
		if e.Above {
			return nil
		}
		line := fmt.Sprintf("%c %04o %d:%d %s", e.Type, e.Mode, e.UID, e.GID, e.Path)
		if e.Link != "" {
			line += " -> " + e.Link
		}
		for name, value := range e.Xattrs {
			line += fmt.Sprintf(" %s=%x", name, value)
		}
		if content != nil {
			data, err := io.ReadAll(content)
			if err != nil {
				return err
			}
			if int64(len(data)) != e.Size {
				return fmt.Errorf("%s: %d bytes, want %d", e.Path, len(data), e.Size)
			}
			line += fmt.Sprintf(" %q", data)
		}
		list = append(list, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func equalLines(t *testing.T, got, want []string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got:\n  %s\nwant:\n  %s", strings.Join(got, "\n  "), strings.Join(want, "\n  "))
	}
}

// writeTo writes changes as a tar without its end.
func writeTo(w io.Writer) func(c sandbox.Change, content io.Reader) error {
	return func(c sandbox.Change, content io.Reader) error { return compose.WriteEntry(w, c.Entry, content) }
}
