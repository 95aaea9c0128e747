package ext4

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// Options say what filesystem to make.
type Options struct {
	Size  int64    // in bytes; a rest that can't hold a block group is left unused
	UUID  [16]byte // of the filesystem; it also seeds the checksums and the hashes of names
	Label string   // at most 16 bytes
	Time  int64    // Unix seconds: creation, and of what has no time of its own

	// Watch says for a file in a layer, by its clean path, where else its content goes; nil: nowhere.
	Watch func(path string, size int64) io.Writer

	// DataOnly lays out contents alone, each file in one row, from DataStart on: Inodes says where, for who makes a filesystem of
	// another kind of it. There is no Finish then.
	DataOnly bool
}

// NoRoom is the error when the layers don't fit.
type NoRoom struct {
	Size int64 // of the filesystem, in bytes
	Need int64 // what would do, in bytes
	Why  string
}

func (e *NoRoom) Error() string {
	return fmt.Sprintf("%s: a root filesystem of %d MiB is too small: it needs at least %d MiB", e.Why, e.Size>>20, e.Need>>20)
}

// Writer makes one filesystem. It is used by one goroutine.
type Writer struct {
	Options
	out    io.WriterAt
	alloc  allocator
	seed   uint32
	root   *node
	lost   *node
	nodes  []*node // by inode number, from firstInode on; nil: removed
	layer  int
	backed int64     // the last group whose copy of the superblock has been written
	fresh  *metadata // of the empty filesystem
	window [Grain]byte

	dirLimit int64 // maxDirBlocks, but for tests
}

// New begins a filesystem. What it does not write to out must read as zeros.
func New(out io.WriterAt, o Options) (*Writer, error) {
	g, err := newGeometry(o.Size)
	if err != nil {
		return nil, err
	}
	if len(o.Label) > 16 {
		return nil, fmt.Errorf("ext4: label %q: at most 16 bytes", o.Label)
	}
	w := &Writer{Options: o, out: out, alloc: allocator{geometry: g}, seed: crc(^uint32(0), o.UUID[:]), dirLimit: maxDirBlocks}
	w.root = &node{ino: 2, mode: typeDir | 0o755, mtime: o.Time, dir: newDir(nil, 0)}
	w.lost, err = w.makeDir(w.root, "lost+found") // e2fsck wants it
	if err != nil {
		return nil, err
	}
	w.lost.mode = typeDir | 0o700
	if o.DataOnly {
		w.alloc.dataOnly, w.alloc.inodes, w.alloc.next = true, groupBlocks, DataStart/BlockSize
		return w, nil
	}
	if w.fresh, err = w.summarise(); err != nil {
		return nil, err
	}
	w.fresh.blocks, w.fresh.inodes = nil, nil // what the copies don't have
	return w, nil
}

// Layer applies a tar as a layer (OCI image specification, "Image Layer Filesystem Changeset"): entries replace those of
// the same path, whiteouts hide what lower layers have. An error leaves the Writer unusable, but for *NoRoom, which
// Finish gives, after all layers, when it is known how much is missing.
func (w *Writer) Layer(layer io.Reader) error {
	w.layer++
	for t := tar.NewReader(layer); ; {
		h, err := t.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return fmt.Errorf("layer: %w", err)
		}
		if err := w.entry(h, t); err != nil {
			return fmt.Errorf("layer: %s: %w", h.Name, err)
		}
	}
	return w.checkpoint()
}

const (
	whiteout = ".wh."
	opaque   = ".wh..wh..opq"
)

func (w *Writer) entry(h *tar.Header, content io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeGNUSparse, tar.TypeCont, tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeDir, tar.TypeFifo:
	default:
		return fmt.Errorf("an entry of type %q is none that a filesystem has", h.Typeflag)
	}
	parts, err := clean(h.Name)
	if err != nil {
		return err
	}
	if len(parts) == 0 {
		if h.Typeflag != tar.TypeDir {
			return errors.New("the root is no directory")
		}
		return w.describe(w.root, h)
	}
	above, base := parts[:len(parts)-1], parts[len(parts)-1]
	if hidden, ok := strings.CutPrefix(base, whiteout); ok {
		return w.applyWhiteout(above, base, hidden)
	}
	parent, err := w.walk(above, true)
	if err != nil {
		return err
	}
	old := parent.dir.lookup(base)
	if h.Typeflag == tar.TypeLink {
		return w.link(parent, base, old, h.Linkname)
	}
	if h.Typeflag == tar.TypeDir {
		if old != nil && old.isDir() {
			old.dir.layer = w.layer
			return w.describe(old, h)
		}
		if old != nil {
			w.remove(parent, base)
		}
		made, err := w.makeDir(parent, base)
		if err != nil {
			return err
		}
		return w.describe(made, h)
	}
	n, err := w.newNode(fileMode(h.Typeflag))
	if err != nil {
		return err
	}
	if err := w.describe(n, h); err != nil {
		return err
	}
	if w.Watch != nil && n.mode&typeMask == typeFile {
		if other := w.Watch(strings.Join(parts, "/"), h.Size); other != nil {
			content = io.TeeReader(content, other)
		}
	}
	if err := w.fill(n, h, content); err != nil {
		return err
	}
	return w.place(parent, base, n)
}

