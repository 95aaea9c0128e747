package rootfs

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/debian"
)

// Bounds of what a Builder takes.
const (
	MaxEntries  = 600_000 // paths at a time
	maxSeen     = 4 << 20 // entries of all layers
	maxKeptFile = 64 << 20
	maxKept     = 192 << 20 // bytes of database files
)

// Names that have a meaning of their own in a layer (OCI image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	reservedPrefix = ".wh..wh."
)

// ErrLayer means that a layer is none, or says what no layer may.
var ErrLayer = errors.New("is no layer of a file system")

// Builder lays layers over each other.
type Builder struct {
	root  *node
	layer int
	count int
	seen  int
	kept  int
	facts *debian.Facts
}

// node is what stands at a path.
type node struct {
	layer    int // that brought it
	kind     byte
	dir      compose.Entry // of a directory
	link     string
	data     []byte // of files that are read
	children map[string]*node
}

// NewBuilder makes an empty file system.
func NewBuilder() *Builder {
	b := &Builder{facts: debian.NewFacts()}
	b.root = &node{kind: tar.TypeDir, dir: compose.Dir("root"), children: map[string]*node{}}
	return b
}

// Layer lays the next layer: an uncompressed tar, which is read up to its end.
func (b *Builder) Layer(r io.Reader) error {
	b.layer++
	for t := tar.NewReader(r); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrLayer, err)
		}
		if b.seen++; b.seen > maxSeen {
			return fmt.Errorf("%w: the layers have more than %d entries", ErrLayer, maxSeen)
		}
		if err := b.entry(h, t); err != nil {
			return fmt.Errorf("%w: %.200q: %w", ErrLayer, h.Name, err)
		}
	}
	_, err := io.Copy(io.Discard, r) // padding
	return err
}

func (b *Builder) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == "." || name == "" {
		return nil
	}
	if err := compose.ValidatePath(name); err != nil {
		return err
	}
	dir, base := path.Split(name)
	parent, err := b.parent(path.Clean(dir))
	if err != nil {
		return err
	}
	if strings.HasPrefix(base, whiteoutPrefix) {
		b.whiteout(parent, path.Clean(dir), base)
		return nil
	}
	h.Name = name
	n := parent.children[base]
	if n != nil && !(n.kind == tar.TypeDir && h.Typeflag == tar.TypeDir) {
		b.drop(name, n)
		delete(parent.children, base)
		n = nil
	}
	if n == nil {
		if n, err = b.add(parent, base); err != nil {
			return err
		}
	}
	n.layer, n.kind = b.layer, h.Typeflag
	switch h.Typeflag {
	case tar.TypeDir:
		if n.children == nil {
			n.children = map[string]*node{}
		}
		n.dir = compose.EntryOf(h)
		n.dir.Size, n.dir.Link = 0, ""
		n.dir.Mode &= 0o7777 // some tools write the type there too
		if err := n.dir.Validate(); err != nil {
			return err
		}
	case tar.TypeSymlink:
		n.link = h.Linkname
	case tar.TypeLink:
		target := path.Clean(strings.TrimLeft(h.Linkname, "/"))
		if err := compose.ValidatePath(target); err != nil {
			return fmt.Errorf("hard link: %w", err)
		}
		if first := b.find(target); first != nil {
			n.data = first.data
		}
		h.Linkname = target
	case tar.TypeReg, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
	default:
		return fmt.Errorf("type %q: want files, directories, links, devices or fifos", h.Typeflag)
	}
	return b.read(n, name, h, content)
}

// read keeps what a file has to say.
func (b *Builder) read(n *node, name string, h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeReg && isKept(name) {
		if b.kept += int(min(h.Size, maxKept)); h.Size > maxKeptFile || b.kept > maxKept {
			return fmt.Errorf("%d bytes: a package database's files have at most %d, and %d together", h.Size, maxKeptFile, maxKept)
		}
		data, err := io.ReadAll(content)
		if err != nil {
			return err
		}
		n.data, content = data, bytes.NewReader(data)
	}
	if h.Typeflag == tar.TypeDir {
		return nil
	}
	return b.facts.Take(h, content)
}

// isKept reports whether a file's content is kept.
func isKept(name string) bool {
	switch name {
	case "etc/os-release", "usr/lib/os-release", dpkg + "/status", dpkg + "/diversions":
		return true
	}
	dir, base := path.Split(name)
	switch dir {
	case dpkg + "/status.d/":
		return !strings.HasSuffix(base, ".md5sums")
	case dpkg + "/info/":
		return strings.HasSuffix(base, ".list") || base == "format"
	case dpkg + "/triggers/":
		return base != "Lock"
	}
	return false
}

// parent finds a directory. One that no entry has made is as tools make it; what is none gives way, as in an overlay.
func (b *Builder) parent(dir string) (*node, error) {
	n := b.root
	if dir == "." {
		return n, nil
	}
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		next := n.children[part]
		if next != nil && next.kind != tar.TypeDir {
			b.drop(at, next)
			delete(n.children, part)
			next = nil
		}
		if next == nil {
			var err error
			if next, err = b.add(n, part); err != nil {
				return nil, err
			}
			next.layer, next.kind, next.dir, next.children = b.layer, tar.TypeDir, compose.Dir(at), map[string]*node{}
		}
		n = next
	}
	return n, nil
}

func (b *Builder) add(parent *node, base string) (*node, error) {
	if b.count++; b.count > MaxEntries {
		return nil, fmt.Errorf("there are more than %d files", MaxEntries)
	}
	n := &node{}
	parent.children[base] = n
	return n, nil
}

// drop forgets a node and what is below it.
func (b *Builder) drop(name string, n *node) {
	b.count--
	b.facts.Drop(name)
	b.kept -= len(n.data)
	for base, child := range n.children {
		b.drop(name+"/"+base, child)
	}
}

// whiteout hides what layers below have. What this layer itself has stays, wherever in the tar it stands.
func (b *Builder) whiteout(parent *node, dir, base string) {
	switch {
	case base == opaqueName:
		b.hide(parent, dir)
	case strings.HasPrefix(base, reservedPrefix): // AUFS's own notes, which nobody reads
	default:
		hidden := strings.TrimPrefix(base, whiteoutPrefix)
		n := parent.children[hidden]
		if n == nil {
			return
		}
		name := path.Join(dir, hidden)
		if b.hide(n, name); n.layer < b.layer && len(n.children) == 0 {
			b.drop(name, n)
			delete(parent.children, hidden)
		}
	}
}

// hide removes what lower layers have below a directory.
func (b *Builder) hide(n *node, dir string) {
	for base, child := range n.children {
		name := path.Join(dir, base)
		if b.hide(child, name); child.layer < b.layer && len(child.children) == 0 {
			b.drop(name, child)
			delete(n.children, base)
		}
	}
}

// find returns the node at a path, without following links; nil: there is none.
func (b *Builder) find(name string) *node {
	n := b.root
	for part := range strings.SplitSeq(name, "/") {
		if n = n.children[part]; n == nil {
			return nil
		}
	}
	return n
}

// each calls fn for everything, sorted so that a directory comes before what is in it.
func (b *Builder) each(fn func(name string, n *node)) {
	var walk func(dir string, n *node)
	walk = func(dir string, n *node) {
		names := make([]string, 0, len(n.children))
		for base := range n.children {
			names = append(names, base)
		}
		slices.Sort(names)
		for _, base := range names {
			child := n.children[base]
			name := path.Join(dir, base)
			fn(name, child)
			walk(name, child)
		}
	}
	walk("", b.root)
}
