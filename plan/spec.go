package plan

import (
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Formats are the numbers of the formats of the shard kinds' bytes. A change that makes other bytes of the same inputs
// raises the number; the golden digests in the tests say when.
var Formats = map[farm.Kind]int{
	farm.KindObserve:   2,
	farm.KindSolve:     3,
	farm.KindInspect:   1,
	farm.KindImport:    1,
	farm.KindConvert:   2,
	farm.KindTrim:      1,
	farm.KindCut:       1,
	farm.KindAssemble:  3,
	farm.KindConfigure: 4,
	farm.KindImage:     2,
	farm.KindIndex:     1,
	farm.KindRoot:      5,
	farm.KindDisk:      6,
	farm.KindRun:       1,
	farm.KindBoot:      1,
}

// ObserveSpec asks what the mirrors of a suite have now, or what a registry has under a reference.
type ObserveSpec struct {
	Suite   string `json:"suite"`
	Arch    string `json:"arch"`              // Debian architecture
	Mirror  string `json:"mirror,omitempty"`  // empty: the worker's own apt sources
	Keyring string `json:"keyring,omitempty"` // path on the worker
	Image   string `json:"image,omitempty"`   // a registry's reference; then all else is empty
}

// ObserveOutput is what they had.
type ObserveOutput struct {
	Image *ObservedImage `json:"image,omitempty"`

	Indexes []Index `json:"indexes"` // in the order of the sources
	Pins    []Pin   `json:"pins,omitempty"`
}

// ObservedImage is what a reference named.
type ObservedImage struct {
	Digest    digest.Digest            `json:"digest"`    // of the manifest or index
	Platforms map[string]digest.Digest `json:"platforms"` // "linux/amd64" → manifest
}

// Pin is one record of the preferences of the machine that asked, where its own sources said whom to ask
// (apt_preferences(5)). The first that fits counts.
type Pin struct {
	Package  string `json:"package"`  // "*": every one
	Pin      string `json:"pin"`      // release o=Debian, origin mirror.example, version 1.2*
	Priority string `json:"priority"` // a number, or never
}

// Index is one Packages index as a mirror had it.
type Index struct {
	Base      string        `json:"base"`           // URI that the index's Filename fields are relative to
	Also      []string      `json:"also,omitempty"` // other ones with the same Release, which stand in for it
	Suite     string        `json:"suite"`          // as the source names it: bookworm-updates
	Codename  string        `json:"codename"`       // of the Release file
	Component string        `json:"component"`
	Release   digest.Digest `json:"release"`  // of the InRelease file: evidence
	SignedBy  string        `json:"signedBy"` // fingerprint of the key: evidence
	Packages  digest.Digest `json:"packages"` // piece: the Packages file as the mirror compresses it
	Name      string        `json:"name"`     // its path under the suite: main/binary-amd64/Packages.xz
	Size      int64         `json:"size"`     // of the compressed file

	// What the Release file says that priorities depend on.
	Origin               string `json:"origin,omitempty"`
	Label                string `json:"label,omitempty"`
	Archive              string `json:"archive,omitempty"` // its Suite: stable, oldstable-updates
	Version              string `json:"version,omitempty"` // 12.15
	NotAutomatic         bool   `json:"notAutomatic,omitempty"`
	ButAutomaticUpgrades bool   `json:"butAutomaticUpgrades,omitempty"`
}

// SolveSpec asks for the exact packages of an OS request against observed indexes.
type SolveSpec struct {
	Debian  recipe.Debian `json:"debian"`
	Arch    string        `json:"arch"`
	Indexes []Index       `json:"indexes"`
	Pins    []Pin         `json:"pins,omitempty"`
	// Stay are packages of an earlier answer that are not to be chosen anew.
	Stay []Stay `json:"stay,omitempty"`
	// Own are packages of the user's, which are installed with the rest.
	Own []Own `json:"own,omitempty"`
	// Locate asks for the addresses of these packages instead of choosing any: an answer that is known. One that no index
	// has is an error.
	Locate []recipe.LockedPackage `json:"locate,omitempty"`
	// Installed is the Status of a Base, with recipe.VariantBase: packages that are there already. The answer is those to add.
	Installed digest.Digest `json:"installed,omitempty"`
}

// InspectSpec asks what a .deb of the user's is. The key covers its content alone.
type InspectSpec struct {
	File   string          `json:"file"` // path in the context, for people
	Size   int64           `json:"size"`
	Chunks []digest.Digest `json:"chunks"` // pieces: its content in recipe.ChunkSize parts
}

// Own is the output of inspect: a package of the user's, whose file is a blob named by its sha256.
type Own struct {
	recipe.LockedPackage
	Control digest.Digest `json:"control"` // piece: its control file
}

// Stay is a package that stays as it is, also when no index has it any more: then the record of its conversion says what
// it depends on, and without one it is chosen anew.
type Stay struct {
	recipe.LockedPackage
	Record digest.Digest `json:"record,omitempty"` // piece: deb.Record
}

// SolveOutput is the answer. Packages is a piece because desktops have thousands.
type SolveOutput struct {
	Packages digest.Digest `json:"packages"` // piece: JSON array of SolvedPackage, sorted by name
	Count    int           `json:"count"`
}

// SolvedPackage is a locked package and where it was seen.
type SolvedPackage struct {
	recipe.LockedPackage
	URL  string   `json:"url,omitempty"`  // where this observation's mirror has it, empty when it is gone; no part of any key
	Also []string `json:"also,omitempty"` // and where others have it
}

// ConvertSpec asks for one package as a layer member. The key covers Package.SHA256 alone.
type ConvertSpec struct {
	Package recipe.LockedPackage `json:"package"`
	URLs    []string             `json:"urls"` // where to fetch it, in order of preference; no part of the key
	Keep    []string             `json:"keep,omitempty"`
}

// TrimSpec asks for a converted package, the output of its only dependency (Member), without the files that match. It is
// a shard of its own so that a package is fetched and converted once, whatever recipes leave out of it.
type TrimSpec struct {
	Package recipe.LockedPackage `json:"package"` // for people: no part of the key
	Exclude []string             `json:"exclude"` // patterns for recipe.NewExcludes
}

// Member is the output of convert, trim and cut: a run of whole tar entries, compressed.
type Member struct {
	Pieces    []Piece       `json:"pieces"`    // gzip members, in order
	TarSize   int64         `json:"tarSize"`   // uncompressed bytes
	TarDigest digest.Digest `json:"tarDigest"` // of the uncompressed bytes: their name in worker caches
	Inventory digest.Digest `json:"inventory"` // piece: compose.Inventory (for packages, within a deb.Record)
}

// Piece is a piece by digest and size in bytes.
type Piece struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
}

