package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
)

// stateVersion is the first byte of a state.
const stateVersion = 2

// State is what a Writer knows between two layers: Resume goes on from there. Equal layers make equal states.
func (w *Writer) State() []byte {
	e := encoder{buf: []byte{stateVersion}}
	e.number(w.alloc.next)
	e.runs(w.alloc.used)
	e.runs(w.alloc.freed)
	e.number(w.alloc.missing)
	e.number(int64(w.layer))
	e.number(w.backed)
	e.number(int64(len(w.nodes)))
	e.node(w.root)
	for _, n := range w.nodes {
		e.node(n)
	}
	e.names(w.root)
	for _, n := range w.nodes {
		if n != nil && n.isDir() {
			e.names(n)
		}
	}
	return e.buf
}

// Resume goes on with a filesystem of the same Options, whose layers until now out has.
func Resume(out io.WriterAt, o Options, state []byte) (*Writer, error) {
	w, err := New(out, o)
	if err != nil {
		return nil, err
	}
	d := decoder{buf: state}
	if d.byte() != stateVersion {
		return nil, errors.New("ext4: state: of another release")
	}
	w.alloc.next = d.number()
	w.alloc.used = d.runs()
	w.alloc.freed = d.runs()
	w.alloc.missing = d.number()
	w.layer = int(d.number())
	w.backed = d.number()
	count := d.number()
	if d.err != nil || count < 1 || count > int64(len(d.buf)) {
		return nil, fmt.Errorf("ext4: state: %d inodes: %w", count, errors.Join(d.err, errState))
	}
	root := d.node(2)
	w.nodes = make([]*node, count)
	for i := range w.nodes {
		if d.err != nil {
			break
		}
		w.nodes[i] = d.node(uint32(firstInode + i))
	}
	if d.err == nil && (root == nil || !root.isDir() || w.nodes[0] == nil || !w.nodes[0].isDir()) {
		d.err = errState
	}
	if d.err != nil {
		return nil, fmt.Errorf("ext4: state: %w", d.err)
	}
	w.root, w.lost = root, w.nodes[0]
	d.names(w, root)
	for _, n := range w.nodes {
		if n != nil && n.isDir() {
			d.names(w, n)
		}
	}
	for _, n := range w.nodes { // a directory that nobody names
		if n != nil && n.isDir() && n.dir.parent == nil {
			d.fail(errState)
		}
	}
	if d.err != nil || len(d.buf) > 0 || !w.plausible() {
		return nil, fmt.Errorf("ext4: state: %w", errors.Join(d.err, errState))
	}
	return w, nil
}

// plausible reports whether a state that was read keeps within the filesystem: a broken one may make a broken image, but nobody
// runs on for ever or out of bounds.
func (w *Writer) plausible() bool {
	blocks := w.alloc.blocks
	inside := func(start, count int64) bool {
		return start >= 0 && count > 0 && start < blocks && count <= blocks-start
	}
	if w.alloc.next < 0 || w.alloc.next > roundUp(blocks, grainBlocks) || w.alloc.missing < 0 || w.backed < 0 || w.backed >= w.alloc.groups || w.layer < 0 {
		return false
	}
	end := int64(0)
	for _, r := range w.alloc.used {
		if !inside(r.start, r.count) || r.start < end {
			return false
		}
		end = r.start + r.count
	}
	for _, r := range w.alloc.freed {
		if !inside(r.start, r.count) {
			return false
		}
	}
	for i := -1; i < len(w.nodes); i++ {
		n := w.root
		if i >= 0 {
			n = w.nodes[i]
		}
		if n == nil {
			continue
		}
		end := int64(0)
		for _, e := range n.extents {
			if !inside(e.start, e.count) || e.count > maxExtent || e.logical < end || e.logical > MaxSize/BlockSize {
				return false
			}
			end = e.logical + e.count
		}
		if n.acl >= blocks || len(n.inline) > inodeSize-128-extraSize || n.isDir() && (n.dir.blocks < 0 || n.dir.blocks > maxDirBlocks) {
			return false
		}
	}
	return true
}

var errState = errors.New("is broken")

// encoder writes a state: numbers are varints, lists begin with their length.
type encoder struct{ buf []byte }

func (e *encoder) number(n int64) { e.buf = binary.AppendVarint(e.buf, n) }

func (e *encoder) text(s string) {
	e.number(int64(len(s)))
	e.buf = append(e.buf, s...)
}

func (e *encoder) runs(runs []run) {
	e.number(int64(len(runs)))
	for _, r := range runs {
		e.number(r.start)
		e.number(r.count)
	}
}

