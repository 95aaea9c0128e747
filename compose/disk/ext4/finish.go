package ext4

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
)

// Flags of a block group.
const (
	groupInodeUninit = 1 // the inode bitmap is the kernel's to make: no inode is in use
	groupBlockUninit = 2 // the block bitmap too
	groupInodeZeroed = 4 // the rest of the inode table is zeros
)

// totals are what the superblock counts.
type totals struct {
	freeBlocks, freeInodes int64
}

// metadata is what Finish writes.
type metadata struct {
	table   []byte           // group descriptors, in whole blocks
	blocks  map[int64][]byte // block bitmaps by group
	inodes  map[int64][]byte // inode bitmaps by group
	highest map[int64]int64  // by group: inodes up to the last one in use
	totals
}

// Finish writes everything that is not content. The Writer is of no use afterwards. *NoRoom when the layers don't fit.
func (w *Writer) Finish() error {
	if w.layer == 0 {
		if err := w.checkpoint(); err != nil {
			return err
		}
	}
	if err := w.room(); err != nil {
		return err
	}
	m, err := w.summarise()
	if err != nil {
		return err
	}
	if err := w.backups(w.alloc.groups - 1); err != nil {
		return err
	}
	for group := int64(0); group < w.alloc.groups; group += flexGroups {
		if err := w.writeGroup(group, m); err != nil {
			return err
		}
	}
	return nil
}

// backups writes the copies of the superblock up to a group. They describe the empty filesystem, as those of mke2fs do
// for ever: whoever needs one counts anew. So they are the same whatever the layers bring.
func (w *Writer) backups(upTo int64) error {
	if w.DataOnly {
		return nil
	}
	for ; w.backed < upTo; w.backed++ {
		if group := w.backed + 1; hasSuper(group) {
			if err := w.writeSuper(group, w.fresh); err != nil {
				return err
			}
		}
	}
	return nil
}

// Copies writes the copies of the superblock that are yet to come to somewhere else: they are known before all else is.
func (w *Writer) Copies(out io.WriterAt) error {
	other := *w
	other.out = out
	return other.backups(w.alloc.groups - 1)
}

// Room says whether what has come until now has found a place: *NoRoom when it has not. Nothing is written.
func (w *Writer) Room() error { return w.room() }

// Free is how many bytes of content there is room for, in one file: small ones, directories and what they begin at take more.
func (w *Writer) Free() int64 {
	g := w.alloc.geometry
	var blocks int64
	for group := w.alloc.next / groupBlocks; group < g.groups; group++ {
		first := group*groupBlocks + g.overhead(group)
		blocks += max(0, group*groupBlocks+g.groupSize(group)-max(first, w.alloc.next))
	}
	return blocks * BlockSize
}

