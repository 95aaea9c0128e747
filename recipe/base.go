package recipe

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe/strict"

	"github.com/opencontainers/go-digest"
)

// Where the image comes from that a Base is.
const (
	FromRegistry = "registry"
	FromLayout   = "oci"            // an OCI image layout: a directory of the context
	FromArchive  = "docker-archive" // what "docker save" and "podman save" write: a file of the context
	FromTar      = "tar"            // a root file system: a file of the context
	FromRecipe   = "recipe"         // an image of this farm
)

// VariantBase is the Debian.Variant of packages over a Base: what is installed there stays, what is asked for is added.
const VariantBase = "base"

// Base is an image that is there already, to stand on: os.image, os.recipe or os.tar.
type Base struct {
	From string
	Ref  string // for people, as the recipe has it
	Path string // FromLayout, FromArchive, FromTar: slash-separated path in the context, clean
	Name string // FromRegistry: the reference; FromLayout, FromArchive: the tag or reference inside, or empty; FromRecipe: the image's name
	At   string // FromRecipe: a channel, a version or the digest of an image
}

// Field is the recipe's field that says so: os.image, os.recipe or os.tar.
func (b *Base) Field() string {
	switch b.From {
	case FromTar, FromRecipe:
		return "os." + b.From
	}
	return "os.image"
}

// InContext reports whether the base is made of files of the context.
func (b *Base) InContext() bool { return b.Path != "" }

// Pinned is the digest that a registry's reference ends in, empty when it has none: what it names never changes then.
func (b *Base) Pinned() digest.Digest {
	if _, pinned, ok := strings.Cut(b.Name, "@"); ok && b.From == FromRegistry {
		return digest.Digest(pinned)
	}
	return ""
}

// FindBase returns the files of the context that a base is made of, by their paths in it. The error names the field.
func FindBase(ctx *Context, b *Base) ([]ContextFile, error) {
	if b == nil || !b.InContext() {
		return nil, nil
	}
	var files []ContextFile
	if ctx != nil {
		files = below(ctx.Files, b.Path)
	}
	source := clip("./" + b.Path)
	switch {
	case len(files) == 0:
		return nil, fmt.Errorf("%s: %q is not in the context", b.Field(), source)
	case b.From == FromLayout:
		if _, ok := search(files, path.Join(b.Path, "index.json")); !ok {
			return nil, fmt.Errorf("%s: %q is no OCI image layout: it has no index.json", b.Field(), source)
		}
		return slices.DeleteFunc(slices.Clone(files), func(f ContextFile) bool { return f.Dir || f.Link != "" }), nil
	case len(files) > 1 || files[0].Dir || files[0].Link != "" || files[0].Path != b.Path:
		return nil, fmt.Errorf("%s: %q is no file", b.Field(), source)
	case files[0].Size == 0:
		return nil, fmt.Errorf("%s: %q is empty", b.Field(), source)
	}
	return files[:1:1], nil
}

// debianFields are the fields beside a base's reference: about the packages that are added.
var debianFields = []string{"packages", "suite", "scripts", "exclude", "mirror", "keyring", "checkValidUntil"}

// readBase reads os.image, os.recipe or os.tar: a reference, or a mapping of it and of what is said of packages over it.
// The Debian is nil when nothing is.
func readBase(key string, v strict.Value, name string) (*Base, *Debian) {
	refKey, example := "ref", map[string]string{
		"image": "registry.example/team/base:1", "recipe": "base/debian@prod", "tar": "./rootfs.tar.xz",
	}[key]
	if key == "tar" {
		refKey = "path"
	}
	read := map[string]func(strict.Value, string) *Base{"image": readImage, "tar": readTar, "recipe": func(v strict.Value, s string) *Base { return readParent(v, s, name) }}[key]
	if v.IsText() || !v.IsMapping() {
		if s, ok := v.Text(example + ", or {" + refKey + ": " + example + ", packages: [curl]}"); ok {
			return read(v, s), nil
		}
		return nil, nil
	}
	f, ok := v.Fields("{"+refKey+": "+example+", packages: [curl]}", append([]string{refKey}, debianFields...)...)
	if !ok {
		return nil, nil
	}
	var base *Base
	if v, ok := f.Need(refKey, refKey+": "+example); ok {
		if s, ok := v.Text(example); ok {
			base = read(v, s)
		}
	}
	d := &Debian{Variant: VariantBase, Scripts: "run"}
	if v, ok := f.Get("suite"); ok {
		d.Suite = readSuite(v)
	}
	readAdded(f, d)
	if len(f.Entries) == 1 && base != nil {
		return base, nil
	}
	return base, d
}

