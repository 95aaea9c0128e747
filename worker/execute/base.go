package execute

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/oci"
	"bakefarm/compose/rootfs"
	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/mirror"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Images reads images that others have made. remote.Client is one.
type Images interface {
	Look(ctx context.Context, ref string) (remote.Found, error)
	Open(ctx context.Context, at remote.Place) (*remote.Image, error)
}

// Bounds of a base, in bytes.
const (
	maxBlob      = 16 << 30 // of a layer as it was pushed
	maxUnpacked  = 32 << 30 // of all layers
	basePiece    = 4 << 20  // of a layer that stays as it is
	zstdWindow   = 128 << 20
	maxContextIn = 64 << 30 // of a base's files in the context
)

// look asks a registry what a reference names.
func (j *job) look(ctx context.Context, ref string) (plan.ObserveOutput, error) {
	if j.Images == nil {
		return plan.ObserveOutput{}, errors.New("this worker reads no images of registries")
	}
	found, err := j.Images.Look(ctx, ref)
	if err != nil {
		return plan.ObserveOutput{}, err
	}
	j.say("%s is %s, for %s", ref, found.Digest, strings.Join(sortedKeys(found.Platforms), ", "))
	return plan.ObserveOutput{Image: &plan.ObservedImage{Digest: found.Digest, Platforms: found.Platforms}}, nil
}

