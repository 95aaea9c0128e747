package remotetest

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"math/rand/v2"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Image is an image of the store.
type Image struct {
	Digest digest.Digest // of the manifest
	Raw    []byte        // the manifest
	Layer  digest.Digest
	Size   int64 // of the layer, compressed
}

// PutImage stores an image of one layer with a file of n bytes that nothing compresses, made from the seed: a composite
// of two gzip members, as the farm makes them.
func PutImage(t testing.TB, store imagestore.Store, seed uint64, n int) Image {
	t.Helper()
	file := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(seed)}).Read(file)
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	must(t, w.WriteHeader(&tar.Header{Name: "data", Mode: 0o644, Size: int64(n), Format: tar.FormatUSTAR}))
	_, err := w.Write(file)
	must(t, err)
	must(t, w.Flush())
	members := [][]byte{member(t, archive.Bytes()), member(t, make([]byte, 1024))}

	ctx, writer := t.Context(), store.Begin()
	blob := imagestore.Blob{Digest: digest.FromBytes(bytes.Join(members, nil))}
	for _, m := range members {
		part, err := writer.Put(ctx, m)
		must(t, err)
		blob.Parts, blob.Size = append(blob.Parts, part), blob.Size+part.Size
	}
	must(t, writer.Compose(ctx, blob))

	plain := digest.FromBytes(append(archive.Bytes(), make([]byte, 1024)...))
	config := encode(t, v1.Image{Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{plain}}})
	part, err := writer.Put(ctx, config)
	must(t, err)
	image := Image{Layer: blob.Digest, Size: blob.Size, Raw: encode(t, v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: part.Digest, Size: part.Size},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayerGzip, Digest: blob.Digest, Size: blob.Size}},
	})}
	part, err = writer.Put(ctx, image.Raw)
	must(t, err)
	must(t, writer.Commit(ctx))
	image.Digest = part.Digest
	return image
}

// PutIndex stores an index over images, as if each were of another platform.
func PutIndex(t testing.TB, store imagestore.Store, images ...Image) Image {
	t.Helper()
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex}
	for i, image := range images {
		index.Manifests = append(index.Manifests, v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: image.Digest, Size: int64(len(image.Raw)),
			Platform: &v1.Platform{OS: "linux", Architecture: []string{"amd64", "arm64", "riscv64"}[i]}})
	}
	raw := encode(t, index)
	writer := store.Begin()
	part, err := writer.Put(t.Context(), raw)
	must(t, err)
	must(t, writer.Commit(t.Context()))
	return Image{Digest: part.Digest, Raw: raw}
}

func member(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(data)
	must(t, err)
	must(t, z.Close())
	return b.Bytes()
}

func encode(t testing.TB, v any) []byte {
	raw, err := json.Marshal(v)
	must(t, err)
	return raw
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