// CutSpec asks for one run of app files as a layer member. A run is either several whole entries, or one segment of one
// file that is larger than a chunk: the first segment carries the header, the last one the padding.
type CutSpec struct {
	Entries []recipe.TreeEntry `json:"entries"`           // files and links, no directories
	Segment *Segment           `json:"segment,omitempty"` // with exactly one entry
}

// Segment is one chunk of a large file. The entry has the file's whole Size, and of its Chunks this one alone: specs of
// a file with thousands of them would be quadratic. What comes out of a segment after the first, its inventory included,
// depends on the chunk's bytes and Last only, never on the entry's path, owner or mode: its key does not cover them.
type Segment struct {
	Chunk int  `json:"chunk"` // index of the chunk in the file; 0: the tar header comes first and the inventory has the path
	Last  bool `json:"last"`  // the padding comes last
}

// Roles of layers.
const (
	RoleOS       = "os"       // packages: all of them, or those of the variant
	RolePackages = "packages" // the packages beside the variant's, over the layer of these
	RoleOwn      = "own"      // the user's own packages, over the layers of the others
	RoleScripts  = "scripts"  // what the maintainer scripts of the packages below changed, over the layers of these
	RoleApp      = "app"
)

// AssembleSpec asks for a layer. The outputs of the shard's dependencies (Members) are its members, in their order; those
// of the layer below it (AssembleOS.Below) say what that has, and are not in this one.
type AssembleSpec struct {
	Role string             `json:"role"`
	Dirs []recipe.TreeEntry `json:"dirs,omitempty"` // app: directories for the head, sorted
	OS   *AssembleOS        `json:"os,omitempty"`
	// Base: the layer lies over the Base that the first dependency makes; its members are the others'.
	Base bool `json:"base,omitempty"`
}

// AssembleOS is what an OS layer's head needs beside the package records.
type AssembleOS struct {
	Suite    string                 `json:"suite"`
	Arch     string                 `json:"arch"`
	Exclude  []string               `json:"exclude,omitempty"` // what the packages are without: dpkg is told
	Packages []recipe.LockedPackage `json:"packages"`          // of the whole system, in the order of the dependencies
	// Below is how many of the first packages the layers below have: with RolePackages and RoleOwn.
	Below int `json:"below,omitempty"`
	// Scripts: maintainer scripts will run over the layer, so nothing is made that they make.
	Scripts bool `json:"scripts,omitempty"`
}

