package recipe

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// Types of a TreeEntry.
const (
	TypeDir  = "dir"
	TypeFile = "file"
	TypeLink = "link" // symbolic
)

// Tree is the app content of one copy as it will stand in the image, parents included as far as the copy makes them.
// Entries are sorted by path (bytewise); paths are relative to the image's root, without a leading slash.
type Tree struct {
	Entries []TreeEntry `json:"entries"`
}

// TreeEntry is one entry of a Tree.
type TreeEntry struct {
	Path   string          `json:"path"`
	Type   string          `json:"type"` // TypeDir, TypeFile or TypeLink
	Mode   uint32          `json:"mode"` // permission bits; system directories also have sticky and setgid
	UID    int             `json:"uid"`
	GID    int             `json:"gid"`
	Size   int64           `json:"size,omitempty"`
	Chunks []digest.Digest `json:"chunks,omitempty"`
	Link   string          `json:"link,omitempty"`
	// Implied marks a directory that is only the way to something else: any item that brings it says what it is like.
	// MergeTrees decides, and its tree has no such mark.
	Implied bool `json:"implied,omitempty"`
}

// MaxTreeEntries bounds a Tree: the context's files, and the directories that it does not list.
const MaxTreeEntries = 2 * MaxContextFiles

// whiteout is the prefix of names that mean "deleted" in an OCI layer (image-spec, layer.md): no file can have one.
const whiteout = ".wh."

// systemDirs are the directories of a Debian system that are not root's with mode 0755. A copy that lays files into one
// of them, or over it, leaves it as the system has it: nobody means to close /tmp for everybody with copy: ./root, to: /.
var systemDirs = map[string]TreeEntry{
	"proc":      {Mode: 0o555},
	"root":      {Mode: 0o700},
	"sys":       {Mode: 0o555},
	"tmp":       {Mode: 0o1777},
	"var/local": {Mode: 0o2775, GID: 50}, // staff
	"var/mail":  {Mode: 0o2775, GID: 8},  // mail
	"var/tmp":   {Mode: 0o1777},
}

// standardDirs are those that are, and that a copy must not hand to its owner either.
var standardDirs = strings.Fields(`bin boot dev etc home lib lib64 media mnt opt run sbin srv usr usr/bin usr/include usr/lib
	usr/lib64 usr/libexec usr/local usr/local/bin usr/local/etc usr/local/lib usr/local/libexec usr/local/sbin
	usr/local/share usr/sbin usr/share var var/cache var/lib var/log var/opt var/spool`)

func init() {
	for _, dir := range standardDirs {
		systemDirs[dir] = TreeEntry{Mode: 0o755}
	}
}

func newDir(path string, uid, gid int) TreeEntry {
	e := TreeEntry{Mode: 0o755, UID: uid, GID: gid}
	if system, ok := systemDirs[path]; ok {
		e = system
	}
	e.Path, e.Type = path, TypeDir
	return e
}

// BuildTrees builds the tree of each copy among the app items. The error names the item.
func BuildTrees(ctx *Context, items []AppItem) ([]*Tree, error) {
	trees := make([]*Tree, 0, len(items))
	for i, item := range items {
		if item.Package != "" {
			continue
		}
		tree, err := BuildTree(ctx, item)
		if err != nil {
			return nil, fmt.Errorf("app[%d].%w", i, err)
		}
		trees = append(trees, tree)
	}
	return trees, nil
}

// FindPackages returns the files of the packages among the app items. The error names the item.
func FindPackages(ctx *Context, items []AppItem) ([]ContextFile, error) {
	var found []ContextFile
	for i, item := range items {
		if item.Package == "" {
			continue
		}
		var files []ContextFile
		if ctx != nil {
			files = below(ctx.Files, item.Package)
		}
		switch {
		case len(files) == 0:
			return nil, fmt.Errorf("app[%d].package: %q is not in the context", i, clip("./"+item.Package))
		case len(files) > 1 || files[0].Dir || files[0].Link != "" || files[0].Path != item.Package:
			return nil, fmt.Errorf("app[%d].package: %q is no file", i, clip("./"+item.Package))
		case files[0].Size == 0:
			return nil, fmt.Errorf("app[%d].package: %q is empty", i, clip("./"+item.Package))
		}
		found = append(found, files[0])
	}
	return found, nil
}

