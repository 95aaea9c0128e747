package debian

import (
	"archive/tar"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
)

// entry is what is compared of a path; comparable.
type entry struct {
	Type     byte
	Mode     int64
	UID, GID int
	Link     string
	Content  string // digest
	Xattrs   string
}

// lay lays a tar over a tree, as a container engine does.
func lay(tree map[string]entry, r io.Reader) error {
	for entries := tar.NewReader(r); ; {
		h, err := entries.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		p := path.Clean(h.Name)
		if p == "." {
			continue
		}
		e := entry{Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, Link: h.Linkname}
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			if _, err := io.Copy(sum, entries); err != nil {
				return err
			}
			e.Content = fmt.Sprintf("%d bytes, %.8x", h.Size, sum.Sum(nil))
		case tar.TypeLink:
			e = tree[path.Clean(h.Linkname)] // another name of that file
		}
		for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
			if name, is := strings.CutPrefix(k, "SCHILY.xattr."); is {
				e.Xattrs += name + "=" + h.PAXRecords[k] + " "
			}
		}
		name := path.Base(p)
		switch gone, is := strings.CutPrefix(name, ".wh."); {
		case name == ".wh..wh..opq":
			dir := path.Dir(p) + "/"
			maps.DeleteFunc(tree, func(q string, _ entry) bool { return strings.HasPrefix(q, dir) })
		case is:
			gone = path.Join(path.Dir(p), gone)
			maps.DeleteFunc(tree, func(q string, _ entry) bool { return q == gone || strings.HasPrefix(q, gone+"/") })
		default:
			if have := tree[p]; have.Type == tar.TypeDir && e.Type != tar.TypeDir {
				maps.DeleteFunc(tree, func(q string, _ entry) bool { return strings.HasPrefix(q, p+"/") })
			}
			tree[p] = e
		}
	}
}
