package farm

import "github.com/opencontainers/go-digest"

// Contents is what a version's Lock says that people ask the catalog for. It stands in the version's record so that a
// catalog reads a Lock only for a set of packages that it meets for the first time.
type Contents struct {
	Base   Base              `json:"base"`
	Labels map[string]string `json:"labels,omitempty"` // of the image configuration; none when they are more than MaxLabels
	// Packages has the digest of the set of packages for each platform. Equal sets have equal digests, in any version.
	Packages map[string]digest.Digest `json:"packages,omitempty"`
}

// MaxLabels bounds Contents.Labels: names and values, in bytes.
const MaxLabels = 64 << 10

// Base is what an image was built on.
type Base struct {
	Ref string `json:"ref"` // for people: debian:bookworm, scratch, or the reference of an image
	// Name and Version are set when it is an image of this farm.
	Name    string `json:"name,omitempty"`
	Version string `json:"version,omitempty"`
}