// Layer is the output of assemble.
type Layer struct {
	Digest  digest.Digest `json:"digest"` // of the compressed blob
	Size    int64         `json:"size"`
	DiffID  digest.Digest `json:"diffID"` // of the uncompressed tar
	TarSize int64         `json:"tarSize"`
	Pieces  int           `json:"pieces"`
	// MediaType is that of a base's layer which is no multi-member gzip of ours: OCI's, for gzip, zstd or plain tars.
	MediaType string `json:"mediaType,omitempty"`
	// Packages is a piece: the packages of this layer and those below it (JSON array of recipe.LockedPackage, sorted by
	// name); empty for an app layer.
	Packages digest.Digest `json:"packages,omitempty"`

	// Of a layer that maintainer scripts will run over.
	Scripts int      `json:"scripts,omitempty"` // packages that have any, in this layer and those below it
	Date    int64    `json:"date,omitempty"`    // Unix seconds: that of the newest of these packages
	Unpack  []Member `json:"unpack,omitempty"`  // packages that divert files of others before dpkg unpacks them: not in the layer
}

// ConfigureSpec asks for the layer of what the maintainer scripts of a system change. The outputs of the shard's
// dependencies (Layers, the lowest first) are the system.
type ConfigureSpec struct {
	Arch string `json:"arch"` // Debian architecture
	// Below is how many of the first layers are a configured system already, what its scripts changed the last of them:
	// only the packages over it are configured.
	Below int `json:"below,omitempty"`
	// Variant: the packages are the variant's. Where a recipe names one that excludes one of these, what others of them
	// depend on is laid later.
	Variant bool `json:"variant,omitempty"`
	// Base: the first dependency makes the Base below the layers, which is configured.
	Base bool `json:"base,omitempty"`
}

// ImageSpec asks for an OCI image over the Layers that its dependencies make.
type ImageSpec struct {
	Platform string        `json:"platform"`
	Config   recipe.Config `json:"config"`
	Roles    []string      `json:"roles"` // of the layers, for their history entries
	// Base: the first dependency makes the Base below the layers, whose configuration is the image's where Config says nothing.
	Base bool `json:"base,omitempty"`
}

// ImageIndexSpec asks for an OCI image index over the images that its dependencies make.
type ImageIndexSpec struct {
	Platforms []string `json:"platforms"` // of the images, in the order of the dependencies: sorted
}

// ImageOutput is the output of image and index.
type ImageOutput struct {
	Manifest  digest.Digest   `json:"manifest"` // of the image, or the index itself
	MediaType string          `json:"mediaType"`
	Size      int64           `json:"size"`  // of all that a puller of it can be sent, each blob once
	Blobs     []digest.Digest `json:"blobs"` // what it refers to: config and layers, or manifests
}

// RootSpec asks for a disk with an OS and without an app: what all disks of that OS have in common. The outputs of the
// shard's dependencies (Layers, the lowest first) are the OS.
type RootSpec struct {
	Disk recipe.DiskOutput `json:"disk"`
	Seed digest.Digest     `json:"seed"` // as in DiskSpec
	// Base: the first dependency makes the Base below the layers.
	Base bool `json:"base,omitempty"`
}

// Root is the output of root.
type Root struct {
	State   Piece           `json:"state"` // what a disk goes on from
	Blobs   []digest.Digest `json:"blobs"` // what is written of the disk
	Kernel  string          `json:"kernel"`
	Cmdline string          `json:"cmdline"`
	// With boot: direct, what starts it.
	Image  *Piece `json:"image,omitempty"`
	Initrd *Piece `json:"initrd,omitempty"`
}

// DiskSpec asks for a disk of an OS, the Root that its dependency makes, and of the Layer of an app, if another one makes
// that.
type DiskSpec struct {
	Disk   recipe.DiskOutput `json:"disk"`
	Config recipe.Config     `json:"config"`
	// Seed is what the disk's identifiers come from: the layers of the OS. Another app keeps them.
	Seed digest.Digest `json:"seed"`
	// Packages are the names of the OS's packages: some want something done at a machine's first start.
	Packages []string `json:"packages"`
	// Base: the first dependency makes the Base below the layers, whose configuration counts where Config says nothing.
	Base bool `json:"base,omitempty"`
	// Enabled: maintainer scripts have enabled the units that are to be.
	Enabled bool `json:"enabled,omitempty"`
}
