package execute_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/cache"
	"bakefarm/worker/execute"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
)

// bench is an environment with what goes in and what comes out.
type bench struct {
	t     testing.TB
	env   *execute.Env
	store testStore
	dir   string // of the cache
	world world
	// commits counts the commits of this environment's writers.
	commits atomic.Int32

	mu    sync.Mutex
	lines []string
}

// world is a mirror of files that are given by URL, and of answers to observe.
type world struct {
	execute.Mirror
	files map[string]func() io.ReadCloser
}

func (w world) Fetch(ctx context.Context, urls []string, size int64, sha256 digest.Digest) (io.ReadCloser, error) {
	for _, url := range urls {
		if open, ok := w.files[url]; ok {
			return open(), nil
		}
	}
	return nil, fmt.Errorf("fetch %q: nobody has it", urls)
}

func newBench(t testing.TB, store testStore) *bench {
	t.Helper()
	dir := t.TempDir()
	c, err := cache.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	w := world{files: map[string]func() io.ReadCloser{}}
	b := &bench{t: t, store: store, dir: dir, world: w}
	b.env = &execute.Env{
		Store: counted{store, &b.commits}, Mirror: w, Cache: c, Turns: execute.NewTurns(0), Indexes: execute.NewIndexes(), Records: execute.NewRecords(),
	}
	return b
}

// counted is a store that counts commits.
type counted struct {
	testStore
	commits *atomic.Int32
}

func (c counted) Begin() imagestore.Writer { return countedWriter{c.testStore.Begin(), c.commits} }

type countedWriter struct {
	imagestore.Writer
	commits *atomic.Int32
}

func (w countedWriter) Commit(ctx context.Context) error {
	w.commits.Add(1)
	return w.Writer.Commit(ctx)
}

func (w countedWriter) Held(d digest.Digest) (int64, bool) {
	return w.Writer.(imagestore.Held).Held(d)
}

// run runs a task with the outputs of its dependencies into out.
func (b *bench) run(kind farm.Kind, spec any, out any, outputs ...any) error {
	b.t.Helper()
	task := farm.Task{Kind: kind, Spec: farm.Payload{Inline: encode(b.t, spec)}}
	if outputs != nil {
		task.Outputs.Inline = encode(b.t, outputs)
	}
	raw, err := execute.Run(b.t.Context(), b.env, task, func(line string) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.lines = append(b.lines, line)
	})
	if err != nil {
		if raw != nil {
			b.t.Errorf("both an output and an error: %s", raw)
		}
		return err
	}
	return json.Unmarshal(raw, out)
}

func (b *bench) must(kind farm.Kind, spec any, out any, outputs ...any) {
	b.t.Helper()
	if err := b.run(kind, spec, out, outputs...); err != nil {
		b.t.Fatalf("%s: %v", kind, err)
	}
}

