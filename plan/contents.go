package plan

import (
	"crypto/sha256"
	"encoding/hex"

	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Contents is what the catalog is told about a Lock.
func Contents(l *recipe.Lock) *farm.Contents {
	c := &farm.Contents{Base: base(l.OS), Labels: l.Config.Labels}
	size := 0
	for name, value := range l.Config.Labels {
		size += len(name) + len(value)
	}
	if size > farm.MaxLabels {
		c.Labels = nil
	}
	if l.OS.Debian != nil {
		c.Packages = make(map[string]digest.Digest, len(l.OS.Debian.Platforms))
		for system, list := range l.OS.Debian.Platforms {
			platform, disk := recipe.PlatformOf(system)
			if _, image := l.OS.Debian.Platforms[platform]; disk && image {
				continue // what the platform's image has counts
			}
			c.Packages[platform] = PackageSet(list)
		}
	}
	return c
}

func base(os recipe.LockedOS) farm.Base {
	if os.Debian != nil {
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
