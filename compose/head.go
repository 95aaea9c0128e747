package compose

import (
	"archive/tar"
	"bytes"
	"fmt"
	"maps"
	"path"
	"slices"
)

// File is an entry made for the set, with its content: a usr-merge link, the package database, a directory.
type File struct {
	Entry
	Content []byte
}

// Entries are those of a layer's head: every directory that its members need, and the entries made for the set, each
// once, sorted by path, so that a directory precedes what it holds. There are none when nothing is given.
//
// Where several members have the same directory, special attributes (anything but 0755 root:root without extended
// attributes) win over plain ones, and among special ones the earlier member's: the order of dirs is the set's order
// (for Debian: by package name). A directory made for the set wins over all. The modification time is the latest of
// those that the members give, whoever wins. Missing parents are added, 0755 root:root with ModTime.
//
// A path that is a directory for one and something else for another is refused with a *Conflict; CheckUnique finds the
// conflicts among the members' own paths.
func Entries(dirs [][]Entry, made []File) ([]File, error) {
	entries := map[string]File{}
	for _, member := range dirs {
		for _, d := range member {
			if d.Type != tar.TypeDir {
				return nil, fmt.Errorf("%s: is listed as a directory, but its type is %q", d.Path, d.Type)
			}
			have, ok := entries[d.Path]
			if ok {
				latest := max(have.ModTime, d.ModTime)
				if special(d) && !special(have.Entry) {
					have.Entry = d
				}
				have.ModTime = latest
				entries[d.Path] = have
				continue
			}
			entries[d.Path] = File{Entry: d}
		}
	}
	byUs := map[string]bool{}
	for _, f := range made {
		if int64(len(f.Content)) != f.Size {
			return nil, fmt.Errorf("%s: size is %d, but its content has %d bytes", f.Path, f.Size, len(f.Content))
		}
		if have, ok := entries[f.Path]; ok {
			switch {
			case byUs[f.Path]:
				return nil, &Conflict{Path: f.Path, Kind: Twice, First: madeOwner, Second: madeOwner}
			case f.Type != tar.TypeDir:
				return nil, &Conflict{Path: f.Path, Kind: DirAndFile, First: "a member", Second: madeOwner}
			}
			f.ModTime = max(f.ModTime, have.ModTime)
		}
		byUs[f.Path] = true
		entries[f.Path] = f
	}
	for _, p := range slices.Sorted(maps.Keys(entries)) {
		for parent := path.Dir(p); parent != "."; parent = path.Dir(parent) {
			have, ok := entries[parent]
			if ok && have.Type != tar.TypeDir {
				return nil, &Conflict{Path: parent, Kind: BelowFile, First: madeOwner, Second: p}
			}
			if ok {
				continue // its own parents may still be missing
			}
			entries[parent] = File{Entry: Dir(parent)}
		}
	}
	// Bytewise order puts "a-b" between "a" and "a/b"; a parent still precedes its children.
	sorted := make([]File, 0, len(entries))
	for _, p := range slices.Sorted(maps.Keys(entries)) {
		sorted = append(sorted, entries[p])
	}
	return sorted, nil
}

// Head makes the uncompressed head of a layer: its Entries, one after the other.
func Head(dirs [][]Entry, made []File) ([]byte, error) {
	entries, err := Entries(dirs, made)
	if err != nil {
		return nil, err
	}
	var buf bytes.Buffer
	for _, f := range entries {
		if err := WriteEntry(&buf, f.Entry, bytes.NewReader(f.Content)); err != nil {
			return nil, err
		}
	}
	return buf.Bytes(), nil
}

// Dir is a plain directory: 0755 root:root with ModTime.
func Dir(p string) Entry { return Entry{Path: p, Type: tar.TypeDir, Mode: 0o755, ModTime: ModTime} }

// Text is a plain file made for the set: root:root with ModTime.
func Text(p string, mode int64, content []byte) File {
	return File{
		Entry:   Entry{Path: p, Type: tar.TypeReg, Mode: mode, ModTime: ModTime, Size: int64(len(content))},
		Content: content,
	}
}

// Symlink is a symbolic link made for the set.
func Symlink(p, target string) File {
	return File{Entry: Entry{Path: p, Type: tar.TypeSymlink, Mode: 0o777, ModTime: ModTime, Link: target}}
}

func special(d Entry) bool { return d.Mode != 0o755 || d.UID != 0 || d.GID != 0 || len(d.Xattrs) > 0 }
