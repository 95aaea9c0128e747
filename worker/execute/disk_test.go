package execute_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/disk/gpt"
	"bakefarm/compose/oci"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/faults"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/execute"
	"bakefarm/worker/workertest"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// storeLayer stores files as a layer of one member.
func (b *bench) storeLayer(files ...string) plan.Layer {
	b.t.Helper()
	var raw bytes.Buffer
	w := tar.NewWriter(&raw)
	for i := 0; i+1 < len(files); i += 2 {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: files[i], Mode: 0o755, Size: int64(len(files[i+1]))}); err != nil {
			b.t.Fatal(err)
		}
		io.WriteString(w, files[i+1])
	}
	if err := w.Flush(); err != nil {
		b.t.Fatal(err)
	}
	_, pieces, err := compose.Compressed(raw.Bytes())
	if err != nil {
		b.t.Fatal(err)
	}
	_, end := compose.Trailer()
	writer := b.store.Begin()
	var whole []byte
	blob := imagestore.Blob{}
	for _, p := range append(pieces, end) {
		part, err := writer.Put(b.t.Context(), p)
		if err != nil {
			b.t.Fatal(err)
		}
		blob.Parts = append(blob.Parts, part)
		whole = append(whole, p...)
	}
	blob.Digest, blob.Size = digest.FromBytes(whole), int64(len(whole))
	if err := writer.Compose(b.t.Context(), blob); err != nil {
		b.t.Fatal(err)
	}
	if err := writer.Commit(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
	return plan.Layer{Digest: blob.Digest, Size: blob.Size, TarSize: int64(raw.Len())}
}

var diskSpec = plan.DiskSpec{
	Disk:     recipe.DiskOutput{Platform: "linux/amd64", Size: 256 << 20, Boot: recipe.BootDirect, Filesystem: "ext4"},
	Config:   recipe.Config{Entrypoint: []string{"/opt/app"}},
	Seed:     digest.FromString("os"),
	Packages: []string{"systemd"},
}

func (b *bench) bootable() plan.Layer {
	return b.storeLayer("boot/vmlinuz-6.1", strings.Repeat("kernel", 200_000),
		"usr/lib/modules/6.1/modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\n", "sbin/init", "init")
}

// makeDisk makes a disk of an OS and apps.
func (b *bench) makeDisk(spec plan.DiskSpec, out *plan.ImageOutput, os plan.Layer, apps ...plan.Layer) error {
	b.t.Helper()
	var root plan.Root
	if err := b.run(farm.KindRoot, plan.RootSpec{Disk: spec.Disk, Seed: spec.Seed}, &root, os); err != nil {
		return err
	}
	parts := []any{root}
	for _, a := range apps {
		parts = append(parts, a)
	}
	return b.run(farm.KindDisk, spec, out, parts...)
}

func TestDisk(t *testing.T) {
	t.Parallel()
	b := newBench(t, newStore(t))
	os := b.bootable()
	var one, two plan.ImageOutput
	if err := b.makeDisk(diskSpec, &one, os, b.storeLayer("opt/app", "one")); err != nil {
		t.Fatal(err)
	}
	other := newBench(t, newStore(t))
	if err := other.makeDisk(diskSpec, &two, other.bootable(), other.storeLayer("opt/app", "one")); err != nil {
		t.Fatal(err)
	}
	if one.Manifest != two.Manifest {
		t.Errorf("the same layers make %s and %s", one.Manifest, two.Manifest)
	}
	raw, err := imagestore.ReadAll(t.Context(), b.store, one.Manifest, imagestore.MaxManifest)
	if err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil || m.ArtifactType != oci.MediaTypeDisk {
		t.Fatalf("%s: %v", raw, err)
	}
	var whole []byte
	var kinds []string
	for _, l := range m.Layers {
		kinds = append(kinds, l.MediaType)
		content, err := imagestore.ReadAll(t.Context(), b.store, l.Digest, l.Size)
		if err != nil || digest.FromBytes(content) != l.Digest {
			t.Fatalf("layer %s: %v", l.Digest, err)
		}
		if l.MediaType == oci.MediaTypeDiskLayer {
			whole = append(whole, content...)
		}
	}
	if int64(len(whole)) != diskSpec.Disk.Size || kinds[len(kinds)-2] != oci.MediaTypeKernel || kinds[len(kinds)-1] != oci.MediaTypeInitrd {
		t.Errorf("a disk of %d bytes in %v", len(whole), kinds)
	}
	table, err := gpt.Decode(whole)
	if err != nil || len(table.Partitions) != 1 {
		t.Errorf("%+v: %v", table, err)
	}
	if !bytes.Contains(whole, []byte(`ExecStart="/opt/app"`)) {
		t.Error("the entrypoint is no service")
	}
	// Another app is another disk with the same identifiers.
	if err := b.makeDisk(diskSpec, &two, os, b.storeLayer("opt/app", "two")); err != nil {
		t.Fatal(err)
	}
	if one.Manifest == two.Manifest {
		t.Error("another app makes the same disk")
	}
}

