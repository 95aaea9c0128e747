package ext4

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// e is an entry of a layer.
type e struct {
	tar.Header
	content []byte
}

func file(name, content string) e {
	return e{tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}, []byte(content)}
}

func dir(name string) e { return e{Header: tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755}} }

func symlink(name, target string) e {
	return e{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: target}}
}

func link(name, target string) e {
	return e{Header: tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}}
}

// pattern is content without zero windows.
func pattern(n int, seed byte) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7+i>>8) ^ seed | 1
	}
	return b
}

func layer(t testing.TB, entries ...e) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.ModTime.IsZero() {
			e.ModTime = time.Unix(1_700_000_000, 0)
		}
		e.Size = int64(len(e.content))
		e.Format = tar.FormatPAX
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// build writes a filesystem into a file.
func build(t testing.TB, size int64, layers ...[]byte) (string, error) {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	w, err := New(once(t, f), Options{Size: size, UUID: [16]byte{0: 0xba, 15: 0x4e}, Label: "root", Time: 315619200})
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if err := w.Layer(bytes.NewReader(l)); err != nil {
			return "", err
		}
	}
	return f.Name(), w.Finish()
}

// once fails the test when a block is written twice, or a grain is written in more than one go: what stores an image in
// chunks relies on it.
func once(t testing.TB, out io.WriterAt) io.WriterAt {
	return &onceWriter{t: t, out: out, seen: map[int64]bool{}, at: -1}
}

type onceWriter struct {
	t    testing.TB
	out  io.WriterAt
	seen map[int64]bool // grains that are finished
	at   int64          // where the last write ended
}

func (w *onceWriter) WriteAt(p []byte, off int64) (int, error) {
	for g := off / Grain; g <= (off+int64(len(p))-1)/Grain; g++ {
		if w.at >= 0 && g != (w.at-1)/Grain && w.seen[g] || g == (w.at-1)/Grain && off < w.at {
			w.t.Errorf("bytes %d…%d go back to what has been written", off, off+int64(len(p)))
		}
		w.seen[g] = true
	}
	w.at = off + int64(len(p))
	return w.out.WriteAt(p, off)
}

// check asks e2fsck.
func check(t testing.TB, image string) {
	t.Helper()
	out, err := exec.Command("e2fsck", "-fn", image).CombinedOutput()
	if err != nil || strings.Contains(string(out), "no\n") {
		t.Fatalf("e2fsck: %v\n%s", err, out)
	}
}

func TestEmpty(t *testing.T) {
	t.Parallel()
	for _, size := range []int64{MinSize, 17_000_000, 128 << 20, 130 << 20, 1<<30 + 4096, 2 << 30, 2<<30 + 5<<20, 20 << 30} {
		image, err := build(t, size)
		if err != nil {
			t.Fatal(err)
		}
		check(t, image)
	}
	largest, err := New(discard{}, Options{Size: MaxSize})
	if err != nil {
		t.Fatal(err)
	}
	if err := largest.Finish(); err != nil {
		t.Error(err)
	}
	if _, err := New(nil, Options{Size: MaxSize + 1}); err == nil {
		t.Error("more than 16 TiB were accepted")
	}
}