// BuildTree copies out of the context as a Dockerfile's COPY does: a file becomes To, or goes into To when that was
// written with a trailing slash; the content of a directory goes into To. Symbolic links are copied as they are: their
// targets are places in the image. Directories on the way are root's with mode 0755; those that are copied, To
// included, are the item's owner's, except the standard directories of a system, which stay as they are.
//
// ctx must be valid, nil means empty. The error begins with the item's field: "copy: …" or "to: …".
func BuildTree(ctx *Context, item AppItem) (*Tree, error) {
	source := "./" + item.Copy
	if item.Copy == "." {
		source = "."
	}
	var files []ContextFile
	if ctx != nil {
		files = below(ctx.Files, item.Copy)
	}
	to := strings.TrimPrefix(path.Clean(item.To), "/") // "" is the root
	switch {
	case len(files) == 0 && item.Copy == ".":
		return nil, errors.New(`copy: "." has no file: the context is empty`)
	case len(files) == 0 && strings.ContainsAny(item.Copy, "*?["):
		return nil, fmt.Errorf("copy: %q is not in the context; patterns are not expanded: copy the directory, and leave files out with %s", clip(source), IgnoreFile)
	case len(files) == 0:
		return nil, fmt.Errorf("copy: %q is not in the context", clip(source))
	}
	single := item.Copy != "." && files[0].Path == item.Copy && !files[0].Dir
	switch {
	case single && (item.ToDir || to == ""):
		to = path.Join(to, path.Base(item.Copy))
	case !single && to != "" && files[0].Path != item.Copy:
		files = append([]ContextFile{{Path: item.Copy, Dir: true}}, files...) // a directory that is not listed itself
	}

	entries := make(map[string]TreeEntry, len(files))
	for _, f := range files {
		target := to
		if f.Path != item.Copy {
			target = path.Join(to, strings.TrimPrefix(f.Path, item.Copy+"/"))
		}
		if target == "" {
			continue // the directory that becomes the root
		}
		if err := validateTarget(target); err != nil {
			return nil, fmt.Errorf("to: %q: %w", clip("/"+target), err)
		}
		entries[target] = item.entry(target, f)
	}
	for target := range maps.Clone(entries) {
		for parent := range parents(target) {
			if _, ok := entries[parent]; ok {
				continue // a parent that was there has its own parents already, or gets them in its own turn
			}
			dir := newDir(parent, 0, 0)
			dir.Implied = true
			if !single && (to == "" || strings.HasPrefix(parent, to+"/")) {
				dir = newDir(parent, item.UID, item.GID) // a copied directory that the context does not list
			}
			entries[parent] = dir
			if len(entries) > MaxTreeEntries {
				return nil, fmt.Errorf("copy: %q has more than %d entries with its directories", clip(source), MaxTreeEntries)
			}
		}
	}
	return newTree(entries), nil
}

// entry is what a file of the context becomes at path.
func (item AppItem) entry(path string, f ContextFile) TreeEntry {
	e := TreeEntry{Path: path, UID: item.UID, GID: item.GID}
	switch {
	case f.Dir:
		return newDir(path, item.UID, item.GID)
	case f.Link != "":
		e.Type, e.Mode, e.Link = TypeLink, 0o777, f.Link
	default:
		e.Type, e.Mode, e.Size, e.Chunks = TypeFile, 0o644, f.Size, f.Chunks
		if f.Exec {
			e.Mode = 0o755
		}
		if item.Mode != nil {
			e.Mode = *item.Mode
		}
	}
	return e
}

// below returns the files at and below a clean path, "." for all, in their order.
func below(files []ContextFile, source string) []ContextFile {
	if source == "." {
		return files
	}
	from, at := search(files, source)
	var found []ContextFile
	if at {
		found = append(found, files[from])
	}
	// "a-b" sorts between "a" and "a/b".
	from, _ = search(files, source+"/")
	to := from
	for to < len(files) && strings.HasPrefix(files[to].Path, source+"/") {
		to++
	}
	return append(found, files[from:to]...)
}

func search(files []ContextFile, p string) (int, bool) {
	return slices.BinarySearchFunc(files, p, func(f ContextFile, p string) int { return cmp.Compare(f.Path, p) })
}

// validateTarget checks a path in the image.
func validateTarget(p string) error {
	if err := validatePath(p); err != nil {
		return err
	}
	for name := range strings.SplitSeq(p, "/") {
		if strings.HasPrefix(name, whiteout) {
			return fmt.Errorf("a name that begins with %s means a deleted file in an OCI layer; rename it or leave it out with %s", whiteout, IgnoreFile)
		}
	}
	return nil
}

func newTree(entries map[string]TreeEntry) *Tree {
	t := &Tree{Entries: slices.Collect(maps.Values(entries))}
	slices.SortFunc(t.Entries, func(a, b TreeEntry) int { return cmp.Compare(a.Path, b.Path) })
	return t
}

// MergeTrees lays the trees of the app's items over each other, in their order, as COPY after COPY does: a later file or
// link replaces an earlier one, a later directory's owner wins. A file or link where another item has a directory is an
// error that names both items.
func MergeTrees(trees ...*Tree) (*Tree, error) {
	type owned struct {
		TreeEntry
		item int
	}
	merged := make(map[string]owned)
	for i, tree := range trees {
		for _, e := range tree.Entries {
			before, there := merged[e.Path]
			switch {
			case there && (before.Type == TypeDir) != (e.Type == TypeDir):
				return nil, fmt.Errorf("app[%d].to: %q is a %s, but app[%d] makes it a %s; copy one of them elsewhere",
					i, "/"+clip(e.Path), e.Type, before.item, before.Type)
			case there && e.Implied:
			default:
				merged[e.Path] = owned{e, i}
			}
		}
	}
	entries := make(map[string]TreeEntry, len(merged))
	for p, e := range merged {
		e.Implied = false
		entries[p] = e.TreeEntry
	}
	return newTree(entries), nil
}

