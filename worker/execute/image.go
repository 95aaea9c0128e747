package execute

import (
	"context"
	"fmt"
	"slices"

	"bakefarm/compose/oci"
	"bakefarm/imagestore"
	"bakefarm/plan"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// ociLayers are layers with the roles that they have in an image.
func ociLayers(made []plan.Layer, roles []string) []oci.Layer {
	layers := make([]oci.Layer, len(made))
	for i, l := range made {
		layers[i] = oci.Layer{Role: roles[i], Digest: l.Digest, Size: l.Size, DiffID: l.DiffID}
	}
	return layers
}

// image makes the configuration and the manifest over layers.
func image(ctx context.Context, j *job, spec plan.ImageSpec) (plan.ImageOutput, error) {
	base, made, err := overBase[plan.Layer](j, spec.Base)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if len(made) != len(spec.Roles) || len(made) == 0 && base == nil {
		return plan.ImageOutput{}, fmt.Errorf("%d layers for %d roles: want one each, and at least one", len(made), len(spec.Roles))
	}
	platform, err := oci.ParsePlatform(spec.Platform)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	layers := oci.WithContent(ociLayers(made, spec.Roles), base == nil)
	c := spec.Config
	wanted := oci.Config{
		Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
		Ports: c.Ports, Volumes: c.Volumes, Labels: c.Labels, StopSignal: c.StopSignal,
	}
	var config []byte
	if base != nil {
		config, layers, err = j.overConfig(ctx, base, wanted, platform, layers)
	} else {
		config, err = oci.NewConfig(wanted, platform, layers)
	}
	if err != nil {
		return plan.ImageOutput{}, err
	}
	manifest, err := oci.NewManifest(config, layers)
	if err != nil {
		return plan.ImageOutput{}, err
	}

	w := j.Store.Begin()
	if _, err := w.Put(ctx, config); err != nil {
		return plan.ImageOutput{}, err
	}
	d, err := imagestore.PutManifest(ctx, j.Store, w, v1.MediaTypeImageManifest, manifest)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if err := w.Commit(ctx); err != nil {
		return plan.ImageOutput{}, err
	}
	out := plan.ImageOutput{
		Manifest:  d,
		MediaType: v1.MediaTypeImageManifest,
		Size:      int64(len(manifest) + len(config)),
		Blobs:     []digest.Digest{digest.FromBytes(config)},
	}
	for _, l := range layers { // a base may have a layer twice
		if !slices.Contains(out.Blobs, l.Digest) {
			out.Size += l.Size
			out.Blobs = append(out.Blobs, l.Digest)
		}
	}
	j.say("%s: %d layers, %s", d, len(layers), size(out.Size))
	return out, nil
}
