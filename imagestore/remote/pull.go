package remote

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"bakefarm/imagestore"

	"github.com/containers/image/v5/docker"
	"github.com/containers/image/v5/docker/archive"
	"github.com/containers/image/v5/docker/reference"
	"github.com/containers/image/v5/manifest"
	"github.com/containers/image/v5/oci/layout"
	"github.com/containers/image/v5/pkg/blobinfocache/none"
	"github.com/containers/image/v5/types"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Bounds of what is read of somebody else's image.
const (
	MaxLayers = 125     // more than the storage drivers of container engines take
	MaxConfig = 8 << 20 // bytes, of an image configuration
)

// Error is that of a Client: what it was about, and whether trying again makes sense.
type Error struct {
	Ref       string
	Temporary bool
	Err       error
}

func (e *Error) Error() string { return e.Ref + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Client reads images that others have made. The zero value reads with what podman and docker know of registries.
type Client struct{ Options }

// Found is what a reference names.
type Found struct {
	Digest    digest.Digest            // of the manifest or index
	Platforms map[string]digest.Digest // "linux/amd64" → manifest
}

// Place is where an image is: exactly one of Reference, Layout and Archive is set.
type Place struct {
	Reference string        // of a registry
	Manifest  digest.Digest // with Reference: the image; its platform is not asked for

	Layout  string // directory of an OCI image layout
	Archive string // file that docker save wrote
	Name    string // tag or reference inside; empty: the only one

	Platform string // "linux/amd64"
}

// Layer is a layer as its image's manifest describes it.
type Layer struct {
	Digest digest.Digest // of the bytes that Open reads
	Size   int64         // of these; -1: not known
	DiffID digest.Digest // of the uncompressed tar
}

// Image is an image of others. Close it.
type Image struct {
	Manifest []byte // empty for an archive
	Config   []byte
	Layers   []Layer // the lowest first

	ref    string
	source types.ImageSource
	infos  []types.BlobInfo
}

// fail wraps an error of the client's.
func fail(ref string, err error) error {
	if err == nil {
		return nil
	}
	var known *Error
	if errors.As(err, &known) {
		return err
	}
	return &Error{Ref: ref, Temporary: !Final(err) && !errors.Is(err, errImage), Err: withoutQuery(err)}
}

// errImage: the image is not of a kind that can be read.
var errImage = errors.New("can't be a base")

// Look asks a registry what a reference names now.
func (c Client) Look(ctx context.Context, ref string) (found Found, err error) {
	defer func() { err = fail(ref, err) }()
	named, at, err := parse(ref)
	if err != nil {
		return found, err
	}
	source, err := at.NewImageSource(ctx, c.system(reference.Domain(named)))
	if err != nil {
		return found, err
	}
	defer source.Close()
	raw, mediaType, err := source.GetManifest(ctx, nil)
	if err != nil {
		return found, err
	}
	if pinned, ok := named.(reference.Canonical); ok && digest.FromBytes(raw) != pinned.Digest() {
		return found, fmt.Errorf("the registry has sent other bytes for %s: %w", pinned.Digest(), imagestore.ErrCorrupt)
	}
	found = Found{Digest: digest.FromBytes(raw)}
	if manifest.MIMETypeIsMultiImage(mediaType) {
		found.Platforms, err = platforms(raw, mediaType)
		return found, err
	}
	image := &Image{ref: ref, source: source}
	if err := image.read(ctx, raw, mediaType); err != nil {
		return found, err
	}
	platform, err := image.platform()
	found.Platforms = map[string]digest.Digest{platform: found.Digest}
	return found, err
}

// parse reads a registry's reference, as docker does: without a registry it is Docker Hub's, without a tag "latest".
func parse(ref string) (reference.Named, types.ImageReference, error) {
	named, err := reference.ParseNormalizedNamed(ref)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errReference, err)
	}
	if pinned, ok := named.(reference.Canonical); ok { // the library wants a tag or a digest, not both
		if named, err = reference.WithDigest(reference.TrimNamed(named), pinned.Digest()); err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errReference, err)
		}
	}
	named = reference.TagNameOnly(named)
	at, err := docker.NewReference(named)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errReference, err)
	}
	return named, at, nil
}

// platforms lists the Linux images of an index, the first of each platform.
func platforms(raw []byte, mediaType string) (map[string]digest.Digest, error) {
	list, err := manifest.ListFromBlob(raw, mediaType)
	if err != nil {
		return nil, fmt.Errorf("index: %w", err)
	}
	found := map[string]digest.Digest{}
	for _, d := range list.Instances() {
		entry, err := list.Instance(d)
		if err != nil {
			return nil, fmt.Errorf("index: %s: %w", d, err)
		}
		p := entry.ReadOnly.Platform
		if p == nil || p.OS != "linux" || manifest.MIMETypeIsMultiImage(entry.MediaType) {
			continue // notes of builders are "unknown/unknown"
		}
		name := platformName(p.OS, p.Architecture, p.Variant)
		if _, ok := found[name]; !ok {
			found[name] = d
		}
	}
	return found, nil
}

