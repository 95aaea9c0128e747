package execute_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/imagestore/remote"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/execute"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/ulikunitz/xz"
)

// An entry of a tar: what begins with "->" in content is a symbolic link, a name that ends in / a directory.
type tarFile struct {
	name, content string
	mode          int64
	uid           int
}

func tarOf(t testing.TB, files ...tarFile) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Uid: f.uid}
		if f.mode != 0 {
			h.Mode = f.mode
		}
		switch target, link := strings.CutPrefix(f.content, "->"); {
		case strings.HasSuffix(f.name, "/"):
			h.Typeflag = tar.TypeDir
		case link:
			h.Typeflag, h.Linkname = tar.TypeSymlink, target
		default:
			h.Size = int64(len(f.content))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := io.WriteString(w, f.content); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func gzipped(t testing.TB, data []byte) []byte {
	return packed(t, data, func(w io.Writer) io.WriteCloser { return gzip.NewWriter(w) })
}

func packed(t testing.TB, data []byte, open func(io.Writer) io.WriteCloser) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := open(&buf)
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func zstdWriter(w io.Writer) io.WriteCloser {
	z, err := zstd.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return z
}

func xzWriter(w io.Writer) io.WriteCloser {
	z, err := xz.NewWriter(w)
	if err != nil {
		panic(err)
	}
	return z
}

// baseLayer is a layer of a test's image: its blob, and the tar that it unpacks to.
type baseLayer struct {
	mediaType  string
	blob, tar  []byte
	wrong      bool // another layer's bytes lie under its digest
	wrongPlain bool // the configuration has another diff ID
}

var baseConfig = v1.ImageConfig{
	Env: []string{"PATH=/bin", "LANG=C", "A=1"}, Entrypoint: []string{"/bin/tini"}, Cmd: []string{"--", "sh"}, User: "1000", WorkingDir: "/srv",
	Labels: map[string]string{"team": "base"}, ExposedPorts: map[string]struct{}{"80/tcp": {}}, StopSignal: "SIGQUIT",
}

// layoutOf puts an OCI layout of one image into a context, and returns what imports it.
func (b *bench) layoutOf(layers ...baseLayer) plan.ImportSpec {
	b.t.Helper()
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion": "1.0.0"}`)}
	put := func(mediaType string, data []byte) v1.Descriptor {
		d := digest.FromBytes(data)
		files["blobs/sha256/"+d.Encoded()] = data
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
	}
	image := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"}, Config: baseConfig, RootFS: v1.RootFS{Type: "layers"}}
	m := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest}
	for n, l := range layers {
		d := put(l.mediaType, l.blob)
		if l.wrong {
			files["blobs/sha256/"+d.Digest.Encoded()] = append(slices.Clone(l.blob), 0)
		}
		plain := digest.FromBytes(l.tar)
		if l.wrongPlain {
			plain = digest.FromString("another")
		}
		m.Layers, image.RootFS.DiffIDs = append(m.Layers, d), append(image.RootFS.DiffIDs, plain)
		image.History = append(image.History, v1.History{CreatedBy: fmt.Sprintf("step %d", n)}, v1.History{CreatedBy: "env", EmptyLayer: true})
	}
	m.Config = put(v1.MediaTypeImageConfig, encode(b.t, image))
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{put(v1.MediaTypeImageManifest, encode(b.t, m))}}
	files["index.json"] = encode(b.t, index)
	return b.contextBase(recipe.FromLayout, "base", files)
}

// contextBase puts the files of a base into a context.
func (b *bench) contextBase(from, dir string, files map[string][]byte) plan.ImportSpec {
	b.t.Helper()
	s := plan.BaseSource{From: from, Ref: from + ":./" + dir, Path: dir}
	for name, data := range files {
		f := b.upload(filepath.Join(dir, name), data)
		s.Files = append(s.Files, recipe.ContextFile{Path: f.Path, Size: f.Size, Chunks: f.Chunks})
	}
	slices.SortFunc(s.Files, func(x, y recipe.ContextFile) int { return strings.Compare(x.Path, y.Path) })
	b.env.Images = remote.Client{Options: remote.Options{AuthFile: os.DevNull}}
	return plan.ImportSpec{Image: s.FilesDigest(), Platform: "linux/amd64", Source: s}
}

func (b *bench) imported(layers ...baseLayer) (base plan.Base) {
	b.t.Helper()
	b.must(farm.KindImport, b.layoutOf(layers...), &base)
	return base
}

func gzipLayer(t testing.TB, files ...tarFile) baseLayer {
	plain := tarOf(t, files...)
	return baseLayer{mediaType: v1.MediaTypeImageLayerGzip, blob: gzipped(t, plain), tar: plain}
}

