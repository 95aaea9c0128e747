package storetest

import (
	"encoding/json"
	"errors"
	"testing"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func testManifest(t *testing.T, st Storage) {
	s := st.Open(t)
	layer, layerContent := composite(t, s, 1, 5, 1000)
	w := s.Begin()
	config := []byte(`{"architecture":"amd64"}`)
	put(t, w, config)
	m := v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageManifest,
		Config: v1.Descriptor{MediaType: v1.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))},
		Layers: []v1.Descriptor{{MediaType: v1.MediaTypeImageLayerGzip, Digest: layer.Digest, Size: layer.Size}},
		// A subject may come later.
		Subject: &v1.Descriptor{MediaType: v1.MediaTypeImageManifest, Digest: digest.FromString("subject"), Size: 3},
	}
	encode := func(v any) []byte {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	// The configuration is in the same commit, the layer in one before.
	d, err := imagestore.PutManifest(t.Context(), s, w, v1.MediaTypeImageManifest, encode(m))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Commit(t.Context()); err != nil {
		t.Fatal(err)
	}
	expectBytes(t, s, encode(m))
	expectBytes(t, s, layerContent)

	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, Manifests: []v1.Descriptor{{MediaType: v1.MediaTypeImageManifest, Digest: d, Size: int64(len(encode(m)))}}}
	w = s.Begin()
	if _, err := imagestore.PutManifest(t.Context(), s, w, v1.MediaTypeImageIndex, encode(index)); err != nil {
		t.Fatal(err)
	}

	with := func(f func(*v1.Manifest)) []byte {
		c := m
		c.Layers = append([]v1.Descriptor(nil), m.Layers...)
		f(&c)
		return encode(c)
	}
	for name, tc := range map[string]struct {
		mediaType string
		raw       []byte
		missing   bool
	}{
		"not JSON":       {v1.MediaTypeImageManifest, []byte("{"), false},
		"other type":     {v1.MediaTypeImageIndex, encode(m), false},
		"unknown type":   {"text/plain", []byte(`{"schemaVersion":2}`), false},
		"no config":      {v1.MediaTypeImageManifest, []byte(`{"schemaVersion":2}`), false},
		"schema":         {v1.MediaTypeImageManifest, with(func(m *v1.Manifest) { m.SchemaVersion = 1 }), false},
		"missing layer":  {v1.MediaTypeImageManifest, with(func(m *v1.Manifest) { m.Layers[0].Digest = digest.FromString("missing") }), true},
		"wrong size":     {v1.MediaTypeImageManifest, with(func(m *v1.Manifest) { m.Layers[0].Size++ }), false},
		"bad digest":     {v1.MediaTypeImageManifest, with(func(m *v1.Manifest) { m.Config.Digest = "sha256:" }), false},
		"too large":      {v1.MediaTypeImageManifest, append(encode(m), make([]byte, imagestore.MaxManifest)...), false},
		"missing member": {v1.MediaTypeImageIndex, []byte(`{"schemaVersion":2,"manifests":[{"digest":"` + string(digest.FromString("none")) + `","size":2}]}`), true},
	} {
		w := s.Begin()
		_, err := imagestore.PutManifest(t.Context(), s, w, tc.mediaType, tc.raw)
		if err == nil || errors.Is(err, imagestore.ErrNotFound) != tc.missing {
			t.Errorf("%s: %v", name, err)
		}
	}
}
