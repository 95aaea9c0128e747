// Package oci writes the JSON documents of an OCI image, its configuration and its manifest, and the index over the images
// of several platforms, in one canonical form: equal input makes equal bytes. It follows the OCI image specification 1.1
// and is pure.
package oci

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"bakefarm/compose"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// MaxManifest is the size in bytes that every client takes; what is larger is refused here, not at the first pull.
const MaxManifest = 4 << 20

// DefaultPath is the PATH of images whose configuration sets none, as other builders set it.
const DefaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Config is what an image runs.
type Config struct {
	Entrypoint []string
	Cmd        []string
	Env        map[string]string
	User       string
	WorkingDir string
	Ports      []string // "8080/tcp"
	Volumes    []string // absolute paths
	Labels     map[string]string
	StopSignal string
}

// Platform is what an image runs on.
type Platform struct {
	OS           string // "linux"
	Architecture string // Go's names: "amd64"
	Variant      string // "v8", or empty
}

// ParsePlatform parses "linux/amd64" or "linux/arm/v7". "linux/arm64" is "linux/arm64/v8": there was no arm64 before v8,
// and the images that everybody builds upon say so in their indexes and configurations, for the clients that compare
// variants by their text.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	if len(parts) < 2 || len(parts) > 3 || slices.Contains(parts, "") {
		return Platform{}, fmt.Errorf("platform %q: want os/architecture, such as linux/amd64", s)
	}
	p := Platform{OS: parts[0], Architecture: parts[1]}
	if len(parts) == 3 {
		p.Variant = parts[2]
	}
	if p.Architecture == "arm64" && p.Variant == "" {
		p.Variant = "v8"
	}
	return p, nil
}

func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// Layer is a layer of an image, lowest first.
type Layer struct {
	Role   string        // "os", "app": for the history that people read
	Digest digest.Digest // of the compressed blob
	Size   int64         // of the blob, in bytes
	DiffID digest.Digest // of the uncompressed tar
	// MediaType is OCI's for the blob; empty: a tar compressed with gzip.
	MediaType string
}

// emptyTar is the DiffID of a layer that holds nothing: the two zero blocks that end a tar.
var emptyTar = digest.FromBytes(make([]byte, 1024))

// WithContent are the layers that hold something. Of an image that has nothing below them (alone) the first stays in any
// case: not every client takes an image without layers.
func WithContent(layers []Layer, alone bool) []Layer {
	var kept []Layer
	for _, l := range layers {
		if l.DiffID != emptyTar {
			kept = append(kept, l)
		}
	}
	if len(kept) == 0 && alone {
		return layers[:min(1, len(layers))]
	}
	return kept
}

// NewLayer is an assembled layer in its role.
func NewLayer(role string, l compose.Layer) Layer {
	return Layer{Role: role, Digest: l.Digest, Size: l.Size, DiffID: l.DiffID}
}

// created is the creation time in every image: the same constant as in its files. The time of the bake would make two
// bakes of the same inputs differ, and without one some tools show the year 1 or fail; when and from what an image was
// baked is said by its version record.
var created = time.Unix(compose.ModTime, 0).UTC()

// NewConfig writes the image configuration (application/vnd.oci.image.config.v1+json).
func NewConfig(c Config, p Platform, layers []Layer) ([]byte, error) {
	if p.OS == "" || p.Architecture == "" {
		return nil, errors.New("image configuration: want an operating system and an architecture")
	}
	image := v1.Image{
		Created:  &created,
		Platform: v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant},
		Config: v1.ImageConfig{
			User: c.User, Env: environment(c.Env), Entrypoint: c.Entrypoint, Cmd: c.Cmd, WorkingDir: c.WorkingDir,
			ExposedPorts: set(c.Ports), Volumes: set(c.Volumes), Labels: c.Labels, StopSignal: c.StopSignal,
		},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
	}
	for _, l := range layers {
		if err := l.validate(); err != nil {
			return nil, fmt.Errorf("image configuration: %w", err)
		}
		image.RootFS.DiffIDs = append(image.RootFS.DiffIDs, l.DiffID)
		image.History = append(image.History, v1.History{Created: &created, CreatedBy: "bakefarm " + l.Role})
	}
	return encode("image configuration", image)
}

