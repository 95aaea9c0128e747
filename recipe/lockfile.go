package recipe

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// LockFile is a Lock as it lives in a file beside its recipe, where people and version control look at it. A bake that is
// given one takes its system from there; the app and the configuration are those of the recipe and its context.
type LockFile struct {
	Lock
	// Request is what the recipe asked for when the system was locked: a recipe that asks for something else needs
	// another Lock. Nil in a Lock as the API shows it.
	Request *LockRequest `json:"request,omitempty"`
}

// LockRequest is the part of a recipe that its locked system follows from.
type LockRequest struct {
	Base     string   `json:"base,omitempty"` // the field and the reference: os.image registry.example/team/base:1
	Suite    string   `json:"suite,omitempty"`
	Variant  string   `json:"variant,omitempty"`
	Packages []string `json:"packages,omitempty"` // as the recipe has them
}

// MaxLockFile bounds a lock file, in bytes.
const MaxLockFile = 8 << 20

// NewLockFile is the lock file of a recipe and the Lock that it was resolved to.
func NewLockFile(r *Recipe, l *Lock) *LockFile {
	f := &LockFile{Lock: *l}
	if r.OS.Base != nil || r.OS.Debian != nil {
		f.Request = &LockRequest{Base: r.OS.Base.String()}
	}
	if d := r.OS.Debian; d != nil {
		f.Request.Suite, f.Request.Variant, f.Request.Packages = d.Suite, d.Variant, d.Packages
	}
	return f
}

// Encode returns the file's text: indented JSON, each package on a line of its own, so that a change of one is a change of
// its line. Equal lock files have equal texts.
func (f *LockFile) Encode() []byte {
	raw, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		panic("recipe: a lock file always encodes: " + err.Error())
	}
	return append(packageLine.ReplaceAllFunc(raw, func(object []byte) []byte {
		joined := lineBreak.ReplaceAll(object, []byte(" "))
		return bytes.ReplaceAll(bytes.ReplaceAll(joined, []byte("{ "), []byte("{")), []byte(" }"), []byte("}"))
	}), '\n')
}

// A locked package in indented JSON. No text in it can look like the end of a line: JSON escapes that.
var (
	packageLine = regexp.MustCompile(`\{\n +"name": [^{}]*\n +"version": [^{}]*\n +\}`)
	lineBreak   = regexp.MustCompile(`\n +`)
)

