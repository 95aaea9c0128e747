package recipe

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// LockVersion is the apiVersion of the Locks of this release.
const LockVersion = "bakefarm.lock/v1"

// Lock is a resolved recipe: results only, no ranges, no dates, no addresses. Two requests with the same Lock are the
// same bake. Its canonical encoding is compact JSON with the fields in this order and sorted maps.
type Lock struct {
	APIVersion string         `json:"apiVersion"`
	OS         LockedOS       `json:"os"`
	App        []LockedCopy   `json:"app,omitempty"`
	Config     Config         `json:"config"`
	Outputs    []Output       `json:"outputs"`
	Formats    map[string]int `json:"formats"` // shard kind → number of the format of its bytes
}

// LockedOS is the operating system by content. Exactly one field is set, but for Debian packages over a Base.
type LockedOS struct {
	Base    *LockedBase   `json:"base,omitempty"`
	Debian  *LockedDebian `json:"debian,omitempty"`
	Scratch bool          `json:"scratch,omitempty"`
}

// LockedBase is an image to stand on, by content. Where it can be had is known to the recipe, not here.
type LockedBase struct {
	// Name and Version are set when it is an image of this farm.
	Name      string                        `json:"name,omitempty"`
	Version   string                        `json:"version,omitempty"`
	Platforms map[string]LockedBasePlatform `json:"platforms"` // "linux/amd64" → what it is there
}

// LockedBasePlatform is a base for one platform.
type LockedBasePlatform struct {
	// Image is the digest of the manifest, or of the files of the context that the base is.
	Image digest.Digest `json:"image"`
	// Merged are the directories at the top that are links into /usr, sorted: app files go where they lead.
	Merged []string `json:"merged,omitempty"`
	// Packages are those that its package database lists, sorted by name then architecture.
	Packages []BasePackage `json:"packages,omitempty"`
}

// BasePackage is a package of a base: known by name, since nobody has its file.
type BasePackage struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

// LockedDebian is a set of Debian packages for each platform of the outputs.
type LockedDebian struct {
	Suite     string                     `json:"suite"`
	Scripts   string                     `json:"scripts"`
	Exclude   []string                   `json:"exclude,omitempty"` // patterns for NewExcludes
	Platforms map[string][]LockedPackage `json:"platforms"`         // "linux/amd64" → packages, sorted by name then architecture
}

// LockedPackage is one binary package by content. Where it can be fetched from is known to the observation, not here.
type LockedPackage struct {
	Name    string        `json:"name"`
	Version string        `json:"version"`
	Arch    string        `json:"arch"` // Debian architecture: amd64, all
	SHA256  digest.Digest `json:"sha256"`
	Size    int64         `json:"size"` // of the .deb, in bytes
	// Base: the package is there for the variant, whatever else was asked for. Base packages have a layer of their own.
	Base bool `json:"base,omitempty"`
	// Own: the package is the user's, out of the context. Own packages have a layer of their own.
	Own bool `json:"own,omitempty"`
}

// LockedCopy is one app item by content.
type LockedCopy struct {
	Tree  digest.Digest `json:"tree"` // piece: the canonical encoding of a Tree
	Files int           `json:"files"`
	Bytes int64         `json:"bytes"`
}

// PackagesOf returns all packages of a system ("linux/amd64", or that of a disk): those of the base that none of the others
// takes the place of, and the others. Nil when the Lock does not have the system; the base's have no digest.
func (l *Lock) PackagesOf(system string) []LockedPackage {
	var added []LockedPackage
	if d := l.OS.Debian; d != nil {
		added = d.Platforms[system]
	}
	if l.OS.Base == nil {
		return added
	}
	platform, _ := PlatformOf(system)
	base, ok := l.OS.Base.Platforms[platform]
	if !ok {
		return nil
	}
	type id struct{ name, arch string }
	placed := map[id]bool{}
	all := append(make([]LockedPackage, 0, len(added)+len(base.Packages)), added...)
	for _, p := range added {
		placed[id{p.Name, p.Arch}], placed[id{p.Name, "all"}] = true, true
		if p.Arch == "all" {
			placed[id{p.Name, ""}] = true
		}
	}
	for _, p := range base.Packages {
		if !placed[id{p.Name, p.Arch}] && !placed[id{p.Name, ""}] {
			all = append(all, LockedPackage{Name: p.Name, Version: p.Version, Arch: p.Arch})
		}
	}
	slices.SortFunc(all, func(a, b LockedPackage) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
	})
	return all
}

// Systems returns the systems that the Lock has packages of, sorted.
func (l *Lock) Systems() []string {
	systems := map[string]bool{}
	if l.OS.Base != nil {
		for platform := range l.OS.Base.Platforms {
			systems[platform] = true
		}
	}
	if l.OS.Debian != nil {
		for system := range l.OS.Debian.Platforms {
			systems[system] = true
		}
	}
	return slices.Sorted(maps.Keys(systems))
}

// Encode returns the canonical encoding.
func (l *Lock) Encode() []byte {
	raw, err := json.Marshal(l) // sorts map keys; struct fields keep their order
	if err != nil {
		panic("recipe: a Lock always encodes: " + err.Error())
	}
	return raw
}

// Key returns the bake key: the digest of the canonical encoding.
func (l *Lock) Key() digest.Digest { return digest.FromBytes(l.Encode()) }

// MaxLock bounds an encoded Lock, in bytes.
const MaxLock = 16 << 20

// DecodeLock reads an encoded Lock.
func DecodeLock(raw []byte) (*Lock, error) {
	if len(raw) > MaxLock {
		return nil, fmt.Errorf("lock: %d bytes: more than %d", len(raw), MaxLock)
	}
	var l Lock
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	if l.APIVersion != LockVersion {
		return nil, fmt.Errorf("lock: apiVersion %q: this release reads %q", l.APIVersion, LockVersion)
	}
	return &l, nil
}
