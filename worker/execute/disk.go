package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"bakefarm/compose"
	"bakefarm/compose/disk"
	"bakefarm/compose/oci"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// diskOptions are what a disk is made with.
func diskOptions(d recipe.DiskOutput, seed digest.Digest) (disk.Options, oci.Platform, error) {
	platform, err := oci.ParsePlatform(d.Platform)
	return disk.Options{Size: d.Size, Arch: platform.Architecture, Boot: d.Boot, Seed: seed, Cmdline: d.Cmdline, Time: compose.ModTime,
		Distribution: d.Initrd == recipe.InitrdDistribution, ReadOnly: d.Filesystem == recipe.FilesystemEROFS}, platform, err
}

// newChunks has the chunks of a disk go to a writer, and counts their bytes.
func newChunks(ctx context.Context, size int64, w imagestore.Writer, stored *int64) *disk.Chunks {
	return disk.NewChunks(size, func(data []byte) (digest.Digest, error) {
		part, err := w.Put(ctx, data)
		*stored += part.Size
		return part.Digest, err
	})
}

// BootKeys sign what firmware starts.
type BootKeys interface {
	// Sign signs with the key of the certificate that has a fingerprint; an error when there is none.
	Sign(fingerprint string, program []byte) ([]byte, error)
}

// makeRoot makes a disk of an OS, without an app.
func makeRoot(ctx context.Context, j *job, spec plan.RootSpec) (plan.Root, error) {
	base, layers, err := overBase[plan.Layer](j, spec.Base)
	if err != nil {
		return plan.Root{}, err
	}
	if base != nil {
		if err := j.startsMachines(ctx, base, layers); err != nil {
			return plan.Root{}, err
		}
		layers = slices.Concat(base.Layers, layers)
	}
	options, _, err := diskOptions(spec.Disk, spec.Seed)
	if err != nil {
		return plan.Root{}, err
	}
	if err := j.Turns.take(ctx); err != nil {
		return plan.Root{}, err
	}
	defer j.Turns.give()

	w := j.Store.Begin()
	var stored int64
	chunks := newChunks(ctx, options.Size, w, &stored)
	defer chunks.Close()
	b, err := disk.New(options, chunks)
	if err != nil {
		return plan.Root{}, err
	}
	if f := spec.Disk.SecureBoot; f != "" {
		if j.BootKeys == nil {
			return plan.Root{}, errors.New("this worker signs no disks: start it with --boot-keys DIR")
		}
		b.Sign = func(program []byte) ([]byte, error) { return j.BootKeys.Sign(f, program) }
	}
	if err := j.fits(ctx, b, nil, layers); err != nil {
		return plan.Root{}, err
	}
	for _, l := range layers {
		if err := j.addLayer(ctx, b, l); err != nil {
			return plan.Root{}, err
		}
	}
	made, err := b.Prefix()
	if err != nil {
		return plan.Root{}, err
	}
	out := plan.Root{Kernel: made.Kernel.Version, Cmdline: made.Kernel.Cmdline}
	put := func(data []byte) (plan.Piece, error) {
		part, err := w.Put(ctx, data)
		return plan.Piece{Digest: part.Digest, Size: part.Size}, err
	}
	if out.State, err = put(made.State); err != nil {
		return plan.Root{}, err
	}
	j.keep(out.State.Digest, made.State)
	if options.Boot == disk.BootDirect {
		image, err := put(made.Kernel.Image)
		if err != nil {
			return plan.Root{}, err
		}
		initrd, err := put(made.Kernel.Initrd)
		if err != nil {
			return plan.Root{}, err
		}
		out.Image, out.Initrd = &image, &initrd
	}
	if err := w.Commit(ctx); err != nil {
		return plan.Root{}, err
	}
	if err := made.Hash(ctx, j.chunk); err != nil {
		return plan.Root{}, err
	}
	w = j.Store.Begin()
	for _, l := range made.Layers {
		if err := w.Compose(ctx, composite(l)); err != nil {
			return plan.Root{}, err
		}
		out.Blobs = append(out.Blobs, l.Digest)
	}
	for _, p := range made.Loose {
		out.Blobs = append(out.Blobs, p.Digest)
	}
	if err := w.Commit(ctx); err != nil {
		return plan.Root{}, err
	}
	j.say("a system of %s, kernel %s", size(stored), out.Kernel)
	return out, nil
}

// chunk reads a piece of a disk.
func (j *job) chunk(ctx context.Context, p disk.Part) ([]byte, error) {
	return j.piece(ctx, p.Digest, p.Size)
}

// composite is a layer of a disk as the store has it.
func composite(l disk.Layer) imagestore.Blob {
	blob := imagestore.Blob{Digest: l.Digest, Size: l.Size}
	for _, p := range l.Parts {
		blob.Parts = append(blob.Parts, imagestore.Part(p))
	}
	return blob
}

// fits refuses layers that have no room on a disk that begins with state, before anything of them is written. Where there
// is room enough at a glance it reads nothing.
func (j *job) fits(ctx context.Context, b *disk.Builder, state []byte, layers []plan.Layer) error {
	var total int64
	for _, l := range layers {
		if l.TarSize == 0 { // of somebody else's, which are compressed to a third or so
			total += 4 * l.Size
		}
		total += l.TarSize
	}
	if b.Ample(total) {
		return nil
	}
	m, err := disk.NewMeasure(b.Options, state)
	if err != nil {
		return err
	}
	for _, l := range layers {
		if err := j.addLayer(ctx, m, l); err != nil {
			return err
		}
	}
	return m.Room()
}

