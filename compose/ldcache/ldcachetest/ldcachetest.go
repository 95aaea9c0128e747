// Package ldcachetest makes small shared libraries for tests.
package ldcachetest

import "encoding/binary"

// Object makes a shared library for a class (1: 32 bits, 2: 64) and machine that has nothing but a soname: headers, a
// string table, some bytes of padding, and last the dynamic segment.
func Object(class byte, machine uint16, soname string, padding int) []byte {
	word, header, entry := 8, 64, 56
	if class == 1 {
		word, header, entry = 4, 52, 32
	}
	const base = 0x10000 // of addresses
	table := header + 2*entry
	dynamic := table + len(soname) + 2 + padding
	b := make([]byte, dynamic)
	le := binary.LittleEndian
	number := func(at int, n int) {
		if word == 8 {
			le.PutUint64(b[at:], uint64(n))
		} else {
			le.PutUint32(b[at:], uint32(n))
		}
	}
	copy(b, "\x7fELF")
	b[4], b[5] = class, 1
	le.PutUint16(b[16:], 3)
	le.PutUint16(b[18:], machine)
	number(24+word, header)                    // e_phoff
	le.PutUint16(b[header-10:], uint16(entry)) // e_phentsize
	le.PutUint16(b[header-8:], 2)              // e_phnum
	segment := func(at, kind, offset, size int) {
		le.PutUint32(b[at:], uint32(kind))
		if word == 8 {
			number(at+8, offset)
			number(at+16, base+offset)
			number(at+32, size)
		} else {
			number(at+4, offset)
			number(at+8, base+offset)
			number(at+16, size)
		}
	}
	segment(header, 1, 0, dynamic)
	segment(header+entry, 2, dynamic, 6*word)
	copy(b[table+1:], soname)
	for _, n := range []int{14, 1, 5, base + table, 0, 0} { // DT_SONAME, DT_STRTAB, DT_NULL
		b = append(b, make([]byte, word)...)
		number(len(b)-word, n)
	}
	return b
}