const installed = `Package: libhello
Status: install ok installed
Architecture: amd64
Version: 0.9

Package: dash
Status: install ok installed
Architecture: amd64
Version: 1
`

// someBase is a Debian system as far as its database says.
func (b *bench) someBase() plan.Base {
	return b.imported(gzipLayer(b.t,
		tarFile{name: "home/app/", mode: 0o700, uid: 1000}, tarFile{name: "lib", content: "->usr/lib"}, tarFile{name: "usr/", mode: 0o755}, tarFile{name: "usr/lib/", mode: 0o755},
		tarFile{name: "var/run", content: "->/run"}, tarFile{name: "run/", mode: 0o755},
		tarFile{name: "usr/lib/old.so", content: "old"}, tarFile{name: "usr/lib/libhello.so.1", content: "old"}, tarFile{name: "usr/bin/dash", content: "dash"},
		tarFile{name: "var/lib/dpkg/status", content: installed},
		tarFile{name: "var/lib/dpkg/info/libhello.list", content: "/.\n/usr\n/usr/lib\n/usr/lib/old.so\n/usr/lib/libhello.so.1\n"},
		tarFile{name: "var/lib/dpkg/info/libhello.prerm", content: "#!/bin/sh\n"}, tarFile{name: "var/lib/dpkg/info/dash.list", content: "/.\n/usr\n/usr/bin\n/usr/bin/dash\n"},
		tarFile{name: "etc/os-release", content: "ID=debian\nVERSION_CODENAME=bookworm\n"}))
}

func TestImportKeepsLayers(t *testing.T) {
	b := newBench(t, newStore(t))
	gz := gzipLayer(t, tarFile{name: "a", content: "a"}, tarFile{name: "b", content: strings.Repeat("large", 2<<20)})
	plain := tarOf(t, tarFile{name: "c", content: "c"})
	zs := baseLayer{mediaType: v1.MediaTypeImageLayerZstd, blob: packed(t, plain, zstdWriter), tar: plain}
	raw := tarOf(t, tarFile{name: ".wh.a"})
	none := baseLayer{mediaType: v1.MediaTypeImageLayer, blob: raw, tar: raw}
	base := b.imported(gz, zs, none)
	if len(base.Layers) != 3 {
		t.Fatalf("layers %+v", base.Layers)
	}
	for i, l := range []baseLayer{gz, zs, none} {
		is := base.Layers[i]
		if is.Digest != digest.FromBytes(l.blob) || is.MediaType != l.mediaType || is.DiffID != digest.FromBytes(l.tar) || is.TarSize != int64(len(l.tar)) || !bytes.Equal(b.read(is.Digest), l.blob) {
			t.Errorf("layer %d: %+v", i, is)
		}
	}
	if base.Count != 0 || base.Codename != "" {
		t.Errorf("%+v", base)
	}
	var again plan.Base
	b.must(farm.KindImport, b.layoutOf(gz, zs, none), &again)
	if string(encode(t, again)) != string(encode(t, base)) {
		t.Errorf("another import is %+v", again)
	}

	// An image over it.
	files, dirs := b.appTree()
	var members []any = []any{base}
	for _, spec := range plan.Runs(files) {
		var m plan.Member
		b.must(farm.KindCut, spec, &m)
		members = append(members, m)
	}
	var app plan.Layer
	b.must(farm.KindAssemble, plan.AssembleSpec{Role: plan.RoleApp, Dirs: dirs, Base: true}, &app, members...)
	var image plan.ImageOutput
	b.must(farm.KindImage, plan.ImageSpec{Platform: "linux/amd64", Roles: []string{plan.RoleApp}, Base: true, Config: recipe.Config{
		Env: map[string]string{"A": "2", "B": "3"}, Entrypoint: []string{"/opt/app/run"}, Labels: map[string]string{"app": "x"}, Ports: []string{"8080/tcp"},
	}}, &image, base, app)
	var m v1.Manifest
	var config v1.Image
	if err := json.Unmarshal(b.read(image.Manifest), &m); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b.read(m.Config.Digest), &config); err != nil {
		t.Fatal(err)
	}
	c := config.Config
	if !slices.Equal(c.Env, []string{"PATH=/bin", "LANG=C", "A=2", "B=3"}) || !slices.Equal(c.Entrypoint, []string{"/opt/app/run"}) || c.Cmd != nil || c.User != "1000" ||
		c.WorkingDir != "/srv" || len(c.Labels) != 2 || len(c.ExposedPorts) != 2 || c.StopSignal != "SIGQUIT" {
		t.Errorf("configuration %+v", c)
	}
	if len(m.Layers) != 4 || m.Layers[1].MediaType != v1.MediaTypeImageLayerZstd || m.Layers[0].Digest != base.Layers[0].Digest || len(config.RootFS.DiffIDs) != 4 || len(config.History) != 7 {
		t.Errorf("manifest %+v, history %+v", m.Layers, config.History)
	}
}