// reference is what docker and podman take: [registry/]path[:tag][@digest].
var (
	referencePath   = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*$`)
	layoutReference = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,254}$`)
)

func readImage(v strict.Value, s string) *Base {
	for _, from := range []string{FromLayout, FromArchive} {
		rest, ok := strings.CutPrefix(s, from+":")
		if !ok {
			continue
		}
		file, inside, named := strings.Cut(rest, ":")
		why := badRelative(file)
		if why == "" && named && !layoutReference.MatchString(inside) {
			why = fmt.Sprintf("asks for %q, which is no tag", clip(inside))
		}
		if why != "" {
			v.Refuse("%q: the path %s; write one inside the context directory, such as %s:./base or %s:./base:1", clip(s), why, from, from)
			return nil
		}
		return &Base{From: from, Ref: s, Path: path.Clean(file), Name: inside}
	}
	name := strings.TrimPrefix(s, "docker://")
	if why := badImage(name); why != "" {
		v.Refuse("%q %s; write registry.example/team/base:1, …@sha256:…, oci:./layout:tag or docker-archive:./base.tar", clip(s), why)
		return nil
	}
	return &Base{From: FromRegistry, Ref: name, Name: name}
}

// badImage says what keeps s from being a registry's reference, or "".
func badImage(s string) string {
	if scheme, _, ok := strings.Cut(s, "://"); ok {
		return fmt.Sprintf("has %s:// in front, which registries' references have not", clip(scheme))
	}
	if len(s) > maxReference {
		return fmt.Sprintf("is longer than %d bytes", maxReference)
	}
	bare, pinned, isPinned := strings.Cut(s, "@")
	if isPinned {
		if d := digest.Digest(pinned); d.Validate() != nil || d.Algorithm() != digest.SHA256 {
			return "does not end in a digest such as sha256:e3b0c442…"
		}
	}
	host, rest, slash := strings.Cut(bare, "/")
	if !slash || !strings.ContainsAny(host, ".:") && host != "localhost" {
		host, rest = "docker.io", bare // as docker takes it
	}
	name, tag, tagged := strings.Cut(rest, ":")
	switch {
	case !registryHost.MatchString(host):
		return "has no registry's name in front"
	case !referencePath.MatchString(name):
		return "is no reference: lower-case letters and digits, separated by one of . _ __ - /"
	case tagged && !imageTag.MatchString(tag):
		return "has a bad tag"
	}
	return ""
}

func readTar(v strict.Value, s string) *Base {
	why := badRelative(s)
	switch {
	case strings.Contains(s, "://"):
		why = "is a URL, and what lies there may change"
	case why == "" && !slices.ContainsFunc([]string{".tar", ".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.zst"}, func(end string) bool { return strings.HasSuffix(s, end) }):
		why = "is no .tar, .tar.gz, .tar.xz or .tar.zst"
	}
	if why != "" {
		v.Refuse("%q %s; write the path of a root file system's tar inside the context directory, such as ./rootfs.tar.xz", clip(s), why)
		return nil
	}
	return &Base{From: FromTar, Ref: s, Path: path.Clean(s)}
}

// readParent reads NAME@CHANNEL, NAME@VERSION or NAME@DIGEST. name is the recipe's own.
func readParent(v strict.Value, s, name string) *Base {
	parent, at, found := strings.Cut(s, "@")
	why := ""
	switch {
	case !found || at == "":
		why = "names no channel, version or digest of the image"
	case farm.ValidateName(parent) != nil:
		why = strings.TrimPrefix(farm.ValidateName(parent).Error(), "name ")
	case parent == name:
		v.Refuse("%q is this recipe's own name: an image can't stand on itself; give one of them another name", clip(s))
		return nil
	case strings.HasPrefix(at, "sha256:"):
		if digest.Digest(at).Validate() != nil {
			why = "does not end in a digest such as sha256:e3b0c442…"
		}
	case !farm.IsVersion(at):
		if err := farm.ValidateChannel(at); err != nil {
			why = err.Error()
		}
	}
	if why != "" {
		v.Refuse("%q: %s; write base/debian@prod, base/debian@ and a version, or a digest", clip(s), why)
		return nil
	}
	return &Base{From: FromRecipe, Ref: s, Name: parent, At: at}
}
