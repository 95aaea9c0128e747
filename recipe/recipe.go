// Package recipe holds what a person writes, the Recipe, and what it resolves to, the Lock; and the Context, which is
// the app's files as the client sees them.
//
//	observe (the world) ─┐
//	Recipe + Context ────┴─ solve ──▶ Lock ──▶ its digest is the bake key, and the version derives from that
//
// Everything here is pure: parsing, rules and canonical encodings.
package recipe

import "time"

// APIVersion is the apiVersion that a recipe of this release carries.
const APIVersion = "bakefarm/v1"

// Recipe says what to bake. Parse makes one; a Recipe from Parse is valid.
type Recipe struct {
	APIVersion string
	Name       string // team/app, also the repository name in the registry
	OS         OS
	App        []AppItem
	Config     Config
	Outputs    []Output
	Tests      []Test // of what the outputs make, before it is published
	Publish    Publish
	Requires   []string // labels that the workers must have which bake it, sorted, each once; no part of the Lock
}

// OS is the operating system under the app. Exactly one field is set, but for Debian packages over a Base.
type OS struct {
	Debian  *Debian
	Base    *Base
	Scratch bool
}

// Debian asks for a system made of Debian packages.
type Debian struct {
	Suite    string   `json:"suite"`              // empty over a Base: the one that it is of
	Variant  string   `json:"variant"`            // "minbase", "none", or VariantBase
	Packages []string `json:"packages,omitempty"` // name or name=version, in the order given, each once: it decides between alternatives
	Scripts  string   `json:"scripts"`            // "run" the maintainer scripts, or "skip" them
	Exclude  []string `json:"exclude,omitempty"`  // patterns for NewExcludes: presets have become what they stand for
	Mirror   string   `json:"mirror,omitempty"`   // overrides the worker's apt sources; several with spaces between, after options as in a one-line source
	Keyring  string   `json:"keyring,omitempty"`  // path on the worker, with Mirror
}

// AppItem is one entry of app: a copy out of the context, or a Debian package there.
type AppItem struct {
	Package string // slash-separated path of a .deb in the context, clean; then all else is empty

	Copy  string // slash-separated path in the context, clean, "." for all of it
	To    string // absolute, clean; a directory when it ended in "/" or the source is a directory
	ToDir bool   // To was written with a trailing "/"
	UID   int    // owner: "uid:gid", numeric, 0:0 by default
	GID   int
	Mode  *uint32 // permission bits for files; nil: 0644, or 0755 when executable
}

// Config is the OCI image configuration that a recipe sets.
type Config struct {
	Entrypoint []string          `json:"entrypoint,omitempty"`
	Cmd        []string          `json:"cmd,omitempty"`
	Env        map[string]string `json:"env,omitempty"`
	User       string            `json:"user,omitempty"`
	WorkingDir string            `json:"workingDir,omitempty"`
	Ports      []string          `json:"ports,omitempty"` // "8080/tcp": sorted, protocol always there
	Volumes    []string          `json:"volumes,omitempty"`
	Labels     map[string]string `json:"labels,omitempty"`
	StopSignal string            `json:"stopSignal,omitempty"`
}

// Output is one thing to make of the recipe. Exactly one field is set.
type Output struct {
	OCI  *OCIOutput  `json:"oci,omitempty"`
	Disk *DiskOutput `json:"disk,omitempty"`
}

// OCIOutput asks for an OCI image.
type OCIOutput struct {
	Platforms []string `json:"platforms"` // "linux/amd64", sorted; of several there is an index too
}

// DiskOutput asks for a disk that a machine starts from.
type DiskOutput struct {
	Platform   string `json:"platform"`
	Size       int64  `json:"size"`       // in bytes, whole MiB
	Boot       string `json:"boot"`       // BootUEFI, BootHybrid or BootDirect
	Filesystem string `json:"filesystem"` // of the root: FilesystemExt4 or FilesystemEROFS
	Cmdline    string `json:"cmdline,omitempty"`
	// SecureBoot is the fingerprint of the certificate whose key signs what firmware starts: SHA-256, 64 hexadecimal digits. Empty:
	// nothing is signed.
	SecureBoot string `json:"secureBoot,omitempty"`
	// Initrd is InitrdDistribution, or empty: bakefarm's own.
	Initrd string `json:"initrd,omitempty"`
	// Restart says when the program is started again after it has ended: RestartOnFailure, RestartNever, or empty: always.
	Restart string `json:"restart,omitempty"`
}

// Filesystems of roots.
const (
	FilesystemExt4  = "ext4"
	FilesystemEROFS = "erofs" // nobody writes to it: what is written goes to memory, over it
)

// What RAM disks there are beside bakefarm's own, and when a disk's program is started again.
const (
	InitrdDistribution = "distribution" // the one that the OS's own packages make
	RestartOnFailure   = "on-failure"
	RestartNever       = "no"
)

// How a disk starts.
const (
	BootUEFI   = "uefi"   // by firmware, from a system partition
	BootHybrid = "hybrid" // by UEFI firmware, and by the BIOS of PCs
	BootDirect = "direct" // the virtual machine is given the kernel and its RAM disk
)

// Publish says where a finished bake goes. It acts on every request, also on a cached one, and is no part of the Lock.
type Publish struct {
	Channel    string
	Registries []string // references with {{.Version}}, {{.Name}} and {{.Channel}}
}

// MaxAge is how old an observation of a mirror may be when a bake uses it.
const MaxAge = 5 * time.Minute
