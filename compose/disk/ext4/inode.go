package ext4

import (
	"encoding/binary"
	"hash/crc32"
)

const (
	extraSize  = 32 // of the fields after the first 128 bytes
	flagExtent = 0x80000
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// crc is the checksum of ext4's metadata: CRC-32C without the inversions at its ends.
func crc(seed uint32, data []byte) uint32 { return ^crc32.Update(^seed, castagnoli, data) }

// inodeSeed begins the checksums of an inode and what belongs to it. The generation is 0.
func (w *Writer) inodeSeed(ino uint32) uint32 {
	var b [8]byte
	binary.LittleEndian.PutUint32(b[:], ino)
	return crc(w.seed, b[:])
}

// rawInode is what encodes into an inode.
type rawInode struct {
	mode     uint16
	uid, gid uint32
	mtime    int64
	size     int64
	links    int
	blocks   int64 // of BlockSize, the tree's and the attributes' included
	flags    uint32
	content  [60]byte
	acl      int64
	inline   []byte
}

// encodeInode writes an inode of inodeSize bytes.
func (w *Writer) encodeInode(buf []byte, ino uint32, n rawInode) {
	le := binary.LittleEndian
	seconds, extra := encodeTime(n.mtime)
	sectors := n.blocks * (BlockSize / 512)
	le.PutUint16(buf, n.mode)
	le.PutUint16(buf[0x02:], uint16(n.uid))
	le.PutUint32(buf[0x04:], uint32(n.size))
	for _, at := range []int{0x08, 0x0c, 0x10, 0x90} { // accessed, changed, modified, created
		le.PutUint32(buf[at:], seconds)
	}
	for _, at := range []int{0x84, 0x88, 0x8c, 0x94} {
		le.PutUint32(buf[at:], extra)
	}
	le.PutUint16(buf[0x18:], uint16(n.gid))
	le.PutUint16(buf[0x1a:], uint16(n.links))
	le.PutUint32(buf[0x1c:], uint32(sectors))
	le.PutUint32(buf[0x20:], n.flags)
	copy(buf[0x28:], n.content[:])
	le.PutUint32(buf[0x68:], uint32(n.acl))
	le.PutUint32(buf[0x6c:], uint32(n.size>>32))
	le.PutUint16(buf[0x74:], uint16(sectors>>32))
	le.PutUint16(buf[0x76:], uint16(n.acl>>32))
	le.PutUint16(buf[0x78:], uint16(n.uid>>16))
	le.PutUint16(buf[0x7a:], uint16(n.gid>>16))
	le.PutUint16(buf[0x80:], extraSize)
	copy(buf[128+extraSize:], n.inline)
	sum := crc(w.inodeSeed(ino), buf[:inodeSize])
	le.PutUint16(buf[0x7c:], uint16(sum))
	le.PutUint16(buf[0x82:], uint16(sum>>16))
}

// The times that an inode holds: 34 bits from 1901 on.
const (
	minTime = -1 << 31
	maxTime = 1<<34 - 1<<31 - 1
)

// encodeTime encodes seconds since 1970: the low 32 bits, and two more in the word that also has the nanoseconds.
func encodeTime(t int64) (low, extra uint32) {
	t = min(max(t, minTime), maxTime)
	low = uint32(t)
	return low, uint32((t-int64(int32(low)))>>32) & 3
}

// raw is a node as its inode has it.
func (w *Writer) raw(n *node) (rawInode, error) {
	r := rawInode{mode: n.mode, uid: n.uid, gid: n.gid, mtime: n.mtime, size: n.size, links: n.links, acl: n.acl, inline: n.inline}
	r.blocks = int64(len(n.tree))
	for _, e := range n.extents {
		r.blocks += e.count
	}
	if n.acl != 0 {
		r.blocks++
	}
	switch n.mode & typeMask {
	case typeDir:
		r.size = n.dir.blocks * BlockSize
		r.links = 2
		for _, c := range n.dir.names {
			if c.node != nil && c.node.isDir() {
				r.links++
			}
		}
		if r.links > maxLinks {
			r.links = 1 // dir_nlink: uncounted
		}
	case typeChar, typeBlock:
		major, minor := n.device>>20, n.device&0xfffff
		if major < 256 && minor < 256 {
			binary.LittleEndian.PutUint32(r.content[:], major<<8|minor)
		} else {
			binary.LittleEndian.PutUint32(r.content[4:], minor&0xff|major<<8|minor&^0xff<<12)
		}
		return r, nil
	case typeFIFO:
		return r, nil
	case typeSymlink:
		if len(n.target) < len(r.content) {
			copy(r.content[:], n.target)
			return r, nil
		}
	}
	r.flags = flagExtent
	var err error
	r.content, err = w.extentTree(n, nil)
	return r, err
}
