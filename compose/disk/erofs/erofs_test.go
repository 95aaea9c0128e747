package erofs

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bakefarm/compose/disk/ext4"
)

// layer makes a tar: a header and content in turn.
func layer(t testing.TB, entries ...any) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for i := 0; i < len(entries); i += 2 {
		h, content := entries[i].(tar.Header), entries[i+1].(string)
		h.Size, h.Format, h.ModTime = int64(len(content)), tar.FormatPAX, time.Unix(1_700_000_000, 0)
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	w.Close()
	return b.Bytes()
}

func build(t *testing.T, size int64, stops bool, layers ...[]byte) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	o := ext4.Options{Size: size, DataOnly: true, Time: 1}
	if err := f.Truncate(o.Size); err != nil {
		t.Fatal(err)
	}
	w, err := ext4.New(f, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range layers {
		if err := w.Layer(bytes.NewReader(l)); err != nil {
			t.Fatal(err)
		}
		if stops {
			if w, err = ext4.Resume(f, o, w.State()); err != nil {
				t.Fatal(err)
			}
		}
	}
	inodes, blocks, err := w.Inodes()
	if err != nil {
		t.Fatal(err)
	}
	if err := Write(f, Options{Size: o.Size, UUID: [16]byte{1, 2}, Label: "root", Time: 1}, inodes, blocks); err != nil {
		t.Fatal(err)
	}
	return f.Name()
}

func layers(t testing.TB) [][]byte {
	reg := func(name string, mode int64) tar.Header {
		return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode}
	}
	of := func(kind byte, name, target string) tar.Header {
		return tar.Header{Typeflag: kind, Name: name, Linkname: target, Mode: 0o755}
	}
	attrs := reg("ping", 0o755)
	attrs.PAXRecords = map[string]string{
		"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"SCHILY.xattr.user.large":          strings.Repeat("large", 500),
		"SCHILY.acl.access":                "user::rw-\nuser:lisa:rwx:1000\ngroup::r--\nmask::rwx\nother::r--\n",
	}
	lower := []any{
		of(tar.TypeDir, "usr/", ""), "", of(tar.TypeDir, "usr/bin", ""), "", of(tar.TypeSymlink, "bin", "usr/bin"), "",
		reg("bin/sh", 0o4755), strings.Repeat("shell", 50_000), reg("empty", 0o600), "", reg("gone", 0o644), "gone", of(tar.TypeLink, "usr/bin/bash", "usr/bin/sh"), "",
		reg("sparse", 0o644), strings.Repeat("\x00", 300_000) + "end", attrs, "p", of(tar.TypeSymlink, "long", strings.Repeat("l/", 1500)), "",
		tar.Header{Typeflag: tar.TypeChar, Name: "null", Mode: 0o666, Devmajor: 1, Devminor: 3}, "",
		tar.Header{Typeflag: tar.TypeBlock, Name: "big", Mode: 0o660, Devmajor: 259, Devminor: 70_000}, "", of(tar.TypeFifo, "fifo", ""), "",
	}
	for i := range 1000 {
		lower = append(lower, reg(fmt.Sprintf("many/a-name-of-some-length-%d", i), 0o644), fmt.Sprint(i))
	}
	upper := []any{reg(".wh.gone", 0), "", reg("many/new", 0o644), "new", reg("empty", 0o644), "no longer"}
	return [][]byte{layer(t, lower...), layer(t, upper...)}
}

func TestWrite(t *testing.T) {
	one := build(t, 256<<20, false, layers(t)...)
	raw, err := os.ReadFile(one)
	if err != nil {
		t.Fatal(err)
	}
	again, err := os.ReadFile(build(t, 256<<20, true, layers(t)...))
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("who goes on from a state makes other bytes: %v", err)
	}
	const golden = "c9fc4479c8838a05e44686d9a40e5c3aca7779782e641bdc44f9a795cc984c55"
	if got := fmt.Sprintf("%x", sha256.Sum256(raw)); got != golden {
		t.Errorf("the bytes have changed: %s\nif that is meant, raise the disk's format number in plan.Formats", got)
	}
	fsck, err := exec.LookPath("fsck.erofs")
	if err != nil {
		t.Skip("fsck.erofs (Debian package erofs-utils) is not here")
	}
	out := filepath.Join(t.TempDir(), "out")
	said, err := exec.Command(fsck, "--extract="+out, "--no-preserve", one).CombinedOutput()
	if err != nil {
		t.Fatalf("fsck.erofs: %v: %s", err, said)
	}
	for name, want := range map[string]string{
		"usr/bin/sh": strings.Repeat("shell", 50_000), "usr/bin/bash": strings.Repeat("shell", 50_000), "empty": "no longer",
		"sparse": strings.Repeat("\x00", 300_000) + "end", "many/a-name-of-some-length-777": "777", "many/new": "new",
	} {
		if got, err := os.ReadFile(filepath.Join(out, name)); err != nil || string(got) != want {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
	if _, err := os.Lstat(filepath.Join(out, "gone")); err == nil {
		t.Error("what was hidden is there")
	}
	if target, err := os.Readlink(filepath.Join(out, "long")); err != nil || target != strings.Repeat("l/", 1500) {
		t.Errorf("a link of %d bytes, %v", len(target), err)
	}
}

// Whatever the tars, what is made is a filesystem that fsck.erofs reads to the end.
func FuzzLayer(f *testing.F) {
	for _, l := range layers(f) {
		f.Add(l)
	}
	fsck, _ := exec.LookPath("fsck.erofs") // without it, only what goes wrong while writing is seen
	f.Fuzz(func(t *testing.T, raw []byte) {
		image, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		defer image.Close()
		o := ext4.Options{Size: 128 << 20, DataOnly: true, Time: 1}
		w, err := ext4.New(image, o)
		if err != nil {
			t.Fatal(err)
		}
		if w.Layer(bytes.NewReader(raw)) != nil {
			return
		}
		inodes, blocks, err := w.Inodes()
		if err != nil {
			return
		}
		if Write(image, Options{Size: o.Size, Time: 1}, inodes, blocks) != nil || fsck == "" || len(raw)%8 != 0 { // fsck takes its time
			return
		}
		if err := image.Truncate(o.Size); err != nil {
			t.Fatal(err)
		}
		if said, err := exec.Command(fsck, "--extract", image.Name()).CombinedOutput(); err != nil {
			t.Fatalf("fsck.erofs: %v: %.2000s", err, said)
		}
	})
}