func special() [][]byte {
	acl := "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x07\x00\xe8\x03\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x07\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff"
	withXattrs := func(e e, records map[string]string) e {
		e.PAXRecords = records
		return e
	}
	owned := file("etc/shadow", "root:*:\n")
	owned.Mode, owned.Uid, owned.Gid = 0o640, 70_000, 1<<32-2
	setuid := file("usr/bin/su", string(pattern(70_000, 3)))
	setuid.Mode = 0o4755
	old, far := file("old", "1901"), file("far", "2446")
	old.ModTime, far.ModTime = time.Unix(-1<<31, 0), time.Unix(15_000_000_000, 0)
	sparse := pattern(400_000, 9)
	clear(sparse[65536 : 65536*4])
	many := []e{dir("many")}
	for i := range 1200 {
		many = append(many, file(fmt.Sprintf("many/a-rather-long-name-of-a-file-%d", i), fmt.Sprint(i)))
	}
	tmp := dir("tmp")
	tmp.Mode = 0o1777
	device := func(flag byte, name string, major, minor int64) e {
		return e{Header: tar.Header{Typeflag: flag, Name: name, Mode: 0o660, Devmajor: major, Devminor: minor}}
	}
	lower := append([]e{
		dir("./"), dir("etc"), dir("usr"), dir("usr/bin/"), dir("usr/lib"), tmp, owned, setuid, old, far,
		symlink("lib", "usr/lib"), file("lib/through-a-link", "x"), symlink("abs", "/usr/../usr/lib"), file("abs/too", "y"),
		symlink("short", strings.Repeat("s", 59)), symlink("long", strings.Repeat("l/", 30)), symlink("longest", strings.Repeat("z", 4095)),
		{tar.Header{Typeflag: tar.TypeReg, Name: "sparse", Mode: 0o600}, sparse},
		{tar.Header{Typeflag: tar.TypeReg, Name: "empty", Mode: 0o444}, nil},
		link("usr/bin/su-too", "usr/bin/su"), link("dot-link", "./old"),
		device(tar.TypeChar, "null", 1, 3), device(tar.TypeBlock, "big", 259, 70_000),
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "fifo", Mode: 0o622}},
		withXattrs(file("ping", "p"), map[string]string{"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}),
		withXattrs(file("acl", "a"), map[string]string{"SCHILY.xattr.system.posix_acl_access": acl}),
		withXattrs(file("acl-text", "a"), map[string]string{"SCHILY.acl.access": "user::rw-\nuser:lisa:rwx:1000\ngroup::r--\nmask::rwx\nother::r--\n"}),
		withXattrs(file("xattrs", "a"), map[string]string{
			"SCHILY.xattr.user.small": "s", "SCHILY.xattr.user.large": strings.Repeat("large", 500), "SCHILY.xattr.user.empty": "",
			"SCHILY.xattr.trusted.overlay": "\xff\x00", "SCHILY.xattr.security.selinux": "system_u:object_r:etc_t:s0\x00"}),
		dir("gone"), dir("gone/below"), file("gone/below/file", "g"), file("gone-file", "g"),
		dir("hidden"), file("hidden/lower", "l"), dir("kept"), file("kept/lower", "l"),
		file("becomes-dir", "f"), dir("becomes-file"), file("becomes-file/x", "x"), dir("becomes-link"), file("replaced", string(pattern(200_000, 1))),
		file("no/parents/here", "n"), file("\xff-not-utf8", "b"),
	}, many...)
	device1 := dir("kept")
	device1.Mode = 0o700
	upper := []e{
		file(".wh.gone", ""), file(".wh.gone-file", ""), file(".wh.never-there", ""), file("nowhere/.wh.x", ""),
		dir("hidden"), file("hidden/new", "n"), file("hidden/.wh..wh..opq", ""),
		device1, dir("becomes-dir"), file("becomes-dir/inside", "i"), file("becomes-file", "now"), symlink("becomes-link", "etc"),
		file("replaced", "small"), file("usr/bin/su-too", "no longer the same"), file("many/new", "n"), file("twice", "1"), file("twice", "2"),
	}
	return [][]byte{layer(nil0{}, lower...), layer(nil0{}, upper...)}
}

// nil0 is a testing.TB for what can't fail.
type nil0 struct{ testing.TB }

func (nil0) Helper() {}

func TestSpecial(t *testing.T) {
	t.Parallel()
	layers := special()
	image, err := build(t, 64<<20, layers...)
	if err != nil {
		t.Fatal(err)
	}
	check(t, image)
	commands := []struct{ command, want string }{
		{"cat /usr/lib/through-a-link", "x"}, {"cat /usr/lib/too", "y"}, {"cat /replaced", "small"}, {"cat /twice", "2"},
		{"cat /hidden/new", "n"}, {"stat /hidden/lower", "File not found"}, {"stat /gone", "File not found"}, {"cat /kept/lower", "l"},
		{"stat /gone-file", "File not found"}, {"cat /becomes-file", "now"}, {"cat /becomes-dir/inside", "i"}, {"cat /no/parents/here", "n"},
		{"stat /etc/shadow", "Mode:  0640"}, {"stat /etc/shadow", "User: 70000   Group:    -2"}, {"stat /usr/bin/su", "Mode:  04755"},
		{"stat /tmp", "Mode:  01777"}, {"stat /short", `Fast link dest: "sss`}, {"stat /null", "Device major/minor number: 01:03"},
		{"stat /big", "(New-style) Device major/minor number: 259:70000"}, {"stat /kept", "Mode:  0700"},
		{"ea_get /xattrs user.small", "s"}, {"ea_get /xattrs user.large", "largelarge"}, {"stat /dot-link", "Links: 2"},
		{"stat /usr/bin/su-too", "Links: 1"}, {"stat /ping", "security.capability"}, {"stat /sparse", "Blockcount: 400"},
		{"cat /many/a-rather-long-name-of-a-file-777", "777"}, {"cat /many/new", "n"},
	}
	for _, c := range commands {
		out, err := exec.Command("debugfs", "-R", c.command, image).CombinedOutput()
		if err != nil || !strings.Contains(string(out), c.want) {
			t.Errorf("debugfs %s: %v: %.300s\nwant %q", c.command, err, out, c.want)
		}
	}
}

