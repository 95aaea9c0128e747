// Package erofs writes EROFS filesystems, which nobody writes to afterwards (the kernel's Documentation/filesystems/erofs and
// fs/erofs/erofs_fs.h). It is pure. Contents are there already: ext4.Writer has laid them out (Options.DataOnly), so that another
// app leaves the OS's where they stand. What is written here is all else.
//
//	0            64 MiB                                         end of the contents
//	┌────────────┬────────────────────────────────┬───────────┬──────────────────────────────────┐
//	│ superblock │ contents, in the layers' order   │ directories │ inodes with attributes and links │
//	└────────────┴────────────────────────────────┴───────────┴──────────────────────────────────┘
//
// Nothing is compressed: pieces of a disk are where they are stored, and equal files have equal bytes.
package erofs

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"slices"
	"strings"

	"bakefarm/compose/disk/ext4"
)

const (
	blockSize   = ext4.BlockSize
	superblock  = 1024 // where it stands
	magic       = 0xe0f5e1e2
	slot        = 32 // inodes are named by these
	inodeSize   = 64
	direntSize  = 12
	firstSlot   = 2 // 0 is no inode's number
	hasChecksum = 1
	layoutPlain = 0 << 1
	layoutTail  = 2 << 1 // content follows the inode, within its block
	extended    = 1      // an inode of 64 bytes
	maxTail     = blockSize - inodeSize
)

// Modes, as stat(2) has them.
const (
	typeMask    = 0o170000
	typeChar    = 0o020000
	typeDir     = 0o040000
	typeBlock   = 0o060000
	typeFile    = 0o100000
	typeSymlink = 0o120000
	typeFIFO    = 0o010000
)

// Options say what filesystem to make.
type Options struct {
	Size  int64 // of the place that it has, in bytes
	UUID  [16]byte
	Label string // at most 15 bytes
	Time  int64  // Unix seconds
}

// inode is one on its way.
type inode struct {
	ext4.Inode
	slot   int64
	xattrs []byte
	names  []ext4.Name // of a directory, sorted, with . and ..
	start  int64       // block of the directory
	size   int64
}

// writer makes one filesystem.
type writer struct {
	Options
	out      io.WriterAt
	inodes   []*inode
	byNumber map[uint32]*inode
	meta     int64 // block where inodes begin
	end      int64 // block behind them
}

