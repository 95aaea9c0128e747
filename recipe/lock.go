package recipe

import (
	"encoding/json"
	"fmt"

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

// LockedOS is the operating system by content. Exactly one field is set.
type LockedOS struct {
	Debian  *LockedDebian `json:"debian,omitempty"`
	Scratch bool          `json:"scratch,omitempty"`
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
