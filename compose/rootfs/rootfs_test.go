package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose"
)

// file is an entry of a test's tar; a name that ends in / is a directory.
type file struct {
	name, content, link string
	kind                byte
	mode                int64
	uid                 int
}

func archive(t testing.TB, files ...file) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: f.kind, Linkname: f.link, Size: int64(len(f.content)), Mode: f.mode, Uid: f.uid}
		switch {
		case f.kind != 0:
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case f.link != "":
			h.Typeflag = tar.TypeSymlink
		default:
			h.Typeflag = tar.TypeReg
		}
		if h.Mode == 0 {
			h.Mode = 0o644
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func build(t *testing.T, layers ...[]byte) *Record {
	t.Helper()
	b := NewBuilder()
	for _, l := range layers {
		if err := b.Layer(bytes.NewReader(l)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := b.Record()
	if err != nil {
		t.Fatal(err)
	}
	raw, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := DecodeRecord(raw)
	if err != nil {
		t.Fatal(err)
	}
	if twice, err := again.Encode(); err != nil || !bytes.Equal(raw, twice) {
		t.Errorf("a record does not survive its encoding: %v", err)
	}
	return again
}

func paths(r *Record) []string {
	var all []string
	for _, d := range r.Dirs {
		all = append(all, d.Path+"/")
	}
	for p := range r.Links {
		all = append(all, p)
	}
	all = append(all, r.Files...)
	slices.Sort(all)
	return all
}

func TestLayersOverLayers(t *testing.T) {
	lower := archive(t, file{name: "a/"}, file{name: "a/1"}, file{name: "a/2"}, file{name: "b/c/d"}, file{name: "l", link: "a"}, file{name: "f"},
		file{name: "opaque/old"}, file{name: "gone/x/y"})
	for name, test := range map[string]struct {
		upper []file
		want  string
	}{
		"nothing":     {nil, "a/ a/1 a/2 b/ b/c/ b/c/d f gone/ gone/x/ gone/x/y l opaque/ opaque/old"},
		"whiteouts":   {[]file{{name: "a/.wh.1"}, {name: ".wh.gone"}, {name: "b/.wh.nothing"}}, "a/ a/2 b/ b/c/ b/c/d f l opaque/ opaque/old"},
		"its own":     {[]file{{name: "a/1", content: "new"}, {name: "a/.wh.1"}, {name: "gone/new"}, {name: ".wh.gone"}}, "a/ a/1 a/2 b/ b/c/ b/c/d f gone/ gone/new l opaque/ opaque/old"},
		"opaque":      {[]file{{name: "opaque/new"}, {name: "opaque/.wh..wh..opq"}}, "a/ a/1 a/2 b/ b/c/ b/c/d f gone/ gone/x/ gone/x/y l opaque/ opaque/new"},
		"replaced":    {[]file{{name: "a", content: "file"}, {name: "f/"}, {name: "f/g"}, {name: "l/"}}, "a b/ b/c/ b/c/d f/ f/g gone/ gone/x/ gone/x/y l/ opaque/ opaque/old"},
		"aufs' notes": {[]file{{name: ".wh..wh.plnk/"}, {name: ".wh..wh.aufs"}}, "a/ a/1 a/2 b/ b/c/ b/c/d f gone/ gone/x/ gone/x/y l opaque/ opaque/old"},
		"rooted":      {[]file{{name: "/r"}, {name: "./s/"}, {name: "./"}}, "a/ a/1 a/2 b/ b/c/ b/c/d f gone/ gone/x/ gone/x/y l opaque/ opaque/old r s/"},
	} {
		if got := strings.Join(paths(build(t, lower, archive(t, test.upper...))), " "); got != test.want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, test.want)
		}
	}
}

const status = `Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: base-files
Status: install ok installed
Architecture: amd64
Version: 12.4
Description: of several
 lines
`

func TestSystem(t *testing.T) {
	r := build(t,
		archive(t, file{name: "var/lib/dpkg/status", content: "Package: old\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n"}, file{name: "bin", link: "usr/bin"}, file{name: "lib/"}),
		archive(t, file{name: "var/lib/dpkg/status", content: status}, file{name: "var/lib/dpkg/info/libc6:amd64.list", content: "/.\n/usr\n"},
			file{name: "usr/lib/os-release", content: "ID=debian\nVERSION_ID=\"12\"\n"}, file{name: "etc/os-release", link: "../usr/lib/os-release"},
			file{name: "home/app/", mode: 0o700, uid: 1000}, file{name: "var/run", link: "/run"}))
	var names []string
	for _, p := range r.Installed {
		names = append(names, p.Name+" "+p.Version)
	}
	if !slices.Equal(names, []string{"base-files 12.4", "libc6 2.36-9"}) || r.Parted || !strings.Contains(string(r.Status()), "Description: of several\n lines\n\n") {
		t.Errorf("installed: %q\n%s", names, r.Status())
	}
	if r.Codename() != "bookworm" || r.System() != "debian 12" || !slices.Equal(r.Merged(), []string{"bin"}) {
		t.Errorf("%q %q %q", r.Codename(), r.System(), r.Merged())
	}
	if d := r.Dir("home/app"); d == nil || d.UID != 1000 || d.Mode != 0o700 || r.Dir("var/run") != nil {
		t.Errorf("directory %+v", d)
	}
	if r.Through("var/run/x/y") != "var/run" || r.Through("home/app/x") != "" || !r.Has("var/run") || r.Has("home/app") {
		t.Error("the way to a path")
	}
	parted := build(t, archive(t, file{name: "var/lib/dpkg/status.d/tzdata", content: "Package: tzdata\nVersion: 2024a\nArchitecture: all\n"},
		file{name: "var/lib/dpkg/status.d/tzdata.md5sums", content: "x  y\n"}, file{name: "etc/os-release", content: "PRETTY_NAME=\"Distroless\"\nVERSION=\"Debian GNU/Linux 12 (bookworm)\"\n"}))
	if !parted.Parted || len(parted.Installed) != 1 || parted.Codename() != "bookworm" {
		t.Errorf("%+v", parted.Installed)
	}
}

func TestHostileLayers(t *testing.T) {
	for want, files := range map[string][]file{
		"leaves its directory":     {{name: "../etc/passwd"}},
		`leaves its directory thr`: {{name: "a/../../b"}},
		"NUL or a line feed":       {{name: "a\nb"}},
		"want files, directories":  {{name: "a", kind: tar.TypeCont}},
		"hard link: path":          {{name: "a", kind: tar.TypeLink, link: "../x"}},
		"can't be read":            {{name: "var/lib/dpkg/status", content: "no paragraph\n"}},
	} {
		b := NewBuilder()
		err := b.Layer(bytes.NewReader(archive(t, files...)))
		if err == nil {
			_, err = b.Record()
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
	if err := NewBuilder().Layer(strings.NewReader(strings.Repeat("no tar at all", 100))); !errors.Is(err, ErrLayer) {
		t.Errorf("no tar: %v", err)
	}
}

func TestTarBecomesALayer(t *testing.T) {
	raw := archive(t, file{name: "./"}, file{name: "./etc/"}, file{name: "./etc/a", content: "first"}, file{name: "bin", link: "usr/bin"}, file{name: "etc/a", content: "second"},
		file{name: "dev/"}, file{name: "dev/null", kind: tar.TypeChar}, file{name: "dev/fd", link: "/proc/self/fd"}, file{name: "usr/bin/x", content: "x", mode: 0o4755},
		file{name: "usr/bin/y", kind: tar.TypeLink, link: "./usr/bin/x"})
	c, err := Scan(bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	var dirs []string
	for _, d := range c.Dirs {
		dirs = append(dirs, d.Path)
	}
	if !slices.Equal(dirs, []string{"dev", "etc", "usr", "usr/bin"}) {
		t.Errorf("directories %q", dirs)
	}
	var member bytes.Buffer
	if err := c.Write(&member, bytes.NewReader(raw)); err != nil {
		t.Fatal(err)
	}
	member.Write(make([]byte, compose.TrailerSize))
	var got []string
	for r := tar.NewReader(&member); ; {
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
		got = append(got, strings.TrimSpace(h.Name+" "+h.Linkname+" "+string(content)))
	}
	if want := []string{"bin usr/bin", "etc/a  second", "dev/fd /proc/self/fd", "usr/bin/x  x", "usr/bin/y usr/bin/x"}; !slices.Equal(got, want) {
		t.Errorf("entries %q", got)
	}
}

func TestHostileTars(t *testing.T) {
	for want, files := range map[string][]file{
		"leaves its directory":        {{name: "a/../../b"}},
		"no file in it":               {{name: "a/"}},
		"means a deleted file":        {{name: "a/.wh.b"}},
		"device node":                 {{name: "var/sda", kind: tar.TypeBlock}},
		"does not come before":        {{name: "a", kind: tar.TypeLink, link: "b"}, {name: "b"}},
		"is a directory here":         {{name: "a"}, {name: "a/"}},
		"is a directory before":       {{name: "a/"}, {name: "a"}},
		`"l" is no directory`:         {{name: "l", link: "/etc"}, {name: "l/passwd"}},
		"want files, directories":     {{name: "a", kind: tar.TypeCont}},
		"symbolic link target \"\": ": {{name: "a", kind: tar.TypeSymlink}},
	} {
		if _, err := Scan(bytes.NewReader(archive(t, files...))); !errors.Is(err, ErrTar) || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func FuzzLayers(f *testing.F) {
	f.Add(archive(f, file{name: "a/b", content: "x"}), archive(f, file{name: ".wh.a"}))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		b := NewBuilder()
		for _, l := range [][]byte{lower, upper} {
			if b.Layer(bytes.NewReader(l)) != nil {
				return
			}
		}
		r, err := b.Record()
		if err != nil {
			return
		}
		for _, d := range r.Dirs {
			if err := d.Validate(); err != nil {
				t.Fatal(err)
			}
		}
		if raw, err := r.Encode(); err == nil {
			if _, err := DecodeRecord(raw); err != nil {
				t.Fatal(err)
			}
		}
	})
}
