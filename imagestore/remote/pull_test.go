package remote_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/imagestore/remote/remotetest"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

// foreign is an image as other tools make them: one layer with a file.
func foreign(t *testing.T, arch, content string) v1.Image {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	if err := w.WriteHeader(&tar.Header{Name: "data", Typeflag: tar.TypeReg, Size: int64(len(content)), Mode: 0o644}); err != nil {
		t.Fatal(err)
	}
	io.WriteString(w, content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(buf.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	return platformed(t, appended(t, empty.Image, l), arch)
}

func appended(t *testing.T, image v1.Image, layers ...v1.Layer) v1.Image {
	t.Helper()
	image, err := mutate.AppendLayers(image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	return image
}

func platformed(t *testing.T, image v1.Image, arch string) v1.Image {
	t.Helper()
	config, err := image.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", arch
	if image, err = mutate.ConfigFile(image, config); err != nil {
		t.Fatal(err)
	}
	return image
}

func push(t *testing.T, target string, image v1.Image) digest.Digest {
	t.Helper()
	ref, err := name.ParseReference(target, name.Insecure)
	if err == nil {
		err = ggcr.Write(ref, image)
	}
	if err != nil {
		t.Fatal(err)
	}
	h, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.Digest(h.String())
}

// readAll opens an image and reads its layers, verified.
func readAll(t *testing.T, c remote.Client, at remote.Place) error {
	t.Helper()
	image, err := c.Open(t.Context(), at)
	if err != nil {
		return err
	}
	defer image.Close()
	for i, l := range image.Layers {
		r, err := image.Layer(t.Context(), i)
		if err != nil {
			return err
		}
		raw, err := io.ReadAll(r)
		r.Close()
		if err != nil {
			return err
		}
		if got := digest.FromBytes(raw); got != l.Digest || l.Size >= 0 && int64(len(raw)) != l.Size {
			return fmt.Errorf("layer %d is %s of %d bytes, want %s of %d: %w", i, got, len(raw), l.Digest, l.Size, imagestore.ErrCorrupt)
		}
	}
	if len(image.Layers) == 0 {
		return errors.New("no layers")
	}
	return nil
}

func TestPull(t *testing.T) {
	registry := remotetest.StartRegistry(t, "farm", "right")
	c := remote.Client{Options: remote.Options{AuthFile: authFile(t, registry.Address, "farm", "right")}}
	ref := registry.Address + "/team/base:1"
	withUser := func(o ...ggcr.Option) []ggcr.Option {
		return append(o, ggcr.WithAuth(&authn.Basic{Username: "farm", Password: "right"}))
	}
	parsed, err := name.ParseReference(ref, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	amd, arm := foreign(t, "amd64", "amd"), foreign(t, "arm64", "arm")
	index := mutate.AppendManifests(empty.Index,
		mutate.IndexAddendum{Add: amd, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}},
		mutate.IndexAddendum{Add: arm, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}}},
		mutate.IndexAddendum{Add: foreign(t, "amd64", "notes"), Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "unknown", Architecture: "unknown"}}})
	if err := ggcr.WriteIndex(parsed, index, withUser()...); err != nil {
		t.Fatal(err)
	}
	found, err := c.Look(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if h, _ := index.Digest(); found.Digest.String() != h.String() || len(found.Platforms) != 2 {
		t.Errorf("found %+v", found)
	}
	for platform, image := range map[string]v1.Image{"linux/amd64": amd, "linux/arm64": arm} {
		if h, _ := image.Digest(); found.Platforms[platform].String() != h.String() {
			t.Errorf("%s is %s, want %s", platform, found.Platforms[platform], h)
		}
		if err := readAll(t, c, remote.Place{Reference: ref, Manifest: found.Platforms[platform], Platform: platform}); err != nil {
			t.Errorf("%s: %v", platform, err)
		}
	}
	pinned := registry.Address + "/team/base:other@" + found.Platforms["linux/amd64"].String()
	if alone, err := c.Look(t.Context(), pinned); err != nil || len(alone.Platforms) != 1 || alone.Platforms["linux/amd64"] != alone.Digest {
		t.Errorf("a single image by digest: %+v: %v", alone, err)
	}
	err = readAll(t, c, remote.Place{Reference: ref, Manifest: found.Platforms["linux/arm64"], Platform: "linux/amd64"})
	if err == nil || !strings.Contains(err.Error(), "for linux/arm64 alone") {
		t.Errorf("another platform: %v", err)
	}
	temporary := func(err error) bool {
		var e *remote.Error
		return errors.As(err, &e) && e.Temporary
	}
	if _, err := c.Look(t.Context(), registry.Address+"/team/nobody:1"); err == nil || temporary(err) || !strings.Contains(err.Error(), "team/nobody:1") {
		t.Errorf("no such image: %v", err)
	}
	stranger := remote.Client{Options: remote.Options{AuthFile: noAuth(t)}}
	if _, err := stranger.Look(t.Context(), ref); err == nil || temporary(err) {
		t.Errorf("without credentials: %v", err)
	}
	registry.Stop()
	if _, err := c.Look(t.Context(), ref); err == nil || !temporary(err) {
		t.Errorf("a registry that is away: %v", err)
	}
}