// The kernel's view, entry by entry, against that of the tars by the standard library.
func TestMounted(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("mounting wants root; TestSpecial asks debugfs")
	}
	layers := special()
	image, err := build(t, 64<<20, layers...)
	if err != nil {
		t.Fatal(err)
	}
	// In mounts of this thread's own, which end with it: a test that is killed leaves none.
	runtime.LockOSThread()
	if err := errors.Join(syscall.Unshare(syscall.CLONE_NEWNS), syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, "")); err != nil {
		t.Skipf("mounts of one's own: %v", err)
	}
	mounted := t.TempDir()
	if out, err := exec.Command("mount", "-o", "loop,ro", image, mounted).CombinedOutput(); err != nil {
		t.Skipf("this machine mounts no loop devices: %v: %s", err, out)
	}
	defer exec.Command("umount", mounted).Run()
	got := map[string]string{}
	inodes := map[uint64]string{}
	err = filepath.WalkDir(mounted, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(strings.TrimPrefix(path, mounted), "/")
		if name == "" || name == "lost+found" {
			return nil
		}
		got[name] = describeFile(t, path, inodes, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := expected(t, layers)
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if got[name] != want[name] {
			t.Errorf("%q\n got %.300s\nwant %.300s", name, got[name], want[name])
		}
		delete(got, name)
	}
	for name := range got {
		t.Errorf("%q should not be there", name)
	}
}

func describeFile(t *testing.T, path string, inodes map[uint64]string, name string) string {
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	s := info.Sys().(*syscall.Stat_t)
	line := fmt.Sprintf("%o %d:%d %d", s.Mode, s.Uid, s.Gid, info.ModTime().Unix())
	switch info.Mode().Type() {
	case 0:
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		line += fmt.Sprintf(" %d %x", len(content), sha256.Sum256(content))
		if first, ok := inodes[s.Ino]; ok {
			line += " = " + first
		}
		inodes[s.Ino] = name
	case fs.ModeSymlink:
		target, err := os.Readlink(path)
		if err != nil {
			t.Fatal(err)
		}
		line += " " + target
	case fs.ModeDevice, fs.ModeDevice | fs.ModeCharDevice:
		line += fmt.Sprintf(" %d:%d", unix.Major(s.Rdev), unix.Minor(s.Rdev))
	}
	names := make([]byte, 4096)
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		t.Fatal(err)
	}
	var attrs []string
	for _, attr := range strings.Split(strings.TrimSuffix(string(names[:n]), "\x00"), "\x00") {
		if attr == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, attr, value)
		if err != nil {
			t.Fatal(err)
		}
		attrs = append(attrs, fmt.Sprintf("%s=%q", attr, value[:n]))
	}
	slices.Sort(attrs)
	return line + " " + strings.Join(attrs, " ")
}