// mergedUsr are the directories that are links into /usr on a Debian system.
var mergedUsr = []string{"bin", "lib", "lib32", "lib64", "libx32", "sbin"}

// MergeUsr returns the tree as it must stand over a merged-/usr system: /bin/tool becomes /usr/bin/tool. A layer with a
// directory /bin would replace the system's link, and with it every program. links are the system's; none given: all
// that a Debian system may have.
func (t *Tree) MergeUsr(links ...string) (*Tree, error) {
	if len(links) == 0 {
		links = mergedUsr
	}
	entries := make(map[string]TreeEntry, len(t.Entries))
	for _, e := range t.Entries {
		top, _, _ := strings.Cut(e.Path, "/")
		if slices.Contains(links, top) {
			if e.Path == top && e.Type == TypeLink && strings.TrimPrefix(e.Link, "/") == "usr/"+top {
				entries[e.Path] = e // the system's own link again
				continue
			}
			if e.Path == top && e.Type != TypeDir {
				return nil, fmt.Errorf("to: /%s is a %s, but a link to usr/%s in the system; copy it elsewhere", e.Path, e.Type, e.Path)
			}
			e.Path = "usr/" + e.Path
			usr := newDir("usr", 0, 0)
			usr.Implied = true
			if _, there := entries["usr"]; !there {
				entries["usr"] = usr
			}
		}
		before, there := entries[e.Path]
		switch {
		case there && (before.Type != TypeDir || e.Type != TypeDir):
			return nil, fmt.Errorf("to: /%s is copied to both /%s and /usr/%s, which are the same place; copy it once",
				clip(e.Path), strings.TrimPrefix(e.Path, "usr/"), strings.TrimPrefix(e.Path, "usr/"))
		case there && e.Implied:
		default:
			entries[e.Path] = e
		}
	}
	return newTree(entries), nil
}

// Locked returns what a Lock holds of the tree.
func (t *Tree) Locked() LockedCopy {
	l := LockedCopy{Tree: digest.FromBytes(t.Encode())}
	for _, e := range t.Entries {
		if e.Type != TypeDir {
			l.Files++
			l.Bytes += e.Size
		}
	}
	return l
}

// Encode returns the canonical encoding: compact JSON.
func (t *Tree) Encode() []byte { return encode(t) }

// DecodeTree reads an encoded Tree and validates it.
func DecodeTree(raw []byte) (*Tree, error) {
	entries, err := decodeList[TreeEntry](raw, "entries", MaxTreeEntries)
	if err != nil {
		return nil, fmt.Errorf("tree: %w", err)
	}
	t := &Tree{Entries: entries}
	if err := t.Validate(); err != nil {
		return nil, err
	}
	return t, nil
}

// Validate checks a tree that came from outside: sorted, each path once, each parent there and a directory.
func (t *Tree) Validate() error {
	if len(t.Entries) > MaxTreeEntries {
		return fmt.Errorf("tree: %d entries: more than %d", len(t.Entries), MaxTreeEntries)
	}
	dirs := make(map[string]bool)
	var total int64
	for i, e := range t.Entries {
		if err := e.validate(); err != nil {
			return fmt.Errorf("tree: %q: %w", clip(e.Path), err)
		}
		if i > 0 && t.Entries[i-1].Path >= e.Path {
			return fmt.Errorf("tree: %q comes after %q: want each path once, sorted bytewise", clip(e.Path), clip(t.Entries[i-1].Path))
		}
		if dir := path.Dir(e.Path); dir != "." && !dirs[dir] { // sorted: a directory comes before what is in it
			return fmt.Errorf("tree: %q: %q is no directory of the tree", clip(e.Path), clip(dir))
		}
		dirs[e.Path] = e.Type == TypeDir
		if total += e.Size; total > MaxContextBytes {
			return fmt.Errorf("tree: more than %d bytes, up to %q", int64(MaxContextBytes), clip(e.Path))
		}
	}
	return nil
}

func (e *TreeEntry) validate() error {
	if err := validateTarget(e.Path); err != nil {
		return err
	}
	switch {
	case e.Mode > 0o7777 || e.UID < 0 || e.UID > MaxID || e.GID < 0 || e.GID > MaxID:
		return errors.New("mode or owner out of range")
	case e.Type == TypeFile && e.Link == "" && !e.Implied:
		return validateContent(e.Size, e.Chunks)
	case e.Size != 0 || len(e.Chunks) > 0:
		return fmt.Errorf("a %s has no content", clip(e.Type))
	case e.Type == TypeLink && !e.Implied:
		return validateLink(e.Link)
	case e.Type == TypeDir && e.Link == "":
		return nil
	}
	return fmt.Errorf("type %q: want %s, %s or %s, each with its own fields alone", clip(e.Type), TypeDir, TypeFile, TypeLink)
}