func TestPullOfFiles(t *testing.T) {
	dir := t.TempDir()
	amd, arm := foreign(t, "amd64", "amd"), foreign(t, "arm64", "arm")
	p, err := layout.Write(dir, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for arch, image := range map[string]v1.Image{"amd64": amd, "arm64": arm} {
		if err := p.AppendImage(image, layout.WithPlatform(v1.Platform{OS: "linux", Architecture: arch}), layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": arch})); err != nil {
			t.Fatal(err)
		}
	}
	var c remote.Client
	for _, at := range []remote.Place{
		{Layout: dir, Platform: "linux/amd64"}, {Layout: dir, Platform: "linux/arm64"}, {Layout: dir, Name: "arm64", Platform: "linux/arm64"},
	} {
		if err := readAll(t, c, at); err != nil {
			t.Errorf("%+v: %v", at, err)
		}
	}
	for want, at := range map[string]remote.Place{
		"it is for linux/arm64 alone": {Layout: dir, Name: "arm64", Platform: "linux/amd64"},
		"name a tag":                  {Layout: dir, Platform: "linux/riscv64"},
		"no descriptor found":         {Layout: dir, Name: "other", Platform: "linux/amd64"},
	} {
		if err := readAll(t, c, at); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	file := filepath.Join(t.TempDir(), "base.tar")
	tag, err := name.NewTag("team/base:1")
	if err == nil {
		err = tarball.WriteToFile(file, tag, amd)
	}
	if err != nil {
		t.Fatal(err)
	}
	image, err := c.Open(t.Context(), remote.Place{Archive: file, Platform: "linux/amd64"})
	if err != nil {
		t.Fatal(err)
	}
	defer image.Close()
	if len(image.Layers) != 1 || image.Layers[0].Digest != image.Layers[0].DiffID {
		t.Errorf("an archive's layers are plain: %+v", image.Layers)
	}
	if _, err := c.Open(t.Context(), remote.Place{Archive: file, Name: "team/other:1", Platform: "linux/amd64"}); err == nil {
		t.Error("an archive has an image that is not in it")
	}
}

// What a real tool makes: layers compressed with zstd.
func TestPullOfSkopeosLayout(t *testing.T) {
	program, err := exec.LookPath("skopeo")
	if err != nil {
		t.Fatal("skopeo is not here: apt-get install --no-install-recommends skopeo")
	}
	registry := remotetest.StartRegistry(t, "", "")
	push(t, registry.Address+"/team/base:1", foreign(t, "amd64", strings.Repeat("zstd ", 1000)))
	dir := filepath.Join(t.TempDir(), "layout")
	out, err := exec.Command(program, "copy", "--insecure-policy", "--src-tls-verify=false", "--dest-compress", "--dest-compress-format", "zstd",
		"docker://"+registry.Address+"/team/base:1", "oci:"+dir+":1").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if err := readAll(t, remote.Client{}, remote.Place{Layout: dir, Name: "1", Platform: "linux/amd64"}); err != nil {
		t.Error(err)
	}
}

func TestHostileImages(t *testing.T) {
	registry := remotetest.StartRegistry(t, "", "")
	c := remote.Client{Options: remote.Options{AuthFile: noAuth(t)}}
	image := foreign(t, "amd64", "x")
	layer := static.NewLayer([]byte("layer"), types.DockerLayer)
	many := image
	for i := range remote.MaxLayers {
		many = appended(t, many, static.NewLayer(fmt.Appendf(nil, "layer %d", i), types.DockerLayer))
	}
	for n, test := range []struct {
		image v1.Image
		want  string
	}{
		{platformed(t, many, "amd64"), "layers: at most 125 are allowed"},
		{mutate.ConfigMediaType(mutate.MediaType(image, types.OCIManifestSchema1), "application/vnd.example.config"), "artifact"},
		{platformed(t, appended(t, empty.Image, layer), ""), "names no platform"},
	} {
		ref := fmt.Sprintf("%s/hostile/n%d:1", registry.Address, n)
		push(t, ref, test.image)
		_, err := c.Look(t.Context(), ref)
		var e *remote.Error
		if err == nil || !strings.Contains(err.Error(), test.want) || !errors.As(err, &e) || e.Temporary {
			t.Errorf("want %q: %v", test.want, err)
		}
	}

	// Layers that nobody may have, or can read.
	config, err := image.RawConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	for layer, want := range map[string]string{
		`"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"`:                      "not to be distributed",
		`"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "urls": ["http://elsewhere.example"]`: "not to be distributed",
		`"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"`:                             "is encrypted",
		`"mediaType": "application/vnd.example.layer"`:                                                     "media type",
	} {
		manifest := fmt.Sprintf(`{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": %q, "size": %d},
			"layers": [{%s, "digest": %q, "size": 1}]}`, digest.FromBytes(config), len(config), layer, digest.FromString("x"))
		address := front(t, registry.Address, false, func(w http.ResponseWriter, r *http.Request) bool {
			switch {
			case strings.Contains(r.URL.Path, "/manifests/"):
				w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
				io.WriteString(w, manifest)
			case strings.Contains(r.URL.Path, "/blobs/"):
				w.Write(config)
			default:
				return false
			}
			return true
		})
		if _, err := c.Look(t.Context(), address+"/team/base:1"); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}

	// A registry, or somebody on the way, that sends other bytes.
	d := push(t, registry.Address+"/team/base:1", image)
	for _, part := range []string{"/manifests/", "/blobs/"} {
		address := front(t, registry.Address, false, func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.Contains(r.URL.Path, part) || r.Method != http.MethodGet {
				return false
			}
			w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
			io.WriteString(w, `{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json"}`)
			return true
		})
		if err := readAll(t, c, remote.Place{Reference: address + "/team/base:1", Manifest: d, Platform: "linux/amd64"}); err == nil {
			t.Errorf("other bytes for %s are taken", part)
		}
	}
}
