package erofs

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bakefarm/compose/disk/ext4"
)

// What images seldom have, in both filesystems, as their own programs see it.
func TestOdd(t *testing.T) {
	t.Parallel()
	reg := func(name string) tar.Header { return tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644} }
	link := func(name, target string) tar.Header {
		return tar.Header{Typeflag: tar.TypeLink, Name: name, Linkname: target}
	}
	withAttributes := func(h tar.Header, records map[string]string) tar.Header {
		h.PAXRecords = records
		return h
	}
	many := func(n int, one func(i int) (tar.Header, string)) (all []any) {
		for i := range n {
			h, content := one(i)
			all = append(all, h, content)
		}
		return all
	}
	crowd := 20_000
	if !testing.Short() {
		crowd = 100_000
	}
	for name, layers := range map[string][][]byte{
		"a crowd of small files": {layer(t, many(crowd, func(i int) (tar.Header, string) {
			return reg(fmt.Sprintf("crowd/%07d.txt", i)), strings.Repeat("x", i%7)
		})...), layer(t, many(1000, func(i int) (tar.Header, string) { return reg(fmt.Sprintf("crowd/.wh.%07d.txt", i*7)), "" })...)},
		"long names": {layer(t, many(300, func(i int) (tar.Header, string) {
			return reg(fmt.Sprintf("%s/%0255d", strings.Repeat("d", 255), i)), "x"
		})...)},
		"many names of one file": {layer(t, append([]any{reg("one"), "one"}, many(30_000, func(i int) (tar.Header, string) { return link(fmt.Sprintf("names/%d", i), "one"), "" })...)...)},
		"many directories":       {layer(t, many(5_000, func(i int) (tar.Header, string) { return reg(fmt.Sprintf("dirs/%d/x", i)), "" })...)},
		"deep":                   {layer(t, reg(strings.Repeat("d/", 1900)+"f"), "at the end"), layer(t, reg(strings.Repeat("d/", 1900)+".wh.f"), "", reg(strings.Repeat("d/", 1000)+"new"), "n")},
		"names over layers":      {layer(t, reg("a"), "a"), layer(t, link("b", "a"), ""), layer(t, reg(".wh.a"), "", link("c", "b"), "")},
		"files around a block": {layer(t, many(200, func(i int) (tar.Header, string) {
			return reg(fmt.Sprint("f", i)), strings.Repeat("b", max(0, 4096*(i%5)+i-100))
		})...)},
		"attributes of all sizes": {layer(t, many(400, func(i int) (tar.Header, string) {
			return withAttributes(reg(fmt.Sprint("f", i)), map[string]string{"SCHILY.xattr.user.n": strings.Repeat("v", i*9)}), ""
		})...)},
		"attributes of everything": {layer(t, withAttributes(tar.Header{Typeflag: tar.TypeDir, Name: "d", Mode: 0o755}, map[string]string{"SCHILY.acl.default": "user::rwx,group::r-x,other::---", "SCHILY.xattr.user.x": "y"}), "",
			withAttributes(tar.Header{Typeflag: tar.TypeSymlink, Name: "s", Linkname: "d"}, map[string]string{"SCHILY.xattr.trusted.x": "y"}), "",
			withAttributes(tar.Header{Typeflag: tar.TypeFifo, Name: "p"}, map[string]string{"SCHILY.xattr.security.selinux": "z\x00"}), "")},
		"links of all sizes": {layer(t, many(300, func(i int) (tar.Header, string) {
			return tar.Header{Typeflag: tar.TypeSymlink, Name: fmt.Sprint("l", i), Linkname: strings.Repeat("t", 1+i*4000/299)}, ""
		})...)},
		"opaque and whited out": {layer(t, many(100, func(i int) (tar.Header, string) { return reg(fmt.Sprintf("a/b/%d/x", i)), "x" })...),
			layer(t, reg("a/b/.wh..wh..opq"), "", reg("a/b/new"), ""), layer(t, reg(".wh.a"), ""), layer(t, reg("a/again"), "")},
		"mostly zeros": {layer(t, reg("z"), strings.Repeat("\x00", 60<<20)+"end")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			image := build(t, 1<<30, true, layers...)
			if fsck, err := exec.LookPath("fsck.erofs"); err == nil {
				// It wants some KiB of stack for each directory on the way.
				if said, err := exec.Command("sh", "-c", `ulimit -s 65536; exec "$0" "$1"`, fsck, image).CombinedOutput(); err != nil {
					t.Errorf("fsck.erofs: %v: %.500s", err, said)
				}
			}
			f, err := os.Create(filepath.Join(t.TempDir(), "ext4"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			o := ext4.Options{Size: 2 << 30, Time: 1}
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
			}
			if err := w.Finish(); err != nil {
				t.Fatal(err)
			}
			if said, err := exec.Command("e2fsck", "-fn", f.Name()).CombinedOutput(); err != nil {
				t.Errorf("e2fsck: %v: %.500s", err, said)
			}
		})
	}
}