// DecodeLockFile reads a lock file, or a Lock in any layout, and checks everything in it that comes from outside.
func DecodeLockFile(raw []byte) (*LockFile, error) {
	if len(raw) > MaxLockFile {
		return nil, fmt.Errorf("lock: %d bytes: more than %d", len(raw), MaxLockFile)
	}
	var f LockFile
	decoder := json.NewDecoder(bytes.NewReader(raw))
	if err := decoder.Decode(&f); err != nil {
		return nil, fmt.Errorf("lock: is no lock file as \"bakefarm lock\" writes them: %w", err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("lock: something follows the JSON value")
	}
	if f.APIVersion != LockVersion {
		return nil, fmt.Errorf("lock: apiVersion %q: this release reads %q", clip(f.APIVersion), LockVersion)
	}
	if err := f.OS.Validate(); err != nil {
		return nil, fmt.Errorf("lock: %w", err)
	}
	d := f.OS.Debian
	if d == nil {
		return &f, nil
	}
	for platform, packages := range d.Platforms {
		for i, p := range packages {
			if err := p.validate(); err != nil {
				return nil, fmt.Errorf("lock: os.debian.platforms[%q][%d]: %w", clip(platform), i, err)
			}
		}
	}
	return &f, nil
}

// Validate checks that there is exactly one system, and what is said of a base.
func (os *LockedOS) Validate() error {
	if os.Scratch && (os.Debian != nil || os.Base != nil) || !os.Scratch && os.Debian == nil && os.Base == nil {
		return errors.New("os: want exactly one of debian, base and scratch, or debian over base")
	}
	if os.Base == nil {
		return nil
	}
	for platform, b := range os.Base.Platforms {
		if b.Image.Validate() != nil || b.Image.Algorithm() != digest.SHA256 {
			return fmt.Errorf("os.base.platforms[%q].image: %q is no digest such as sha256:e3b0c442…", clip(platform), clip(string(b.Image)))
		}
		for i, dir := range b.Merged {
			if !slices.Contains(mergedUsr, dir) {
				return fmt.Errorf("os.base.platforms[%q].merged[%d]: %q is no directory that is a link into /usr", clip(platform), i, clip(dir))
			}
		}
		for i, p := range b.Packages {
			if p.Name == "" || p.Version == "" || len(p.Name)+len(p.Version)+len(p.Arch) > 1024 || hasControl(p.Name+p.Version+p.Arch) {
				return fmt.Errorf("os.base.platforms[%q].packages[%d]: want a name, a version and an architecture", clip(platform), i)
			}
		}
	}
	return nil
}

var debianArch = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

func (p LockedPackage) validate() error {
	switch {
	case !debianPackage.MatchString(p.Name):
		return fmt.Errorf("name: %q is no Debian package name", clip(p.Name))
	case !debianVersion.MatchString(p.Version) || strings.ContainsAny(p.Version, "*?"):
		return fmt.Errorf("%s: version: %q is no Debian version", p.Name, clip(p.Version))
	case !debianArch.MatchString(p.Arch):
		return fmt.Errorf("%s: arch: %q is no Debian architecture", p.Name, clip(p.Arch))
	case p.SHA256.Validate() != nil || p.SHA256.Algorithm() != "sha256":
		return fmt.Errorf("%s: sha256: %q is no digest such as sha256:e3b0c442…", p.Name, clip(string(p.SHA256)))
	case p.Size < 0:
		return fmt.Errorf("%s: size: %d is negative", p.Name, p.Size)
	}
	return nil
}

// Misfits says what keeps the lock file from standing for the system that a recipe asks for, one thing each, in the order
// of the recipe. None: it does.
func (f *LockFile) Misfits(r *Recipe) []string {
	var misfits []string
	say := func(format string, args ...any) { misfits = append(misfits, fmt.Sprintf(format, args...)) }
	d, locked := r.OS.Debian, f.OS.Debian
	base := r.OS.Base.String()
	switch {
	case r.OS.kind() != f.OS.kind():
		say("the recipe is over %s, the lock over %s", r.OS.describe(), f.OS.describe())
		return misfits
	case base != "" && f.Request != nil && base != f.Request.Base:
		say("%s is asked for, the lock was made for %s", base, f.Request.Base)
		return misfits
	}
	if f.OS.Base != nil {
		for _, platform := range r.BasePlatforms() {
			if _, ok := f.OS.Base.Platforms[platform]; !ok {
				say("the recipe is for %s, which the lock does not have", platform)
			}
		}
	}
	switch {
	case d == nil && locked == nil:
		return misfits
	case d == nil:
		say("the lock has packages over the base, the recipe adds none")
		return misfits
	case locked == nil:
		say("the recipe adds packages to the base, the lock has none")
		return misfits
	}
	if d.Suite != locked.Suite && d.Suite != "" {
		say("os.debian.suite is %s, the lock has %s", d.Suite, locked.Suite)
	}
	if q := f.Request; q != nil {
		if d.Variant != q.Variant {
			say("os.debian.variant is %s, the lock was made for %s", d.Variant, q.Variant)
		}
		for _, name := range d.Packages {
			if !slices.Contains(q.Packages, name) {
				say("os.debian.packages has %s, which the lock was not made for", name)
			}
		}
		for _, name := range q.Packages {
			if !slices.Contains(d.Packages, name) {
				say("the lock was made for %s, which os.debian.packages does not have", name)
			}
		}
	}
	for _, platform := range r.Systems() {
		packages, ok := locked.Platforms[platform]
		if !ok {
			say("the recipe is for %s, which the lock does not have", platform)
			continue
		}
		for _, name := range d.Packages {
			if why := unlocked(packages, name); why != "" && f.Request == nil {
				say("%s: os.debian.packages has %s; %s", platform, name, why)
			}
		}
	}
	return misfits
}

// unlocked says what keeps a list of locked packages from having what a recipe names, or "".
func unlocked(packages []LockedPackage, wanted string) string {
	name, version, pinned := strings.Cut(wanted, "=")
	i := slices.IndexFunc(packages, func(p LockedPackage) bool { return p.Name == name })
	switch {
	case i < 0:
		return "the lock does not have it"
	case !pinned || packages[i].Version == version:
		return ""
	}
	if ok, err := path.Match(version, packages[i].Version); ok && err == nil {
		return ""
	}
	return "the lock has " + packages[i].Version
}

// Platforms returns the platforms of all outputs, sorted, each once.
func (r *Recipe) Platforms() []string { return PlatformsOf(r.Outputs) }

// PlatformsOf returns the platforms of outputs, sorted, each once.
func PlatformsOf(outputs []Output) []string {
	var all []string
	for _, o := range outputs {
		if o.OCI != nil {
			all = append(all, o.OCI.Platforms...)
		}
	}
	return sortedSet(all)
}

// BasePlatforms returns the platforms that a base is wanted for: those of images and of disks, sorted, each once.
func (r *Recipe) BasePlatforms() []string {
	var all []string
	for _, system := range r.Systems() {
		platform, _ := PlatformOf(system)
		all = append(all, platform)
	}
	return sortedSet(all)
}

// String is the base as lock files and messages name it: its field, and what the recipe says there. Empty for nil.
func (b *Base) String() string {
	if b == nil {
		return ""
	}
	return b.Field() + " " + b.Ref
}

// kind tells systems apart that no lock of another can stand for.
func (os OS) kind() string { return kindOf(os.Base != nil, os.Debian != nil) }

func (os LockedOS) kind() string { return kindOf(os.Base != nil, os.Debian != nil) }

func kindOf(base, debian bool) string {
	switch {
	case base:
		return "base"
	case debian:
		return "debian"
	}
	return "scratch"
}

// describe names the system for messages.
func (os OS) describe() string {
	switch {
	case os.Base != nil:
		return os.Base.String()
	case os.Debian != nil:
		return "Debian " + os.Debian.Suite
	}
	return "scratch"
}

func (os LockedOS) describe() string {
	switch {
	case os.Base != nil && os.Base.Name != "":
		return "os.recipe " + os.Base.Name + "@" + os.Base.Version
	case os.Base != nil:
		return "another image"
	case os.Debian != nil:
		return "Debian " + os.Debian.Suite
	}
	return "scratch"
}