// addLayer brings a layer onto a disk.
func (j *job) addLayer(ctx context.Context, b interface{ Layer(io.Reader) error }, l plan.Layer) error {
	tar, err := j.openTarOf(ctx, l)
	if err != nil {
		return err
	}
	err = b.Layer(tar)
	if cerr := tar.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	return nil
}

// makeDisk makes a disk of a system and an app. Its chunks are committed before its layers: those that were not written
// in order are read back to be hashed.
func makeDisk(ctx context.Context, j *job, spec plan.DiskSpec) (plan.ImageOutput, error) {
	base, parts, err := overBase[json.RawMessage](j, spec.Base)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if len(parts) < 1 || len(parts) > 2 {
		return plan.ImageOutput{}, fmt.Errorf("spec: %d dependencies: want a system, and at most one app", len(parts))
	}
	var root plan.Root
	if err := json.Unmarshal(parts[0], &root); err != nil {
		return plan.ImageOutput{}, fmt.Errorf("output of the system: %w", err)
	}
	if base != nil {
		if spec.Config, err = j.inherited(ctx, base, spec.Config); err != nil {
			return plan.ImageOutput{}, err
		}
	}
	options, platform, err := diskOptions(spec.Disk, spec.Seed)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if err := j.Turns.take(ctx); err != nil {
		return plan.ImageOutput{}, err
	}
	defer j.Turns.give()

	state, err := j.piece(ctx, root.State.Digest, root.State.Size)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	w := j.Store.Begin()
	var stored int64
	chunks := newChunks(ctx, options.Size, w, &stored)
	defer chunks.Close()
	b, err := disk.Resume(options, chunks, state)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if len(parts) > 1 {
		var app plan.Layer
		if err := json.Unmarshal(parts[1], &app); err != nil {
			return plan.ImageOutput{}, fmt.Errorf("output of the app: %w", err)
		}
		if err := j.fits(ctx, b, state, []plan.Layer{app}); err != nil {
			return plan.ImageOutput{}, err
		}
		if err := j.addLayer(ctx, b, app); err != nil {
			return plan.ImageOutput{}, err
		}
	}
	c := spec.Config
	if err := b.Machine(disk.Machine{
		Entrypoint: append(append([]string(nil), c.Entrypoint...), c.Cmd...), Env: c.Env, User: c.User,
		WorkingDir: c.WorkingDir, StopSignal: c.StopSignal, Restart: spec.Disk.Restart, Packages: spec.Packages, Enabled: spec.Enabled,
	}); err != nil {
		return plan.ImageOutput{}, err
	}
	if err := b.Finish(); err != nil {
		return plan.ImageOutput{}, err
	}
	if err := chunks.Flush(); err != nil {
		return plan.ImageOutput{}, err
	}
	if err := w.Commit(ctx); err != nil {
		return plan.ImageOutput{}, err
	}
	made, err := b.Layers(ctx, j.chunk)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	out, err := j.storeDisk(ctx, oci.DiskConfig{
		OS: platform.OS, Architecture: platform.Architecture, Variant: platform.Variant,
		Size: spec.Disk.Size, LayerSize: disk.LayerSizeOf(spec.Disk.Size),
		Boot: spec.Disk.Boot, Filesystem: spec.Disk.Filesystem, Kernel: root.Kernel, Cmdline: root.Cmdline, Initrd: spec.Disk.Initrd,
	}, made, root)
	if err == nil {
		j.say("%s: a disk of %s, %s written over its system, kernel %s", out.Manifest, size(spec.Disk.Size), size(stored), root.Kernel)
	}
	return out, err
}

// storeDisk stores the layers as composites of chunks, and the manifest over them.
func (j *job) storeDisk(ctx context.Context, c oci.DiskConfig, layers []disk.Layer, root plan.Root) (plan.ImageOutput, error) {
	config, err := oci.NewDiskConfig(c)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	w := j.Store.Begin()
	if _, err := w.Put(ctx, config); err != nil {
		return plan.ImageOutput{}, err
	}
	out := plan.ImageOutput{MediaType: v1.MediaTypeImageManifest, Size: int64(len(config)), Blobs: []digest.Digest{digest.FromBytes(config)}}
	var blobs []oci.Blob
	seen := make(map[digest.Digest]bool)
	add := func(mediaType string, d digest.Digest, size int64) {
		blobs = append(blobs, oci.Blob{MediaType: mediaType, Digest: d, Size: size})
		if !seen[d] {
			seen[d] = true
			out.Size += size
			out.Blobs = append(out.Blobs, d)
		}
	}
	for _, l := range layers {
		if !seen[l.Digest] {
			if err := w.Compose(ctx, composite(l)); err != nil {
				return plan.ImageOutput{}, err
			}
		}
		add(oci.MediaTypeDiskLayer, l.Digest, l.Size)
	}
	for _, f := range []struct {
		mediaType string
		piece     *plan.Piece
	}{{oci.MediaTypeKernel, root.Image}, {oci.MediaTypeInitrd, root.Initrd}} {
		if f.piece != nil {
			add(f.mediaType, f.piece.Digest, f.piece.Size)
		}
	}
	manifest, err := oci.NewDiskManifest(config, blobs)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if out.Manifest, err = imagestore.PutManifest(ctx, j.Store, w, out.MediaType, manifest); err != nil {
		return plan.ImageOutput{}, err
	}
	out.Size += int64(len(manifest))
	return out, w.Commit(ctx)
}