// Write writes everything but contents: the root is the first of inodes, blocks is where contents end. The error is an
// *ext4.NoRoom when that does not fit.
func Write(out io.WriterAt, o Options, inodes []ext4.Inode, blocks int64) error {
	if len(o.Label) > 15 {
		return fmt.Errorf("erofs: label %q: at most 15 bytes", o.Label)
	}
	w := &writer{Options: o, out: out, byNumber: make(map[uint32]*inode, len(inodes))}
	for _, i := range inodes {
		n := &inode{Inode: i}
		w.inodes, w.byNumber[i.Number] = append(w.inodes, n), n
	}
	if err := w.place(roundUp(blocks, ext4.Grain/blockSize)); err != nil {
		return err
	}
	if need := w.end * blockSize; need > o.Size {
		return &ext4.NoRoom{Size: o.Size, Need: roundUp(need, 64<<20), Why: fmt.Sprintf("directories and inodes of %d MiB find no place", (need-o.Size)>>20+1)}
	}
	for _, n := range w.inodes {
		if n.Mode&typeMask == typeDir {
			if err := w.writeDir(n); err != nil {
				return err
			}
		}
	}
	if err := w.writeInodes(); err != nil {
		return err
	}
	return w.writeSuper()
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// place gives directories their blocks from at on, and inodes their slots behind them.
func (w *writer) place(at int64) error {
	for _, n := range w.inodes {
		if n.Mode&typeMask != typeDir {
			continue
		}
		n.names = append(slices.Clone(n.Names), ext4.Name{Text: ".", Number: n.Number}, ext4.Name{Text: "..", Number: n.Parent})
		slices.SortFunc(n.names, func(a, b ext4.Name) int { return strings.Compare(a.Text, b.Text) })
		n.start, n.size = at, dirSize(n.names)
		at += (n.size + blockSize - 1) / blockSize
	}
	w.meta = roundUp(at, ext4.Grain/blockSize)
	next := int64(firstSlot)
	for _, n := range w.inodes {
		var err error
		if n.xattrs, err = encodeXattrs(n.Attributes); err != nil {
			return err
		}
		size := int64(inodeSize + len(n.xattrs))
		if n.Mode&typeMask == typeSymlink {
			// The tail must not cross a block.
			if whole := size + int64(len(n.Target)); whole > blockSize {
				return fmt.Errorf("erofs: a symbolic link's target and attributes of %d bytes: at most %d", whole-inodeSize, maxTail)
			} else if rest := blockSize - next*slot%blockSize; whole > rest {
				next += rest / slot
			}
			size += int64(len(n.Target))
		}
		n.slot = next
		next = roundUp(next+(size+slot-1)/slot, 2) // an inode does not cross a block either
	}
	w.end = w.meta + (next*slot+blockSize-1)/blockSize
	return nil
}

// dirBlocks splits sorted names into blocks: emit gets the names of each.
func dirBlocks(names []ext4.Name, emit func(names []ext4.Name, size int)) {
	first, size := 0, 0
	for i, n := range names {
		add := direntSize + len(n.Text)
		if size+add > blockSize {
			emit(names[first:i], size)
			first, size = i, 0
		}
		size += add
	}
	emit(names[first:], size)
}

// dirSize is a directory's size in bytes: whole blocks, and what the last one has.
func dirSize(names []ext4.Name) (total int64) {
	last := 0
	dirBlocks(names, func(_ []ext4.Name, size int) {
		total += blockSize
		last = size
	})
	return total - blockSize + int64(last)
}

var fileTypes = map[uint16]byte{
	typeFile: 1, typeDir: 2, typeChar: 3, typeBlock: 4, typeFIFO: 5, typeSymlink: 7,
}

// writeDir writes a directory's blocks: entries first, then the names that they point to.
func (w *writer) writeDir(n *inode) error {
	le := binary.LittleEndian
	at := n.start
	var err error
	dirBlocks(n.names, func(names []ext4.Name, _ int) {
		var buf [blockSize]byte
		text := len(names) * direntSize
		for i, name := range names {
			child := w.byNumber[name.Number]
			if child == nil {
				err = fmt.Errorf("erofs: %q has no inode", name.Text)
				return
			}
			e := buf[i*direntSize:]
			le.PutUint64(e, uint64(child.slot))
			le.PutUint16(e[8:], uint16(text))
			e[10] = fileTypes[child.Mode&typeMask]
			text += copy(buf[text:], name.Text)
		}
		if _, werr := w.out.WriteAt(buf[:], at*blockSize); err == nil {
			err = werr
		}
		at++
	})
	return err
}

// writeInodes writes the inodes with what follows them, a grain at a time.
func (w *writer) writeInodes() error {
	le := binary.LittleEndian
	base := w.meta * blockSize
	buf := make([]byte, (w.end-w.meta)*blockSize)
	for _, n := range w.inodes {
		b := buf[n.slot*slot:]
		format, size, where := uint16(extended|layoutPlain), n.Size, uint32(n.Start)
		links := n.Links
		switch n.Mode & typeMask {
		case typeDir:
			size, where, links = n.size, uint32(n.start), 2
			for _, name := range n.Names {
				if w.byNumber[name.Number].Mode&typeMask == typeDir {
					links++
				}
			}
		case typeSymlink:
			format, size, where = extended|layoutTail, int64(len(n.Target)), 0
			copy(b[inodeSize+len(n.xattrs):], n.Target)
		case typeChar, typeBlock:
			size, where = 0, n.Minor&0xff|n.Major<<8|n.Minor&^0xff<<12
		case typeFIFO:
			size, where = 0, 0
		}
		le.PutUint16(b, format)
		if len(n.xattrs) > 0 {
			le.PutUint16(b[2:], uint16((len(n.xattrs)-xattrHeader)/4+1))
		}
		le.PutUint16(b[4:], n.Mode)
		le.PutUint64(b[8:], uint64(size))
		le.PutUint32(b[16:], where)
		le.PutUint32(b[20:], n.Number)
		le.PutUint32(b[24:], n.UID)
		le.PutUint32(b[28:], n.GID)
		le.PutUint64(b[32:], uint64(n.Time))
		le.PutUint32(b[44:], uint32(links))
		copy(b[inodeSize:], n.xattrs)
	}
	_, err := w.out.WriteAt(buf, base)
	return err
}

// writeSuper writes the first block.
func (w *writer) writeSuper() error {
	le := binary.LittleEndian
	var block [blockSize]byte
	b := block[superblock:]
	le.PutUint32(b, magic)
	le.PutUint32(b[8:], hasChecksum)
	b[12] = 12 // blocks of 1 << 12 bytes
	le.PutUint16(b[14:], uint16(w.inodes[0].slot))
	le.PutUint64(b[16:], uint64(len(w.inodes)))
	le.PutUint64(b[24:], uint64(w.Time))
	le.PutUint32(b[36:], uint32(w.end))
	le.PutUint32(b[40:], uint32(w.meta))
	copy(b[48:], w.UUID[:])
	copy(b[64:], w.Label)
	le.PutUint32(b[4:], ^crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)))
	_, err := w.out.WriteAt(block[:], 0)
	return err
}

const xattrHeader = 12

// prefixes are the name indexes (fs/erofs/erofs_fs.h).
var prefixes = []struct {
	text  string
	index byte
}{{"system.posix_acl_access", 2}, {"system.posix_acl_default", 3}, {"user.", 1}, {"trusted.", 4}, {"security.", 6}}

// encodeXattrs encodes attributes as they follow an inode; nil when there are none.
func encodeXattrs(attrs map[string]string) ([]byte, error) {
	if len(attrs) == 0 {
		return nil, nil
	}
	out := make([]byte, xattrHeader)
	for _, key := range slices.Sorted(maps.Keys(attrs)) {
		value, index, name := attrs[key], byte(0), ""
		for _, p := range prefixes {
			if rest, ok := strings.CutPrefix(key, p.text); ok {
				index, name = p.index, rest
				break
			}
		}
		if index == 0 || len(name) > 255 || len(value) > 1<<16-1 {
			return nil, fmt.Errorf("erofs: extended attribute %.80q of %d bytes: want user., trusted., security. or an ACL, below 64 KiB", key, len(value))
		}
		out = append(out, byte(len(name)), index)
		out = binary.LittleEndian.AppendUint16(out, uint16(len(value)))
		out = append(out, name...)
		out = append(out, value...)
		out = append(out, make([]byte, -len(out)&3)...)
	}
	return out, nil
}
