package compose

import (
	"archive/tar"
	"fmt"
	"path"
)

// ConflictKind says how two owners of a path disagree.
type ConflictKind int

// The kinds of conflict.
const (
	Twice      ConflictKind = iota // both have the path, and not as a directory
	DirAndFile                     // a directory for the first, something else for the second
	BelowFile                      // the second has something below a path that is no directory for the first
)

// Conflict is a path that two owners in one layer disagree about. Such layers are refused by podman and buildah, or
// unpack differently with different tools.
type Conflict struct {
	Path          string
	Kind          ConflictKind
	First, Second string // owners: package or run names
}

func (c *Conflict) Error() string {
	switch c.Kind {
	case DirAndFile:
		return fmt.Sprintf("/%s is a directory in %s, but not in %s", c.Path, c.First, c.Second)
	case BelowFile:
		return fmt.Sprintf("/%s in %s is no directory, but %s has something below it", c.Path, c.First, c.Second)
	}
	return fmt.Sprintf("/%s is both in %s and in %s", c.Path, c.First, c.Second)
}

const madeOwner = "the files made for the layer"

// Owned is a member's inventory and who it belongs to, for error messages.
type Owned struct {
	Owner string
	Inventory
}

// CheckUnique checks that no path occurs twice across the members of a layer and the entries made for it, that no path
// is a directory for one and something else for another, and that nothing lies below a path that is no directory. The
// error is the first *Conflict in the order of the members.
func CheckUnique(made []File, members []Owned) error {
	total := len(made)
	for _, m := range members {
		total += len(m.Paths)
	}
	files := make(map[string]int, total) // owner: index of the member, or -1
	dirs := map[string]int{}             // directories and everybody's parents
	explicit := map[string]int{}         // directories that somebody has an entry for
	owner := func(i int) string {
		if i < 0 {
			return madeOwner
		}
		return members[i].Owner
	}
	add := func(p string, i int) error {
		if first, ok := files[p]; ok {
			return &Conflict{Path: p, Kind: Twice, First: owner(first), Second: owner(i)}
		}
		files[p] = i
		return nil
	}
	addDirs := func(p string, i int) {
		// A known directory's parents are known as well.
		for ; p != "." && p != "/"; p = path.Dir(p) {
			if _, ok := dirs[p]; ok {
				return
			}
			dirs[p] = i
		}
	}
	for _, f := range made {
		if f.Type == tar.TypeDir {
			explicit[f.Path] = -1
			addDirs(f.Path, -1)
			continue
		}
		if err := add(f.Path, -1); err != nil {
			return err
		}
		addDirs(path.Dir(f.Path), -1)
	}
	for i, m := range members {
		for _, d := range m.Dirs {
			explicit[d.Path] = i
			addDirs(d.Path, i)
		}
		for _, p := range m.Paths {
			if err := add(p, i); err != nil {
				return err
			}
			addDirs(path.Dir(p), i)
		}
	}
	check := func(p string, i int) error {
		if d, ok := explicit[p]; ok {
			return &Conflict{Path: p, Kind: DirAndFile, First: owner(d), Second: owner(i)}
		}
		if d, ok := dirs[p]; ok {
			return &Conflict{Path: p, Kind: BelowFile, First: owner(i), Second: owner(d)}
		}
		return nil
	}
	for _, f := range made {
		if f.Type != tar.TypeDir {
			if err := check(f.Path, -1); err != nil {
				return err
			}
		}
	}
	for i, m := range members {
		for _, p := range m.Paths {
			if err := check(p, i); err != nil {
				return err
			}
		}
	}
	return nil
}