// room says whether everything has found a place.
func (w *Writer) room() error {
	g := w.alloc.geometry
	size := g.blocks * BlockSize
	if missing := w.alloc.missing; missing > 0 {
		need := size + max(0, missing*BlockSize-w.Free()) // once something has found no place nothing else is given any
		need += need/50 + 32<<20                          // metadata of the larger one
		return &NoRoom{size, roundUp(need, 64<<20), fmt.Sprintf("content of %d MiB finds no place", missing*BlockSize>>20+1)}
	}
	if inodes := int64(len(w.nodes)) + firstInode - 1; inodes > g.groups*g.inodes {
		return &NoRoom{size, roundUp(inodes*bytesPerInode, 128<<20), fmt.Sprintf("%d files and directories find no inode", inodes)}
	}
	return nil
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

// writeDir writes a directory's blocks.
func (w *Writer) writeDir(n *node) error {
	extents := n.extents
	return w.encodeDir(n, func(index int64, data []byte) error {
		if index == extents[0].logical+extents[0].count {
			extents = extents[1:]
		}
		return w.writeData(extents[0].start+index-extents[0].logical, data)
	})
}

// summarise makes the bitmaps and the group descriptors.
func (w *Writer) summarise() (*metadata, error) {
	g := w.alloc.geometry
	m := &metadata{
		table:   make([]byte, g.descBlocks*BlockSize),
		blocks:  make(map[int64][]byte),
		inodes:  make(map[int64][]byte),
		highest: make(map[int64]int64),
	}
	dirs := make(map[int64]int64)
	dirs[0] = 1 // the root
	m.inodes[0] = make([]byte, BlockSize)
	mark(m.inodes[0], 0, firstInode-1, true)
	m.highest[0] = firstInode - 1
	used := map[int64]int64{0: firstInode - 1}
	for _, n := range w.nodes {
		if n == nil {
			continue
		}
		group, index := int64(n.ino-1)/g.inodes, int64(n.ino-1)%g.inodes
		if m.inodes[group] == nil {
			m.inodes[group] = make([]byte, BlockSize)
		}
		mark(m.inodes[group], index, 1, true)
		m.highest[group] = index + 1
		used[group]++
		if n.isDir() {
			dirs[group]++
		}
	}
	for _, bitmap := range m.inodes {
		mark(bitmap, g.inodes, groupBlocks-g.inodes, true) // bits that count nothing
	}
	err := w.alloc.bitmaps(func(group int64, bitmap []byte, free int64) error {
		le := binary.LittleEndian
		d := m.table[group*descSize : (group+1)*descSize]
		flags := groupInodeZeroed
		if bitmap == nil {
			flags |= groupBlockUninit
		} else {
			m.blocks[group] = bytes.Clone(bitmap)
			put16(d[0x18:], d[0x38:], int64(crc(w.seed, bitmap)))
		}
		if inodes := m.inodes[group]; inodes == nil {
			flags |= groupInodeUninit
		} else {
			put16(d[0x1a:], d[0x3a:], int64(crc(w.seed, inodes[:g.inodes/8])))
		}
		put32(d[0x00:], d[0x20:], g.blockBitmap(group))
		put32(d[0x04:], d[0x24:], g.inodeBitmap(group))
		put32(d[0x08:], d[0x28:], g.inodeTable(group))
		put16(d[0x0c:], d[0x2c:], free)
		put16(d[0x0e:], d[0x2e:], g.inodes-used[group])
		put16(d[0x10:], d[0x30:], dirs[group])
		put16(d[0x1c:], d[0x32:], g.inodes-m.highest[group])
		le.PutUint16(d[0x12:], uint16(flags))
		var number [4]byte
		le.PutUint32(number[:], uint32(group))
		le.PutUint16(d[0x1e:], uint16(crc(crc(w.seed, number[:]), d)))
		m.freeBlocks += free
		m.freeInodes += g.inodes - used[group]
		return nil
	})
	return m, err
}

// put16 and put32 write a number whose lower and upper halves stand apart.
func put16(low, high []byte, v int64) {
	binary.LittleEndian.PutUint16(low, uint16(v))
	binary.LittleEndian.PutUint16(high, uint16(v>>16))
}

func put32(low, high []byte, v int64) {
	binary.LittleEndian.PutUint32(low, uint32(v))
	binary.LittleEndian.PutUint32(high, uint32(v>>32))
}

// writeGroup writes the metadata at the start of a leading group, in ascending order.
func (w *Writer) writeGroup(group int64, m *metadata) error {
	g := w.alloc.geometry
	if group == 0 {
		if err := w.writeSuper(0, m); err != nil {
			return err
		}
	}
	for member := group; member < group+g.members(group); member++ {
		if bitmap := m.blocks[member]; bitmap != nil {
			if err := w.write(g.blockBitmap(member), bitmap); err != nil {
				return err
			}
		}
	}
	for member := group; member < group+g.members(group); member++ {
		if bitmap := m.inodes[member]; bitmap != nil {
			if err := w.write(g.inodeBitmap(member), bitmap); err != nil {
				return err
			}
		}
	}
	for member := group; member < group+g.members(group); member++ {
		if err := w.writeInodes(member, m.highest[member]); err != nil {
			return err
		}
	}
	if group == 0 {
		return w.writeJournal()
	}
	return nil
}

// writeInodes writes the first count inodes of a group's table.
func (w *Writer) writeInodes(group, count int64) error {
	g := w.alloc.geometry
	for first := int64(0); first < count; first += Grain / inodeSize {
		buf := w.window[:roundUp(min(Grain/inodeSize, count-first)*inodeSize, BlockSize)]
		clear(buf)
		for i := range int64(len(buf) / inodeSize) {
			ino := group*g.inodes + first + i + 1
			if err := w.putInode(buf[i*inodeSize:(i+1)*inodeSize], ino); err != nil {
				return err
			}
		}
		if err := w.write(g.inodeTable(group)+first/inodesPerBlock, buf); err != nil {
			return err
		}
	}
	return nil
}

// putInode encodes the inode of a number; one that nothing has stays zero.
func (w *Writer) putInode(buf []byte, ino int64) error {
	g := w.alloc.geometry
	var n *node
	switch {
	case ino == 2:
		n = w.root
	case ino == 7 && g.reserved > 0:
		w.encodeInode(buf, uint32(ino), w.resizeInode())
		return nil
	case ino == 8:
		raw, err := w.journalInode()
		if err == nil {
			w.encodeInode(buf, uint32(ino), raw)
		}
		return err
	case ino >= firstInode && ino-firstInode < int64(len(w.nodes)):
		n = w.nodes[ino-firstInode]
	}
	if n == nil {
		return nil
	}
	raw, err := w.raw(n)
	if err == nil {
		w.encodeInode(buf, n.ino, raw)
	}
	return err
}
