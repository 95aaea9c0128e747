package plan

import (
	"encoding/json"
	"fmt"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Key returns the name of a shard's work: the digest of its kind, the kind's format number and its inputs. Inputs are
// structs, so that JSON writes their fields in one order; text in them is UTF-8, since JSON would make different bytes
// that are not UTF-8 the same.
func Key(kind farm.Kind, inputs any) digest.Digest {
	format, ok := Formats[kind]
	if !ok {
		panic("plan: no format number for shard kind " + string(kind))
	}
	raw, err := json.Marshal(struct {
		Kind   farm.Kind `json:"kind"`
		Format int       `json:"format"`
		Inputs any       `json:"inputs"`
	}{kind, format, inputs})
	if err != nil {
		panic("plan: inputs always encode: " + err.Error())
	}
	return digest.FromBytes(raw)
}

// Observe is the shard of an observation. Its key names the question; the answer changes with time.
func Observe(spec ObserveSpec) Shard {
	subject := spec.Suite + " " + spec.Arch
	if spec.Image != "" {
		subject = spec.Image
	}
	return newShard(farm.KindObserve, subject, spec, spec)
}

// Solve is the shard that answers an OS request. The key covers what the answer depends on: the request without the
// place to ask, and each index by content, with its base since the answer has URLs; not the evidence.
func Solve(spec SolveSpec) Shard {
	type index struct {
		Base      string        `json:"base"`
		Also      []string      `json:"also,omitempty"`
		Suite     string        `json:"suite"`
		Codename  string        `json:"codename"`
		Component string        `json:"component"`
		Name      string        `json:"name"`
		Packages  digest.Digest `json:"packages"`

		Origin               string `json:"origin,omitempty"`
		Label                string `json:"label,omitempty"`
		Archive              string `json:"archive,omitempty"`
		Version              string `json:"version,omitempty"`
		NotAutomatic         bool   `json:"notAutomatic,omitempty"`
		ButAutomaticUpgrades bool   `json:"butAutomaticUpgrades,omitempty"`
	}
	type inputs struct {
		Suite    string   `json:"suite"`
		Variant  string   `json:"variant"`
		Packages []string `json:"packages"`
		Scripts  string   `json:"scripts"`
		Arch     string   `json:"arch"`
		Indexes  []index  `json:"indexes"`
		Pins     []Pin    `json:"pins,omitempty"`

		Stay   []Stay                 `json:"stay,omitempty"`
		Own    []Own                  `json:"own,omitempty"`
		Locate []recipe.LockedPackage `json:"locate,omitempty"`

		Installed digest.Digest `json:"installed,omitempty"`
	}
	d := spec.Debian
	in := inputs{Suite: d.Suite, Variant: d.Variant, Packages: d.Packages, Scripts: d.Scripts, Arch: spec.Arch, Pins: spec.Pins,
		Stay: spec.Stay, Own: spec.Own, Locate: spec.Locate, Installed: spec.Installed}
	for _, i := range spec.Indexes {
		in.Indexes = append(in.Indexes, index{i.Base, i.Also, i.Suite, i.Codename, i.Component, i.Name, i.Packages,
			i.Origin, i.Label, i.Archive, i.Version, i.NotAutomatic, i.ButAutomaticUpgrades})
	}
	subject := d.Suite + " " + spec.Arch
	if len(spec.Locate) > 0 {
		subject += fmt.Sprintf(", where %d locked packages are", len(spec.Locate))
	}
	return newShard(farm.KindSolve, subject, spec, in)
}

// Inspect is the shard of a .deb of the user's.
func Inspect(spec InspectSpec) Shard {
	type inputs struct {
		Size   int64           `json:"size"`
		Chunks []digest.Digest `json:"chunks"`
	}
	return newShard(farm.KindInspect, spec.File, spec, inputs{spec.Size, spec.Chunks})
}

// Convert is the shard of one package. The key covers its content and what is kept of it, and whether it is one of the
// user's own: neither where it comes from nor what the Lock calls it. (A package of a mirror is anybody's who knows its
// digest, and lock files name them so. One of a user's is not: only who has its bytes gets at what was made of it.)
func Convert(spec ConvertSpec) Shard {
	type inputs struct {
		SHA256 digest.Digest `json:"sha256"`
		Keep   []string      `json:"keep,omitempty"`
		Own    bool          `json:"own,omitempty"`
	}
	s := newShard(farm.KindConvert, packageLabel(spec.Package), spec, inputs{spec.Package.SHA256, spec.Keep, spec.Package.Own})
	s.Work = spec.Package.Size
	return s
}

func packageLabel(p recipe.LockedPackage) string {
	if p.Arch == "all" {
		return p.Name + " " + p.Version
	}
	return p.Name + " " + p.Version + " " + p.Arch
}

// Trim is the shard of a package without some of its files; converted is the key of the shard that converts it.
func Trim(spec TrimSpec, converted digest.Digest) Shard {
	type inputs struct {
		Package digest.Digest `json:"package"`
		Exclude []string      `json:"exclude"`
	}
	s := newShard(farm.KindTrim, packageLabel(spec.Package), spec, inputs{converted, spec.Exclude})
	s.Deps = []digest.Digest{converted}
	return s
}

// Cut is the shard of one run of app files. The key covers the entries as they are; of the second and later segments of
// a large file only the bytes, since no header is among them: the file may move or get another owner.
func Cut(spec CutSpec) Shard {
	if s := spec.Segment; s != nil && s.Chunk > 0 {
		type inputs struct {
			Chunk digest.Digest `json:"chunk"`
			Size  int64         `json:"size"`
			Last  bool          `json:"last"`
		}
		e := spec.Entries[0]
		cut := newShard(farm.KindCut, cutLabel(spec), spec, inputs{e.Chunks[0], segmentSize(e.Size, s.Chunk), s.Last})
		cut.Work = segmentSize(e.Size, s.Chunk)
		return cut
	}
	cut := newShard(farm.KindCut, cutLabel(spec), spec, spec)
	for _, e := range spec.Entries {
		cut.Work += e.Size
	}
	return cut
}

// Assemble is the shard of a layer; members are the keys of the shards whose outputs it is made of, in order, with that of
// the base in front if there is one. The key covers these and what the head is made of beside the members.
func Assemble(spec AssembleSpec, members []digest.Digest) Shard {
	type system struct {
		Suite   string   `json:"suite"`
		Arch    string   `json:"arch"`
		Exclude []string `json:"exclude,omitempty"`
		Below   int      `json:"below,omitempty"`
		Scripts bool     `json:"scripts,omitempty"`
	}
	type inputs struct {
		Role    string             `json:"role"`
		Dirs    []recipe.TreeEntry `json:"dirs,omitempty"`
		OS      *system            `json:"os,omitempty"`
		Base    bool               `json:"base,omitempty"`
		Members []digest.Digest    `json:"members"`
	}
	in, subject := inputs{Role: spec.Role, Dirs: spec.Dirs, Base: spec.Base, Members: members}, spec.Role+" layer"
	if spec.OS != nil {
		in.OS = &system{spec.OS.Suite, spec.OS.Arch, spec.OS.Exclude, spec.OS.Below, spec.OS.Scripts}
		subject += " " + spec.OS.Suite + " " + spec.OS.Arch
	}
	s := newShard(farm.KindAssemble, subject, spec, in)
	s.Deps = members
	return s
}

// Configure is the shard of what maintainer scripts change; layers are the keys of the assemble shards below, the lowest
// first.
func Configure(spec ConfigureSpec, layers []digest.Digest) Shard {
	type inputs struct {
		ConfigureSpec
		Layers []digest.Digest `json:"layers"`
	}
	s := newShard(farm.KindConfigure, spec.Arch+" system", spec, inputs{spec, layers})
	s.Class = farm.Class(spec.Arch, farm.KindConfigure)
	s.Deps = layers
	return s
}

// Image is the shard of an OCI image; layers are the keys of its assemble shards, from the bottom.
func Image(spec ImageSpec, layers []digest.Digest) Shard {
	type inputs struct {
		ImageSpec
		Layers []digest.Digest `json:"layers"`
	}
	s := newShard(farm.KindImage, spec.Platform, spec, inputs{spec, layers})
	s.Deps = layers
	return s
}

// ImageIndex is the shard of an OCI image index; images are the keys of its image shards, in the order of its platforms.
func ImageIndex(spec ImageIndexSpec, images []digest.Digest) Shard {
	type inputs struct {
		ImageIndexSpec
		Images []digest.Digest `json:"images"`
	}
	s := newShard(farm.KindIndex, strings.Join(spec.Platforms, ", "), spec, inputs{spec, images})
	s.Deps = images
	return s
}

// RootOf is the shard of a disk's system; layers are the keys of the shards of its OS, from the bottom.
func RootOf(spec RootSpec, layers []digest.Digest) Shard {
	type inputs struct {
		RootSpec
		Layers []digest.Digest `json:"layers"`
	}
	s := newShard(farm.KindRoot, spec.Disk.Platform, spec, inputs{spec, layers})
	s.Deps = layers
	if f := spec.Disk.SecureBoot; f != "" {
		s.Requires = []string{farm.SecureBootLabel(f)}
	}
	return s
}

// Disk is the shard of a disk; parts are the keys of the shards of its base, if it has one, its system, and its app.
func Disk(spec DiskSpec, parts []digest.Digest) Shard {
	type inputs struct {
		DiskSpec
		Parts []digest.Digest `json:"parts"`
	}
	s := newShard(farm.KindDisk, spec.Disk.Platform, spec, inputs{spec, parts})
	s.Deps = parts
	return s
}

func newShard(kind farm.Kind, subject string, spec, inputs any) Shard {
	return Shard{
		Key:   Key(kind, inputs),
		Kind:  kind,
		Class: farm.Class("any", kind), // of those that run no code of the image
		Label: string(kind) + " " + subject,
		Spec:  spec,
	}
}

func cutLabel(spec CutSpec) string {
	first, last := spec.Entries[0], spec.Entries[len(spec.Entries)-1]
	switch n := len(spec.Entries); {
	case spec.Segment != nil:
		return fmt.Sprintf("%s (part %d of %d)", first.Path, spec.Segment.Chunk+1, segments(first.Size))
	case n == 1:
		return first.Path
	default:
		return fmt.Sprintf("%s … %s (%d files)", first.Path, last.Path, n)
	}
}