// platformName is a platform as recipes write it: arm64 has one variant.
func platformName(system, arch, variant string) string {
	name := system + "/" + arch
	if variant != "" && arch != "arm64" && arch != "amd64" {
		name += "/" + variant
	}
	return name
}

// Open opens an image. Its manifest and configuration have been read and verified; its layers are read with Layer.
func (c Client) Open(ctx context.Context, at Place) (image *Image, err error) {
	ref := at.Reference
	if ref == "" {
		ref = at.Name
	}
	defer func() { err = fail(ref, err) }()
	from, system, err := c.locate(at)
	if err != nil {
		return nil, err
	}
	source, err := from.NewImageSource(ctx, system)
	if err != nil {
		return nil, inside(at, err)
	}
	image = &Image{ref: ref, source: source}
	if err := image.open(ctx, at); err != nil {
		source.Close()
		return nil, err
	}
	return image, nil
}

// locate translates a place for the library.
func (c Client) locate(at Place) (types.ImageReference, *types.SystemContext, error) {
	switch {
	case at.Layout != "":
		from, err := layoutReference(at)
		return from, c.system(""), err
	case at.Archive != "":
		if strings.HasPrefix(at.Name, "@") || at.Name == "" {
			from, err := archive.ParseReference(strings.TrimSuffix(at.Archive+":"+at.Name, ":"))
			return from, c.system(""), err
		}
		named, err := reference.ParseNormalizedNamed(at.Name)
		if err != nil {
			return nil, nil, fmt.Errorf("%w: %w", errReference, err)
		}
		tagged, ok := reference.TagNameOnly(named).(reference.NamedTagged)
		if !ok {
			return nil, nil, fmt.Errorf("%w: want a name and a tag", errReference)
		}
		from, err := archive.NewReference(at.Archive, tagged)
		return from, c.system(""), err
	}
	named, _, err := parse(at.Reference)
	if err != nil {
		return nil, nil, err
	}
	pinned, err := reference.WithDigest(reference.TrimNamed(named), at.Manifest)
	if err != nil {
		return nil, nil, fmt.Errorf("%w: %w", errReference, err)
	}
	from, err := docker.NewReference(pinned)
	return from, c.system(reference.Domain(named)), err
}

// layoutReference finds the image of a layout: the one of the tag, the only one, or the one for the platform.
func layoutReference(at Place) (types.ImageReference, error) {
	if at.Name != "" {
		return layout.NewReference(at.Layout, at.Name)
	}
	raw, err := os.ReadFile(filepath.Join(at.Layout, "index.json"))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errImage, err)
	}
	var index v1.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return nil, fmt.Errorf("%w: index.json: %w", errImage, err)
	}
	if len(index.Manifests) == 1 {
		return layout.NewReference(at.Layout, "")
	}
	var names []string
	for i, m := range index.Manifests {
		if m.Platform != nil && platformName(m.Platform.OS, m.Platform.Architecture, m.Platform.Variant) == at.Platform {
			return layout.NewIndexReference(at.Layout, i)
		}
		if name := m.Annotations[v1.AnnotationRefName]; name != "" {
			names = append(names, name)
		}
	}
	if len(index.Manifests) == 0 {
		return nil, fmt.Errorf("%w: the layout has no image", errImage)
	}
	return nil, fmt.Errorf("%w: the layout has %d images: name a tag: %s", errImage, len(index.Manifests), strings.Join(names, ", "))
}

// inside makes an error of the library about a file's contents one that stays.
func inside(at Place, err error) error {
	if at.Reference == "" {
		return fmt.Errorf("%w: %w", errImage, err)
	}
	return err
}

// open reads the manifest of the platform, and the configuration.
func (i *Image) open(ctx context.Context, at Place) error {
	raw, mediaType, err := i.source.GetManifest(ctx, nil)
	if err != nil {
		return inside(at, err)
	}
	if manifest.MIMETypeIsMultiImage(mediaType) {
		found, err := platforms(raw, mediaType)
		if err != nil {
			return fmt.Errorf("%w: %w", errImage, err)
		}
		d, ok := found[at.Platform]
		if !ok {
			return fmt.Errorf("%w: it has no image for %s: it has %s", errImage, at.Platform, strings.Join(slices.Sorted(maps.Keys(found)), ", "))
		}
		if raw, mediaType, err = i.source.GetManifest(ctx, &d); err != nil {
			return inside(at, err)
		}
		if got := digest.FromBytes(raw); got != d {
			return fmt.Errorf("%w: the manifest for %s has the digest %s, not %s: %w", errImage, at.Platform, got, d, imagestore.ErrCorrupt)
		}
	}
	if at.Manifest != "" && digest.FromBytes(raw) != at.Manifest {
		return fmt.Errorf("the registry has sent other bytes for %s: %w", at.Manifest, imagestore.ErrCorrupt)
	}
	if err := i.read(ctx, raw, mediaType); err != nil {
		return err
	}
	if at.Archive == "" {
		i.Manifest = raw
	}
	is, err := i.platform()
	if err == nil && is != at.Platform {
		err = fmt.Errorf("%w: it has no image for %s: it is for %s alone", errImage, at.Platform, is)
	}
	return err
}

