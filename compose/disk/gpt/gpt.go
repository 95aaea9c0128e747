// Package gpt reads and writes GUID partition tables (UEFI specification 2.10, chapter 5) on disks with sectors of 512
// bytes. It is pure.
//
//	┌─────┬────────┬─────────┬───── … ─────┬─────────┬────────┐
//	│ MBR │ header │ entries │ partitions  │ entries │ header │
//	└─────┴────────┴─────────┴───── … ─────┴─────────┴────────┘
//	  primary: Encode's first result         backup: its second
package gpt

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"strings"
	"unicode/utf16"
)

// SectorSize is the size of a sector in bytes.
const SectorSize = 512

const (
	entryCount = 128
	entrySize  = 128
	headerSize = 92
	signature  = "EFI PART"
	revision   = 0x00010000
	tableSize  = entryCount * entrySize
	// CodeSize is how much of the first sector is code that the table has nothing to do with, in bytes.
	CodeSize = 440
	// HeadSize is the size of MBR, header and entries at the start of a disk in bytes, TailSize of those at its end.
	HeadSize = 2*SectorSize + tableSize
	TailSize = tableSize + SectorSize
)

// GUID is an identifier in the order of its text: the first three groups are swapped on the disk.
type GUID [16]byte

// Types of partitions.
var (
	TypeESP       = MustParse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	TypeBIOS      = MustParse("21686148-6449-6e6f-744e-656564454649") // what a BIOS's loader lies in
	TypeRootAMD64 = MustParse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709") // Discoverable Partitions Specification
	TypeRootARM64 = MustParse("b921b045-1df0-41c3-af44-4c6f280d3fae")
)

// Parse parses the text form.
func Parse(s string) (GUID, error) {
	var g GUID
	plain := strings.ReplaceAll(s, "-", "")
	if len(s) != 36 || len(plain) != 32 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("%.50q is no GUID: want 8-4-4-4-12 hexadecimal digits", s)
	}
	if _, err := hex.Decode(g[:], []byte(plain)); err != nil {
		return g, fmt.Errorf("%.50q is no GUID: %w", s, err)
	}
	return g, nil
}

// MustParse is Parse for constants.
func MustParse(s string) GUID {
	g, err := Parse(s)
	if err != nil {
		panic(err)
	}
	return g
}

// NewGUID makes an identifier of 16 bytes of a digest: one of version 8, whose bits are the maker's own (RFC 9562).
func NewGUID(seed [16]byte) GUID {
	seed[6] = seed[6]&0x0f | 0x80
	seed[8] = seed[8]&0x3f | 0x80
	return seed
}

func (g GUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", g[:4], g[4:6], g[6:8], g[8:10], g[10:])
}

// swapped is the form on the disk, and back.
func (g GUID) swapped() GUID {
	return GUID{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}
}

// Partition is one partition, in bytes.
type Partition struct {
	Type  GUID
	GUID  GUID
	Name  string // at most 36 UTF-16 units
	Start int64
	Size  int64
}

// Table is a disk's partition table.
type Table struct {
	GUID       GUID
	Partitions []Partition
}

// Encode makes what stands at the start of a disk of size bytes, and at its end.
func (t Table) Encode(size int64) (head, tail []byte, err error) {
	if size%SectorSize != 0 || size < HeadSize+TailSize {
		return nil, nil, fmt.Errorf("gpt: a disk of %d bytes: want a multiple of %d, and at least %d", size, SectorSize, HeadSize+TailSize)
	}
	if len(t.Partitions) > entryCount {
		return nil, nil, fmt.Errorf("gpt: %d partitions: at most %d", len(t.Partitions), entryCount)
	}
	entries := make([]byte, tableSize)
	le := binary.LittleEndian
	end := int64(HeadSize)
	for i, p := range t.Partitions {
		if p.Start%SectorSize != 0 || p.Size%SectorSize != 0 || p.Size <= 0 || p.Start < end || p.Start > size-TailSize-p.Size {
			return nil, nil, fmt.Errorf("gpt: partition %d: %d bytes from %d on: want whole sectors after %d and before %d", i+1, p.Size, p.Start, end, size-TailSize)
		}
		end = p.Start + p.Size
		e := entries[i*entrySize:]
		kind, guid := p.Type.swapped(), p.GUID.swapped()
		copy(e, kind[:])
		copy(e[16:], guid[:])
		le.PutUint64(e[32:], uint64(p.Start/SectorSize))
		le.PutUint64(e[40:], uint64(end/SectorSize-1))
		name := utf16.Encode([]rune(p.Name))
		if len(name) > 36 {
			return nil, nil, fmt.Errorf("gpt: partition %d: name %q: at most 36 characters", i+1, p.Name)
		}
		for k, c := range name {
			le.PutUint16(e[56+2*k:], c)
		}
	}
	sectors := size / SectorSize
	head = make([]byte, HeadSize)
	// A protective MBR: one partition of type 0xee over all, for those who know no GPT.
	mbr := head[446:]
	mbr[2], mbr[4] = 0x02, 0xee
	mbr[5], mbr[6], mbr[7] = 0xff, 0xff, 0xff
	le.PutUint32(mbr[8:], 1)
	le.PutUint32(mbr[12:], uint32(min(sectors-1, 0xffffffff)))
	head[510], head[511] = 0x55, 0xaa
	t.header(head[SectorSize:2*SectorSize], 1, sectors-1, 2, sectors, entries)
	copy(head[2*SectorSize:], entries)
	tail = make([]byte, TailSize)
	copy(tail, entries)
	t.header(tail[tableSize:], sectors-1, 1, sectors-TailSize/SectorSize, sectors, entries)
	return head, tail, nil
}