// expected applies the tars in the plainest way. It knows what special makes: which links are in the way, what is
// hidden.
func expected(t *testing.T, layers [][]byte) map[string]string {
	want := map[string]string{
		"no":         "40755 0:0 315619200 ",
		"no/parents": "40755 0:0 315619200 ",
	}
	first := map[string]string{}
	for i, raw := range layers {
		if i == 1 {
			for name := range want {
				for _, gone := range []string{"gone", "gone-file", "hidden", "becomes-file"} {
					if name == gone || strings.HasPrefix(name, gone+"/") {
						delete(want, name)
					}
				}
			}
		}
		r := tar.NewReader(bytes.NewReader(raw))
		for {
			h, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if err != nil {
				t.Fatal(err)
			}
			name := strings.Trim(filepath.Clean(h.Name), "/")
			if name == "." || strings.Contains(name, ".wh.") {
				continue
			}
			for _, alias := range []string{"lib/", "abs/"} {
				if rest, ok := strings.CutPrefix(name, alias); ok {
					name = "usr/lib/" + rest
				}
			}
			if h.Typeflag == tar.TypeLink {
				target := filepath.Clean(h.Linkname)
				want[name] = want[target]
				first[target] = name
				continue
			}
			mode := map[byte]int64{tar.TypeReg: 0o100000, tar.TypeDir: 0o40000, tar.TypeSymlink: 0o120777, tar.TypeChar: 0o20000,
				tar.TypeBlock: 0o60000, tar.TypeFifo: 0o10000}[h.Typeflag]
			line := fmt.Sprintf("%o %d:%d %d", mode|h.Mode, uint32(h.Uid), uint32(h.Gid), h.ModTime.Unix())
			switch h.Typeflag {
			case tar.TypeReg:
				line += fmt.Sprintf(" %d %x", len(content), sha256.Sum256(content))
			case tar.TypeSymlink:
				line += " " + h.Linkname
			case tar.TypeChar, tar.TypeBlock:
				line += fmt.Sprintf(" %d:%d", h.Devmajor, h.Devminor)
			}
			var attrs []string
			for key, value := range h.PAXRecords {
				if attr, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
					attrs = append(attrs, fmt.Sprintf("%s=%q", attr, value))
				}
			}
			slices.Sort(attrs)
			want[name] = line + " " + strings.Join(attrs, " ")
		}
	}
	// The kernel computes the group's bits of the mode from the ACL's mask: chmod and setfacl keep them equal, tar's mode
	// has them as stat shows them.
	want["acl-text"] = want["acl-text"] + strings.TrimPrefix(want["acl"][strings.Index(want["acl"], "system."):], "")
	// The walk meets dot-link before old.
	want["old"] += "= dot-link "
	want["old"] = strings.Replace(want["old"], "  = ", " = ", 1)
	return want
}

func TestSameBytes(t *testing.T) {
	t.Parallel()
	sum := func() [32]byte {
		image, err := build(t, 64<<20, special()...)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return sha256.Sum256(raw)
	}
	a, b := sum(), sum()
	if a != b {
		t.Error("equal layers make other bytes")
	}
	const golden = "df422d5c6b2e53839b52a33a7c362d9ff99f761cbfa4a8fb979ae6e5d30b0777"
	if got := fmt.Sprintf("%x", a); got != golden {
		t.Errorf("the bytes have changed: %s\nif that is meant, raise the disk's format number in plan.Formats", got)
	}
}

