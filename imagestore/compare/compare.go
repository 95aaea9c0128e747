// Package compare says what differs between two OCI images of a store: files and configuration.
//
// Layers that both images begin with are the same, and are read only if something above them may stand for a file in them, or
// remove one. Every file is hashed as it streams by; nothing is unpacked.
package compare

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"bakefarm/imagestore"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// Files are the paths that differ, sorted.
type Files struct {
	Added   []string `json:"added"`
	Removed []string `json:"removed"`
	Changed []string `json:"changed" doc:"In content, kind, mode, owner or extended attributes; not only in time"`
	// More counts what is left out of the lists.
	More int `json:"more,omitempty" doc:"Paths that are left out of these lists"`
}

// Setting is one setting of the configurations that differs.
type Setting struct {
	Name string `json:"name"`
	From string `json:"from,omitempty"`
	To   string `json:"to,omitempty"`
}

// MaxPaths bounds each list of Files.
const MaxPaths = 10_000

// maxFiles bounds the files of an image that are looked at, and with them the memory that this takes.
const maxFiles = 2_000_000

// Image is an OCI image to compare.
type Image struct {
	manifest v1.Manifest
	config   v1.Image
}

// Load reads the manifest and configuration of an image. imagestore.ErrNotFound.
func Load(ctx context.Context, store imagestore.Reader, manifest digest.Digest) (*Image, error) {
	var i Image
	if err := read(ctx, store, manifest, &i.manifest); err != nil {
		return nil, fmt.Errorf("manifest: %w", err)
	}
	if i.manifest.Config.Digest == "" {
		return nil, fmt.Errorf("%s is no manifest of an image", manifest)
	}
	if err := read(ctx, store, i.manifest.Config.Digest, &i.config); err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	return &i, nil
}

func read(ctx context.Context, store imagestore.Reader, d digest.Digest, v any) error {
	raw, err := imagestore.ReadAll(ctx, store, d, imagestore.MaxManifest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", d, err)
	}
	return nil
}

// Config lists the settings that differ.
func Config(from, to *Image) []Setting {
	a, b := settings(from.config), settings(to.config)
	names := map[string]bool{}
	for name := range a {
		names[name] = true
	}
	for name := range b {
		names[name] = true
	}
	list := []Setting{}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if a[name] != b[name] {
			list = append(list, Setting{name, a[name], b[name]})
		}
	}
	return list
}

// settings flattens a configuration: each variable and label is one of them.
func settings(i v1.Image) map[string]string {
	c := i.Config
	all := map[string]string{
		"platform": strings.Trim(path.Join(i.OS, i.Architecture, i.Variant), "/"), "user": c.User, "workingDir": c.WorkingDir,
		"stopSignal": c.StopSignal, "entrypoint": words(c.Entrypoint), "cmd": words(c.Cmd),
		"ports": strings.Join(slices.Sorted(maps.Keys(c.ExposedPorts)), " "), "volumes": strings.Join(slices.Sorted(maps.Keys(c.Volumes)), " "),
	}
	for _, e := range c.Env {
		name, value, _ := strings.Cut(e, "=")
		all["env "+name] = value
	}
	for name, value := range c.Labels {
		all["label "+name] = value
	}
	return all
}

func words(list []string) string {
	if len(list) == 0 {
		return ""
	}
	raw, err := json.Marshal(list)
	if err != nil {
		panic("compare: strings always encode: " + err.Error())
	}
	return string(raw)
}

// entry says what a file is, but for its time.
type entry [sha256.Size]byte

// tree is what some layers make of a file system: what they put there, and what they take away from below.
type tree struct {
	entries  map[string]entry
	gone     map[string]bool // paths that are removed with everything below
	emptied  map[string]bool // directories whose contents from below are removed
	examined int
}

// FilesOf compares the files of two images.
func FilesOf(ctx context.Context, store imagestore.Reader, from, to *Image) (Files, error) {
	a, b := from.manifest.Layers, to.manifest.Layers
	shared := 0
	for shared < len(a) && shared < len(b) && a[shared].Digest == b[shared].Digest {
		shared++
	}
	before, err := stack(ctx, store, a[shared:])
	if err != nil {
		return Files{}, err
	}
	after, err := stack(ctx, store, b[shared:])
	if err != nil {
		return Files{}, err
	}
	below := map[string]entry{}
	if shared > 0 && (before.uncertain(after) || after.uncertain(before)) {
		base, err := stack(ctx, store, a[:shared])
		if err != nil {
			return Files{}, err
		}
		below = base.entries
	}
	return diff(before, after, below), nil
}

// uncertain reports whether what t says can only be judged with what lies below both: a path that other says nothing of may
// stand there, and what t removes may have.
func (t *tree) uncertain(other *tree) bool {
	if len(t.gone)+len(t.emptied) > 0 {
		return true
	}
	for p := range t.entries {
		if _, ok := other.entries[p]; !ok {
			return true
		}
	}
	return false
}

