package oci

import (
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Media types of a disk as an OCI artifact: a configuration, and runs of the raw disk as layers, in order, whose
// concatenation is the disk. Behind them may stand what starts it without firmware.
const (
	MediaTypeDisk       = "application/vnd.bakefarm.disk.v1" // artifact type
	MediaTypeDiskConfig = "application/vnd.bakefarm.disk.config.v1+json"
	MediaTypeDiskLayer  = "application/vnd.bakefarm.disk.layer.v1.raw"
	MediaTypeKernel     = "application/vnd.bakefarm.disk.kernel.v1"
	MediaTypeInitrd     = "application/vnd.bakefarm.disk.initrd.v1"
)

// DiskConfig is the configuration of a disk.
type DiskConfig struct {
	OS           string `json:"os"`
	Architecture string `json:"architecture"`
	Variant      string `json:"variant,omitempty"`
	Size         int64  `json:"size"`      // of the raw disk, in bytes
	LayerSize    int64  `json:"layerSize"` // of all layers but the last
	Boot         string `json:"boot"`      // "uefi", "direct"
	Filesystem   string `json:"filesystem"`
	Kernel       string `json:"kernel"` // its version
	Cmdline      string `json:"cmdline"`
	Initrd       string `json:"initrd,omitempty"` // whose it is: "distribution"; empty: bakefarm's own
}

// NewDiskConfig writes the configuration of a disk.
func NewDiskConfig(d DiskConfig) ([]byte, error) {
	if d.Size <= 0 || d.LayerSize <= 0 {
		return nil, errors.New("disk configuration: want a size and a layer size")
	}
	return encode("disk configuration", d)
}

// Blob is a blob that a disk's manifest refers to.
type Blob struct {
	MediaType string
	Digest    digest.Digest
	Size      int64
}

// NewDiskManifest writes the manifest of a disk over a configuration from NewDiskConfig. Layers may occur more than once:
// runs of zeros do.
func NewDiskManifest(config []byte, layers []Blob) ([]byte, error) {
	m := v1.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    v1.MediaTypeImageManifest,
		ArtifactType: MediaTypeDisk,
		Config:       v1.Descriptor{MediaType: MediaTypeDiskConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers:       []v1.Descriptor{},
	}
	for i, l := range layers {
		if err := l.Digest.Validate(); err != nil || l.Size <= 0 {
			return nil, fmt.Errorf("disk manifest: layer %d: digest %q of %d bytes", i, l.Digest, l.Size)
		}
		m.Layers = append(m.Layers, v1.Descriptor{MediaType: l.MediaType, Digest: l.Digest, Size: l.Size})
	}
	return encode("disk manifest", m)
}
