package debian

import (
	"archive/tar"
	"cmp"
	"crypto/sha256"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
)

// entry is what is compared of a path; comparable.
type entry struct {
	Type     byte
	Mode     int64
	UID, GID string // names, as far as the system has any: numbers are given in the order of configuration
	Link     string
	Content  string // digest
	Xattrs   string
}

// owners are the files that lay is to read the text of for named.
func owners() map[string]string {
	return map[string]string{"etc/passwd": "", "etc/group": "", masters + "passwd.master": "", masters + "group.master": ""}
}

const masters = "usr/share/base-passwd/"

// named gives the owners of a tree the names that its system has for them, or that it would begin with.
func named(tree map[string]entry, owners map[string]string) {
	passwd := cmp.Or(owners["etc/passwd"], owners[masters+"passwd.master"])
	group := cmp.Or(owners["etc/group"], owners[masters+"group.master"])
	names := func(text string) map[string]string {
		byNumber := map[string]string{}
		for line := range strings.Lines(text) {
			if fields := strings.Split(line, ":"); len(fields) > 2 && byNumber[fields[2]] == "" {
				byNumber[fields[2]] = fields[0]
			}
		}
		return byNumber
	}
	users, groups := names(passwd), names(group)
	for p, e := range tree {
		e.UID, e.GID = cmp.Or(users[e.UID], e.UID), cmp.Or(groups[e.GID], e.GID)
		tree[p] = e
	}
}

// lay lays a tar over a tree, as a container engine does. The texts of files in it that are wanted are put there.
func lay(tree map[string]entry, r io.Reader, wanted map[string]string) error {
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
		e := entry{Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: strconv.Itoa(h.Uid), GID: strconv.Itoa(h.Gid), Link: h.Linkname}
		switch h.Typeflag {
		case tar.TypeReg:
			sum := sha256.New()
			var text strings.Builder
			into := io.Writer(sum)
			if _, want := wanted[p]; want {
				into = io.MultiWriter(sum, &text)
			}
			if _, err := io.Copy(into, entries); err != nil {
				return err
			}
			if text.Len() > 0 {
				wanted[p] = text.String()
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
