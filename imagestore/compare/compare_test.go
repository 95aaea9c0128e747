package compare_test

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/compare"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// shelf is a store in memory that counts what is read of it.
type shelf struct {
	blobs map[digest.Digest][]byte
	opens map[digest.Digest]int
}

func (s *shelf) Have(context.Context, []digest.Digest) ([]bool, error) {
	return nil, errors.ErrUnsupported
}

func (s *shelf) Stat(context.Context, digest.Digest) (imagestore.Blob, error) {
	return imagestore.Blob{}, errors.ErrUnsupported
}

func (s *shelf) Open(_ context.Context, d digest.Digest, offset, length int64) (io.ReadCloser, error) {
	b, ok := s.blobs[d]
	if !ok {
		return nil, imagestore.ErrNotFound
	}
	s.opens[d]++
	return io.NopCloser(bytes.NewReader(b)), nil
}

func (s *shelf) put(b []byte) v1.Descriptor {
	d := digest.FromBytes(b)
	s.blobs[d] = b
	return v1.Descriptor{Digest: d, Size: int64(len(b))}
}

// layer makes one out of "path=content", "path/" for a directory, and "path>target" for a link; a ! before it changes the mode.
func (s *shelf) layer(t *testing.T, files ...string) v1.Descriptor {
	t.Helper()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	w := tar.NewWriter(z)
	for _, f := range files {
		f, odd := strings.CutPrefix(f, "!")
		name, content, _ := strings.Cut(f, "=")
		h := &tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}
		if link, target, ok := strings.Cut(f, ">"); ok {
			h.Name, h.Linkname, h.Typeflag = link, target, tar.TypeSymlink
		}
		if strings.HasSuffix(f, "/") {
			h.Typeflag = tar.TypeDir
		}
		if odd {
			h.Mode = 0o4755
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	d := s.put(packed.Bytes())
	d.MediaType = v1.MediaTypeImageLayerGzip
	return d
}

func (s *shelf) image(t *testing.T, config v1.ImageConfig, layers ...v1.Descriptor) *compare.Image {
	t.Helper()
	encode := func(v any) []byte {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	manifest := v1.Manifest{Config: s.put(encode(v1.Image{Config: config})), Layers: layers}
	i, err := compare.Load(t.Context(), s, s.put(encode(manifest)).Digest)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

func newShelf() *shelf { return &shelf{map[digest.Digest][]byte{}, map[digest.Digest]int{}} }

func TestFiles(t *testing.T) {
	type layers [][]string
	for _, test := range []struct {
		name           string
		base, from, to layers
		want           string // + added, - removed, ~ changed
	}{
		{"nothing", nil, layers{{"a=1"}}, layers{{"./a=1"}}, ""},
		{"content", nil, layers{{"a=1", "b=1"}}, layers{{"a=2", "c=1"}}, "+c -b ~a"},
		{"mode and kind", nil, layers{{"a=1", "b=x"}}, layers{{"!a=1", "b>x"}}, "~a ~b"},
		{"in which layer does not matter", nil, layers{{"a=1"}, {"b=1"}}, layers{{"b=1", "a=1"}}, ""},
		{"the upper one counts", nil, layers{{"a=1"}, {"a=2"}}, layers{{"a=2"}}, ""},
		{"whiteout", nil, layers{{"a=1", "d/", "d/x=1"}, {".wh.a", ".wh.d"}}, layers{{"b=1"}}, "+b"},
		{"whiteout and new", nil, layers{{"a=1"}, {".wh.a", "a=1"}}, layers{{"a=1"}}, ""},
		{"opaque", nil, layers{{"d/", "d/x=1", "d/y=1"}, {"d/", "d/.wh..wh..opq", "d/y=1"}}, layers{{"d/", "d/y=1"}}, ""},
		{"over a base", layers{{"a=1", "b=1"}}, layers{{"c=1"}}, layers{{"a=2", "d=1"}}, "+d -c ~a"},
		{"from the base in one", layers{{"a=1"}}, layers{}, layers{{"a=2"}}, "~a"},
		{"a file of the base goes", layers{{"a=1", "d/", "d/x=1"}}, layers{}, layers{{".wh.a", "d/.wh..wh..opq"}}, "-a -d/x"},
		{"goes in both", layers{{"a=1"}}, layers{{".wh.a"}}, layers{{".wh.a", "b=1"}}, "+b"},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := newShelf()
			build := func(lists layers) *compare.Image {
				var all []v1.Descriptor
				for _, files := range append(slices.Clone(test.base), lists...) {
					all = append(all, s.layer(t, files...))
				}
				return s.image(t, v1.ImageConfig{}, all...)
			}
			f, err := compare.FilesOf(t.Context(), s, build(test.from), build(test.to))
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for mark, list := range map[string][]string{"+": f.Added, "-": f.Removed, "~": f.Changed} {
				for _, p := range list {
					got = append(got, mark+p)
				}
			}
			slices.Sort(got)
			if strings.Join(got, " ") != test.want {
				t.Errorf("got %q, want %q", got, test.want)
			}
		})
	}
}

// TestSharedLayersAreNotRead: what both begin with is read only when it matters.
func TestSharedLayersAreNotRead(t *testing.T) {
	s := newShelf()
	base := s.layer(t, "a=1")
	from, to := s.image(t, v1.ImageConfig{}, base, s.layer(t, "b=1")), s.image(t, v1.ImageConfig{}, base, s.layer(t, "b=2"))
	if f, err := compare.FilesOf(t.Context(), s, from, to); err != nil || !slices.Equal(f.Changed, []string{"b"}) {
		t.Errorf("%+v, %v", f, err)
	}
	if n := s.opens[base.Digest]; n != 0 {
		t.Errorf("the shared layer was read %d times", n)
	}
}

func TestListsAreBounded(t *testing.T) {
	s := newShelf()
	var files []string
	for i := range compare.MaxPaths + 5 {
		files = append(files, fmt.Sprintf("f%06d=", i))
	}
	f, err := compare.FilesOf(t.Context(), s, s.image(t, v1.ImageConfig{}), s.image(t, v1.ImageConfig{}, s.layer(t, files...)))
	if err != nil || len(f.Added) != compare.MaxPaths || f.More != 5 {
		t.Errorf("%d and %d more, %v", len(f.Added), f.More, err)
	}
}

func TestConfig(t *testing.T) {
	s := newShelf()
	from := s.image(t, v1.ImageConfig{User: "1", Env: []string{"A=1", "B=2"}, Labels: map[string]string{"l": "x"}, Entrypoint: []string{"/a b"}})
	to := s.image(t, v1.ImageConfig{User: "1", Env: []string{"A=2"}, Labels: map[string]string{"l": "x"}, Entrypoint: []string{"/a", "b"}})
	want := []compare.Setting{{"entrypoint", `["/a b"]`, `["/a","b"]`}, {"env A", "1", "2"}, {"env B", "2", ""}}
	if got := compare.Config(from, to); !slices.Equal(got, want) {
		t.Errorf("%+v", got)
	}
}

func TestWhatIsNoImage(t *testing.T) {
	s := newShelf()
	for _, raw := range []string{"", "[]", `{"schemaVersion":2}`} {
		if _, err := compare.Load(t.Context(), s, s.put([]byte(raw)).Digest); err == nil {
			t.Errorf("%q is taken for an image", raw)
		}
	}
	broken := s.put([]byte("no gzip"))
	broken.MediaType = v1.MediaTypeImageLayerGzip
	odd := s.layer(t, "a=1")
	odd.MediaType = "application/x-odd"
	lost := v1.Descriptor{Digest: digest.FromString("lost"), MediaType: v1.MediaTypeImageLayerGzip}
	for _, l := range []v1.Descriptor{broken, odd, lost} {
		if _, err := compare.FilesOf(t.Context(), s, s.image(t, v1.ImageConfig{}, l), s.image(t, v1.ImageConfig{})); err == nil {
			t.Errorf("%+v is read", l)
		}
	}
}
