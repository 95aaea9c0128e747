package ldcache

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestLikeLdconfig indexes this machine's own libraries, and compares with what its ldconfig makes of them, byte by byte.
func TestLikeLdconfig(t *testing.T) {
	arch := output(t, "dpkg", "--print-architecture")
	if !Knows(arch) {
		t.Skipf("no index for %s", arch)
	}
	// libc's own directory, and the one above it.
	libc := output(t, "sh", "-c", "dirname /usr/lib/*-linux-gnu*/libc.so.6")
	dirs := []string{libc, filepath.Dir(libc)}
	temp := t.TempDir()
	conf, file := filepath.Join(temp, "conf"), filepath.Join(temp, "cache")
	if err := os.WriteFile(conf, []byte(strings.Join(dirs, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	output(t, "/sbin/ldconfig", "-X", "-f", conf, "-C", file)
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var searched []Dir
	for _, dir := range dirs {
		searched = append(searched, Dir{Path: dir, Files: librariesIn(t, dir)})
	}
	entries, _ := Scan(searched, arch)
	generator := want[max(0, bytes.LastIndex(want, []byte("ldconfig ("))):]
	got := Encode(entries, string(generator))
	if bytes.Equal(got, want) {
		return
	}
	own := filepath.Join(temp, "own")
	if err := os.WriteFile(own, got, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Errorf("%d bytes, ldconfig makes %d", len(got), len(want))
	ours, theirs := lines(output(t, "/sbin/ldconfig", "-p", "-C", own)), lines(output(t, "/sbin/ldconfig", "-p", "-C", file))
	for _, l := range ours {
		if !slices.Contains(theirs, l) {
			t.Logf("only here: %s", l)
		}
	}
	for _, l := range theirs {
		if !slices.Contains(ours, l) {
			t.Logf("only ldconfig: %s", l)
		}
	}
}

func output(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		t.Fatalf("%s: %v", program, err)
	}
	return strings.TrimSpace(string(out))
}

func lines(s string) []string { return strings.Split(s, "\n") }

// librariesIn inspects the libraries of a directory of this machine.
func librariesIn(t *testing.T, dir string) []File {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var files []File
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		info, err := os.Stat(name)
		if !IsLibrary(e.Name()) || err != nil || !info.Mode().IsRegular() {
			continue // among them links to nothing
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		l, ok, err := Inspect(f, info.Size())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if ok {
			files = append(files, File{Name: e.Name(), Link: e.Type()&os.ModeSymlink != 0, Library: l})
		}
		f.Close()
	}
	slices.Reverse(files) // no order is needed
	return files
}
