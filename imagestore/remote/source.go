package remote

import (
	"context"
	"errors"
	"fmt"
	"io"

	"bakefarm/imagestore"

	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/image"
	"github.com/containers/image/v5/manifest"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"
)

var (
	errReadOnly   = errors.New("the farm's store is read only here") // it is written by workers alone
	errNoManifest = errors.New("is no image's manifest or index")
)

// source is an image of our store as containers/image sees one: reference and ImageSource in one, since neither has any
// state of its own.
type source struct {
	store    imagestore.Reader
	manifest digest.Digest
}

var (
	_ types.ImageReference = source{}
	_ types.ImageSource    = source{}
	_ types.ImageTransport = transport{}
)

// transport names the source in messages. It is not registered: no text refers to our store.
type transport struct{}

func (transport) Name() string { return "bakefarm" }

func (transport) ParseReference(ref string) (types.ImageReference, error) {
	return nil, fmt.Errorf("%q: the farm's images are not referred to by text", ref)
}

func (transport) ValidatePolicyConfigurationScope(string) error { return nil }

func (s source) Transport() types.ImageTransport         { return transport{} }
func (s source) StringWithinTransport() string           { return s.manifest.String() }
func (s source) DockerReference() reference.Named        { return nil }
func (s source) PolicyConfigurationIdentity() string     { return "" }
func (s source) PolicyConfigurationNamespaces() []string { return nil }
func (s source) Reference() types.ImageReference         { return s }
func (s source) Close() error                            { return nil }
func (s source) HasThreadSafeGetBlob() bool              { return true }

func (s source) NewImage(ctx context.Context, sys *types.SystemContext) (types.ImageCloser, error) {
	return image.FromSource(ctx, sys, s)
}

func (s source) NewImageSource(context.Context, *types.SystemContext) (types.ImageSource, error) {
	return s, nil
}

func (s source) NewImageDestination(context.Context, *types.SystemContext) (types.ImageDestination, error) {
	return nil, errReadOnly
}

func (s source) DeleteImage(context.Context, *types.SystemContext) error { return errReadOnly }

// GetManifest returns the image's manifest, or that of one of its index's entries, with the media type that it carries.
func (s source) GetManifest(ctx context.Context, instance *digest.Digest) ([]byte, string, error) {
	d := s.manifest
	if instance != nil {
		d = *instance
	}
	raw, err := imagestore.ReadAll(ctx, s.store, d, imagestore.MaxManifest)
	if err != nil {
		return nil, "", err
	}
	mediaType := manifest.GuessMIMEType(raw) // the one that it carries: the image specification lets old ones leave it out
	if mediaType == "" {
		return nil, "", fmt.Errorf("%s %w", d, errNoManifest)
	}
	return raw, mediaType, nil
}

// GetBlob streams a blob out of the store, every piece verified.
func (s source) GetBlob(ctx context.Context, info types.BlobInfo, _ types.BlobInfoCache) (io.ReadCloser, int64, error) {
	blob, err := s.store.Stat(ctx, info.Digest)
	if err != nil {
		return nil, 0, err
	}
	r, err := s.store.Open(ctx, info.Digest, 0, -1)
	return r, blob.Size, err
}

func (s source) GetSignatures(context.Context, *digest.Digest) ([][]byte, error) { return nil, nil }

func (s source) LayerInfosForCopy(context.Context, *digest.Digest) ([]types.BlobInfo, error) {
	return nil, nil // the manifest's own
}
