// Package debian holds what bakefarm makes of Debian's packages against what Debian's own tools make of them.
package debian

import (
	"archive/tar"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var all = flag.Bool("all", false, "compare all sets of packages, which takes some minutes each")

// sets are compared; without -all the first.
var sets = [][]string{
	{"cron", "openssh-server", "vim"},
	{"nginx-light", "python3", "dbus", "systemd"},
	{"default-jre-headless", "man-db"},
	{"postgresql"},
	{},
}

// An exception is a difference that is meant, by a pattern of path.Match for a path or one above it.
type exception struct{ pattern, why string }

// Exceptions, with the reasons that docs/debian.md gives. What only mmdebstrap has:
var onlyTheirs = []exception{
	{"dev/*", "device nodes: what runs an image brings its own /dev"},
	{"etc/apt/sources.list.d/*", "the mirrors that it was told of: mmdebstrap's business"},
	{"etc/apt/sources.list", "the same"},
	{"etc/fstab", "written by mmdebstrap"},
	{"etc/hostname", "written by mmdebstrap"},
	{"etc/resolv.conf", "written by mmdebstrap"},
	{"var/lib/apt/extended_states", "written by apt, which installs"},
	{"var/lib/dpkg/arch", "written by mmdebstrap: dpkg and apt do without"},
	{"var/cache/apt/archives/lock", "a lock"},
	{"var/lib/apt/lists/lock", "a lock"},
	{"var/lib/dpkg/lock*", "a lock"},
	{"var/lib/dpkg/triggers/Lock", "a lock"},
	{"etc/.pwd.lock", "a lock"},
	{"etc/*-", "the state before the last script"},
	{"var/lib/dpkg/*-old", "the state before the last script"},
	{"var/cache/debconf/*-old", "the state before the last script"},
	{"etc/ssh/ssh_host_*", "a secret"},
	{"etc/ssl/private/ssl-cert-snakeoil.key", "a secret"},
	{"etc/ssl/certs/ssl-cert-snakeoil.pem", "its certificate"},
	{"etc/ssl/certs/????????.0", "a link to the last one by hash"},
	{"var/lib/systemd/catalog/database", "an index of messages"},
	{"run/*", "for the time of a boot"},
	{"var/log/*", "logs"},
	{"var/lib/dbus/machine-id", "names the machine"},
	{"var/cache/ldconfig/aux-cache", "has inode numbers"},
}

var onlyOurs = []exception{
	{"var/lib/dpkg/available", "empty: dpkg makes it when it is asked for"},
	{"var/lib/dpkg/statoverride", "empty: dpkg makes it when it is asked for"},
	{"etc/machine-id", "empty"},
	{"var/log/*", "empty logs with their owners"},
}

var different = []exception{
	{"etc/shadow", "days of change: SOURCE_DATE_EPOCH"},
	{"etc/shells", "the order of lines is that of configuration"},
	{"etc/machine-id", "empty against \"uninitialized\""},
	{"var/cache/apt/archives/partial", "apt-get has run, and taken it"},
	{"var/lib/apt/lists/partial", "apt-get has run, and taken it"},
	{"usr/share/python3/debpython/__pycache__/*", "compiled by whichever script came first: by time or by hash"},
	{"etc/ssl/certs/java/cacerts", "has times"},
	{"var/lib/postgresql/*", "a database that is made with random numbers"},
	{"var/log/*", "logs"},
	{"var/cache/man/*", "an index with times"},
	{"var/lib/ucf/*", "the order is that of configuration"},
	{"etc/passwd", "numbers of users: the order of configuration"},
	{"etc/group", "the same"},
	{"etc/gshadow", "the same"},
	{"var/lib/dpkg/triggers/File", "the order of lines is that of unpacking"},
	{"etc/postgresql/*", "names the locale of the maker"},
}

func excepted(p string, list []exception) bool {
	for ; p != "."; p = path.Dir(p) {
		for _, e := range list {
			if fits, _ := path.Match(e.pattern, p); fits {
				return true
			}
		}
	}
	return false
}

// TestSameAsMmdebstrap bakes systems with their maintainer scripts and compares them, file by file, with what mmdebstrap
// makes of the same packages in the same versions: names, types, modes, owners, links, attributes and contents.
func TestSameAsMmdebstrap(t *testing.T) {
	if testing.Short() {
		t.Skip("downloads two systems, and makes them")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("mmdebstrap is not here: apt-get install mmdebstrap")
	}
	if os.Getuid() != 0 {
		t.Skip("mmdebstrap would make the system in another way than as root")
	}
	chosen := sets[:1]
	if *all {
		chosen = sets
	}
	f := start(t)
	for _, packages := range chosen {
		t.Run(strings.Join(packages, "+"), func(t *testing.T) {
			ours, locked := f.bake(t, packages)
			theirs := mmdebstrap(t, locked)
			compare(t, ours, theirs)
		})
	}
}

func compare(t *testing.T, ours, theirs map[string]entry) {
	t.Helper()
	same := 0
	for _, p := range slices.Sorted(maps.Keys(ours)) {
		a, b := ours[p], theirs[p]
		switch {
		case b == entry{}:
			if !excepted(p, onlyOurs) {
				t.Errorf("only ours: %s %+v", p, a)
			}
		case a == b:
			same++
		case !excepted(p, different):
			t.Errorf("%s differs:\n  ours   %+v\n  theirs %+v", p, a, b)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(theirs)) {
		if (ours[p] == entry{}) && !excepted(p, onlyTheirs) {
			t.Errorf("only mmdebstrap's: %s %+v", p, theirs[p])
		}
	}
	t.Logf("%d of %d paths are the same", same, len(ours))
	if same < 3000 {
		t.Errorf("only %d paths are the same: were the right files compared?", same)
	}
}

// entry is what is compared of a path; comparable.
type entry struct {
	Type     byte
	Mode     int64
	UID, GID int
	Link     string
	Content  string // digest
	Xattrs   string
}

// lay lays a tar over a tree, as a container engine does.
func lay(tree map[string]entry, r io.Reader) error {
	for entries := tar.NewReader(r); ; {
		h, err := entries.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		p := path.Clean(h.Name)
		if p == "." {
			continue
		}
		e := entry{Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Link: h.Linkname}
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			if _, err := io.Copy(sum, entries); err != nil {
				return err
			}
			e.Content = fmt.Sprintf("%d bytes, %.8x", h.Size, sum.Sum(nil))
		case tar.TypeLink:
			e = tree[path.Clean(h.Linkname)] // another name of that file
		}
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if name, is := strings.CutPrefix(k, "SCHILY.xattr."); is {
				e.Xattrs += name + "=" + h.PAXRecords[k] + " "
			}
		}
		name := path.Base(p)
		switch gone, is := strings.CutPrefix(name, ".wh."); {
		case name == ".wh..wh..opq":
			dir := path.Dir(p) + "/"
			maps.DeleteFunc(tree, func(q string, _ entry) bool { return strings.HasPrefix(q, dir) })
		case is:
			gone = path.Join(path.Dir(p), gone)
			maps.DeleteFunc(tree, func(q string, _ entry) bool { return q == gone || strings.HasPrefix(q, gone+"/") })
		default:
			if have := tree[p]; have.Type == tar.TypeDir && e.Type != tar.TypeDir {
				maps.DeleteFunc(tree, func(q string, _ entry) bool { return strings.HasPrefix(q, p+"/") })
			}
			tree[p] = e
		}
	}
}

