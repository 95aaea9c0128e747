// Package apitest is a farm without workers for the tests of the API: an embedded bus, a store over the embedded S3 server,
// a catalog that follows both, and images put there without baking.
package apitest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Farm is what an API stands on.
type Farm struct {
	Bus     *bus.Bus
	Store   *s3store.Store
	Catalog *catalog.Catalog
	Log     *slog.Logger
}

// New makes a farm that lasts until the end of the test.
func New(t testing.TB) *Farm {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	f := &Farm{Log: Log()}
	var err error
	f.Bus, err = bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Log: f.Log})
	must(err)
	t.Cleanup(func() {
		if err := f.Bus.Close(); err != nil {
			t.Errorf("close the bus: %v", err)
		}
	})
	s3, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret", NoSync: true})
	must(err)
	t.Cleanup(func() { s3.Close() })
	client, bucket, prefix, err := s3store.Dial("http://key:secret@127.0.0.1:1/images", s3.Transport())
	must(err)
	f.Catalog, err = catalog.Open("", f.Bus.Ledger(), &catalog.Feeds{
		Versions: f.Bus.Versions, Channels: f.Bus.Channels, Usage: f.Bus.Usage, Deployments: f.Bus.Deployments,
	}, f.Log)
	must(err)
	f.Store, err = s3store.Open(t.Context(), s3store.Config{
		Client: client, Bucket: bucket, Prefix: prefix, Ledger: f.Bus.Ledger(), Locator: f.Catalog, Writer: "test", Log: f.Log,
	})
	must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f.Catalog.Run(ctx, f.Store.ReadIndex, catalog.ReadLocks(f.Store)) }()
	t.Cleanup(func() {
		f.Store.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("catalog: %v", err)
		}
		f.Catalog.Close()
	})
	return f
}

// Log is a log that is silent unless BAKEFARM_TEST_LOG is set.
func Log() *slog.Logger {
	w := io.Discard
	if os.Getenv("BAKEFARM_TEST_LOG") != "" {
		w = os.Stderr
	}
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// Put stores pieces.
func (f *Farm) Put(t testing.TB, pieces ...[]byte) []digest.Digest {
	t.Helper()
	w := f.Store.Begin()
	var digests []digest.Digest
	for _, p := range pieces {
		part, err := w.Put(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		digests = append(digests, part.Digest)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return digests
}

// Blob stores a blob in parts of so many bytes each.
func (f *Farm) Blob(t testing.TB, content []byte, part int) v1.Descriptor {
	t.Helper()
	blob := imagestore.Blob{Digest: digest.FromBytes(content), Size: int64(len(content))}
	w := f.Store.Begin()
	for rest := content; len(rest) > 0; {
		n := min(part, len(rest))
		p, err := w.Put(t.Context(), rest[:n])
		if err != nil {
			t.Fatal(err)
		}
		blob.Parts, rest = append(blob.Parts, p), rest[n:]
	}
	if err := w.Compose(t.Context(), blob); err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v1.Descriptor{Digest: blob.Digest, Size: blob.Size}
}

// Layer is a layer as a registry has it.
type Layer struct {
	Compressed []byte // gzip
	DiffID     digest.Digest
}

// Image commits a version with one image of the given layers, as a bake would, and returns it.
func (f *Farm) Image(t testing.TB, name string, layers ...Layer) farm.Version {
	t.Helper()
	created := time.Unix(1, 0).UTC()
	config := v1.Image{
		Created: &created, Platform: v1.Platform{OS: "linux", Architecture: "amd64"},
		RootFS: v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{}},
		Config: v1.ImageConfig{Entrypoint: []string{"/hello"}, Labels: map[string]string{"nr": fmt.Sprint(rand.Int64())}},
	}
	manifest := v1.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest, Layers: []v1.Descriptor{}}
	for _, l := range layers {
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		d := f.Blob(t, l.Compressed, max(1, len(l.Compressed)/3))
		d.MediaType = v1.MediaTypeImageLayerGzip
		manifest.Layers = append(manifest.Layers, d)
	}
	rawConfig := encode(t, config)
	manifest.Config = v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: f.Put(t, rawConfig)[0], Size: int64(len(rawConfig))}
	image := farm.Image{
		Name: name, MediaType: v1.MediaTypeImageManifest, Kind: "oci", Platform: "linux/amd64", Format: "oci",
		Size: int64(len(rawConfig)), Blobs: []digest.Digest{manifest.Config.Digest},
	}
	for _, l := range manifest.Layers {
		image.Blobs, image.Size = append(image.Blobs, l.Digest), image.Size+l.Size
	}
	image.Digest = f.Put(t, encode(t, manifest))[0]
	return f.Version(t, name, image)
}

// Version commits a version with the given images.
func (f *Farm) Version(t testing.TB, name string, images ...farm.Image) farm.Version {
	t.Helper()
	key := digest.FromString(fmt.Sprint(name, images))
	v := farm.Version{
		Name: name, Version: farm.VersionOf(key), Key: key, Lock: key, Bake: "01TESTBAKE", Sequence: 1,
		Images: images, CreatedAt: time.Now().UTC(),
	}
	for i := range v.Images {
		v.Images[i].Name, v.Images[i].Ref = name, name+":"+v.Version
	}
	if _, err := f.Bus.Versions.Create(t.Context(), name+"@"+v.Version, v); err != nil {
		t.Fatal(err)
	}
	return v
}

// Channel points a channel to a version, as deploy would.
func (f *Farm) Channel(t testing.TB, name, channel, version string) farm.Channel {
	t.Helper()
	c, revision, err := f.Bus.Channels.Get(t.Context(), name+"@"+channel)
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		t.Fatal(err)
	}
	next := farm.Channel{Name: name, Channel: channel, Version: version, Move: c.Move + 1, Action: farm.ActionPromote, From: c.Version, By: "test", At: time.Now().UTC()}
	if _, err := f.Bus.Channels.Update(t.Context(), name+"@"+channel, next, revision); err != nil {
		t.Fatal(err)
	}
	if err := f.Bus.AppendMove(t.Context(), next.LastMove()); err != nil {
		t.Fatal(err)
	}
	return next
}

// Noise is bytes that look random and are the same for the same seed.
func Noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1] = byte(seed), byte(seed>>8)
	content := make([]byte, n)
	rand.NewChaCha8(key).Read(content) // never fails
	return content
}

func encode(t testing.TB, v any) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(v); err != nil {
		t.Fatal(err)
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}