func diff(before, after *tree, below map[string]entry) Files {
	f := Files{Added: []string{}, Removed: []string{}, Changed: []string{}}
	paths := map[string]bool{}
	for _, set := range []map[string]entry{before.entries, after.entries} {
		for p := range set {
			paths[p] = true
		}
	}
	for p := range below {
		if before.hides(p) != after.hides(p) {
			paths[p] = true
		}
	}
	note := func(list *[]string, p string) {
		if len(*list) < MaxPaths {
			*list = append(*list, p)
		} else {
			f.More++
		}
	}
	for _, p := range slices.Sorted(maps.Keys(paths)) {
		a, had := before.over(below, p)
		b, has := after.over(below, p)
		switch {
		case had && has && a != b:
			note(&f.Changed, p)
		case had && !has:
			note(&f.Removed, p)
		case has && !had:
			note(&f.Added, p)
		}
	}
	return f
}

// over finds what stands at a path when the layers lie over those below.
func (t *tree) over(below map[string]entry, p string) (entry, bool) {
	if e, own := t.entries[p]; own {
		return e, true
	}
	if e, there := below[p]; there && !t.hides(p) {
		return e, true
	}
	return entry{}, false
}

// hides reports whether the layers take away what lies at a path below them.
func (t *tree) hides(p string) bool {
	if t.gone[p] {
		return true
	}
	for dir := path.Dir(p); dir != "." && dir != "/"; dir = path.Dir(dir) {
		if t.gone[dir] || t.emptied[dir] {
			return true
		}
	}
	return t.emptied["."]
}

// stack reads layers, each over the one before.
func stack(ctx context.Context, store imagestore.Reader, layers []v1.Descriptor) (*tree, error) {
	t := &tree{entries: map[string]entry{}, gone: map[string]bool{}, emptied: map[string]bool{}}
	for _, l := range layers {
		if err := t.add(ctx, store, l); err != nil {
			return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
		}
	}
	return t, nil
}

// zstdWindow bounds what a frame may ask for to be decoded, in bytes.
const zstdWindow = 128 << 20

// add reads a layer (image-spec, layer.md).
func (t *tree) add(ctx context.Context, store imagestore.Reader, layer v1.Descriptor) (err error) {
	content, err := store.Open(ctx, layer.Digest, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, content.Close()) }()
	var plain io.Reader = bufio.NewReaderSize(content, 1<<17)
	switch layer.MediaType {
	case v1.MediaTypeImageLayer:
	case v1.MediaTypeImageLayerGzip, "application/vnd.docker.image.rootfs.diff.tar.gzip":
		if plain, err = gzip.NewReader(plain); err != nil {
			return err
		}
	case v1.MediaTypeImageLayerZstd: // of a base
		z, err := zstd.NewReader(plain, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return err
		}
		defer z.Close()
		plain = z
	default:
		return fmt.Errorf("media type %s can't be read", layer.MediaType)
	}
	own, removed := map[string]bool{}, map[string]bool{} // what the layer puts there, and what it removes from those before it
	for archive := tar.NewReader(plain); ; {
		h, err := archive.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		if t.examined++; t.examined > maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		name := path.Clean(strings.TrimLeft(path.Join("/", h.Name), "/"))
		dir, base := path.Split(name)
		dir = path.Clean(dir)
		switch hidden, whiteout := strings.CutPrefix(base, ".wh."); {
		case base == ".wh..wh..opq":
			t.emptied[dir] = true
			removed[dir+"/"] = true
		case whiteout:
			p := path.Join(dir, hidden)
			t.gone[p] = true
			removed[p] = true
		case name == ".": // the root itself
		default:
			if t.entries[name], err = describe(h, archive); err != nil {
				return err
			}
			own[name] = true
		}
	}
	if len(removed) > 0 {
		maps.DeleteFunc(t.entries, func(p string, _ entry) bool { return !own[p] && hiddenBy(removed, p) })
	}
	return nil
}

// hiddenBy reports whether a path, or a directory above it, is removed.
func hiddenBy(removed map[string]bool, p string) bool {
	if removed[p] {
		return true
	}
	for dir := path.Dir(p); ; dir = path.Dir(dir) {
		if removed[dir] || removed[dir+"/"] {
			return true
		}
		if dir == "." || dir == "/" {
			return false
		}
	}
}

// describe sums up a file: kind, mode, owner, link, device, extended attributes, content.
func describe(h *tar.Header, content io.Reader) (entry, error) {
	sum := sha256.New()
	kind := h.Typeflag
	if kind == '\x00' { // as old archives say it
		kind = tar.TypeReg
	}
	fmt.Fprintf(sum, "%c %o %d %d %q %d %d\n", kind, h.Mode&0o7777, h.Uid, h.Gid, h.Linkname, h.Devmajor, h.Devminor)
	for _, key := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if strings.HasPrefix(key, "SCHILY.xattr.") {
			fmt.Fprintf(sum, "%q %q\n", key, h.PAXRecords[key])
		}
	}
	_, err := io.Copy(sum, content)
	return entry(sum.Sum(nil)), err
}
