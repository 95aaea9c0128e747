package ext4

import (
	"encoding/binary"
	"fmt"
)

// extent is a row of a file's blocks: count of them from logical on stand at start.
type extent struct {
	logical, start, count int64
}

const (
	maxExtent      = 32768 // blocks in an initialised extent
	rootExtents    = 4     // in an inode
	extentsInBlock = (BlockSize - 12) / 12
	extentMagic    = 0xf30a
)

// append adds blocks to a file's extents.
func appendExtent(extents []extent, logical, start, count int64) []extent {
	if n := len(extents); n > 0 {
		last := &extents[n-1]
		if last.logical+last.count == logical && last.start+last.count == start && last.count+count <= maxExtent {
			last.count += count
			return extents
		}
	}
	return append(extents, extent{logical, start, count})
}

// treeBlocks is how many blocks the tree over n extents has below its root.
func treeBlocks(n int) int {
	total := 0
	for n > rootExtents {
		n = (n + extentsInBlock - 1) / extentsInBlock
		total += n
	}
	return total
}

// extentTree encodes the tree over a node's extents: the 60 bytes in the inode, and the blocks of n.tree through emit.
func (w *Writer) extentTree(n *node, emit func(block int64, data []byte) error) (root [60]byte, err error) {
	type entry struct {
		logical, block, count int64
	}
	level := make([]entry, len(n.extents))
	for i, e := range n.extents {
		level[i] = entry{e.logical, e.start, e.count}
	}
	encode := func(buf []byte, entries []entry, most, depth int) {
		le := binary.LittleEndian
		le.PutUint16(buf, extentMagic)
		le.PutUint16(buf[2:], uint16(len(entries)))
		le.PutUint16(buf[4:], uint16(most))
		le.PutUint16(buf[6:], uint16(depth))
		for i, e := range entries {
			b := buf[12+12*i:]
			le.PutUint32(b, uint32(e.logical))
			if depth == 0 {
				le.PutUint16(b[4:], uint16(e.count))
				le.PutUint16(b[6:], uint16(e.block>>32))
				le.PutUint32(b[8:], uint32(e.block))
			} else {
				le.PutUint32(b[4:], uint32(e.block))
				le.PutUint16(b[8:], uint16(e.block>>32))
			}
		}
	}
	blocks, depth := n.tree, 0
	for len(level) > rootExtents {
		var above []entry
		for len(level) > 0 {
			k := min(extentsInBlock, len(level))
			if len(blocks) == 0 {
				return root, fmt.Errorf("ext4: inode %d: no block for its extents", n.ino)
			}
			if emit != nil {
				var buf [BlockSize]byte
				encode(buf[:], level[:k], extentsInBlock, depth)
				binary.LittleEndian.PutUint32(buf[BlockSize-4:], crc(w.inodeSeed(n.ino), buf[:BlockSize-4]))
				if err := emit(blocks[0], buf[:]); err != nil {
					return root, err
				}
			}
			above = append(above, entry{level[0].logical, blocks[0], 0})
			blocks, level = blocks[1:], level[k:]
		}
		level = above
		depth++
	}
	encode(root[:], level, rootExtents, depth)
	return root, nil
}