// mmdebstrap makes a system of exactly these packages ("name=version") and returns its tree.
func mmdebstrap(t *testing.T, packages []string) map[string]entry {
	t.Helper()
	file := filepath.Join(t.TempDir(), "system.tar")
	began := time.Now()
	args := []string{"--quiet", "--variant=minbase", "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include=" + strings.Join(packages, ","), "bookworm", file}
	sources, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/etc/apt/sources.list"); err == nil {
		sources = append(sources, "/etc/apt/sources.list")
	}
	if out, err := exec.CommandContext(t.Context(), "mmdebstrap", append(args, sources...)...).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	t.Logf("mmdebstrap took %v", time.Since(began).Round(time.Second))
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree := map[string]entry{}
	if err := lay(tree, f); err != nil {
		t.Fatal(err)
	}
	return tree
}

// A farm of this machine's own apt sources.
type farm struct{ program, dir, url string }

func start(t *testing.T) *farm {
	t.Helper()
	dir := t.TempDir()
	f := &farm{program: filepath.Join(dir, "bakefarm"), dir: dir}
	build := exec.Command("go", "build", "-tags", "containers_image_openpgp", "-o", f.program, "bakefarm/cmd/bakefarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(f.program, "up", "--data", filepath.Join(dir, "farm"), "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "BAKEFARM_DEBIAN_MIRROR=", "BAKEFARM_DEBIAN_KEYRING=", "BAKEFARM_S3=", "BAKEFARM_NATS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	line := make([]byte, 1000)
	n, err := out.Read(line)
	ready := regexp.MustCompile(`ready at (http://\S+)`).FindSubmatch(line[:n])
	if ready == nil {
		t.Fatalf("the farm said %q, %v", line[:n], err)
	}
	go io.Copy(io.Discard, out)
	f.url = string(ready[1])
	return f
}

// run runs a client command and returns what it prints.
func (f *farm) run(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(f.program, args...)
	var said strings.Builder
	cmd.Dir, cmd.Env, cmd.Stderr = f.dir, append(os.Environ(), "BAKEFARM_SERVER="+f.url), &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bakefarm %s: %v\n%s", strings.Join(args, " "), err, said.String())
	}
	return out
}

