package oci

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
)

var layers = []Layer{
	{Role: "os", Digest: digest.FromString("os.gz"), Size: 1000, DiffID: digest.FromString("os")},
	{Role: "app", Digest: digest.FromString("app.gz"), Size: 10, DiffID: digest.FromString("app")},
}

func TestImage(t *testing.T) {
	c := Config{
		Entrypoint: []string{"/opt/hello", "-a<b&c>"}, Env: map[string]string{"PORT": "8080", "A": "x", "A1": "y", "PATH2": "z"},
		User: "1000", WorkingDir: "/opt", Ports: []string{"8080/tcp", "53/udp"}, Volumes: []string{"/data"},
		Labels: map[string]string{"b": "2", "a": "1"}, StopSignal: "SIGINT",
	}
	config, err := NewConfig(c, Platform{OS: "linux", Architecture: "amd64"}, layers)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"created":"1980-01-02T00:00:00Z","architecture":"amd64","os":"linux","config":{"User":"1000",` +
		`"ExposedPorts":{"53/udp":{},"8080/tcp":{}},"Env":["A=x","A1=y","PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin","PATH2=z","PORT=8080"],` +
		`"Entrypoint":["/opt/hello","-a<b&c>"],"Volumes":{"/data":{}},"WorkingDir":"/opt","Labels":{"a":"1","b":"2"},"StopSignal":"SIGINT"},` +
		`"rootfs":{"type":"layers","diff_ids":["sha256:OS","sha256:APP"]},` +
		`"history":[{"created":"1980-01-02T00:00:00Z","created_by":"bakefarm os"},{"created":"1980-01-02T00:00:00Z","created_by":"bakefarm app"}]}`
	if w := strings.NewReplacer("OS", layers[0].DiffID.Encoded(), "APP", layers[1].DiffID.Encoded()).Replace(want); string(config) != w {
		t.Errorf("configuration is\n%s\nwant\n%s", config, w)
	}
	manifest, err := NewManifest(config, layers)
	if err != nil {
		t.Fatal(err)
	}

	cf, err := v1.ParseConfigFile(bytes.NewReader(config))
	if err != nil {
		t.Fatal(err)
	}
	if len(cf.RootFS.DiffIDs) != 2 || cf.RootFS.DiffIDs[1].String() != layers[1].DiffID.String() || cf.Config.User != "1000" || len(cf.History) != 2 {
		t.Errorf("go-containerregistry reads %+v", cf)
	}
	m, err := v1.ParseManifest(bytes.NewReader(manifest))
	if err != nil {
		t.Fatal(err)
	}
	if m.SchemaVersion != 2 || m.MediaType != types.OCIManifestSchema1 || m.Config.MediaType != types.OCIConfigJSON ||
		m.Config.Digest.String() != digest.FromBytes(config).String() || m.Config.Size != int64(len(config)) {
		t.Errorf("go-containerregistry reads %+v", m)
	}
	for i, l := range m.Layers {
		if l.MediaType != types.OCILayer || l.Digest.String() != layers[i].Digest.String() || l.Size != layers[i].Size {
			t.Errorf("layer %d is %+v", i, l)
		}
	}
	if got, want := digest.FromBytes(manifest).Encoded()[:16], "93ea99bef15eb4e6"; got != want {
		t.Errorf("golden digest of the manifest is %s, want %s", got, want)
	}
	for range 20 { // maps have another order every time
		if again, err := NewConfig(c, Platform{OS: "linux", Architecture: "amd64"}, layers); err != nil || !bytes.Equal(again, config) {
			t.Fatalf("another configuration of the same input (%v)", err)
		}
	}
}

func TestEmptyImageHasArrays(t *testing.T) {
	config, err := NewConfig(Config{Env: map[string]string{"PATH": "/x"}}, Platform{OS: "linux", Architecture: "arm64", Variant: "v8"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(config, []byte(`"diff_ids":[]`)) || !bytes.Contains(config, []byte(`"Env":["PATH=/x"]`)) || !bytes.Contains(config, []byte(`"variant":"v8"`)) {
		t.Errorf("configuration is %s", config)
	}
	manifest, err := NewManifest(config, nil)
	if err != nil || !bytes.Contains(manifest, []byte(`"layers":[]`)) {
		t.Errorf("manifest is %s (%v)", manifest, err)
	}
}

func TestWithContent(t *testing.T) {
	empty, full := Layer{Role: "os", DiffID: digest.FromBytes(make([]byte, 1024))}, Layer{Role: "app", DiffID: digest.FromString("app")}
	for _, c := range []struct {
		layers []Layer
		alone  bool
		want   []Layer
	}{
		{[]Layer{empty, full, empty, empty}, true, []Layer{full}},
		{[]Layer{full, empty}, false, []Layer{full}},
		{[]Layer{empty, empty}, true, []Layer{empty}},
		{[]Layer{empty, empty}, false, nil},
		{nil, true, nil},
	} {
		if got := WithContent(c.layers, c.alone); !slices.Equal(got, c.want) {
			t.Errorf("%v, alone: %t: %v", c.layers, c.alone, got)
		}
	}
}

func TestIndex(t *testing.T) {
	amd64, err := ParsePlatform("linux/amd64")
	if err != nil {
		t.Fatal(err)
	}
	arm64, err := ParsePlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	if full, err := ParsePlatform("linux/arm64/v8"); full != arm64 || err != nil {
		t.Errorf("linux/arm64/v8 is %v, %v; linux/arm64 is %v", full, err, arm64)
	}
	manifests := []Manifest{{amd64, digest.FromString("amd64"), 500}, {arm64, digest.FromString("arm64"), 501}}
	index, err := NewIndex(manifests)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:AMD","size":500,"platform":{"architecture":"amd64","os":"linux"}},` +
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:ARM","size":501,"platform":{"architecture":"arm64","os":"linux","variant":"v8"}}]}`
	if w := strings.NewReplacer("AMD", manifests[0].Digest.Encoded(), "ARM", manifests[1].Digest.Encoded()).Replace(want); string(index) != w {
		t.Errorf("index is\n%s\nwant\n%s", index, w)
	}
	im, err := v1.ParseIndexManifest(bytes.NewReader(index))
	if err != nil {
		t.Fatal(err)
	}
	for i, m := range im.Manifests {
		if m.Digest.String() != manifests[i].Digest.String() || m.Platform.String() != manifests[i].Platform.String() {
			t.Errorf("go-containerregistry reads %+v", m)
		}
	}
	for name, spoil := range map[string]func(*Manifest){
		"no platform":  func(m *Manifest) { m.Platform = Platform{} },
		"amd64 twice":  func(m *Manifest) { m.Platform = amd64 },
		"no digest":    func(m *Manifest) { m.Digest = "" },
		"without size": func(m *Manifest) { m.Size = 0 },
	} {
		m := manifests[1]
		spoil(&m)
		if _, err := NewIndex([]Manifest{manifests[0], m}); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestRefuses(t *testing.T) {
	for name, spoil := range map[string]func(*Layer){
		"role":   func(l *Layer) { l.Role = "" },
		"digest": func(l *Layer) { l.Digest = "sha256:1" },
		"diffID": func(l *Layer) { l.DiffID = "" },
		"size":   func(l *Layer) { l.Size = 0 },
	} {
		l := layers[0]
		spoil(&l)
		if _, err := NewConfig(Config{}, Platform{OS: "linux", Architecture: "amd64"}, []Layer{l}); err == nil {
			t.Errorf("%s: accepted in a configuration", name)
		}
		if _, err := NewManifest([]byte("{}"), []Layer{l}); err == nil {
			t.Errorf("%s: accepted in a manifest", name)
		}
	}
	if _, err := NewConfig(Config{}, Platform{}, layers); err == nil {
		t.Error("no platform: accepted")
	}
	if _, err := NewConfig(Config{Labels: map[string]string{"a": strings.Repeat("x", MaxManifest)}}, Platform{OS: "linux", Architecture: "amd64"}, layers); err == nil {
		t.Error("a configuration of more than 4 MiB: accepted")
	}
	for _, s := range []string{"", "linux", "linux/", "/amd64", "a/b/c/d", "linux/arm64/"} {
		if _, err := ParsePlatform(s); err == nil {
			t.Errorf("platform %q: accepted", s)
		}
	}
}
