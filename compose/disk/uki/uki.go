// Package uki makes unified kernel images: a UEFI program of systemd's stub with a kernel, its initrd and its command
// line as sections of its own (UAPI Group specification "Unified Kernel Image"; PE/COFF specification, Microsoft). It is
// pure.
package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Section is one section to add: ".linux", ".initrd", ".cmdline", ".osrel".
type Section struct {
	Name    string // at most 8 bytes
	Content []byte
}

const (
	sectionHeader = 40
	optionalPlus  = 0x20b // PE32+
	readable      = 0x40000040
	maxStub       = 16 << 20
)

var errStub = errors.New("the UEFI stub is no PE32+ program")

// New adds sections to a stub. They stand in the order given; the kernel goes last, since it may want memory after its
// own end.
func New(stub []byte, sections []Section) ([]byte, error) {
	le := binary.LittleEndian
	if len(stub) < 0x40 || len(stub) > maxStub || stub[0] != 'M' || stub[1] != 'Z' {
		return nil, errStub
	}
	pe := int(le.Uint32(stub[0x3c:]))
	if pe < 0x40 || pe > len(stub)-24-112 || string(stub[pe:pe+4]) != "PE\x00\x00" {
		return nil, errStub
	}
	coff, optional := pe+4, pe+24
	count, optionalSize := int(le.Uint16(stub[coff+2:])), int(le.Uint16(stub[coff+16:]))
	if le.Uint16(stub[optional:]) != optionalPlus || optionalSize < 112 {
		return nil, errStub
	}
	headers := optional + optionalSize
	sectionAlign, fileAlign := int64(le.Uint32(stub[optional+32:])), int64(le.Uint32(stub[optional+36:]))
	if count == 0 || headers+count*sectionHeader > len(stub) || !powerOfTwo(sectionAlign) || !powerOfTwo(fileAlign) {
		return nil, errStub
	}
	end, first := int64(0), int64(le.Uint32(stub[optional+60:]))
	last := first // where the stub's own content ends: symbols may follow, which nobody needs and signatures can't cover
	for i := range count {
		h := stub[headers+i*sectionHeader:]
		size := max(int64(le.Uint32(h[8:])), int64(le.Uint32(h[16:])))
		end = max(end, int64(le.Uint32(h[12:]))+size)
		if at := int64(le.Uint32(h[20:])); at > 0 {
			first, last = min(first, at), max(last, at+int64(le.Uint32(h[16:])))
		}
	}
	if last > int64(len(stub)) {
		return nil, errStub
	}
	if headers := headers + (count+len(sections))*sectionHeader; int64(headers) > first {
		return nil, fmt.Errorf("the UEFI stub has no room for %d more section headers", len(sections))
	}
	out := make([]byte, align(last, fileAlign))
	copy(out, stub[:last])
	clear(out[coff+8 : coff+16]) // where the symbols were
	for i, s := range sections {
		if len(s.Name) > 8 || len(s.Content) == 0 {
			return nil, fmt.Errorf("section %q of %d bytes: want a name of at most 8 bytes, and content", s.Name, len(s.Content))
		}
		at, address := int64(len(out)), align(end, sectionAlign)
		raw := align(int64(len(s.Content)), fileAlign)
		if at+raw > 1<<31 || address+raw > 1<<31 {
			return nil, fmt.Errorf("section %q makes the program larger than 2 GiB", s.Name)
		}
		h := out[headers+(count+i)*sectionHeader:][:sectionHeader]
		clear(h)
		copy(h, s.Name)
		le.PutUint32(h[8:], uint32(len(s.Content)))
		le.PutUint32(h[12:], uint32(address))
		le.PutUint32(h[16:], uint32(raw))
		le.PutUint32(h[20:], uint32(at))
		le.PutUint32(h[36:], readable)
		end = address + int64(len(s.Content))
		out = append(out, s.Content...)
		out = append(out, make([]byte, raw-int64(len(s.Content)))...)
		data := le.Uint32(out[optional+8:]) // SizeOfInitializedData
		le.PutUint32(out[optional+8:], data+uint32(raw))
	}
	le.PutUint16(out[coff+2:], uint16(count+len(sections)))
	le.PutUint32(out[optional+56:], uint32(align(end, sectionAlign))) // SizeOfImage
	le.PutUint32(out[optional+64:], 0)                                // CheckSum: of the stub alone
	return out, nil
}

// Locate returns where the content of a section begins in a program that New has made, in bytes.
func Locate(program []byte, name string) (int64, error) {
	le := binary.LittleEndian
	pe := int(le.Uint32(program[0x3c:]))
	headers, count := pe+24+int(le.Uint16(program[pe+20:])), int(le.Uint16(program[pe+6:]))
	for i := range count {
		h := program[headers+i*sectionHeader:][:sectionHeader]
		if string(bytes.TrimRight(h[:8], "\x00")) == name {
			return int64(le.Uint32(h[20:])), nil
		}
	}
	return 0, fmt.Errorf("uki: there is no section %s", name)
}

func powerOfTwo(n int64) bool { return n > 0 && n <= 1<<20 && n&(n-1) == 0 }

func align(n, to int64) int64 { return (n + to - 1) &^ (to - 1) }