func TestImportRefuses(t *testing.T) {
	good := gzipLayer(t, tarFile{name: "a", content: "a"})
	swapped, otherPlain, trailing, nothing := good, good, good, good
	swapped.wrong, otherPlain.wrongPlain = true, true
	trailing.blob = append(slices.Clone(good.blob), "more"...)
	nothing.blob, nothing.tar = gzipped(t, []byte("no tar")), []byte("no tar")
	hostile := gzipLayer(t, tarFile{name: "../../etc/passwd", content: "root"})
	for want, layers := range map[string][]baseLayer{
		"do not match their digest": {swapped},
		"configuration says":        {otherPlain},
		"something follows its end": {trailing},
		"is no layer":               {nothing},
		"leaves its directory":      {good, hostile},
	} {
		b := newBench(t, newStore(t))
		spec := b.layoutOf(layers...)
		before := b.commits.Load()
		if err := b.run(farm.KindImport, spec, &plan.Base{}); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "oci:./base") {
			t.Errorf("want %q: %v", want, err)
		}
		if b.commits.Load() != before {
			t.Errorf("%s: something was committed", want)
		}
	}
}

// What unpacks to more than any system has is refused when it has unpacked to so much, in one layer or in several.
func TestImportRefusesBombs(t *testing.T) {
	t.Cleanup(execute.LowerMaxUnpacked(3 << 20))
	zeros := strings.Repeat("\x00", 2<<20)
	plain := tarOf(t, tarFile{name: "a", content: zeros + zeros})
	for name, layers := range map[string][]baseLayer{
		"gzip":    {{mediaType: v1.MediaTypeImageLayerGzip, blob: gzipped(t, plain), tar: plain}},
		"zstd":    {{mediaType: v1.MediaTypeImageLayerZstd, blob: packed(t, plain, zstdWriter), tar: plain}},
		"several": {gzipLayer(t, tarFile{name: "a", content: zeros}), gzipLayer(t, tarFile{name: "b", content: zeros})},
	} {
		b := newBench(t, newStore(t))
		spec, before := b.layoutOf(layers...), b.commits.Load()
		if err := b.run(farm.KindImport, spec, &plan.Base{}); err == nil || !strings.Contains(err.Error(), "unpack to more than 3145728 bytes") {
			t.Errorf("%s: %v", name, err)
		}
		if b.commits.Load() != before {
			t.Errorf("%s: something was committed", name)
		}
	}
}

