// Package inflate unpacks DEFLATE (RFC 1951) from memory into memory whose size is known, which takes about half the time of what
// reads a stream: there is no window beside the output, and most of the input is read eight bytes at a time. It is pure.
//
// Who calls it checks the bytes against a checksum. What it does not take may still be DEFLATE for others: codes that leave
// something undefined are refused, but for the one that a block without distances has.
package inflate

import (
	"encoding/binary"
	"errors"
	"math/bits"
	"sync"
)

// ErrInput says that the input is no DEFLATE, or not of as many bytes as are wanted.
var ErrInput = errors.New("inflate: no DEFLATE data of that size")

// How many bits of a code the first table decides; longer ones go on in tables of their own.
const (
	literalBits  = 11
	distanceBits = 9
	maxBits      = 15
)

// An entry of a table: the length of the code in its lowest byte (0: there is none), how many bits follow it in the next four,
// what it is, and in the upper half the literal, the base of a length or a distance, or where the next table begins.
const (
	entryLiteral = 1 << 15
	entryEnd     = 1 << 14
	entryTable   = 1 << 13
)

// decoder has the tables of a block. Each of the second ones has codes of two symbols or more.
type decoder struct {
	literals  [1<<literalBits + 144<<(maxBits-literalBits)]uint32
	distances [1<<distanceBits + 16<<(maxBits-distanceBits)]uint32
	lengths   [7 << 5]uint32 // of the code of code lengths; large enough for 7 bits
	sizes     [288 + 32]uint8
}

var decoders = sync.Pool{New: func() any { return new(decoder) }}

var (
	literalEntries  [288]uint32
	distanceEntries [32]uint32
	sizeEntries     [19]uint32
	sizeOrder       = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}
)

// RFC 1951 section 3.2.5. What has no meaning stays 0.
func init() {
	for i := range 256 {
		literalEntries[i] = uint32(i)<<16 | entryLiteral
	}
	literalEntries[256] = entryEnd
	base := uint32(3)
	for i := range uint32(28) {
		extra := max(i/4, 1) - 1
		literalEntries[257+i] = base<<16 | extra<<8
		base += 1 << extra
	}
	literalEntries[285] = 258 << 16
	base = 1
	for i := range uint32(30) {
		extra := max(i/2, 1) - 1
		distanceEntries[i] = base<<16 | extra<<8
		base += 1 << extra
	}
	for i := range sizeEntries {
		sizeEntries[i] = uint32(i)<<16 | entryLiteral
	}
}

// build makes the table of a code out of the sizes of its symbols' codes (section 3.2.2).
func build(table []uint32, first uint, entries []uint32, sizes []uint8) bool {
	var count, next [maxBits + 1]int
	for _, n := range sizes {
		count[n]++
	}
	used := len(sizes) - count[0]
	left := 1
	for n := 1; n <= maxBits; n++ {
		if left = left<<1 - count[n]; left < 0 {
			return false
		}
		if n > 1 {
			next[n] = (next[n-1] + count[n-1]) << 1
		}
	}
	clear(table[:1<<first])
	if left > 0 && (used > 1 || used != count[1]) {
		return false
	}
	free := 1 << first
	for symbol, size := range sizes {
		if size == 0 {
			continue
		}
		code := uint(bits.Reverse16(uint16(next[size])) >> (16 - size))
		next[size]++
		entry := entries[symbol]
		if entry == 0 {
			continue
		}
		if uint(size) <= first {
			for at := code; at < 1<<first; at += 1 << size {
				table[at] = entry | uint32(size)
			}
			continue
		}
		prefix := code & (1<<first - 1)
		if table[prefix] == 0 {
			if free+1<<(maxBits-first) > len(table) {
				return false
			}
			clear(table[free : free+1<<(maxBits-first)])
			table[prefix] = uint32(free)<<16 | entryTable | uint32(first)
			free += 1 << (maxBits - first)
		}
		begin := uint(table[prefix] >> 16)
		for at := code >> first; at < 1<<(maxBits-first); at += 1 << (uint(size) - first) {
			table[begin+at] = entry | uint32(uint(size)-first)
		}
	}
	return true
}

// reader reads bits, the lowest of a byte first. Behind the input there are zeros; overrun says that they were needed.
type reader struct {
	src  []byte
	at   int
	bits uint64
	n    uint // of bits: at least 56 after fill
}

func (r *reader) fill() {
	if r.at+8 <= len(r.src) {
		r.bits |= binary.LittleEndian.Uint64(r.src[r.at:]) << r.n
		r.at += int(63-r.n) >> 3
		r.n |= 56
		return
	}
	for ; r.n < 56; r.n += 8 {
		if r.at < len(r.src) {
			r.bits |= uint64(r.src[r.at]) << r.n
		}
		r.at++
	}
}

