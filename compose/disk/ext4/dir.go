package ext4

import "encoding/binary"

// maxDirBlocks is how large a directory may be, in blocks: two block groups. However it comes to lie, that makes no more
// than the rootExtents that an inode holds itself.
const maxDirBlocks = 2 * groupBlocks

const dirTail = 12 // bytes at a block's end that hold its checksum

func recordSize(name int) int { return round4(8 + name) }

// dirBlocks is how many blocks a directory's names take.
func (d *directory) dirBlocks() int64 {
	blocks, left := int64(1), BlockSize-dirTail-2*recordSize(2)
	for _, n := range d.names {
		if n.node == nil {
			continue
		}
		size := recordSize(len(n.text))
		if size > left {
			blocks, left = blocks+1, BlockSize-dirTail
		}
		left -= size
	}
	return blocks
}

// fileTypes are the types in directory entries, by those of modes.
var fileTypes = map[uint16]byte{
	typeFile: 1, typeDir: 2, typeChar: 3, typeBlock: 4, typeFIFO: 5, typeSymlink: 7,
}

// encodeDir calls emit for each block of a directory, in order. There are n.dir.blocks of them.
func (w *Writer) encodeDir(n *node, emit func(index int64, data []byte) error) error {
	le := binary.LittleEndian
	var buf [BlockSize]byte
	index, at, last := int64(0), 0, 0
	flush := func() error {
		end := BlockSize - dirTail
		if at == 0 {
			le.PutUint16(buf[4:], uint16(end)) // an empty record
		} else {
			le.PutUint16(buf[last+4:], uint16(end-last))
		}
		le.PutUint16(buf[end+4:], dirTail)
		buf[end+7] = 0xde
		le.PutUint32(buf[end+8:], crc(w.inodeSeed(n.ino), buf[:end]))
		err := emit(index, buf[:])
		clear(buf[:])
		index, at, last = index+1, 0, 0
		return err
	}
	put := func(text string, child *node) error {
		size := recordSize(len(text))
		if at+size > BlockSize-dirTail {
			if err := flush(); err != nil {
				return err
			}
		}
		b := buf[at:]
		le.PutUint32(b, child.ino)
		le.PutUint16(b[4:], uint16(size))
		b[6], b[7] = byte(len(text)), fileTypes[child.mode&typeMask]
		copy(b[8:], text)
		at, last = at+size, at
		return nil
	}
	parent := n.dir.parent
	if parent == nil {
		parent = n
	}
	if err := put(".", n); err != nil {
		return err
	}
	if err := put("..", parent); err != nil {
		return err
	}
	for _, c := range n.dir.names {
		if c.node == nil {
			continue
		}
		if err := put(c.text, c.node); err != nil {
			return err
		}
	}
	for index < n.dir.blocks {
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}
