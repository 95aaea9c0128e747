package execute

import (
	"context"
	"fmt"

	"bakefarm/compose/oci"
	"bakefarm/imagestore"
	"bakefarm/plan"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// index makes the index over the images of several platforms.
func index(ctx context.Context, j *job, spec plan.ImageIndexSpec) (plan.ImageOutput, error) {
	images, err := dependencies[plan.ImageOutput](j)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	if len(images) != len(spec.Platforms) || len(images) == 0 {
		return plan.ImageOutput{}, fmt.Errorf("%d images for %d platforms: want one each, and at least one", len(images), len(spec.Platforms))
	}
	out := plan.ImageOutput{MediaType: v1.MediaTypeImageIndex}
	manifests := make([]oci.Manifest, len(images))
	sizes := make(map[digest.Digest]int64) // of everything below the index: images share layers
	for i, image := range images {
		platform, err := oci.ParsePlatform(spec.Platforms[i])
		if err != nil {
			return plan.ImageOutput{}, err
		}
		raw, err := imagestore.ReadAll(ctx, j.Store, image.Manifest, imagestore.MaxManifest)
		if err != nil {
			return plan.ImageOutput{}, fmt.Errorf("manifest of %s: %w", platform, err)
		}
		refs, err := imagestore.ManifestRefs(image.MediaType, raw)
		if err != nil {
			return plan.ImageOutput{}, fmt.Errorf("manifest of %s: %w", platform, err)
		}
		manifests[i] = oci.Manifest{Platform: platform, Digest: image.Manifest, Size: int64(len(raw))}
		sizes[image.Manifest] = int64(len(raw))
		for _, ref := range refs {
			sizes[ref.Digest] = ref.Size
		}
		out.Blobs = append(out.Blobs, image.Manifest)
	}
	raw, err := oci.NewIndex(manifests)
	if err != nil {
		return plan.ImageOutput{}, err
	}
	w := j.Store.Begin()
	if out.Manifest, err = imagestore.PutManifest(ctx, j.Store, w, out.MediaType, raw); err != nil {
		return plan.ImageOutput{}, err
	}
	if err := w.Commit(ctx); err != nil {
		return plan.ImageOutput{}, err
	}
	out.Size = int64(len(raw))
	for _, n := range sizes {
		out.Size += n
	}
	j.say("%s: %d platforms, %s", out.Manifest, len(images), size(out.Size))
	return out, nil
}