// node writes what an inode has, without names; mode 0: none.
func (e *encoder) node(n *node) {
	if n == nil {
		e.number(0)
		return
	}
	e.number(int64(n.mode))
	for _, v := range []int64{int64(n.uid), int64(n.gid), n.mtime, n.size, int64(n.links), int64(n.device), n.acl, int64(len(n.extents))} {
		e.number(v)
	}
	for _, x := range n.extents {
		e.number(x.logical)
		e.number(x.start)
		e.number(x.count)
	}
	e.number(int64(len(n.tree)))
	for _, b := range n.tree {
		e.number(b)
	}
	e.text(n.target)
	e.text(string(n.inline))
	e.number(int64(len(n.attrs)))
	for _, key := range slices.Sorted(maps.Keys(n.attrs)) {
		e.text(key)
		e.text(n.attrs[key])
	}
	if n.isDir() {
		e.number(int64(n.dir.layer))
		e.number(n.dir.blocks)
	}
}

// names writes those of a directory, in their order.
func (e *encoder) names(n *node) {
	e.number(int64(len(n.dir.index)))
	for _, c := range n.dir.names {
		if c.node != nil {
			e.text(c.text)
			e.number(int64(c.node.ino))
			e.number(int64(c.layer))
		}
	}
}

// decoder reads a state. After an error it reads zeros.
type decoder struct {
	buf []byte
	err error
}

// fail keeps the first error.
func (d *decoder) fail(err error) {
	if d.err == nil {
		d.err = err
	}
}

func (d *decoder) byte() byte {
	if len(d.buf) == 0 {
		d.fail(io.ErrUnexpectedEOF)
		return 0
	}
	b := d.buf[0]
	d.buf = d.buf[1:]
	return b
}

func (d *decoder) number() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 || d.err != nil {
		d.fail(io.ErrUnexpectedEOF)
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

// count reads the length of a list whose items have at least a byte each.
func (d *decoder) count() int {
	n := d.number()
	if d.err != nil {
		return 0
	}
	if n < 0 || n > int64(len(d.buf)) {
		d.fail(errState)
		return 0
	}
	return int(n)
}

func (d *decoder) text() string {
	n := d.count()
	s := string(d.buf[:n])
	d.buf = d.buf[n:]
	return s
}

func (d *decoder) runs() []run {
	n := d.count()
	runs := make([]run, 0, n)
	for range n {
		runs = append(runs, run{d.number(), d.number()})
	}
	return runs
}

func (d *decoder) node(ino uint32) *node {
	mode := d.number()
	if mode == 0 {
		return nil
	}
	n := &node{ino: ino, mode: uint16(mode)}
	uid, gid := d.number(), d.number()
	n.mtime, n.size = d.number(), d.number()
	links, device := d.number(), d.number()
	n.acl = d.number()
	if min(uid, gid, n.size, links, device, n.acl) < 0 || max(uid, gid, device) > math.MaxUint32 || mode > math.MaxUint16 || mode < 0 {
		d.fail(errState)
	}
	n.uid, n.gid, n.links, n.device = uint32(uid), uint32(gid), int(links), uint32(device)
	for range d.count() {
		n.extents = append(n.extents, extent{d.number(), d.number(), d.number()})
	}
	for range d.count() {
		n.tree = append(n.tree, d.number())
	}
	n.target = d.text()
	if inline := d.text(); inline != "" {
		n.inline = []byte(inline)
	}
	if count := d.count(); count > 0 {
		n.attrs = make(map[string]string)
		for range count {
			key := d.text()
			n.attrs[key] = d.text()
		}
	}
	if n.isDir() {
		n.dir = newDir(nil, int(d.number()))
		n.dir.blocks, n.dir.dirty = d.number(), false
	}
	return n
}

func (d *decoder) names(w *Writer, n *node) {
	count := d.count()
	n.dir.names = make([]name, 0, count)
	n.dir.index = make(map[string]int, count)
	for range count {
		text, ino, layer := d.text(), d.number(), d.number()
		at := ino - firstInode
		if _, twice := n.dir.index[text]; twice || d.err != nil || at < 0 || at >= int64(len(w.nodes)) || w.nodes[at] == nil {
			d.fail(errState)
			return
		}
		child := w.nodes[at]
		if child.isDir() {
			if child.dir.parent != nil || child == n {
				d.fail(errState)
				return
			}
			child.dir.parent = n
		}
		n.dir.index[text] = len(n.dir.names)
		n.dir.names = append(n.dir.names, name{text, child, int(layer)})
	}
}