func sortedKeys[V any](m map[string]V) []string {
	var keys []string
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// A baseImport is a base on its way.
type baseImport struct {
	*job
	spec plan.ImportSpec
	w    imagestore.Writer
	fs   *rootfs.Builder
	room int64 // bytes that its layers may still unpack to
	out  plan.Base
}

// importBase makes the layers of an image of others ours, as they are, and finds out what they come to.
func importBase(ctx context.Context, j *job, spec plan.ImportSpec) (plan.Base, error) {
	i := &baseImport{job: j, spec: spec, w: j.Store.Begin(), fs: rootfs.NewBuilder(), room: maxUnpacked}
	var err error
	switch spec.Source.From {
	case recipe.FromRegistry:
		err = i.image(ctx, remote.Place{Reference: spec.Source.Name, Manifest: spec.Image, Platform: spec.Platform})
	case recipe.FromLayout, recipe.FromArchive:
		err = i.unpacked(ctx)
	case recipe.FromRecipe:
		err = i.own(ctx)
	case recipe.FromTar:
		err = i.tar(ctx)
	default:
		err = fmt.Errorf("spec: source %q", spec.Source.From)
	}
	if err == nil {
		err = i.describe(ctx)
	}
	if err == nil {
		err = i.w.Commit(ctx)
	}
	if err != nil {
		return plan.Base{}, fmt.Errorf("%s: %w", i.spec.Source.Ref, err)
	}
	var total int64
	for _, l := range i.out.Layers {
		total += l.Size
	}
	system := i.out.System
	if system == "" {
		system = "a system that does not say what it is"
	}
	j.say("%s: %d layers, %s: %s, %d packages", spec.Image, len(i.out.Layers), size(total), system, i.out.Count)
	return i.out, nil
}

// describe stores what is known of the file system.
func (i *baseImport) describe(ctx context.Context) error {
	record, err := i.fs.Record()
	if err != nil {
		return err
	}
	encoded, err := record.Encode()
	if err != nil {
		return err
	}
	packages := make([]recipe.BasePackage, 0, len(record.Installed))
	for _, p := range record.Installed {
		packages = append(packages, recipe.BasePackage{Name: p.Name, Version: p.Version, Arch: p.Arch})
	}
	list, err := json.Marshal(packages)
	if err != nil {
		return err
	}
	status := record.Status()
	if len(status) == 0 {
		status = []byte("\n") // a piece is not empty
	}
	for _, p := range []struct {
		to   *digest.Digest
		data []byte
	}{{&i.out.Record, encoded}, {&i.out.Status, status}, {&i.out.Packages, list}} {
		part, err := i.w.Put(ctx, p.data)
		if err != nil {
			return err
		}
		*p.to = part.Digest
	}
	i.out.Count, i.out.Merged, i.out.Codename, i.out.System = len(packages), record.Merged(), record.Codename(), record.System()
	return nil
}

// config stores the image's configuration.
func (i *baseImport) config(ctx context.Context, raw []byte) error {
	part, err := i.w.Put(ctx, raw)
	i.out.Config = part.Digest
	return err
}

// image takes in an image that somebody else has.
func (i *baseImport) image(ctx context.Context, at remote.Place) (err error) {
	if i.Images == nil {
		return errors.New("this worker reads no images of others")
	}
	image, err := i.Images.Open(ctx, at)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if len(image.Manifest) > 0 {
		if _, err := i.w.Put(ctx, image.Manifest); err != nil {
			return err
		}
	}
	if err := i.config(ctx, image.Config); err != nil {
		return err
	}
	for n, l := range image.Layers {
		open := func(ctx context.Context) (io.ReadCloser, error) { return image.Layer(ctx, n) }
		if at.Archive != "" {
			err = i.archived(ctx, l, open)
		} else {
			err = i.layer(ctx, l, open)
		}
		if err != nil {
			return fmt.Errorf("layer %d (%s): %w", n, l.Digest, err)
		}
	}
	return nil
}

// own takes in an image of the farm's own: its layers are there.
func (i *baseImport) own(ctx context.Context) error {
	raw, err := imagestore.ReadAll(ctx, i.Store, i.spec.Image, imagestore.MaxManifest)
	if errors.Is(err, imagestore.ErrNotFound) {
		return fmt.Errorf("the image %s is not in the store any more: take another version; a lock file is brought up to date with \"bakefarm lock RECIPE --update\": %w", i.spec.Image, err)
	}
	if err != nil {
		return err
	}
	var m v1.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	config, err := imagestore.ReadAll(ctx, i.Store, m.Config.Digest, remote.MaxConfig)
	if err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	var image v1.Image
	if err := json.Unmarshal(config, &image); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	if len(image.RootFS.DiffIDs) != len(m.Layers) {
		return fmt.Errorf("its configuration has %d layers, its manifest %d", len(image.RootFS.DiffIDs), len(m.Layers))
	}
	if err := i.config(ctx, config); err != nil {
		return err
	}
	for n, l := range m.Layers {
		err := i.stored(ctx, remote.Layer{Digest: l.Digest, Size: l.Size, DiffID: image.RootFS.DiffIDs[n]})
		if err != nil {
			return fmt.Errorf("layer %d (%s): %w", n, l.Digest, err)
		}
	}
	return nil
}

// stored takes in a layer that the store has.
func (i *baseImport) stored(ctx context.Context, l remote.Layer) (err error) {
	blob, err := i.Store.Stat(ctx, l.Digest)
	if err != nil {
		return err
	}
	src, err := i.Store.Open(ctx, l.Digest, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	out, err := i.lay(l, src)
	if err != nil {
		return err
	}
	out.Size = blob.Size // how many pieces it has is not the image's: two imports may cut it otherwise
	i.out.Layers = append(i.out.Layers, out)
	return nil
}

// layer takes in a layer of somebody else's as it is. It is read also when the store has a blob of its digest: to know a
// digest is not to have the content, which may be another team's.
func (i *baseImport) layer(ctx context.Context, l remote.Layer, open func(context.Context) (io.ReadCloser, error)) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	pieces := &pieceWriter{ctx: ctx, w: i.w, hash: sha256.New(), buf: make([]byte, 0, basePiece)}
	out, failed := i.lay(l, io.TeeReader(src, pieces))
	if failed != nil { // other bytes than were promised say more than what is wrong with them
		if _, err := io.Copy(pieces, src); err != nil {
			return failed
		}
	}
	if err := pieces.flush(); err != nil {
		return err
	}
	composed := imagestore.Blob{Digest: l.Digest, Size: pieces.size, Parts: pieces.parts}
	if got := digest.NewDigest(digest.SHA256, pieces.hash); got != l.Digest || l.Size >= 0 && pieces.size != l.Size {
		return fmt.Errorf("what came has the digest %s and %d bytes, the manifest says %d bytes: %w", got, pieces.size, l.Size, imagestore.ErrCorrupt)
	}
	if failed != nil {
		return failed
	}
	if err := i.w.Compose(ctx, composed); err != nil {
		return err
	}
	out.Size = composed.Size
	i.out.Layers = append(i.out.Layers, out)
	return nil
}

// lay reads a layer to its end: unpacks it, lays it over those before, and verifies the tar.
func (i *baseImport) lay(l remote.Layer, src io.Reader) (plan.Layer, error) {
	out := plan.Layer{Digest: l.Digest, DiffID: l.DiffID}
	packed := bufio.NewReaderSize(io.LimitReader(src, maxBlob+1), 1<<16)
	tar, mediaType, err := decompress(packed)
	if err != nil {
		return out, err
	}
	defer tar.Close()
	out.MediaType = mediaType
	plain := &counted{r: tar, hash: sha256.New(), room: i.room}
	if err := i.fs.Layer(plain); errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, rootfs.ErrLayer) {
		return out, fmt.Errorf("the compressed tar is damaged, or something follows its end: %w", err)
	} else if err != nil {
		return out, err
	}
	if n, err := io.Copy(io.Discard, packed); err != nil {
		return out, err
	} else if n > 0 && mediaType != v1.MediaTypeImageLayer {
		return out, fmt.Errorf("%d bytes follow the end of the compressed tar", n)
	}
	if got := digest.NewDigest(digest.SHA256, plain.hash); got != l.DiffID {
		return out, fmt.Errorf("it unpacks to %s, the image's configuration says %s: %w", got, l.DiffID, imagestore.ErrCorrupt)
	}
	i.room -= plain.n
	out.TarSize = plain.n
	return out, nil
}