func TestImportTar(t *testing.T) {
	b := newBench(t, newStore(t))
	plain := tarOf(t, tarFile{name: "./etc/os-release", content: "PRETTY_NAME=Own\n"}, tarFile{name: "./bin", content: "->usr/bin"}, tarFile{name: "usr/bin/x", content: "x", mode: 0o4755})
	var first plan.Base
	for i, data := range [][]byte{plain, gzipped(t, plain), packed(t, plain, zstdWriter), packed(t, plain, xzWriter)} {
		var base plan.Base
		b.must(farm.KindImport, b.contextBase(recipe.FromTar, fmt.Sprintf("root%d.tar", i), map[string][]byte{"": data}), &base)
		if i == 0 {
			first = base
			if base.System != "Own" || !slices.Equal(base.Merged, []string{"bin"}) || len(base.Layers) != 1 {
				t.Errorf("%+v", base)
			}
			if got := b.layer(base.Layers[0]); got["usr/bin/x"].Header == nil || got["usr/bin/x"].Mode != 0o4755 || got["usr"].Header == nil {
				t.Errorf("entries %v", got)
			}
		} else if string(encode(t, base.Layers)) != string(encode(t, first.Layers)) {
			t.Errorf("compressed otherwise, the layer is %+v", base.Layers[0])
		}
	}
	for want, data := range map[string][]byte{
		"is no root file system": []byte("no tar at all, but long enough to look like one"),
		"bzip2":                  []byte("BZh91AY&SY"),
		"leaves its directory":   tarOf(t, tarFile{name: "../x", content: "x"}),
		"unexpected EOF":         gzipped(t, plain)[:40],
	} {
		if err := b.run(farm.KindImport, b.contextBase(recipe.FromTar, "bad.tar", map[string][]byte{"": data}), &plan.Base{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestAppOverBase(t *testing.T) {
	b := newBench(t, newStore(t))
	base := b.someBase()
	lay := func(owner int, paths ...string) (plan.Layer, error) {
		outputs := []any{base}
		var spec plan.AssembleSpec
		seen := map[string]bool{}
		for _, p := range paths {
			f := b.upload(p, []byte(p))
			var m plan.Member
			b.must(farm.KindCut, plan.CutSpec{Entries: []recipe.TreeEntry{f}}, &m)
			outputs = append(outputs, m)
			for dir := filepath.Dir(p); dir != "."; dir = filepath.Dir(dir) {
				if !seen[dir] {
					seen[dir] = true
					spec.Dirs = append(spec.Dirs, recipe.TreeEntry{Path: dir, Type: recipe.TypeDir, Mode: 0o755, UID: owner})
				}
			}
		}
		slices.SortFunc(spec.Dirs, func(x, y recipe.TreeEntry) int { return strings.Compare(x.Path, y.Path) })
		spec.Role, spec.Base = plan.RoleApp, true
		var l plan.Layer
		err := b.run(farm.KindAssemble, spec, &l, outputs...)
		return l, err
	}
	l, err := lay(0, "home/app/bin/x")
	if err != nil {
		t.Fatal(err)
	}
	got := b.layer(l)
	if d := got["home/app"]; d.Header == nil || d.Mode != 0o700 || d.Uid != 1000 {
		t.Errorf("the base's directory became %+v", d.Header)
	}
	if d := got["home/app/bin"]; d.Header == nil || d.Mode != 0o755 || d.Uid != 0 {
		t.Errorf("a new directory is %+v", d.Header)
	}
	if l, err = lay(7, "home/app/x"); err != nil || b.layer(l)["home/app"].Uid != 7 {
		t.Errorf("a directory that the app gives to somebody: %v", err)
	}
	for want, p := range map[string]string{
		"/var/run is a link to /run in the base":  "var/run/x",
		"is a file, and a directory in the base":  "home/app",
		"/usr/bin/dash is a file in the base; co": "usr/bin/dash/x",
	} {
		if _, err := lay(0, p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}

func TestPackagesOverBase(t *testing.T) {
	b := newBench(t, newStore(t))
	base := b.someBase()
	hello := debtest.Package{Name: "libhello", Version: "1.0", Architecture: "amd64", Entries: []debtest.Entry{
		{Name: "lib/"}, {Name: "lib/libhello.so.1", Content: "new"}, {Name: "usr/"}, {Name: "usr/share/"}, {Name: "usr/share/hello", Content: "hello"},
	}}
	other := debtest.Package{Name: "other", Version: "2", Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/share/"}, {Name: "usr/share/other", Content: "other"}, {Name: "var/"}, {Name: "var/run/"}}}
	lay := func(packages ...debtest.Package) (plan.Layer, error) {
		spec, members := b.specOf(packages...)
		spec.Role, spec.Base = plan.RolePackages, true
		var l plan.Layer
		err := b.run(farm.KindAssemble, spec, &l, append([]any{base}, members...)...)
		return l, err
	}
	l, err := lay(other)
	if err != nil {
		t.Fatal(err)
	}
	got := b.layer(l)
	status := got["var/lib/dpkg/status"].content
	if !strings.Contains(status, "Package: dash\n") || !strings.Contains(status, "Package: libhello\n") || !strings.Contains(status, "Package: other\nStatus: install ok installed\n") {
		t.Errorf("status:\n%s", status)
	}
	if _, ok := got["var/run"]; ok || got["usr/share/other"].content != "other" || got["var/lib/dpkg/info/other.list"].Header == nil {
		t.Error("the package is not laid, or over a link of the base")
	}
	if l, err = lay(hello, other); err != nil {
		t.Fatal(err)
	}
	got = b.layer(l)
	for _, p := range []string{"usr/lib/.wh.old.so", "var/lib/dpkg/info/.wh.libhello.prerm"} {
		if _, ok := got[p]; !ok {
			t.Errorf("%s is missing: what the former version had stays", p)
		}
	}
	if _, ok := got["usr/lib/.wh.libhello.so.1"]; ok || got["usr/lib/libhello.so.1"].content != "new" {
		t.Error("a file of both versions")
	}
	if status := got["var/lib/dpkg/status"].content; strings.Count(status, "Package: libhello\n") != 1 || !strings.Contains(status, "Version: 1.0\n") {
		t.Errorf("status:\n%s", status)
	}
	for want, p := range map[string]debtest.Package{
		"trying to overwrite '/usr/bin/dash', which is also in package dash 1 of the base": {Name: "clash", Version: "1", Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/dash", Content: "x"}}},
		"/var/run is no directory in the base":                                             {Name: "linked", Version: "1", Entries: []debtest.Entry{{Name: "var/"}, {Name: "var/run/"}, {Name: "var/run/x", Content: "x"}}},
	} {
		if _, err := lay(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("want %q: %v", want, err)
		}
	}
}