func (w *Writer) applyWhiteout(above []string, base, hidden string) error {
	parent, err := w.walk(above, false)
	if err != nil || parent == nil {
		return err
	}
	switch {
	case base == opaque:
		w.hideAll(parent)
	case strings.HasPrefix(hidden, whiteout): // others that aufs used
	case hidden == "" || hidden == "." || hidden == "..":
		return errors.New("a whiteout of no name")
	default:
		w.hide(parent, hidden)
	}
	return nil
}

// place gives a node a name, in place of what had it.
func (w *Writer) place(parent *node, text string, n *node) error {
	if old := parent.dir.lookup(text); old != nil {
		if old == w.lost {
			return errors.New("/lost+found must be a directory")
		}
		w.remove(parent, text)
	}
	if n.links++; n.links > maxLinks {
		return fmt.Errorf("more than %d hard links to one file", maxLinks)
	}
	parent.dir.add(text, n, w.layer)
	return nil
}

// link adds a hard link to what is there.
func (w *Writer) link(parent *node, base string, old *node, target string) error {
	parts, err := clean(target)
	if err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	if len(parts) == 0 {
		return errors.New("hard link to the root")
	}
	dir, err := w.walk(parts[:len(parts)-1], false)
	if err != nil {
		return fmt.Errorf("hard link to %s: %w", target, err)
	}
	var n *node
	if dir != nil {
		n = dir.dir.lookup(parts[len(parts)-1])
	}
	switch {
	case n == nil:
		return fmt.Errorf("hard link to %s, which is not there", target)
	case n.isDir():
		return fmt.Errorf("hard link to %s, which is a directory", target)
	case n == old:
		return nil // to itself, or again
	}
	return w.place(parent, base, n)
}

func fileMode(flag byte) uint16 {
	switch flag {
	case tar.TypeSymlink:
		return typeSymlink
	case tar.TypeChar:
		return typeChar
	case tar.TypeBlock:
		return typeBlock
	case tar.TypeFifo:
		return typeFIFO
	}
	return typeFile
}

// newNode takes the next inode.
func (w *Writer) newNode(mode uint16) (*node, error) {
	if int64(len(w.nodes)) > 4*w.alloc.groups*w.alloc.inodes {
		return nil, w.room() // far too many: counting on would only fill memory
	}
	n := &node{ino: uint32(firstInode + len(w.nodes)), mode: mode}
	w.nodes = append(w.nodes, n)
	return n, nil
}

// describe takes mode, owner, time and attributes over from an entry.
func (w *Writer) describe(n *node, h *tar.Header) error {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return fmt.Errorf("owner %d:%d is out of range", h.Uid, h.Gid)
	}
	n.mode = n.mode&typeMask | uint16(h.Mode&0o7777)
	if n.mode&typeMask == typeSymlink {
		n.mode = typeSymlink | 0o777
	}
	n.uid, n.gid = uint32(h.Uid), uint32(h.Gid)
	n.mtime = h.ModTime.Unix()
	attrs := make(map[string]string)
	for key, value := range h.PAXRecords {
		if name, ok := strings.CutPrefix(key, "SCHILY.xattr."); ok {
			attrs[name] = value
		}
		for acl, name := range map[string]string{"SCHILY.acl.access": aclAccess, "SCHILY.acl.default": aclDefault} {
			if key == acl {
				value, err := parseACL(value)
				if err != nil {
					return err
				}
				attrs[name] = value
			}
		}
	}
	if n.acl != 0 { // a directory that is described again
		w.alloc.free(run{n.acl, 1})
		n.acl = 0
	}
	n.inline, n.attrs = nil, nil
	if len(attrs) == 0 {
		return nil
	}
	inline, block, err := encodeXattrs(attrs)
	if err != nil {
		return err
	}
	if w.DataOnly {
		n.attrs = attrs
		return nil
	}
	n.inline = inline
	if block == nil {
		return nil
	}
	at, ok := w.alloc.take(1, 1)
	if !ok {
		return nil
	}
	n.acl = at
	var number [8]byte
	binary.LittleEndian.PutUint64(number[:], uint64(at))
	binary.LittleEndian.PutUint32(block[16:], crc(crc(w.seed, number[:]), block))
	return w.writeData(at, block)
}

