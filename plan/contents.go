package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"slices"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Contents is what the catalog is told about a Lock. ref is the reference of the base, when somebody has it: the Lock has
// digests only.
func Contents(l *recipe.Lock, ref string) *farm.Contents {
	c := &farm.Contents{Base: base(l.OS, ref), Labels: l.Config.Labels}
	size := 0
	for name, value := range l.Config.Labels {
		size += len(name) + len(value)
	}
	if size > farm.MaxLabels {
		c.Labels = nil
	}
	for platform, list := range Installed(l) {
		if c.Packages == nil {
			c.Packages = map[string]digest.Digest{}
		}
		c.Packages[platform] = PackageSet(list)
	}
	return c
}

// Installed are the packages of a Lock by platform: of the platform's image, or of its disk when there is no image.
func Installed(l *recipe.Lock) map[string][]recipe.LockedPackage {
	all := map[string][]recipe.LockedPackage{}
	systems := l.Systems()
	for _, system := range systems {
		platform, disk := recipe.PlatformOf(system)
		if disk && slices.Contains(systems, platform) && l.OS.Base == nil {
			continue // what the platform's image has counts
		}
		if _, has := all[platform]; disk && has && slices.Contains(recipe.PlatformsOf(l.Outputs), platform) {
			continue
		}
		all[platform] = l.PackagesOf(system)
	}
	return all
}

func base(os recipe.LockedOS, ref string) farm.Base {
	switch b := os.Base; {
	case b != nil && b.Name != "":
		return farm.Base{Ref: b.Name + ":" + b.Version, Name: b.Name, Version: b.Version}
	case b != nil && ref != "":
		return farm.Base{Ref: ref}
	case b != nil:
		return farm.Base{Ref: "image"}
	case os.Debian != nil:
		return farm.Base{Ref: "debian:" + os.Debian.Suite}
	}
	return farm.Base{Ref: "scratch"}
}

// PackageSet is the digest of a Lock's list of packages, by their names, versions and architectures.
func PackageSet(list []recipe.LockedPackage) digest.Digest {
	h := sha256.New()
	for _, p := range list {
		h.Write([]byte(p.Name + " " + p.Version + " " + p.Arch + "\n"))
	}
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(h.Sum(nil)))
}
