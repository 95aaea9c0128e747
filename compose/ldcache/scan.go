package ldcache

import (
	"cmp"
	"slices"
	"strings"
)

// Compare orders names as glibc does: runs of digits count as numbers, and any digit is more than anything else.
func Compare(a, b string) int {
	digits := func(s string) int { return len(s) - len(strings.TrimLeft(s, "0123456789")) }
	for a != "" {
		m, n := digits(a), digits(b)
		switch {
		case m > 0 && n > 0:
			x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
			if c := cmp.Or(cmp.Compare(len(x), len(y)), strings.Compare(x, y)); c != 0 {
				return c
			}
			a, b = a[m:], b[n:]
		case m > 0:
			return 1
		case n > 0:
			return -1
		case b == "":
			return 1
		case a[0] != b[0]:
			return cmp.Compare(int8(a[0]), int8(b[0])) // C's char, where it is signed
		default:
			a, b = a[1:], b[1:]
		}
	}
	return -cmp.Compare(len(b), 0)
}

// Dir is a directory that the loader searches, and what it has.
type Dir struct {
	Path  string // absolute, as the configuration names it
	Files []File // in any order
}

// File is a file with a library's name, or a symbolic link to one, with what the library says of itself.
type File struct {
	Name string
	Link bool
	Library
}

// Link is a symbolic link that ldconfig would make: from the soname to the file, within a directory.
type Link struct{ Dir, Name, Target string }

// Scan decides what of the directories is indexed for a Debian architecture, and which sonames have no link yet to be
// found by. Of files with the same soname the one counts whose name is the largest; a link counts least.
func Scan(dirs []Dir, arch string) (entries []Entry, links []Link) {
	for _, d := range dirs {
		names := map[string]bool{}
		best := map[string]File{} // by soname
		for _, f := range d.Files {
			names[f.Name] = true
			if _, ok := kinds[arch][f.ABI]; !ok {
				continue
			}
			soname := cmp.Or(f.Soname, f.Name)
			// The soname's own link and the linker's (libx.so) are what they are. Any other link counts as a file.
			f.Link = f.Link && (f.Name == soname || strings.HasSuffix(f.Name, ".so") && strings.HasPrefix(soname, f.Name))
			if f.Link {
				soname = f.Name
			}
			have, ok := best[soname]
			if !ok || have.Link && !f.Link || have.Link == f.Link && Compare(have.Name, f.Name) < 0 {
				best[soname] = f
			}
		}
		for soname, f := range best { // in any order: they are sorted in the end
			entries = append(entries, Entry{Name: soname, Path: d.Path + "/" + soname, Flags: kinds[arch][f.ABI]})
			if !f.Link && !names[soname] {
				links = append(links, Link{d.Path, soname, f.Name})
			}
		}
	}
	slices.SortFunc(links, func(a, b Link) int {
		return cmp.Or(strings.Compare(a.Dir, b.Dir), strings.Compare(a.Name, b.Name))
	})
	return entries, links
}
