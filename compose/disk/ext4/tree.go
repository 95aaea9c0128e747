package ext4

import (
	"fmt"
	"strings"
)

// Modes of inodes: the type is that of stat(2).
const (
	typeMask    = 0o170000
	typeFIFO    = 0o010000
	typeChar    = 0o020000
	typeDir     = 0o040000
	typeBlock   = 0o060000
	typeFile    = 0o100000
	typeSymlink = 0o120000
)

const (
	maxName     = 255
	maxPath     = 4096
	maxSymlinks = 40
	maxLinks    = 65000
)

// node is an inode and, for a directory, the names in it.
type node struct {
	ino    uint32
	mode   uint16
	uid    uint32
	gid    uint32
	mtime  int64
	size   int64
	links  int // names of what is no directory
	device uint32
	target string // of a symbolic link

	inline  []byte            // extended attributes in the inode
	attrs   map[string]string // all of them, with Options.DataOnly
	acl     int64             // block of extended attributes that don't fit there; 0: none
	extents []extent          // of the content, ascending
	tree    []int64           // blocks of the extent tree

	dir *directory
}

func (n *node) isDir() bool { return n.mode&typeMask == typeDir }

// directory is what a directory's node has more. Names keep the order in which they came.
type directory struct {
	parent *node
	layer  int // that had it last
	names  []name
	index  map[string]int // into names
	blocks int64          // that have been given to it
	dirty  bool           // its names have changed since they were written
}

type name struct {
	text  string
	node  *node // nil: removed
	layer int   // that it came with
}

func newDir(parent *node, layer int) *directory {
	return &directory{parent: parent, layer: layer, index: make(map[string]int), dirty: true}
}

func (d *directory) lookup(text string) *node {
	if i, ok := d.index[text]; ok {
		return d.names[i].node
	}
	return nil
}

func (d *directory) add(text string, n *node, layer int) {
	d.index[text] = len(d.names)
	d.names = append(d.names, name{text, n, layer})
	d.dirty = true
}

func (d *directory) drop(text string) {
	d.names[d.index[text]].node = nil
	delete(d.index, text)
	d.dirty = true
}

// path is where a directory is, for people.
func (n *node) path() string {
	if n.dir.parent == nil {
		return "/"
	}
	for _, c := range n.dir.parent.dir.names {
		if c.node == n {
			return strings.TrimSuffix(n.dir.parent.path(), "/") + "/" + c.text
		}
	}
	return "?"
}

// clean splits an entry's path into its components. Empty: the root.
func clean(path string) ([]string, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%.80q…: a path of %d bytes: at most %d", path, len(path), maxPath)
	}
	var parts []string
	for part := range strings.SplitSeq(path, "/") {
		switch {
		case part == "" || part == ".":
			continue
		case part == "..":
			return nil, fmt.Errorf("%q: leaves its directory through \"..\"", path)
		case len(part) > maxName:
			return nil, fmt.Errorf("%.80q…: a name of %d bytes: at most %d", path, len(part), maxName)
		case strings.ContainsRune(part, 0):
			return nil, fmt.Errorf("%q: a NUL in a name", path)
		}
		parts = append(parts, part)
	}
	return parts, nil
}

// walk finds the directory that parts name, through symbolic links that lower layers or this one have brought, never
// above the root. Directories that are missing are made, or the answer is nil.
func (w *Writer) walk(parts []string, create bool) (*node, error) {
	at, links := w.root, 0
	for len(parts) > 0 {
		part := parts[0]
		parts = parts[1:]
		switch part {
		case "", ".":
			continue
		case "..": // only out of a symbolic link
			if at.dir.parent != nil {
				at = at.dir.parent
			}
			continue
		}
		next := at.dir.lookup(part)
		switch {
		case next == nil && !create:
			return nil, nil
		case next == nil:
			if len(part) > maxName {
				return nil, fmt.Errorf("a symbolic link on the way has a name of %d bytes: at most %d", len(part), maxName)
			}
			made, err := w.makeDir(at, part)
			if err != nil {
				return nil, err
			}
			at = made
		case next.isDir():
			at = next
		case next.mode&typeMask == typeSymlink:
			if links++; links > maxSymlinks {
				return nil, fmt.Errorf("more than %d symbolic links on the way", maxSymlinks)
			}
			if strings.HasPrefix(next.target, "/") {
				at = w.root
			}
			parts = append(strings.Split(next.target, "/"), parts...)
			if len(parts) > maxPath {
				return nil, fmt.Errorf("symbolic links on the way make a path of %d names", len(parts))
			}
		default:
			return nil, fmt.Errorf("%q on the way is no directory", part)
		}
	}
	return at, nil
}

// Lookup returns the inode number of what a path names, 0 when there is nothing. A symbolic link at its end is not followed.
func (w *Writer) Lookup(path string) uint32 {
	parts, err := clean(path)
	if err != nil || len(parts) == 0 {
		return 0
	}
	parent, err := w.walk(parts[:len(parts)-1], false)
	if err != nil || parent == nil {
		return 0
	}
	n := parent.dir.lookup(parts[len(parts)-1])
	if n == nil {
		return 0
	}
	return n.ino
}

// Next is the inode number of what comes next: numbers rise, and are never given again.
func (w *Writer) Next() uint32 { return uint32(firstInode + len(w.nodes)) }

// makeDir makes a plain directory.
func (w *Writer) makeDir(parent *node, text string) (*node, error) {
	n, err := w.newNode(typeDir | 0o755)
	if err != nil {
		return nil, err
	}
	n.mtime = w.Time
	n.dir = newDir(parent, w.layer)
	parent.dir.add(text, n, w.layer)
	return n, nil
}

// remove takes a name out of a directory, with all that is below it.
func (w *Writer) remove(parent *node, text string) {
	n := parent.dir.lookup(text)
	parent.dir.drop(text)
	w.release(n)
}

// release gives back what a node has when its last name has gone. Directories may be nested as deeply as paths are
// long, so this recursion is bounded.
func (w *Writer) release(n *node) {
	if n.isDir() {
		for _, c := range n.dir.names {
			if c.node != nil {
				w.release(c.node)
			}
		}
		n.dir.names, n.dir.index = nil, nil
	} else if n.links--; n.links > 0 {
		return
	}
	for _, e := range n.extents {
		w.alloc.free(run{e.start, e.count})
	}
	for _, b := range n.tree {
		w.alloc.free(run{b, 1})
	}
	if n.acl != 0 {
		w.alloc.free(run{n.acl, 1})
	}
	w.nodes[n.ino-firstInode] = nil
}

// hide applies a whiteout: what lower layers have under the name goes, what this layer has stays.
func (w *Writer) hide(parent *node, text string) {
	i, ok := parent.dir.index[text]
	if !ok {
		return
	}
	n := parent.dir.names[i]
	if n.node == w.lost {
		return
	}
	if n.node.isDir() {
		w.hideAll(n.node)
		if n.node.dir.layer == w.layer || len(n.node.dir.index) > 0 {
			return
		}
	} else if n.layer == w.layer {
		return
	}
	w.remove(parent, text)
}

// hideAll hides all that is in a directory.
func (w *Writer) hideAll(dir *node) {
	for _, n := range dir.dir.names {
		if n.node != nil {
			w.hide(dir, n.text)
		}
	}
}