func (t Table) header(b []byte, at, other, table, sectors int64, entries []byte) {
	le := binary.LittleEndian
	copy(b, signature)
	le.PutUint32(b[8:], revision)
	le.PutUint32(b[12:], headerSize)
	le.PutUint64(b[24:], uint64(at))
	le.PutUint64(b[32:], uint64(other))
	le.PutUint64(b[40:], HeadSize/SectorSize)
	le.PutUint64(b[48:], uint64(sectors-TailSize/SectorSize-1))
	guid := t.GUID.swapped()
	copy(b[56:], guid[:])
	le.PutUint64(b[72:], uint64(table))
	le.PutUint32(b[80:], entryCount)
	le.PutUint32(b[84:], entrySize)
	le.PutUint32(b[88:], crc32.ChecksumIEEE(entries))
	le.PutUint32(b[16:], crc32.ChecksumIEEE(b[:headerSize]))
}

// ErrNoTable says that the bytes are no GUID partition table, or a damaged one.
var ErrNoTable = errors.New("no GUID partition table")

// Decode reads the HeadSize bytes at the start of a disk, in the shape that Encode writes.
func Decode(head []byte) (Table, error) {
	if len(head) < HeadSize {
		return Table{}, fmt.Errorf("%w: %d bytes: want %d", ErrNoTable, len(head), HeadSize)
	}
	le := binary.LittleEndian
	h := append([]byte(nil), head[SectorSize:SectorSize+headerSize]...)
	sum := le.Uint32(h[16:])
	le.PutUint32(h[16:], 0)
	entries := head[2*SectorSize : HeadSize]
	switch {
	case string(h[:8]) != signature || le.Uint32(h[12:]) != headerSize:
		return Table{}, ErrNoTable
	case crc32.ChecksumIEEE(h) != sum || crc32.ChecksumIEEE(entries) != le.Uint32(h[88:]):
		return Table{}, fmt.Errorf("%w: a checksum is wrong", ErrNoTable)
	case le.Uint64(h[72:]) != 2 || le.Uint32(h[80:]) != entryCount || le.Uint32(h[84:]) != entrySize:
		return Table{}, fmt.Errorf("%w: its entries are not where they usually are", ErrNoTable)
	}
	t := Table{GUID: GUID(h[56:72]).swapped()}
	for ; len(entries) > 0; entries = entries[entrySize:] {
		p := Partition{Type: GUID(entries[:16]).swapped(), GUID: GUID(entries[16:32]).swapped()}
		if p.Type == (GUID{}) {
			break
		}
		first, last := le.Uint64(entries[32:]), le.Uint64(entries[40:])
		if first > last || last > 1<<53 {
			return Table{}, fmt.Errorf("%w: a partition from sector %d to %d", ErrNoTable, first, last)
		}
		p.Start, p.Size = int64(first)*SectorSize, int64(last-first+1)*SectorSize
		var name []uint16
		for k := 56; k < entrySize; k += 2 {
			if c := le.Uint16(entries[k:]); c != 0 {
				name = append(name, c)
			}
		}
		p.Name = string(utf16.Decode(name))
		t.Partitions = append(t.Partitions, p)
	}
	return t, nil
}