func encode(t testing.TB, v any) json.RawMessage {
	t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// offer puts a package on the mirror and returns its spec.
func (b *bench) offer(p debtest.Package) plan.ConvertSpec {
	b.t.Helper()
	file := p.Build(b.t)
	url := "http://mirror/" + p.Name + ".deb"
	b.world.files[url] = func() io.ReadCloser { return io.NopCloser(iotest.HalfReader(bytes.NewReader(file))) }
	arch := p.Architecture
	if arch == "" {
		arch = "all"
	}
	version := p.Version
	if version == "" {
		version = "1.0-1"
	}
	return plan.ConvertSpec{URLs: []string{"http://elsewhere/", url}, Package: recipe.LockedPackage{
		Name: p.Name, Version: version, Arch: arch, SHA256: debtest.Digest(file), Size: int64(len(file)),
	}}
}

// read reads a blob of the store.
func (b *bench) read(d digest.Digest) []byte {
	b.t.Helper()
	data, err := imagestore.ReadAll(b.t.Context(), b.store, d, 1<<30)
	if err != nil {
		b.t.Fatal(err)
	}
	if digest.FromBytes(data) != d {
		b.t.Fatalf("blob %s has other bytes", d)
	}
	return data
}

// entry is an entry of a layer, as a container engine sees it.
type entry struct {
	*tar.Header
	content string
}

// layer reads a layer back and checks what must hold of every layer.
func (b *bench) layer(l plan.Layer) map[string]entry {
	b.t.Helper()
	blob := b.read(l.Digest)
	if int64(len(blob)) != l.Size {
		b.t.Errorf("layer has %d bytes, not %d", len(blob), l.Size)
	}
	z, err := gzip.NewReader(bytes.NewReader(blob))
	if err != nil {
		b.t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		b.t.Fatal(err)
	}
	if got := digest.FromBytes(plain); got != l.DiffID || int64(len(plain)) != l.TarSize {
		b.t.Errorf("unpacked: %s, %d bytes; the output says %s, %d", got, len(plain), l.DiffID, l.TarSize)
	}
	return entries(b.t, plain)
}

func entries(t testing.TB, plain []byte) map[string]entry {
	t.Helper()
	found := map[string]entry{}
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		h, err := r.Next()
		if err == io.EOF {
			return found
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimSuffix(h.Name, "/")
		if _, twice := found[name]; twice {
			t.Errorf("%s is there twice", name)
		}
		found[name] = entry{h, string(content)}
	}
}

// hello and its dependency, with the things that make layers hard.
var (
	libhello = debtest.Package{Name: "libhello", Version: "1.0-1", Architecture: "amd64", Entries: []debtest.Entry{
		{Name: "./lib/"}, {Name: "./lib/x86_64-linux-gnu/"},
		{Name: "./lib/x86_64-linux-gnu/libhello.so.1", Link: "libhello.so.1.0"},
		{Name: "./lib/x86_64-linux-gnu/libhello.so.1.0", Content: "shared object"},
		{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/hello/", Mode: 0o2755, GID: 50},
	}}
	hello = debtest.Package{Name: "hello", Version: "2.10-3", Architecture: "amd64",
		Fields:  map[string]string{"Depends": "libhello"},
		Control: map[string]string{"conffiles": "/etc/hello.conf\n"},
		Entries: []debtest.Entry{
			{Name: "./bin/"}, {Name: "./bin/hello", Content: strings.Repeat("hello ", 1000), Mode: 0o4755},
			{Name: "./etc/"}, {Name: "./etc/hello.conf", Content: "greeting=hello\n"},
			{Name: "./usr/"}, {Name: "./usr/share/"}, {Name: "./usr/share/hello/"},
			{Name: "./usr/share/hello/big", Content: strings.Repeat("0123456789abcdef", 600_000)},
			{Name: "./usr/share/hello/same", Type: tar.TypeLink, Link: "./usr/share/hello/big"},
		}}
)

// bakeOS converts packages and assembles them.
func (b *bench) bakeOS(packages ...debtest.Package) (plan.Layer, error) {
	b.t.Helper()
	spec := plan.AssembleSpec{Role: plan.RoleOS, OS: &plan.AssembleOS{Suite: "bookworm", Arch: "amd64"}}
	var members []any
	for _, p := range packages {
		c := b.offer(p)
		var m plan.Member
		b.must(farm.KindConvert, c, &m)
		members = append(members, m)
		spec.OS.Packages = append(spec.OS.Packages, c.Package)
	}
	var l plan.Layer
	err := b.run(farm.KindAssemble, spec, &l, members...)
	return l, err
}

func TestOSLayer(t *testing.T) {
	b := newBench(t, newStore(t))
	l, err := b.bakeOS(hello, libhello)
	if err != nil {
		t.Fatal(err)
	}
	got := b.layer(l)
	for path, want := range map[string]string{
		"usr/bin/hello":                            strings.Repeat("hello ", 1000),
		"etc/hello.conf":                           "greeting=hello\n",
		"usr/share/hello/big":                      strings.Repeat("0123456789abcdef", 600_000),
		"usr/lib/x86_64-linux-gnu/libhello.so.1.0": "shared object",
	} {
		if got[path].Header == nil || got[path].content != want {
			t.Errorf("%s: missing or with other content", path)
		}
	}
	if e := got["bin"]; e.Header == nil || e.Typeflag != tar.TypeSymlink || e.Linkname != "usr/bin" {
		t.Errorf("bin is no merged-/usr link: %+v", e.Header)
	}
	if e := got["usr/share/hello"]; e.Header == nil || e.Mode != 0o2755 || e.Gid != 50 {
		t.Errorf("the directory that two packages have: %+v", e.Header)
	}
	status := got["var/lib/dpkg/status"].content
	for _, want := range []string{"Package: hello\n", "Package: libhello\n", "Status: install ok installed\n", " /etc/hello.conf "} {
		if !strings.Contains(status, want) {
			t.Errorf("dpkg's status lacks %q:\n%s", want, status)
		}
	}
	var packages []recipe.LockedPackage
	if err := json.Unmarshal(b.read(l.Packages), &packages); err != nil || len(packages) != 2 || packages[0].Name != "hello" {
		t.Errorf("package list: %+v, %v", packages, err)
	}
	if len(b.lines) != 3 {
		t.Errorf("said %q, want a line a shard", b.lines)
	}

	// Another worker, with nothing in its cache, makes the same of the same members.
	other := newBench(t, b.store)
	var again plan.Layer
	spec, members := b.specOf(hello, libhello)
	other.must(farm.KindAssemble, spec, &again, members...)
	if !reflect.DeepEqual(again, l) {
		t.Errorf("another worker made %+v, not %+v", again, l)
	}
}

// specOf is the spec of an OS layer and its members, from outputs that are made again.
func (b *bench) specOf(packages ...debtest.Package) (plan.AssembleSpec, []any) {
	spec := plan.AssembleSpec{Role: plan.RoleOS, OS: &plan.AssembleOS{Suite: "bookworm", Arch: "amd64"}}
	var members []any
	for _, p := range packages {
		c := b.offer(p)
		var m plan.Member
		b.must(farm.KindConvert, c, &m)
		spec.OS.Packages, members = append(spec.OS.Packages, c.Package), append(members, m)
	}
	return spec, members
}

// What a package says of itself counts, not what an index said.
func TestIndexWasWrong(t *testing.T) {
	b := newBench(t, newStore(t))
	spec, members := b.specOf(libhello)
	b.commits.Store(0)
	spec.OS.Packages[0].Version = "1.0-2"
	err := b.run(farm.KindAssemble, spec, nil, members...)
	if err == nil || !strings.Contains(err.Error(), "package libhello 1.0-2 (amd64): the file says that it is libhello 1.0-1 (amd64)") {
		t.Errorf("err = %v", err)
	}
	b.nothingStored()
}

func TestConvertRefuses(t *testing.T) {
	good := debtest.Package{Name: "bad", Entries: []debtest.Entry{{Name: "./opt/"}, {Name: "./opt/x", Content: strings.Repeat("x", 1<<20)}}}
	cut := good.Build(t)
	for name, c := range map[string]struct {
		pack    debtest.Package
		spoil   func(spec *plan.ConvertSpec)
		body    io.Reader
		want    string
		mayPass bool
	}{
		"path outside": {
			pack: debtest.Package{Name: "bad", Entries: []debtest.Entry{{Name: "./../etc/passwd", Content: "x"}}},
			want: "..",
		},
		"device": {
			pack: debtest.Package{Name: "bad", Entries: []debtest.Entry{{Name: "./dev-sda", Type: tar.TypeBlock}}},
			want: "device",
		},
		"wrong digest": {
			pack:  good,
			spoil: func(s *plan.ConvertSpec) { s.Package.SHA256 = digest.FromString("something else") },
			want:  "digest",
		},
		"truncated": {pack: good, body: bytes.NewReader(cut[:len(cut)/2]), want: "bad"},
		"connection lost": {
			pack:    good,
			body:    io.MultiReader(bytes.NewReader(cut[:len(cut)/2]), iotest.ErrReader(&net.OpError{Op: "read", Net: "tcp", Err: errors.New("connection reset by peer")})),
			want:    "connection reset by peer",
			mayPass: true,
		},
		"not there": {
			pack:  good,
			spoil: func(s *plan.ConvertSpec) { s.URLs = []string{"http://elsewhere/"} },
			want:  "nobody has it",
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newStore(t))
			spec := b.offer(c.pack)
			if c.spoil != nil {
				c.spoil(&spec)
			}
			if c.body != nil {
				b.world.files[spec.URLs[1]] = func() io.ReadCloser { return io.NopCloser(c.body) }
			}
			var m plan.Member
			err := b.run(farm.KindConvert, spec, &m)
			if err == nil {
				t.Fatalf("converted to %+v", m)
			}
			if !strings.Contains(err.Error(), "package bad 1.0-1 (all)") || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q: want the package's name and %q", err, c.want)
			}
			if execute.MayPass(err) != c.mayPass {
				t.Errorf("MayPass(%v) = %t", err, !c.mayPass)
			}
			b.nothingStored()
		})
	}
}

// nothingStored checks that nothing was committed.
func (b *bench) nothingStored() {
	b.t.Helper()
	if n := b.commits.Load(); n != 0 {
		b.t.Errorf("%d commits: want none", n)
	}
}
