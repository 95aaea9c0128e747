package farm

import (
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestAttachments(t *testing.T) {
	image := digest.FromString("image")
	v := Version{Name: "app", Version: "v1", Images: []Image{{Digest: image}}}
	good := Attachment{Subject: image, Digest: digest.FromString("1"), Size: 100, Type: "application/vnd.example.signature", Blobs: []digest.Digest{digest.FromString("2")}}
	with, err := v.WithAttachment(good)
	if err != nil || !with.Has(good.Digest) || v.Has(good.Digest) {
		t.Fatalf("%+v, %v", with, err)
	}
	if again, err := with.WithAttachment(good); err != nil || len(again.Attached) != 1 {
		t.Errorf("again: %d, %v", len(again.Attached), err)
	}
	if without, had := with.WithoutAttachment(good.Digest); !had || len(without.Attached) != 0 || len(with.Attached) != 1 {
		t.Errorf("without: %+v, %v", without, had)
	}
	if _, had := v.WithoutAttachment(good.Digest); had {
		t.Error("it had none")
	}
	bad := map[string]func(a *Attachment){
		"is no image of app:v1": func(a *Attachment) { a.Subject = digest.FromString("another") },
		"media type":            func(a *Attachment) { a.Type = "signature" },
		"64 hexadecimal":        func(a *Attachment) { a.Blobs = []digest.Digest{"sha256:short"} },
		"at most 64":            func(a *Attachment) { a.Blobs = slices.Repeat(a.Blobs, 65) },
		"has no name":           func(a *Attachment) { a.Annotations = map[string]string{"": "x"} },
		"at most 8192":          func(a *Attachment) { a.Annotations = map[string]string{"x": strings.Repeat("x", 9000)} },
		"more than 0":           func(a *Attachment) { a.Size = 0 },
	}
	for _, want := range slices.Sorted(maps.Keys(bad)) {
		a := good
		bad[want](&a)
		if _, err := v.WithAttachment(a); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	for n := range MaxAttachments - 1 {
		a := good
		a.Digest = digest.FromString(strings.Repeat("x", n))
		if with, err = with.WithAttachment(a); err != nil {
			t.Fatal(err)
		}
	}
	good.Digest = digest.FromString("one too many")
	if _, err := with.WithAttachment(good); err == nil || !strings.Contains(err.Error(), "the limit") {
		t.Errorf("%v", err)
	}
}
