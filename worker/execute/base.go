package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"bakefarm/compose/rootfs"
	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/plan"
	"bakefarm/recipe"

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
	basePiece    = 4 << 20  // of a layer that stays as it is
	zstdWindow   = 128 << 20
	maxContextIn = 64 << 30 // of a base's files in the context
)

// maxUnpacked is how many bytes all layers of a base unpack to at the most. Tests of bombs have less time.
var maxUnpacked int64 = 32 << 30

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