// decompress finds out how a tar is compressed, by its first bytes: media types are often wrong.
func decompress(r *bufio.Reader) (io.ReadCloser, string, error) {
	magic, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, v1.MediaTypeImageLayerGzip, err
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, "", err
		}
		return z.IOReadCloser(), v1.MediaTypeImageLayerZstd, nil
	}
	return io.NopCloser(r), v1.MediaTypeImageLayer, nil
}

// counted hashes and counts what is read, up to a limit.
type counted struct {
	r    io.Reader
	hash hash.Hash
	n    int64
	room int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if c.n += int64(n); c.n > c.room {
		return n, fmt.Errorf("the layers unpack to more than %d bytes: no system is that large", int64(maxUnpacked))
	}
	return n, err
}

// pieceWriter cuts a blob into pieces and stores them.
type pieceWriter struct {
	ctx   context.Context
	w     imagestore.Writer
	hash  hash.Hash
	buf   []byte
	size  int64
	parts []imagestore.Part
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	w.hash.Write(p)
	if w.size += int64(len(p)); w.size > maxBlob {
		return 0, fmt.Errorf("it has more than %d bytes", int64(maxBlob))
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), basePiece-len(w.buf))
		w.buf, rest = append(w.buf, rest[:n]...), rest[n:]
		if len(w.buf) == basePiece {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (w *pieceWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	part, err := w.w.Put(w.ctx, w.buf)
	w.parts, w.buf = append(w.parts, part), w.buf[:0]
	return err
}

// archived takes in a layer of an archive, which holds plain tars: it is compressed here, since nobody else ever was sent
// other bytes of it.
func (i *baseImport) archived(ctx context.Context, l remote.Layer, open func(context.Context) (io.ReadCloser, error)) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	blob := imagestore.Blob{}
	whole := sha256.New()
	m := compose.NewMemberWriter(0, func(p compose.Piece, data []byte) error {
		whole.Write(data)
		part, err := i.w.PutAs(ctx, p.Digest, data)
		blob.Parts, blob.Size = append(blob.Parts, part), blob.Size+part.Size
		return err
	})
	defer m.Abort()
	out, err := i.lay(l, io.TeeReader(src, m))
	if err != nil {
		return err
	}
	if out.MediaType != v1.MediaTypeImageLayer {
		return errors.New("the layer in the archive is compressed twice")
	}
	if _, err := m.Close(); err != nil {
		return err
	}
	blob.Digest = digest.NewDigest(digest.SHA256, whole)
	if err := i.w.Compose(ctx, blob); err != nil {
		return err
	}
	out.Digest, out.Size, out.MediaType = blob.Digest, blob.Size, v1.MediaTypeImageLayerGzip
	i.out.Layers = append(i.out.Layers, out)
	return nil
}

