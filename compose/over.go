package compose

import (
	"archive/tar"
	"bytes"
	"maps"
	"path"
	"slices"
)

// whiteout begins the name of a file that stands for the absence of what a lower layer has under the rest of the name
// (OCI image layer specification, "Whiteouts").
const whiteout = ".wh."

// Over returns the entries that the head of a layer needs when it lies over another layer, and both together are to be
// what one layer would have been: whole are the entries of that one's head, below those of the lower layer, both as
// Entries makes them; members are the inventories of all members of both, and own those that the upper layer holds.
//
// These are what the lower layer has not, or has otherwise, and the directories above everything in the upper layer:
// tools that unpack layers into trees of their own would make up a directory that they miss, and hide the real one's
// owner and mode with it. What the lower layer alone has is whited out.
func Over(whole, below []File, members, own []Owned) []File {
	lower := make(map[string]*File, len(below))
	for i := range below {
		lower[below[i].Path] = &below[i]
	}
	all := make(map[string]*File, len(whole))
	upper := map[string]File{}
	for i, f := range whole {
		all[f.Path] = &whole[i]
		if have, ok := lower[f.Path]; !ok || !f.equal(have) {
			upper[f.Path] = f
		}
	}
	for _, f := range absent(below, all, members) {
		upper[f.Path] = f
	}
	above := func(p string) {
		for p = path.Dir(p); p != "."; p = path.Dir(p) {
			if f, ok := all[p]; ok {
				upper[p] = *f
			}
		}
	}
	for _, p := range slices.Collect(maps.Keys(upper)) {
		above(p)
	}
	for _, m := range own {
		for _, p := range m.Paths {
			above(p)
		}
	}
	entries := make([]File, 0, len(upper))
	for _, p := range slices.Sorted(maps.Keys(upper)) {
		entries = append(entries, upper[p])
	}
	return entries
}

// absent makes a whiteout for each entry of the lower layer that is in neither whole nor a member, unless the directory
// that held it has gone as well.
func absent(below []File, whole map[string]*File, members []Owned) []File {
	gone := map[string]bool{}
	for _, f := range below {
		if whole[f.Path] == nil {
			gone[f.Path] = true
		}
	}
	if len(gone) == 0 {
		return nil
	}
	for _, m := range members {
		for _, p := range m.Paths {
			delete(gone, p)
		}
	}
	var files []File
	for _, p := range slices.Sorted(maps.Keys(gone)) {
		dir, name := path.Split(p)
		if dir == "" {
			files = append(files, Text(whiteout+name, 0o644, nil))
		} else if parent := whole[path.Clean(dir)]; parent != nil && parent.Type == tar.TypeDir {
			files = append(files, Text(dir+whiteout+name, 0o644, nil))
		}
	}
	return files
}

// equal reports whether two entries leave the same on a disk.
func (f *File) equal(g *File) bool {
	return f.Type == g.Type && f.Mode == g.Mode && f.UID == g.UID && f.GID == g.GID && f.ModTime == g.ModTime &&
		f.Size == g.Size && f.Link == g.Link && f.Major == g.Major && f.Minor == g.Minor && maps.Equal(f.Xattrs, g.Xattrs) &&
		bytes.Equal(f.Content, g.Content)
}
