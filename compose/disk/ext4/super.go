package ext4

import "encoding/binary"

// Features, in the words of mke2fs.
const (
	compat       = 0x04 | 0x08 | 0x20                       // has_journal, ext_attr, dir_index
	compatResize = 0x10                                     // resize_inode
	incompat     = 0x02 | 0x40 | 0x80 | 0x200               // filetype, extent, 64bit, flex_bg
	readOnly     = 0x01 | 0x02 | 0x08 | 0x20 | 0x40 | 0x400 // sparse_super, large_file, huge_file, dir_nlink, extra_isize, metadata_csum
	journalInode = 8
	superOffset  = 1024 // in block 0, for boot loaders
	superSize    = 1024
)

// writeSuper writes a group's copy of the superblock and the descriptors; in group 0 also the resize inode's lists.
func (w *Writer) writeSuper(group int64, m *metadata) error {
	g := w.alloc.geometry
	start := group * groupBlocks
	var block [BlockSize]byte
	offset := 0
	if group == 0 {
		offset = superOffset
	}
	if err := w.encodeSuper(block[offset:offset+superSize], group, m); err != nil {
		return err
	}
	if err := w.write(start, block[:]); err != nil {
		return err
	}
	if err := w.write(start+1, m.table); err != nil {
		return err
	}
	if group != 0 {
		return nil
	}
	// The reserve's blocks are indirect blocks of the resize inode for now: each lists its own copies.
	for i := range g.reserved {
		block := make([]byte, BlockSize)
		at := 1 + g.descBlocks + i
		copies := block
		for other := int64(1); other < g.groups; other++ {
			if hasSuper(other) {
				binary.LittleEndian.PutUint32(copies, uint32(other*groupBlocks+at))
				copies = copies[4:]
			}
		}
		if g.groups == 1 {
			break // no copies: zeros
		}
		if err := w.write(at, block); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) encodeSuper(b []byte, group int64, m *metadata) error {
	g, le := w.alloc.geometry, binary.LittleEndian
	seconds, _ := encodeTime(w.Time)
	le.PutUint32(b[0x00:], uint32(g.inodes*g.groups))
	put32(b[0x04:], b[0x150:], g.blocks)
	put32(b[0x08:], b[0x154:], g.blocks/100) // kept for root
	put32(b[0x0c:], b[0x158:], m.freeBlocks)
	le.PutUint32(b[0x10:], uint32(m.freeInodes))
	le.PutUint32(b[0x18:], 2) // block size: 1024 << 2
	le.PutUint32(b[0x1c:], 2) // cluster size
	le.PutUint32(b[0x20:], groupBlocks)
	le.PutUint32(b[0x24:], groupBlocks)
	le.PutUint32(b[0x28:], uint32(g.inodes))
	le.PutUint32(b[0x30:], seconds) // written
	le.PutUint16(b[0x36:], 0xffff)  // mounts until a check: never
	le.PutUint16(b[0x38:], 0xef53)
	le.PutUint16(b[0x3a:], 1)       // clean
	le.PutUint16(b[0x3c:], 1)       // on errors: continue
	le.PutUint32(b[0x40:], seconds) // checked
	le.PutUint32(b[0x4c:], 1)       // revision with sizes of inodes
	le.PutUint32(b[0x54:], firstInode)
	le.PutUint16(b[0x58:], inodeSize)
	le.PutUint16(b[0x5a:], uint16(group))
	features := uint32(compat)
	if g.reserved > 0 {
		features |= compatResize
	}
	le.PutUint32(b[0x5c:], features)
	le.PutUint32(b[0x60:], incompat)
	le.PutUint32(b[0x64:], readOnly)
	copy(b[0x68:], w.UUID[:])
	copy(b[0x78:0x88], w.Label)
	le.PutUint16(b[0xce:], uint16(g.reserved))
	le.PutUint32(b[0xe0:], journalInode)
	copy(b[0xec:], w.UUID[:]) // seed of the hashes of names
	b[0xfc] = 1               // half MD4
	b[0xfd] = 1               // what follows at 0x10c is the journal's inode
	le.PutUint16(b[0xfe:], descSize)
	le.PutUint32(b[0x100:], 0x0c) // mount options: user_xattr, acl
	le.PutUint32(b[0x108:], seconds)
	journal, err := w.journalInode()
	if err != nil {
		return err
	}
	copy(b[0x10c:], journal.content[:])
	le.PutUint32(b[0x148:], uint32(journal.size>>32))
	le.PutUint32(b[0x14c:], uint32(journal.size))
	le.PutUint16(b[0x15c:], extraSize)
	le.PutUint16(b[0x15e:], extraSize)
	le.PutUint32(b[0x160:], 1) // names are hashed as signed characters
	b[0x174] = 4               // flexGroups = 1 << 4
	b[0x175] = 1               // CRC-32C
	var overhead int64
	for group := range g.groups {
		overhead += g.overhead(group)
	}
	le.PutUint32(b[0x248:], uint32(overhead-g.resizeBlocks()))
	le.PutUint32(b[0x3fc:], crc(^uint32(0), b[:0x3fc]))
	return nil
}

// resizeInode holds the blocks into which the group descriptors may grow, so that a mounted filesystem can.
func (w *Writer) resizeInode() rawInode {
	g := w.alloc.geometry
	const perBlock = BlockSize / 4
	copies := int64(0)
	for group := int64(1); group < g.groups; group++ {
		if hasSuper(group) {
			copies++
		}
	}
	n := rawInode{
		mode: typeFile | 0o600, links: 1, mtime: w.Time,
		size:   (12 + perBlock + perBlock*perBlock) * BlockSize,
		blocks: g.resizeBlocks() + g.reserved*(1+copies),
	}
	binary.LittleEndian.PutUint32(n.content[13*4:], uint32(g.resizeStart()))
	return n
}

// journalInode is the journal as a file.
func (w *Writer) journalInode() (rawInode, error) {
	g := w.alloc.geometry
	file := &node{extents: []extent{{0, g.journalStart(), g.journal}}}
	content, err := w.extentTree(file, nil)
	return rawInode{
		mode: typeFile | 0o600, links: 1, mtime: w.Time,
		size: g.journal * BlockSize, blocks: g.journal, flags: flagExtent, content: content,
	}, err
}

// writeJournal writes the resize inode's double indirect block and, after it, an empty journal (JBD2: big-endian).
func (w *Writer) writeJournal() error {
	g := w.alloc.geometry
	var block [BlockSize]byte
	if g.reserved > 0 {
		const perBlock = BlockSize / 4
		for i := range g.reserved {
			binary.LittleEndian.PutUint32(block[(g.descBlocks+i)%perBlock*4:], uint32(1+g.descBlocks+i))
		}
		if err := w.write(g.resizeStart(), block[:]); err != nil {
			return err
		}
		clear(block[:])
	}
	be := binary.BigEndian
	be.PutUint32(block[0x00:], 0xc03b3998)
	be.PutUint32(block[0x04:], 4) // superblock, version 2
	be.PutUint32(block[0x0c:], BlockSize)
	be.PutUint32(block[0x10:], uint32(g.journal))
	be.PutUint32(block[0x14:], 1) // first block of the log
	be.PutUint32(block[0x18:], 1) // first transaction
	copy(block[0x30:], w.UUID[:])
	be.PutUint32(block[0x40:], 1) // users
	return w.write(g.journalStart(), block[:])
}