// unpacked lays the files of the context out in a directory, where the library reads them.
func (i *baseImport) unpacked(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "bakefarm-base-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	source := i.spec.Source
	var total int64
	for _, f := range source.Files {
		if total += f.Size; total > maxContextIn {
			return fmt.Errorf("its files have more than %d bytes", int64(maxContextIn))
		}
		name := source.Inside(f.Path)
		if source.From == recipe.FromArchive {
			name = "archive.tar"
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := i.writeFile(ctx, root, name, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	at := remote.Place{Name: source.Name, Platform: i.spec.Platform, Layout: dir}
	if source.From == recipe.FromArchive {
		at.Layout, at.Archive = "", filepath.Join(dir, "archive.tar")
	}
	return i.image(ctx, at)
}

// writeFile writes a file of the context.
func (i *baseImport) writeFile(ctx context.Context, root *os.Root, name string, f recipe.ContextFile) error {
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, i.contextFile(ctx, f))
	return errors.Join(err, out.Close())
}

// contextFile reads a file of the context.
func (j *job) contextFile(ctx context.Context, f recipe.ContextFile) io.Reader {
	return j.file(ctx, plan.InspectSpec{File: f.Path, Size: f.Size, Chunks: f.Chunks})
}

// tar makes a layer of a tar, which is read twice: to settle which entries count, and to take them.
func (i *baseImport) tar(ctx context.Context) error {
	files := i.spec.Source.Files
	if len(files) != 1 || int64(len(files[0].Chunks)) != (files[0].Size+recipe.ChunkSize-1)/recipe.ChunkSize {
		return errors.New("spec: want one file")
	}
	f := files[0]
	if err := i.Turns.take(ctx); err != nil {
		return err
	}
	defer i.Turns.give()
	var contents *rootfs.Contents
	err := i.readTar(ctx, f, func(r io.Reader) (err error) {
		contents, err = rootfs.Scan(r)
		return err
	})
	if err != nil {
		return err
	}
	l := &layer{job: i.job, w: i.w, own: map[digest.Digest][]byte{}}
	store := i.newMember(i.w)
	defer store.discard()
	member, err := store.cut(ctx, func(w io.Writer) error {
		return i.readTar(ctx, f, func(r io.Reader) error { return contents.Write(w, r) })
	})
	if err != nil {
		return err
	}
	head, err := compose.Head([][]compose.Entry{contents.Dirs}, nil)
	if err != nil {
		return err
	}
	first, pieces, err := compose.Compressed(head)
	if err != nil {
		return err
	}
	_, end := compose.Trailer()
	for _, data := range append(pieces, end) {
		part, err := i.w.Put(ctx, data)
		if err != nil {
			return err
		}
		l.own[part.Digest] = data
	}
	l.own[first.TarDigest] = head
	l.members = []compose.Member{member}
	if err := i.w.Commit(ctx); err != nil { // what the cache does not take is read back
		return err
	}
	composed, err := l.hash(ctx, []compose.Member{first, member})
	if err != nil {
		return err
	}
	out, err := l.commit(ctx, composed, nil)
	if err != nil {
		return err
	}
	i.out.Layers = []plan.Layer{out}
	tar, err := i.openLayer(ctx, out.Digest)
	if err != nil {
		return err
	}
	err = i.fs.Layer(tar)
	if cerr := tar.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return i.config(ctx, []byte("{}"))
}

// readTar gives fn the uncompressed tar that a file of the context is.
func (i *baseImport) readTar(ctx context.Context, f recipe.ContextFile, fn func(io.Reader) error) error {
	packed := bufio.NewReaderSize(i.contextFile(ctx, f), 1<<16)
	name := ""
	magic, err := packed.Peek(6)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		name = "rootfs.tar.xz"
	case bytes.HasPrefix(magic, []byte("BZh")):
		return fmt.Errorf("%w: bzip2 is not read: compress it with gzip, xz or zstd", rootfs.ErrTar)
	}
	var plain io.ReadCloser
	if name != "" {
		plain, err = mirror.Decompress(name, packed)
	} else {
		plain, _, err = decompress(packed)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", rootfs.ErrTar, err)
	}
	err = fn(plain)
	if cerr := plain.Close(); err == nil {
		err = cerr
	}
	return err
}

// overBase splits off the base that the first of a job's dependencies made, if there is one.
func overBase[Output any](j *job, over bool) (*plan.Base, []Output, error) {
	if !over {
		outputs, err := dependencies[Output](j)
		return nil, outputs, err
	}
	raw, err := dependencies[json.RawMessage](j)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) == 0 {
		return nil, nil, errors.New("spec: a base, but no dependency")
	}
	base := &plan.Base{}
	if err := json.Unmarshal(raw[0], base); err != nil || base.Record == "" {
		return nil, nil, fmt.Errorf("output of the base: %w", errors.Join(err, errors.New("it has no record")))
	}
	outputs := make([]Output, len(raw)-1)
	for i, r := range raw[1:] {
		if err := json.Unmarshal(r, &outputs[i]); err != nil {
			return nil, nil, fmt.Errorf("outputs of dependencies: %w", err)
		}
	}
	return base, outputs, nil
}