func (r *reader) take(n uint) uint {
	v := r.bits & (1<<n - 1)
	r.bits >>= n
	r.n -= n
	return uint(v)
}

// position is where the first byte stands of which nothing has been taken.
func (r *reader) position() int { return r.at - int(r.n>>3) }

func (r *reader) overrun() bool { return r.position() > len(r.src) }

// Inflate fills dst, and returns how many bytes of src it has taken: what follows the data is left alone. On an error dst has
// anything in it.
func Inflate(dst, src []byte) (int, error) {
	d := decoders.Get().(*decoder)
	defer decoders.Put(d)
	r := reader{src: src}
	out := 0
	for last := false; !last; {
		r.fill()
		if r.overrun() {
			return 0, ErrInput
		}
		last = r.take(1) == 1
		ok := true
		switch r.take(2) {
		case 0:
			out, ok = r.stored(dst, out)
		case 1:
			ok = d.fixed()
			if ok {
				out, ok = d.block(&r, dst, out)
			}
		case 2:
			if ok = d.dynamic(&r); ok {
				out, ok = d.block(&r, dst, out)
			}
		default:
			ok = false
		}
		if !ok {
			return 0, ErrInput
		}
	}
	if r.overrun() || out != len(dst) {
		return 0, ErrInput
	}
	return r.position(), nil
}

// stored copies a block that is not compressed (section 3.2.4).
func (r *reader) stored(dst []byte, out int) (int, bool) {
	at := r.position()
	r.bits, r.n = 0, 0
	if at > len(r.src)-4 {
		return 0, false
	}
	n := int(binary.LittleEndian.Uint16(r.src[at:]))
	if n^0xffff != int(binary.LittleEndian.Uint16(r.src[at+2:])) || n > len(r.src)-at-4 || n > len(dst)-out {
		return 0, false
	}
	r.at = at + 4 + n
	return out + copy(dst[out:], r.src[at+4:r.at]), true
}

// fixed takes the codes of section 3.2.6.
func (d *decoder) fixed() bool {
	sizes := &d.sizes
	for i := range 288 {
		switch {
		case i < 144 || i >= 280:
			sizes[i] = 8
		case i < 256:
			sizes[i] = 9
		default:
			sizes[i] = 7
		}
	}
	for i := 288; i < 320; i++ {
		sizes[i] = 5
	}
	return build(d.literals[:], literalBits, literalEntries[:], sizes[:288]) && build(d.distances[:], distanceBits, distanceEntries[:], sizes[288:])
}

// dynamic reads the codes of a block (section 3.2.7).
func (d *decoder) dynamic(r *reader) bool {
	r.fill()
	literals, distances, sizes := int(r.take(5))+257, int(r.take(5))+1, int(r.take(4))+4
	var ofSizes [19]uint8
	for i := range sizes {
		if i%16 == 0 {
			r.fill()
		}
		ofSizes[sizeOrder[i]] = uint8(r.take(3))
	}
	const first = 7
	if literals > 286 || !build(d.lengths[:], first, sizeEntries[:], ofSizes[:]) {
		return false
	}
	all := d.sizes[:literals+distances]
	for i := 0; i < len(all); {
		r.fill()
		e := d.lengths[r.bits&(1<<first-1)]
		if e == 0 || r.overrun() {
			return false
		}
		r.take(uint(e & 0xff))
		symbol, value, n := e>>16, uint8(0), 0
		switch symbol {
		default:
			all[i] = uint8(symbol)
			i++
			continue
		case 16:
			if i == 0 {
				return false
			}
			value, n = all[i-1], 3+int(r.take(2))
		case 17:
			n = 3 + int(r.take(3))
		case 18:
			n = 11 + int(r.take(7))
		}
		if n > len(all)-i {
			return false
		}
		for range n {
			all[i] = value
			i++
		}
	}
	return all[256] > 0 && build(d.literals[:], literalBits, literalEntries[:], all[:literals]) && build(d.distances[:], distanceBits, distanceEntries[:], all[literals:])
}

const (
	maxMatch = 258
	// word is how many bytes are copied at a time: what is copied too much is written over.
	word = 8
	// ahead is how many bytes of input, and room how many of output a round of quick may want.
	ahead = 2 * word
	room  = 3 + maxMatch + word
)

// block unpacks a block of codes behind what dst has up to out, and returns how far it has come then: most of it quickly, and
// code by code what is near the end of the input or the output.
func (d *decoder) block(r *reader, dst []byte, out int) (_ int, ok bool) {
	for end := false; ; {
		if out, end, ok = d.quick(r, dst, out); end || !ok {
			return out, ok
		}
		if out, end, ok = d.one(r, dst, out); end || !ok {
			return out, ok
		}
	}
}