// NewManifest writes the image manifest (application/vnd.oci.image.manifest.v1+json) over a configuration from
// NewConfig and the same layers.
func NewManifest(config []byte, layers []Layer) ([]byte, error) {
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:    []v1.Descriptor{}, // an array, never null: the specification's schema says so
	}
	for _, l := range layers {
		if err := l.validate(); err != nil {
			return nil, fmt.Errorf("manifest: %w", err)
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: cmp.Or(l.MediaType, v1.MediaTypeImageLayerGzip), Digest: l.Digest, Size: l.Size})
	}
	return encode("manifest", m)
}

// Manifest is an image's manifest in an index.
type Manifest struct {
	Platform Platform
	Digest   digest.Digest
	Size     int64 // of the manifest itself, in bytes
}

// NewIndex writes the image index (application/vnd.oci.image.index.v1+json) over manifests from NewManifest, in their
// order: where several fit, clients take the first.
func NewIndex(manifests []Manifest) ([]byte, error) {
	index := v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: []v1.Descriptor{},
	}
	seen := make(map[Platform]bool)
	for _, m := range manifests {
		p := m.Platform
		switch err := m.Digest.Validate(); {
		case p.OS == "" || p.Architecture == "":
			return nil, fmt.Errorf("index: %s: want an operating system and an architecture", m.Digest)
		case seen[p]:
			return nil, fmt.Errorf("index: %s is there twice", p)
		case err != nil:
			return nil, fmt.Errorf("index: %s: digest %q: %w", p, m.Digest, err)
		case m.Size <= 0:
			return nil, fmt.Errorf("index: %s: size is %d, want more than 0", p, m.Size)
		}
		seen[p] = true
		index.Manifests = append(index.Manifests, v1.Descriptor{
			MediaType: v1.MediaTypeImageManifest, Digest: m.Digest, Size: m.Size,
			Platform: &v1.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant},
		})
	}
	return encode("index", index)
}

func (l Layer) validate() error {
	if l.Role == "" || strings.ContainsAny(l.Role, "\n\x00") {
		return fmt.Errorf("layer %s: role %q: want a word such as os or app", l.Digest, l.Role)
	}
	if err := l.Digest.Validate(); err != nil {
		return fmt.Errorf("layer %s: digest %q: %w", l.Role, l.Digest, err)
	}
	if err := l.DiffID.Validate(); err != nil {
		return fmt.Errorf("layer %s: diffID %q: %w", l.Role, l.DiffID, err)
	}
	if l.Size <= 0 {
		return fmt.Errorf("layer %s: size is %d, want more than 0", l.Role, l.Size)
	}
	return nil
}

// environment is the list that the runtime gets, sorted by name, with a PATH in any case.
func environment(env map[string]string) []string {
	var list []string
	if _, ok := env["PATH"]; !ok {
		list = append(list, "PATH="+DefaultPath)
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	slices.SortFunc(list, func(a, b string) int {
		// By name alone: "=" sorts after digits, which would put A1 before A.
		nameA, _, _ := strings.Cut(a, "=")
		nameB, _, _ := strings.Cut(b, "=")
		return strings.Compare(nameA, nameB)
	})
	return list
}

// set is the specification's form of a set: an object of empty objects; absent when it has no members.
func set(members []string) map[string]struct{} {
	if len(members) == 0 {
		return nil
	}
	s := make(map[string]struct{}, len(members))
	for _, m := range members {
		s[m] = struct{}{}
	}
	return s
}

// encode writes JSON without blanks: struct fields in the specification's order, map keys sorted (encoding/json does),
// <, > and & as they are, so that other tools that write the same document canonically arrive at the same bytes.
func encode(what string, v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	data := bytes.TrimSuffix(buf.Bytes(), []byte("\n"))
	if len(data) > MaxManifest {
		return nil, fmt.Errorf("%s: has %d bytes, clients take %d", what, len(data), MaxManifest)
	}
	return data, nil
}