// Who goes on from a state makes the bytes of who never stopped.
func TestState(t *testing.T) {
	t.Parallel()
	layers := special()
	o := Options{Size: 64 << 20, UUID: [16]byte{1}, Label: "root", Time: 1000}
	whole := func(stops bool) []byte {
		out := make(buffer, o.Size)
		w, err := New(out, o)
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range layers {
			if err := w.Layer(bytes.NewReader(l)); err != nil {
				t.Fatal(err)
			}
			if !stops {
				continue
			}
			state := w.State()
			if w, err = Resume(out, o, state); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(w.State(), state) {
				t.Error("a state that is gone on from is another one")
			}
		}
		if err := w.Finish(); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if !bytes.Equal(whole(false), whole(true)) {
		t.Error("other bytes")
	}
}

func FuzzState(f *testing.F) {
	o := Options{Size: MinSize, Time: 1000}
	w, err := New(discard{}, o)
	if err != nil {
		f.Fatal(err)
	}
	for _, l := range special() {
		w.Layer(bytes.NewReader(l))
		f.Add(w.State())
	}
	f.Fuzz(func(t *testing.T, state []byte) {
		w, err := Resume(discard{}, o, state)
		if err != nil {
			return
		}
		if again, err := Resume(discard{}, o, w.State()); err != nil || !bytes.Equal(again.State(), w.State()) {
			t.Errorf("what was read reads otherwise: %v", err)
		}
		w.Finish() // whatever it makes, it ends
	})
}

// buffer is a target in memory.
type buffer []byte

func (b buffer) WriteAt(p []byte, off int64) (int, error) { return copy(b[off:], p), nil }

// What an upper layer brings moves nothing that a lower one wrote.
func TestLowerLayersStay(t *testing.T) {
	t.Parallel()
	base := layer(t, dir("a"), file("a/one", string(pattern(300_000, 1))), file("a/two", "2"))
	read := func(upper ...e) []byte {
		image, err := build(t, 64<<20, base, layer(t, upper...))
		if err != nil {
			t.Fatal(err)
		}
		raw, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	one, two := read(file("opt/app", string(pattern(3_000_000, 2)))), read(file("opt/app", string(pattern(5_000_000, 3))), file("opt/more", "m"))
	changed := 0
	for off := 0; off < len(one); off += Grain {
		if !bytes.Equal(one[off:off+Grain], two[off:off+Grain]) {
			changed++
		}
	}
	// The app's own 77 grains, its directories' one, and where the counts, the bitmaps and the first inodes stand.
	if changed > 77+1+4 {
		t.Errorf("%d grains of %d bytes have changed", changed, Grain)
	}
}

// A copy of the superblock is good enough to find everything again.
func TestBackupSuperblock(t *testing.T) {
	t.Parallel()
	image, err := build(t, 256<<20, special()...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(image, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt(make([]byte, 2*BlockSize), 0)
	f.Close()
	out, err := exec.Command("e2fsck", "-fy", "-b", "32768", "-B", "4096", image).CombinedOutput()
	if code := err.(*exec.ExitError).ExitCode(); code != 1 { // 1: repaired
		t.Fatalf("exit code %d: %s", code, out)
	}
	check(t, image)
	if out, err := exec.Command("debugfs", "-R", "cat /replaced", image).Output(); err != nil || string(out) != "small" {
		t.Errorf("%v: %q", err, out)
	}
}

func TestFragmented(t *testing.T) {
	t.Parallel()
	content := make([]byte, 1200*2*Grain) // every other grain a hole: a tree of extents
	for i := 0; i < len(content); i += 2 * Grain {
		content[i] = 1
	}
	image, err := build(t, 512<<20, layer(t, e{tar.Header{Typeflag: tar.TypeReg, Name: "f", Mode: 0o644}, content}))
	if err != nil {
		t.Fatal(err)
	}
	check(t, image)
	out, err := exec.Command("debugfs", "-R", "cat /f", image).Output()
	if err != nil || !bytes.Equal(out, content) {
		t.Errorf("the file reads as %d other bytes: %v", len(out), err)
	}
}

func TestNoRoom(t *testing.T) {
	t.Parallel()
	large := layer(t, file("large", string(pattern(60<<20, 1))), file("another", string(pattern(1<<20, 2))))
	_, err := build(t, 64<<20, large)
	var room *NoRoom
	if !errors.As(err, &room) || room.Need < 64<<20 {
		t.Fatalf("got %v", err)
	}
	if _, err := build(t, room.Need, large); err != nil {
		t.Errorf("with as much as it said: %v", err)
	}
	var files []e
	for i := range 1100 {
		files = append(files, file(fmt.Sprint(i), ""))
	}
	if _, err := build(t, MinSize, layer(t, files...)); !errors.As(err, &room) || !strings.Contains(err.Error(), "inode") {
		t.Fatalf("got %v", err)
	}
	if image, err := build(t, room.Need, layer(t, files...)); err != nil {
		t.Errorf("with as much as it said: %v", err)
	} else {
		check(t, image)
	}
}

// A directory has its limit, which is said with the directory's name; below it, any place is good enough for it.
func TestLargeDirectory(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 200)
	var entries []e
	for i := range 2000 {
		entries = append(entries, file(fmt.Sprintf("srv/many/%s%d", long, i), ""))
	}
	l := layer(t, entries...)
	w, err := New(discard{}, Options{Size: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	w.dirLimit = 100
	if err := w.Layer(bytes.NewReader(l)); err == nil || !strings.Contains(err.Error(), "directory /srv/many: its 2000 names take 1 MiB: a directory has at most 0 MiB") {
		t.Errorf("got %v", err)
	}
	// The largest one, wherever it comes to stand.
	for _, next := range []int64{1, groupBlocks - 3, groupBlocks + 1, 2*groupBlocks + 100, 14*groupBlocks - 1, 15*groupBlocks + 7, 24 * groupBlocks} {
		w, err := New(discard{}, Options{Size: 20 << 30})
		if err != nil {
			t.Fatal(err)
		}
		w.alloc.next = next
		var extents []extent
		for done := int64(0); done < maxDirBlocks; done += grainBlocks {
			at, _ := w.alloc.take(grainBlocks, 1)
			extents = appendExtent(extents, done, at, grainBlocks)
		}
		if len(extents) > rootExtents {
			t.Errorf("from block %d on: %d extents", next, len(extents))
		}
	}
}

func TestHostile(t *testing.T) {
	t.Parallel()
	nested := file(strings.Repeat("d/", 1900)+"f", "x")
	for name, entries := range map[string][]e{
		"dot-dot":         {file("../x", "")},
		"dot-dot within":  {file("a/../../x", "")},
		"link out":        {link("a", "../../etc/passwd")},
		"link to nothing": {link("a", "b")},
		"link to a dir":   {dir("d"), link("a", "d")},
		"link to root":    {link("a", "/")},
		"loop":            {symlink("a", "b"), symlink("b", "a"), file("a/x", "")},
		"through a file":  {file("a", ""), file("a/b", "")},
		"long name":       {file(strings.Repeat("n", 256), "")},
		"long path":       {file(strings.Repeat("n/", 2100)+"f", "")},
		"whiteout of ..":  {file(".wh...", "")},
		"root a file":     {e{Header: tar.Header{Typeflag: tar.TypeSymlink, Name: ".", Linkname: "x"}}},
		"lost+found":      {file("lost+found", "")},
		"xattr":           {{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.user.x": strings.Repeat("x", 5000)}}}},
		"xattr's kind":    {{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.nobody": "x"}}}},
		"acl":             {{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.xattr.system.posix_acl_access": "x"}}}},
	} {
		if _, err := build(t, MinSize, layer(t, entries...)); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	image, err := build(t, 64<<20, layer(t, nested, symlink("out", "../../../etc"), file("out/x", "stays inside"), file(".wh.lost+found", "")))
	if err != nil {
		t.Fatal(err)
	}
	check(t, image)
	out, _ := exec.Command("debugfs", "-R", "cat /etc/x", image).Output()
	if string(out) != "stays inside" {
		t.Errorf("/etc/x in the image is %q", out)
	}
}

func FuzzLayer(f *testing.F) {
	f.Add(layer(f, dir("d"), file("d/a", "1"), link("b", "d/a"), symlink("s", "d"), file("s/c", ""), file("d/.wh.a", "")))
	f.Add(layer(f, e{Header: tar.Header{Typeflag: tar.TypeReg, Name: "x", PAXRecords: map[string]string{"SCHILY.acl.access": "u::rwx,u:1:r--,g::r--,m::r--,o::---"}}}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		out := make(buffer, MinSize)
		w, err := New(once(t, out), Options{Size: MinSize, Time: 1})
		if err != nil {
			t.Fatal(err)
		}
		if w.Layer(bytes.NewReader(raw)) != nil || w.Finish() != nil {
			return
		}
		if crc(0, raw)%8 == 0 { // e2fsck takes its time
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, out, 0o600); err != nil {
				t.Fatal(err)
			}
			check(t, image)
		}
	})
}

func BenchmarkWriter(b *testing.B) {
	entries := []e{dir("d")}
	for i := range 2000 {
		entries = append(entries, file(fmt.Sprintf("d/%d", i), string(pattern(100_000, byte(i)))))
	}
	raw := layer(b, entries...)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		w, err := New(discard{}, Options{Size: 2 << 30})
		if err != nil {
			b.Fatal(err)
		}
		if err := errors.Join(w.Layer(bytes.NewReader(raw)), w.Finish()); err != nil {
			b.Fatal(err)
		}
	}
}

type discard struct{}

func (discard) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