// one takes one code, with the distance that follows a length.
func (d *decoder) one(r *reader, dst []byte, out int) (_ int, end, ok bool) {
	r.fill()
	e := d.literals[r.bits&(1<<literalBits-1)]
	if e&entryTable != 0 {
		r.take(literalBits)
		e = d.literals[uint(e>>16)+uint(r.bits&(1<<(maxBits-literalBits)-1))]
	}
	r.take(uint(e & 0xff))
	switch {
	case e&0xff == 0 || r.overrun():
		return 0, false, false
	case e&entryEnd != 0:
		return out, true, true
	case e&entryLiteral != 0:
		if out == len(dst) {
			return 0, false, false
		}
		dst[out] = byte(e >> 16)
		return out + 1, false, true
	}
	length := int(e>>16) + int(r.take(uint(e>>8&0xf)))
	e = d.distances[r.bits&(1<<distanceBits-1)]
	if e&entryTable != 0 {
		r.take(distanceBits)
		e = d.distances[uint(e>>16)+uint(r.bits&(1<<(maxBits-distanceBits)-1))]
	}
	r.take(uint(e & 0xff))
	distance := int(e>>16) + int(r.take(uint(e>>8&0xf)))
	if e&0xff == 0 || distance > out || length > len(dst)-out {
		return 0, false, false
	}
	for ; length > 0; length-- {
		dst[out] = dst[out-distance]
		out++
	}
	return out, false, true
}

// quick is as many rounds of one as there are input and room for without looking at each. Its variables are its own, so that
// they are in registers.
func (d *decoder) quick(r *reader, dst []byte, out int) (_ int, end, ok bool) {
	src, at, hold, n := r.src, r.at, r.bits, r.n
	literals, distances := &d.literals, &d.distances
	for at+ahead <= len(src) && out+room <= len(dst) {
		hold |= binary.LittleEndian.Uint64(src[at:]) << (n & 63)
		at += int(63-n) >> 3
		n |= 56
		e := literals[hold&(1<<literalBits-1)]
		// Three literals that the first table knows have 33 bits at most.
		if e&entryLiteral != 0 {
			hold >>= e & 63
			n -= uint(e & 63)
			dst[out] = byte(e >> 16)
			out++
			e = literals[hold&(1<<literalBits-1)]
			if e&entryLiteral != 0 {
				hold >>= e & 63
				n -= uint(e & 63)
				dst[out] = byte(e >> 16)
				out++
				e = literals[hold&(1<<literalBits-1)]
				if e&entryLiteral != 0 {
					hold >>= e & 63
					n -= uint(e & 63)
					dst[out] = byte(e >> 16)
					out++
					continue
				}
			}
			// A length and a distance have 48.
			hold |= binary.LittleEndian.Uint64(src[at:]) << (n & 63)
			at += int(63-n) >> 3
			n |= 56
		}
		if e&entryTable != 0 {
			hold >>= literalBits
			n -= literalBits
			e = literals[uint(e>>16)+uint(hold&(1<<(maxBits-literalBits)-1))]
		}
		hold >>= e & 63
		n -= uint(e & 63)
		if e&(entryLiteral|entryEnd) != 0 || e&63 == 0 {
			if e&entryLiteral != 0 {
				dst[out] = byte(e >> 16)
				out++
				continue
			}
			r.at, r.bits, r.n = at, hold, n
			return out, true, e&63 != 0
		}
		extra := e >> 8 & 0xf
		length := int(e>>16) + int(hold&(1<<extra-1))
		hold >>= extra
		n -= uint(extra)
		e = distances[hold&(1<<distanceBits-1)]
		if e&entryTable != 0 {
			hold >>= distanceBits
			n -= distanceBits
			e = distances[uint(e>>16)+uint(hold&(1<<(maxBits-distanceBits)-1))]
		}
		hold >>= e & 63
		n -= uint(e & 63)
		extra = e >> 8 & 0xf
		distance := int(e>>16) + int(hold&(1<<extra-1))
		hold >>= extra
		n -= uint(extra)
		if e&63 == 0 || distance > out {
			return 0, false, false
		}
		stop := out + length
		if distance >= word {
			from, to := dst[out-distance:], dst[out:]
			for i := 0; i < length; i += word {
				binary.LittleEndian.PutUint64(to[i:], binary.LittleEndian.Uint64(from[i:]))
			}
		} else {
			for i := out; i < stop; i++ {
				dst[i] = dst[i-distance]
			}
		}
		out = stop
	}
	r.at, r.bits, r.n = at, hold, n
	return out, false, true
}