// fill gives a node what its type has.
func (w *Writer) fill(n *node, h *tar.Header, content io.Reader) error {
	switch n.mode & typeMask {
	case typeFile:
		return w.content(n, h.Size, content)
	case typeSymlink:
		if h.Linkname == "" || len(h.Linkname) >= BlockSize || strings.ContainsRune(h.Linkname, 0) {
			return fmt.Errorf("symbolic link target %.80q: want 1 to %d bytes without NUL", h.Linkname, BlockSize-1)
		}
		n.target, n.size = h.Linkname, int64(len(h.Linkname))
		if len(n.target) < 60 || w.DataOnly {
			return nil // in the inode
		}
		return w.content(n, n.size, strings.NewReader(n.target))
	case typeChar, typeBlock:
		if h.Devmajor < 0 || h.Devminor < 0 || h.Devmajor >= 1<<12 || h.Devminor >= 1<<20 {
			return fmt.Errorf("device number %d:%d is out of range", h.Devmajor, h.Devminor)
		}
		n.device = uint32(h.Devmajor)<<20 | uint32(h.Devminor)
	}
	return nil
}

var zeros [Grain]byte

// content writes a file: in windows of a Grain, of which those that are all zeros become holes.
func (w *Writer) content(n *node, size int64, content io.Reader) error {
	n.size = size
	if size < 0 || size > MaxSize-BlockSize {
		return fmt.Errorf("a file of %d bytes: at most %d", size, int64(MaxSize-BlockSize))
	}
	if size > w.alloc.blocks*BlockSize { // also of one that is sparse: reading its holes would take forever
		w.alloc.missing += (size + BlockSize - 1) / BlockSize
		return nil
	}
	align := int64(1)
	if size >= Grain {
		align = grainBlocks
	}
	for done := int64(0); done < size; done += Grain {
		part := w.window[:min(Grain, size-done)]
		if _, err := io.ReadFull(content, part); err != nil {
			return fmt.Errorf("content: %w", err)
		}
		hole := len(part) == Grain && bytes.Equal(part, zeros[:])
		if hole && !w.DataOnly {
			continue
		}
		blocks := int64(len(part)+BlockSize-1) / BlockSize
		at, ok := w.alloc.take(blocks, align)
		if !ok {
			continue
		}
		n.extents = appendExtent(n.extents, done/BlockSize, at, blocks)
		if hole {
			continue
		}
		clear(w.window[len(part) : blocks*BlockSize])
		if err := w.writeData(at, w.window[:blocks*BlockSize]); err != nil {
			return err
		}
	}
	if w.DataOnly {
		return nil
	}
	for range treeBlocks(len(n.extents)) {
		if at, ok := w.alloc.take(1, 1); ok {
			n.tree = append(n.tree, at)
		}
	}
	if w.alloc.missing > 0 {
		return nil
	}
	_, err := w.extentTree(n, w.writeData)
	return err
}

// checkpoint ends a layer: directories whose names it changed are written, in a region of their own. Where they stood
// before is free: what lower layers wrote is never written again.
func (w *Writer) checkpoint() error {
	w.alloc.align()
	if w.DataOnly {
		return nil
	}
	for i := -1; i < len(w.nodes); i++ {
		n := w.root
		if i >= 0 {
			n = w.nodes[i]
		}
		if n == nil || !n.isDir() || !n.dir.dirty {
			continue
		}
		n.dir.dirty = false
		need := n.dir.dirBlocks()
		if need > w.dirLimit {
			return fmt.Errorf("layer: directory %s: its %d names take %d MiB: a directory has at most %d MiB; spread them over several",
				n.path(), len(n.dir.index), need*BlockSize>>20+1, w.dirLimit*BlockSize>>20)
		}
		for _, e := range n.extents {
			w.alloc.free(run{e.start, e.count})
		}
		n.extents, n.dir.blocks = nil, need
		for done := int64(0); done < need; done += grainBlocks {
			blocks := min(grainBlocks, need-done)
			if at, ok := w.alloc.take(blocks, 1); ok {
				n.extents = appendExtent(n.extents, done, at, blocks)
			}
		}
		if w.alloc.missing > 0 {
			continue
		}
		if err := w.writeDir(n); err != nil {
			return err
		}
	}
	w.alloc.align()
	return nil
}

// writeData writes blocks of content, after the copies of the superblock that stand before them: so everything is
// written in ascending order while layers come.
func (w *Writer) writeData(block int64, data []byte) error {
	if err := w.backups(block / groupBlocks); err != nil {
		return err
	}
	return w.write(block, data)
}

// write writes whole blocks.
func (w *Writer) write(block int64, data []byte) error {
	_, err := w.out.WriteAt(data, block*BlockSize)
	return err
}
