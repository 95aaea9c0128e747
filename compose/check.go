package compose

import (
	"encoding/binary"
	"hash/crc32"
)

// Check tells whether the uncompressed bytes of a layer's members are those that the layer was assembled of, at a tenth of
// what a digest costs: it is the CRC-32 (RFC 1952) of the CRC-32s of their segments, which stand in the pieces' trailers.
// It finds damage and what was put in another's place by accident; it is no digest.
//
// The zero Check has seen nothing. Write a member's bytes, call EndMember, and so on with the next one; the Trailer is the
// last.
type Check struct {
	sum     uint32 // of the segments before
	segment uint32
	size    int // of the segment
}

// Write takes the next bytes of a member. It never fails.
func (c *Check) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), SegmentSize-c.size)
		c.segment = crc32.Update(c.segment, crc32.IEEETable, p[:k])
		c.size += k
		p = p[k:]
		if c.size == SegmentSize {
			c.EndMember()
		}
	}
	return n, nil
}

// EndMember says that the next bytes are another member's.
func (c *Check) EndMember() {
	if c.size > 0 {
		c.add(c.segment)
	}
	c.segment, c.size = 0, 0
}

// add adds the CRC-32 of a segment.
func (c *Check) add(crc uint32) {
	c.sum = crc32.Update(c.sum, crc32.IEEETable, binary.LittleEndian.AppendUint32(nil, crc))
}

// Sum is what the segments have come to. Call EndMember before.
func (c *Check) Sum() uint32 { return c.sum }