// bake bakes a system and returns its tree, and its packages by name and version.
func (f *farm) bake(t *testing.T, packages []string) (map[string]entry, []string) {
	t.Helper()
	recipe := fmt.Sprintf("apiVersion: bakefarm/v1\nname: test/system\nos: {debian: {suite: bookworm, packages: [%s]}}\n", strings.Join(packages, ", "))
	if err := os.WriteFile(filepath.Join(f.dir, "bakefarm.yaml"), []byte(recipe), 0o600); err != nil {
		t.Fatal(err)
	}
	decode := func(raw []byte, into any) {
		t.Helper()
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
	}
	began := time.Now()
	var baked struct{ Images []struct{ Ref string } }
	decode(f.run(t, "bake", "bakefarm.yaml", "-o", "json"), &baked)
	t.Logf("bakefarm took %v", time.Since(began).Round(time.Second))
	var lock struct {
		OS struct {
			Debian struct {
				Platforms map[string][]struct{ Name, Version string }
			}
		}
	}
	decode(f.run(t, "lock", "bakefarm.yaml"), &lock)
	var locked []string
	for _, p := range lock.OS.Debian.Platforms["linux/amd64"] {
		locked = append(locked, p.Name+"="+p.Version)
	}

	layout := filepath.Join(t.TempDir(), "oci")
	f.run(t, "images", "pull", baked.Images[0].Ref, "--oci", layout)
	read := func(name string, into any) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(layout, name))
		if err != nil {
			t.Fatal(err)
		}
		decode(raw, into)
	}
	blob := func(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
	var index struct{ Manifests []struct{ Digest string } }
	read("index.json", &index)
	var manifest struct{ Layers []struct{ Digest string } }
	read(blob(index.Manifests[0].Digest), &manifest)
	tree := map[string]entry{}
	for _, l := range manifest.Layers {
		file, err := os.Open(filepath.Join(layout, blob(l.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(file)
		if err == nil {
			err = lay(tree, z)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return tree, locked
}