// read takes in a manifest, and fetches its configuration.
func (i *Image) read(ctx context.Context, raw []byte, mediaType string) error {
	switch manifest.NormalizedMIMEType(mediaType) {
	case v1.MediaTypeImageManifest, manifest.DockerV2Schema2MediaType:
	case manifest.DockerV2Schema1MediaType, manifest.DockerV2Schema1SignedMediaType:
		return fmt.Errorf("%w: it is in Docker's first format, which is gone: push it anew with a tool of this decade", errImage)
	default:
		return fmt.Errorf("%w: its manifest has the media type %.100q", errImage, mediaType)
	}
	m, err := manifest.FromBlob(raw, mediaType)
	if err != nil {
		return fmt.Errorf("%w: manifest: %w", errImage, err)
	}
	switch config := m.ConfigInfo(); config.MediaType {
	case v1.MediaTypeImageConfig, manifest.DockerV2Schema2ConfigMediaType:
	default:
		return fmt.Errorf("%w: it is no image but an artifact (its configuration is %.100q)", errImage, config.MediaType)
	}
	layers := m.LayerInfos()
	if len(layers) > MaxLayers {
		return fmt.Errorf("%w: it has %d layers: at most %d are allowed", errImage, len(layers), MaxLayers)
	}
	if i.Config, err = i.blob(ctx, m.ConfigInfo(), MaxConfig); err != nil {
		return fmt.Errorf("configuration: %w", err)
	}
	var config v1.Image
	if err := json.Unmarshal(i.Config, &config); err != nil {
		return fmt.Errorf("%w: configuration: %w", errImage, err)
	}
	if len(config.RootFS.DiffIDs) != len(layers) {
		return fmt.Errorf("%w: its configuration has %d layers, its manifest %d", errImage, len(config.RootFS.DiffIDs), len(layers))
	}
	for n, l := range layers {
		_, errDigest := imagestore.ParseDigest(l.Digest)
		_, errDiff := imagestore.ParseDigest(config.RootFS.DiffIDs[n])
		switch {
		case errors.Join(errDigest, errDiff) != nil:
			return fmt.Errorf("%w: layer %d: %w", errImage, n, errors.Join(errDigest, errDiff))
		case len(l.URLs) > 0 || strings.Contains(l.MediaType, "nondistributable") || strings.Contains(l.MediaType, "foreign"):
			return fmt.Errorf("%w: layer %d (%s) is not to be distributed (%s): its owner has it elsewhere", errImage, n, l.Digest, l.MediaType)
		case strings.Contains(l.MediaType, "encrypted"):
			return fmt.Errorf("%w: layer %d (%s) is encrypted", errImage, n, l.Digest)
		case !strings.Contains(l.MediaType, ".tar"):
			return fmt.Errorf("%w: layer %d (%s) has the media type %.100q", errImage, n, l.Digest, l.MediaType)
		}
		i.Layers = append(i.Layers, Layer{Digest: l.Digest, Size: l.Size, DiffID: config.RootFS.DiffIDs[n]})
		i.infos = append(i.infos, l.BlobInfo)
	}
	return nil
}

// platform says what the image's configuration is for.
func (i *Image) platform() (string, error) {
	var p v1.Platform
	if err := json.Unmarshal(i.Config, &p); err != nil || p.OS == "" || p.Architecture == "" {
		return "", fmt.Errorf("%w: its configuration names no platform", errImage)
	}
	return platformName(p.OS, p.Architecture, p.Variant), nil
}

// blob reads a blob of at most limit bytes and verifies it.
func (i *Image) blob(ctx context.Context, info types.BlobInfo, limit int64) ([]byte, error) {
	if _, err := imagestore.ParseDigest(info.Digest); err != nil {
		return nil, fmt.Errorf("%w: %w", errImage, err)
	}
	if info.Size > limit {
		return nil, fmt.Errorf("%w: it has %d bytes, at most %d are allowed", errImage, info.Size, limit)
	}
	r, _, err := i.source.GetBlob(ctx, info, none.NoCache)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%w: it has more than %d bytes", errImage, limit)
	}
	if got := digest.FromBytes(data); got != info.Digest {
		return nil, fmt.Errorf("%w: it has the digest %s, not %s: %w", errImage, got, info.Digest, imagestore.ErrCorrupt)
	}
	return data, nil
}

// Layer reads the n-th layer's bytes, which the caller verifies against its Digest and Size.
func (i *Image) Layer(ctx context.Context, n int) (io.ReadCloser, error) {
	r, _, err := i.source.GetBlob(ctx, i.infos[n], none.NoCache)
	if err != nil {
		return nil, fail(i.ref, fmt.Errorf("layer %s: %w", i.Layers[n].Digest, err))
	}
	return &layerReader{r, i.ref}, nil
}

// layerReader says of an error what it is about.
type layerReader struct {
	io.ReadCloser
	ref string
}

func (r *layerReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = fail(r.ref, err)
	}
	return n, err
}

// Close gives back what the image was read with.
func (i *Image) Close() error { return i.source.Close() }
