package deb

import (
	"slices"
	"strings"
)

// aliases are the top-level directories that merged-/usr makes symbolic links into /usr.
var aliases = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// merge rewrites a path to merged-/usr, and names the alias it went through, or "". Link targets of symbolic links are
// not touched: on a merged system dpkg writes through the alias, and so leaves the target's text as it is as well.
func merge(p string) (merged, alias string) {
	top, _, _ := strings.Cut(p, "/")
	if slices.Contains(aliases, top) {
		return "usr/" + p, top
	}
	return p, ""
}

// MergedPath is the path in the layer of an absolute path, such as /bin/sh: without the slash in front, merged-/usr.
func MergedPath(absolute string) string {
	merged, _ := merge(strings.TrimPrefix(absolute, "/"))
	return merged
}

// aliasesOf are the aliases that a system of the suite and architecture has from the beginning, as debootstrap makes
// them: since trixie base-files itself ships them, and only lib64 is left of the old multilib directories.
func aliasesOf(suite, arch string) []string {
	links := []string{"bin", "lib", "sbin"}
	switch suite {
	case "buster", "bullseye", "bookworm":
		switch arch {
		case "amd64", "x32":
			links = append(links, "lib32", "lib64", "libx32")
		case "i386":
			links = append(links, "lib64", "libx32")
		case "mips", "mipsel":
			links = append(links, "lib32", "lib64")
		case "ppc64el", "powerpc":
			links = append(links, "lib64")
		case "s390x":
			links = append(links, "lib32")
		}
	default:
		switch arch {
		case "amd64", "loong64", "mips64el", "ppc64el":
			links = append(links, "lib64")
		}
	}
	return links
}
