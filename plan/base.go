package plan

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// BaseSource is where a base can be had, and what to call it. No key depends on it but what the name of files in a
// context does.
type BaseSource struct {
	From  string               `json:"from"` // recipe.FromRegistry, …
	Ref   string               `json:"ref"`  // for people
	Name  string               `json:"name,omitempty"`
	Path  string               `json:"path,omitempty"`  // in the context, of a layout or a file
	Files []recipe.ContextFile `json:"files,omitempty"` // of the context: contents in pieces
}

// SourceOf is the source of a recipe's base; files are those of the context that recipe.FindBase found. The zero value
// for nil.
func SourceOf(b *recipe.Base, files []recipe.ContextFile) BaseSource {
	if b == nil {
		return BaseSource{}
	}
	return BaseSource{From: b.From, Ref: b.Ref, Name: b.Name, Path: b.Path, Files: files}
}

// FilesDigest names a base that is made of files of a context: by what they are, and what is asked for in them. Where in
// the context they lie counts for nothing.
func (s BaseSource) FilesDigest() digest.Digest {
	type file struct {
		Path   string          `json:"path"`
		Size   int64           `json:"size"`
		Chunks []digest.Digest `json:"chunks"`
	}
	in := struct {
		From  string `json:"from"`
		Name  string `json:"name,omitempty"`
		Files []file `json:"files"`
	}{From: s.From, Name: s.Name}
	for _, f := range s.Files {
		in.Files = append(in.Files, file{s.Inside(f.Path), f.Size, f.Chunks})
	}
	raw, err := json.Marshal(in)
	if err != nil {
		panic("plan: files always encode: " + err.Error())
	}
	return digest.FromBytes(raw)
}

// Inside is the path of a file of the base below the base's own; of a single file it is empty.
func (s BaseSource) Inside(file string) string {
	if s.Path == "." {
		return file
	}
	return strings.TrimPrefix(strings.TrimPrefix(file, s.Path), "/")
}

// ImportSpec asks for one platform of a base. The key covers the Image and the Platform alone.
type ImportSpec struct {
	Image    digest.Digest `json:"image"` // of the platform's manifest, or BaseSource.FilesDigest
	Platform string        `json:"platform"`
	Source   BaseSource    `json:"source"`
}

// Base is the output of import: an image of others as ours stand on it.
type Base struct {
	Config   digest.Digest `json:"config"` // piece: its image configuration; that of a tar is empty
	Layers   []Layer       `json:"layers"` // the lowest first; without what only our own layers have
	Record   digest.Digest `json:"record"` // piece: rootfs.Record
	Status   digest.Digest `json:"status"` // piece: what its package database says of each package, as dpkg's status file has it; may be empty text
	Packages digest.Digest `json:"packages"`
	Count    int           `json:"count"`              // of the packages, which are a piece: JSON array of recipe.BasePackage
	Merged   []string      `json:"merged,omitempty"`   // as in recipe.LockedBasePlatform
	Codename string        `json:"codename,omitempty"` // of its distribution: bookworm
	System   string        `json:"system,omitempty"`   // for people: Debian GNU/Linux 12 (bookworm)
}

// MaxLayers bounds the layers of an image: more than the storage drivers of container engines take is of no use.
const MaxLayers = 125

// Import is the shard of a base.
func Import(spec ImportSpec) Shard {
	type inputs struct {
		Image    digest.Digest `json:"image"`
		Platform string        `json:"platform"`
	}
	return newShard(farm.KindImport, spec.Source.label(spec.Image)+" "+spec.Platform, spec, inputs{spec.Image, spec.Platform})
}

// label names a base for people.
func (s BaseSource) label(image digest.Digest) string {
	switch {
	case s.Ref == "":
		return "base " + image.Encoded()[:12]
	case s.From == recipe.FromTar:
		return s.Path
	}
	return s.Ref
}

// base adds the shard of the base for a platform, and returns its key.
func (b *builder) base(os *recipe.LockedBase, platform string, source BaseSource) (digest.Digest, error) {
	locked, ok := os.Platforms[platform]
	if !ok {
		return "", fmt.Errorf("lock: os.base: has no %s: only %s", platform, strings.Join(slices.Sorted(maps.Keys(os.Platforms)), ", "))
	}
	return b.add(Import(ImportSpec{Image: locked.Image, Platform: platform, Source: source})), nil
}