// rootfs reads what is known of a base.
func (j *job) rootfs(ctx context.Context, base *plan.Base) (*rootfs.Record, error) {
	raw, err := j.piece(ctx, base.Record, rootfs.MaxRecord)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	record, err := rootfs.DecodeRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	return record, nil
}

// overConfig writes the configuration of an image over a base, and puts the base's layers below ours.
func (j *job) overConfig(ctx context.Context, base *plan.Base, wanted oci.Config, platform oci.Platform, layers []oci.Layer) ([]byte, []oci.Layer, error) {
	raw, err := imagestore.ReadAll(ctx, j.Store, base.Config, remote.MaxConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of the base: %w", err)
	}
	var below []oci.Layer
	for _, l := range base.Layers {
		below = append(below, oci.Layer{Role: "base", Digest: l.Digest, Size: l.Size, DiffID: l.DiffID, MediaType: l.MediaType})
	}
	if n := len(below) + len(layers); n > plan.MaxLayers {
		return nil, nil, fmt.Errorf("the image would have %d layers, %d of them the base's: container engines take at most %d", n, len(below), plan.MaxLayers)
	}
	config, err := oci.NewConfigOver(raw, wanted, platform, below, layers)
	return config, append(below, layers...), err
}

// inherited is a recipe's configuration with that of the base where it says nothing.
func (j *job) inherited(ctx context.Context, base *plan.Base, c recipe.Config) (recipe.Config, error) {
	raw, err := imagestore.ReadAll(ctx, j.Store, base.Config, remote.MaxConfig)
	if err != nil {
		return c, fmt.Errorf("configuration of the base: %w", err)
	}
	is, err := oci.Inherit(raw, oci.Config{Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
		Ports: c.Ports, Volumes: c.Volumes, Labels: c.Labels, StopSignal: c.StopSignal})
	if err != nil {
		return c, fmt.Errorf("base: %w", err)
	}
	c.Entrypoint, c.Cmd, c.User, c.WorkingDir, c.StopSignal = is.Entrypoint, is.Cmd, is.User, is.WorkingDir, is.StopSignal
	c.Env = map[string]string{}
	for _, e := range is.Env {
		name, value, _ := strings.Cut(e, "=")
		c.Env[name] = value
	}
	return c, nil
}

// basePackages reads the list of a base's packages.
func (j *job) basePackages(ctx context.Context, base *plan.Base) ([]recipe.BasePackage, error) {
	raw, err := j.piece(ctx, base.Packages, maxSpec)
	if err != nil {
		return nil, fmt.Errorf("packages of the base: %w", err)
	}
	var list []recipe.BasePackage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("packages of the base: %w", err)
	}
	return list, nil
}