func TestDiskTrouble(t *testing.T) {
	t.Parallel()
	b := newBench(t, newStore(t))
	var out plan.ImageOutput
	if err := b.makeDisk(diskSpec, &out, b.storeLayer("sbin/init", "init")); err == nil || !strings.Contains(err.Error(), "add linux-image-cloud-amd64") {
		t.Errorf("no kernel: %v", err)
	}
	signed := diskSpec
	signed.Disk.SecureBoot = strings.Repeat("ab", 32)
	if err := b.makeDisk(signed, &out, b.bootable()); err == nil || !strings.Contains(err.Error(), "--boot-keys DIR") {
		t.Errorf("no keys: %v", err)
	}
	large := b.storeLayer("large", strings.Repeat("large", 50<<20))
	os := b.bootable()
	for name, make := range map[string]func() error{
		"app": func() error { return b.makeDisk(diskSpec, &out, os, large) },
		"OS":  func() error { return b.makeDisk(diskSpec, &out, large) },
	} {
		err := make()
		if err == nil || !regexp.MustCompile(`content of \d+ MiB finds no place: .* give the disk a size of at least 448 MiB`).MatchString(err.Error()) {
			t.Errorf("no room for the %s: %v", name, err)
		}
		if err != nil && execute.MayPass(err) {
			t.Errorf("no room for the %s: another attempt would be made", name)
		}
	}
	gone := plan.Layer{Digest: digest.FromString("gone"), Size: 1}
	if err := b.makeDisk(diskSpec, &out, gone); err == nil {
		t.Error("a layer that is not there was taken")
	}
	broken := b.storeLayer("x", "y")
	writer := b.store.Begin()
	part, err := writer.Put(t.Context(), []byte("this is no gzip member"))
	if err != nil {
		t.Fatal(err)
	}
	broken.Digest = digest.FromString("broken")
	if err := writer.Compose(t.Context(), imagestore.Blob{Digest: broken.Digest, Size: part.Size, Parts: []imagestore.Part{part}}); err != nil {
		t.Fatal(err)
	}
	if err := writer.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := b.makeDisk(diskSpec, &out, broken); err == nil || !strings.Contains(err.Error(), "piece") {
		t.Errorf("a broken piece: %v", err)
	}
}

// What comes wrong from S3 gets onto no disk: the shard fails with what was wrong, and another attempt goes well.
func TestDiskOfWrongPieces(t *testing.T) {
	t.Parallel()
	store, between := workertest.NewFaulty(t)
	b := newBench(t, store)
	layer := b.bootable()
	var root plan.Root
	b.must(farm.KindRoot, plan.RootSpec{Disk: diskSpec.Disk, Seed: diskSpec.Seed}, &root, layer)
	var want, got plan.ImageOutput
	b.must(farm.KindDisk, diskSpec, &want, root)

	other := newBench(t, store) // whose cache has nothing
	var wrong atomic.Bool
	wrong.Store(true)
	between.Add(faults.Fault{Op: "GET", Match: func(string) bool { return wrong.Load() }, Action: faults.Corrupt(100)})
	err := other.run(farm.KindDisk, diskSpec, &got, root)
	if !errors.Is(err, imagestore.ErrCorrupt) || !strings.Contains(err.Error(), root.State.Digest.String()) || !execute.MayPass(err) {
		t.Errorf("a system that came wrong: %v", err)
	}
	wrong.Store(false)
	other.must(farm.KindDisk, diskSpec, &got, root)
	if got.Manifest != want.Manifest {
		t.Errorf("made %s, not %s", got.Manifest, want.Manifest)
	}
}
