package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the size limit of a manifest, in bytes: the one that registries and clients have agreed on (OCI
// distribution specification, "Pushing Manifests").
const MaxManifest = 4 << 20

// Docker's names for what OCI calls an image manifest and an image index; the shapes are the same.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerList     = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// Held is what a Writer may offer beside its interface: whether something was put or composed by it already, and its
// size. PutManifest asks for it, so that an image's configuration and manifest can go in one commit.
type Held interface {
	Held(d digest.Digest) (size int64, ok bool)
}

// manifest is the part of an image manifest or index (OCI image specification) that refers to something.
type manifest struct {
	SchemaVersion int             `json:"schemaVersion"`
	MediaType     string          `json:"mediaType"`
	Config        *v1.Descriptor  `json:"config"`
	Layers        []v1.Descriptor `json:"layers"`
	Manifests     []v1.Descriptor `json:"manifests"`
}

// PutManifest puts a manifest or index into the store and names it. It is refused when it is not what mediaType says, or
// when something that it refers to is neither in the store nor held by w. (A subject may be missing: the OCI image
// specification allows it.)
func PutManifest(ctx context.Context, r Reader, w Writer, mediaType string, raw []byte) (digest.Digest, error) {
	refs, err := ManifestRefs(mediaType, raw)
	if err != nil {
		return "", err
	}
	held, _ := w.(Held)
	for _, ref := range refs {
		if held != nil {
			if size, ok := held.Held(ref.Digest); ok && size == ref.Size {
				continue
			}
		}
		blob, err := r.Stat(ctx, ref.Digest)
		if errors.Is(err, ErrNotFound) {
			return "", fmt.Errorf("manifest refers to %s (%s): %w: put it first", ref.Digest, ref.MediaType, ErrNotFound)
		}
		if err != nil {
			return "", fmt.Errorf("manifest refers to %s: %w", ref.Digest, err)
		}
		if blob.Size != ref.Size {
			return "", fmt.Errorf("manifest says that %s has %d bytes: it has %d", ref.Digest, ref.Size, blob.Size)
		}
	}
	part, err := w.Put(ctx, raw)
	if err != nil {
		return "", fmt.Errorf("put manifest: %w", err)
	}
	return part.Digest, nil
}

// ManifestRefs checks the form of a manifest or index and lists what it refers to: configuration and layers, or
// manifests.
func ManifestRefs(mediaType string, raw []byte) ([]v1.Descriptor, error) {
	if len(raw) > MaxManifest {
		return nil, fmt.Errorf("manifest of %d bytes: at most %d", len(raw), MaxManifest)
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if m.SchemaVersion != 2 {
		return nil, fmt.Errorf("manifest: schemaVersion %d: want 2", m.SchemaVersion)
	}
	if m.MediaType != "" && m.MediaType != mediaType {
		return nil, fmt.Errorf("manifest: mediaType %q, but it was sent as %q", m.MediaType, mediaType)
	}
	var refs []v1.Descriptor
	switch mediaType {
	case v1.MediaTypeImageManifest, dockerManifest:
		if m.Config == nil || m.Manifests != nil {
			return nil, fmt.Errorf("manifest: an image manifest has config and layers, and no manifests")
		}
		refs = append([]v1.Descriptor{*m.Config}, m.Layers...)
	case v1.MediaTypeImageIndex, dockerList:
		if m.Config != nil || m.Layers != nil {
			return nil, fmt.Errorf("manifest: an index has manifests, and no config or layers")
		}
		refs = m.Manifests
	default:
		return nil, fmt.Errorf("manifest: media type %q: want %s or %s", mediaType, v1.MediaTypeImageManifest, v1.MediaTypeImageIndex)
	}
	for i, ref := range refs {
		if _, err := ParseDigest(ref.Digest); err != nil {
			return nil, fmt.Errorf("manifest: descriptor %d: %w", i, err)
		}
		if ref.Size < 0 {
			return nil, fmt.Errorf("manifest: descriptor %d: size %d", i, ref.Size)
		}
	}
	return refs, nil
}
