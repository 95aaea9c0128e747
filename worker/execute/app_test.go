package execute_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/execute"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// upload stores a file's chunks and describes it.
func (b *bench) upload(path string, content []byte) recipe.TreeEntry {
	b.t.Helper()
	e := recipe.TreeEntry{Path: path, Type: recipe.TypeFile, Mode: 0o644, UID: 1000, GID: 1000, Size: int64(len(content))}
	w := b.store.Begin()
	for chunk := range slices.Chunk(content, recipe.ChunkSize) {
		part, err := w.Put(b.t.Context(), chunk)
		if err != nil {
			b.t.Fatal(err)
		}
		e.Chunks = append(e.Chunks, part.Digest)
	}
	if err := w.Commit(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return e
}

func random(seed uint64, n int) []byte {
	data := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(data)
	return data
}

// appTree has everything that an app can have: an empty file, a link, a file of several segments.
func (b *bench) appTree() (files []recipe.TreeEntry, dirs []recipe.TreeEntry) {
	files = []recipe.TreeEntry{
		b.upload("opt/app/big", random(1, 2*recipe.ChunkSize+1000)),
		b.upload("opt/app/empty", nil),
		b.upload("opt/app/main", []byte("#!/bin/sh\n")),
		{Path: "opt/app/run", Type: recipe.TypeLink, Mode: 0o777, Link: "main"},
	}
	dirs = []recipe.TreeEntry{
		{Path: "opt", Type: recipe.TypeDir, Mode: 0o755},
		{Path: "opt/app", Type: recipe.TypeDir, Mode: 0o750, UID: 1000, GID: 1000},
	}
	return files, dirs
}

// bakeApp cuts the runs of a tree and assembles them.
func (b *bench) bakeApp(files, dirs []recipe.TreeEntry) (l plan.Layer) {
	b.t.Helper()
	var members []any
	for _, spec := range plan.Runs(files) {
		var m plan.Member
		b.must(farm.KindCut, spec, &m)
		members = append(members, m)
	}
	b.must(farm.KindAssemble, plan.AssembleSpec{Role: plan.RoleApp, Dirs: dirs}, &l, members...)
	return l
}

func TestAppImage(t *testing.T) {
	b := newBench(t, newStore(t))
	files, dirs := b.appTree()
	app := b.bakeApp(files, dirs)
	got := b.layer(app)
	if len(got) != 6 {
		t.Errorf("%d entries, want 6", len(got))
	}
	if e := got["opt/app/big"]; e.Header == nil || e.content != string(random(1, 2*recipe.ChunkSize+1000)) {
		t.Error("opt/app/big: missing or with other content")
	}
	if e := got["opt/app"]; e.Header == nil || e.Mode != 0o750 || e.Uid != 1000 {
		t.Errorf("opt/app: %+v", e.Header)
	}
	if e := got["opt/app/run"]; e.Header == nil || e.Linkname != "main" {
		t.Errorf("opt/app/run: %+v", e.Header)
	}
	if app.Packages != "" {
		t.Error("an app layer has a package list")
	}

	os, err := b.bakeOS(libhello)
	if err != nil {
		t.Fatal(err)
	}
	var image plan.ImageOutput
	spec := plan.ImageSpec{Platform: "linux/amd64", Roles: []string{plan.RoleOS, plan.RoleApp}, Config: recipe.Config{
		Entrypoint: []string{"/opt/app/run"}, Env: map[string]string{"PORT": "8080"}, Ports: []string{"8080/tcp"},
	}}
	b.must(farm.KindImage, spec, &image, os, app)
	var manifest v1.Manifest
	if err := json.Unmarshal(b.read(image.Manifest), &manifest); err != nil {
		t.Fatal(err)
	}
	var config v1.Image
	if err := json.Unmarshal(b.read(manifest.Config.Digest), &config); err != nil {
		t.Fatal(err)
	}
	if want := []digest.Digest{os.DiffID, app.DiffID}; !slices.Equal(config.RootFS.DiffIDs, want) || config.Config.Entrypoint[0] != "/opt/app/run" {
		t.Errorf("configuration: %+v", config)
	}
	if want := []digest.Digest{manifest.Config.Digest, os.Digest, app.Digest}; !slices.Equal(image.Blobs, want) {
		t.Errorf("blobs %v, want %v", image.Blobs, want)
	}
	size := int64(len(b.read(image.Manifest))) + manifest.Config.Size + os.Size + app.Size
	if image.Size != size || image.MediaType != v1.MediaTypeImageManifest {
		t.Errorf("size %d, media type %s; want %d", image.Size, image.MediaType, size)
	}

	// The same app for another platform, and the index over both: what they share is counted once.
	var arm, index plan.ImageOutput
	b.must(farm.KindImage, plan.ImageSpec{Platform: "linux/arm64", Roles: []string{plan.RoleApp}}, &arm, app)
	b.must(farm.KindIndex, plan.ImageIndexSpec{Platforms: []string{"linux/amd64", "linux/arm64"}}, &index, image, arm)
	raw := b.read(index.Manifest)
	var list v1.Index
	if err := json.Unmarshal(raw, &list); err != nil || len(list.Manifests) != 2 {
		t.Fatalf("index %s: %v", raw, err)
	}
	for i, want := range []digest.Digest{image.Manifest, arm.Manifest} {
		if d := list.Manifests[i]; d.Digest != want || d.Size != int64(len(b.read(want))) || index.Blobs[i] != want {
			t.Errorf("manifest %d of the index: %+v, want %s", i, d, want)
		}
	}
	if p := list.Manifests[1].Platform; p.Architecture != "arm64" || p.Variant != "v8" {
		t.Errorf("platform: %+v", p)
	}
	if want := int64(len(raw)) + image.Size + arm.Size - app.Size; index.Size != want || index.MediaType != v1.MediaTypeImageIndex {
		t.Errorf("size %d, media type %s; want %d", index.Size, index.MediaType, want)
	}
	var none plan.ImageOutput
	if err := b.run(farm.KindIndex, plan.ImageIndexSpec{Platforms: []string{"linux/amd64", "linux/arm64"}}, &none, image); err == nil {
		t.Error("two platforms over one image: accepted")
	}
	lost := arm
	lost.Manifest = digest.FromString("lost")
	if err := b.run(farm.KindIndex, plan.ImageIndexSpec{Platforms: []string{"linux/amd64", "linux/arm64"}}, &none, image, lost); err == nil {
		t.Error("an image that is not in the store: accepted")
	}

	// Another worker makes the same of everything.
	other := newBench(t, b.store)
	if again := other.bakeApp(files, dirs); !reflect.DeepEqual(again, app) {
		t.Errorf("another worker made %+v, not %+v", again, app)
	}
}

func TestCutRefuses(t *testing.T) {
	b := newBench(t, newStore(t))
	good := b.upload("opt/app", []byte("content"))
	other := b.upload("opt/other", []byte("other content"))
	with := func(change func(*recipe.TreeEntry)) []recipe.TreeEntry {
		e := good
		change(&e)
		return []recipe.TreeEntry{e}
	}
	for want, spec := range map[string]plan.CutSpec{
		"no entries":     {},
		"is absolute":    {Entries: with(func(e *recipe.TreeEntry) { e.Path = "/etc/passwd" })},
		"..":             {Entries: with(func(e *recipe.TreeEntry) { e.Path = "opt/../../etc/passwd" })},
		"unknown type":   {Entries: with(func(e *recipe.TreeEntry) { e.Type = "socket" })},
		"a directory":    {Entries: with(func(e *recipe.TreeEntry) { *e = recipe.TreeEntry{Path: "opt", Type: recipe.TypeDir, Mode: 0o755} })},
		"0 chunks":       {Entries: with(func(e *recipe.TreeEntry) { e.Chunks = nil })},
		"more than":      {Entries: with(func(e *recipe.TreeEntry) { e.Size = 1 << 40 })},
		"not have 6":     {Entries: with(func(e *recipe.TreeEntry) { e.Size-- })},
		"not have 7":     {Entries: with(func(e *recipe.TreeEntry) { e.Chunks = other.Chunks })},
		"not in the sto": {Entries: with(func(e *recipe.TreeEntry) { e.Chunks = []digest.Digest{digest.FromString("never put")} })},
		"is no segment":  {Entries: []recipe.TreeEntry{good}, Segment: &plan.Segment{Chunk: 1, Last: true}},
		"one chunk":      {Entries: []recipe.TreeEntry{good, other}, Segment: &plan.Segment{}},
	} {
		var m plan.Member
		err := b.run(farm.KindCut, spec, &m)
		if err == nil || !strings.Contains(err.Error(), want) || execute.MayPass(err) {
			t.Errorf("error %v (may pass: %t), want %q", err, execute.MayPass(err), want)
		}
	}
	b.nothingStored()
}

func TestAssembleRefuses(t *testing.T) {
	b := newBench(t, newStore(t))
	entry := b.upload("opt/app", []byte("content"))
	var m, clash plan.Member
	b.must(farm.KindCut, plan.CutSpec{Entries: []recipe.TreeEntry{entry}}, &m)
	entry.Mode = 0o600
	b.must(farm.KindCut, plan.CutSpec{Entries: []recipe.TreeEntry{entry}}, &clash)
	b.commits.Store(0)

	app := plan.AssembleSpec{Role: plan.RoleApp}
	lost, tampered := m, m
	lost.Inventory = digest.FromString("never put")
	tampered.TarSize += 512
	for want, c := range map[string]struct {
		spec    plan.AssembleSpec
		members []any
	}{
		"is both in":     {app, []any{m, clash}},
		"not in the st":  {app, []any{lost}},
		"role":           {plan.AssembleSpec{Role: "kernel"}, []any{m}},
		"but 1 members":  {plan.AssembleSpec{Role: plan.RoleOS, OS: &plan.AssembleOS{Suite: "bookworm", Arch: "amd64"}}, []any{m}},
		"piece":          {app, []any{tampered}},
		"is a directory": {plan.AssembleSpec{Role: plan.RoleApp, Dirs: []recipe.TreeEntry{{Path: "opt/app", Type: recipe.TypeDir, Mode: 0o755}}}, []any{m}},
	} {
		var l plan.Layer
		err := b.run(farm.KindAssemble, c.spec, &l, c.members...)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	b.nothingStored()
}

// A cancelled shard ends at once, wherever it stands, and stores nothing.
func TestCancel(t *testing.T) {
	b := newBench(t, newStore(t))
	spec := b.offer(libhello)
	started := make(chan struct{})
	hang, release := io.Pipe()
	defer release.Close()
	b.world.files[spec.URLs[1]] = func() io.ReadCloser { close(started); return hang }
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("nobody wants it any more")
	go func() {
		<-started
		cancel(reason)
		hang.CloseWithError(context.Canceled) // as a connection whose context has ended
	}()
	begun := time.Now()
	_, err := execute.Run(ctx, b.env, farm.Task{Kind: farm.KindConvert, Spec: farm.Payload{Inline: encode(t, spec)}}, func(string) {})
	if !errors.Is(err, reason) && !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
	if took := time.Since(begun); took > time.Second {
		t.Errorf("took %v", took)
	}
	b.nothingStored()
}

// broken is a store that does not answer.
type broken struct{ testStore }

var errDown = errors.New("503 Slow Down")

func (broken) Open(context.Context, digest.Digest, int64, int64) (io.ReadCloser, error) {
	return nil, errDown
}
func (b broken) Begin() imagestore.Writer { return brokenWriter{b.testStore.Begin()} }

type brokenWriter struct{ imagestore.Writer }

func (brokenWriter) Commit(context.Context) error { return errDown }

func TestStoreTroubleMayPass(t *testing.T) {
	b := newBench(t, newStore(t))
	entry := b.upload("opt/app", []byte("content"))
	convert := b.offer(libhello)
	b.env.Store = broken{b.store}
	for kind, spec := range map[farm.Kind]any{
		farm.KindCut:     plan.CutSpec{Entries: []recipe.TreeEntry{entry}},
		farm.KindConvert: convert,
	} {
		var m plan.Member
		err := b.run(kind, spec, &m)
		if !errors.Is(err, errDown) || !execute.MayPass(err) || !strings.Contains(err.Error(), "image store: ") {
			t.Errorf("%s: err = %v, may pass: %t", kind, err, execute.MayPass(err))
		}
	}
}

func TestUnknownKind(t *testing.T) {
	b := newBench(t, newStore(t))
	if err := b.run("dream", struct{}{}, nil); err == nil || !strings.Contains(err.Error(), "upgrade") {
		t.Errorf("err = %v", err)
	}
	if err := b.run(farm.KindCut, "not an object", nil); err == nil || !strings.Contains(err.Error(), "spec") {
		t.Errorf("err = %v", err)
	}
}
