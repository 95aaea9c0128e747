package uki

import (
	"bytes"
	"debug/pe"
	"encoding/binary"
	"testing"
)

// stub makes the smallest program that New takes, with room for headers up to first.
func stub(first int) []byte {
	le := binary.LittleEndian
	b := make([]byte, first+512)
	copy(b, "MZ")
	le.PutUint32(b[0x3c:], 0x40)
	copy(b[0x40:], "PE\x00\x00")
	coff, optional := b[0x44:], b[0x58:]
	le.PutUint16(coff, 0x8664)
	le.PutUint16(coff[2:], 1)
	le.PutUint16(coff[16:], 240)
	le.PutUint16(optional, optionalPlus)
	le.PutUint32(optional[32:], 4096)
	le.PutUint32(optional[36:], 512)
	le.PutUint32(optional[56:], 8192)
	le.PutUint32(optional[60:], uint32(first))
	le.PutUint32(optional[108:], 16)
	section := optional[240:]
	copy(section, ".text")
	le.PutUint32(section[8:], 100)
	le.PutUint32(section[12:], 4096)
	le.PutUint32(section[16:], 512)
	le.PutUint32(section[20:], uint32(first))
	return b
}

func TestSections(t *testing.T) {
	want := []Section{{".cmdline", []byte("root=x")}, {".initrd", bytes.Repeat([]byte("i"), 10_000)}, {".linux", bytes.Repeat([]byte("k"), 5000)}}
	made, err := New(stub(1024), want)
	if err != nil {
		t.Fatal(err)
	}
	f, err := pe.NewFile(bytes.NewReader(made))
	if err != nil {
		t.Fatal(err)
	}
	if len(f.Sections) != 4 {
		t.Fatalf("%d sections", len(f.Sections))
	}
	end := uint32(0)
	for i, s := range f.Sections {
		if s.VirtualAddress%4096 != 0 || s.VirtualAddress < end || s.Offset%512 != 0 {
			t.Errorf("%s stands at %#x, in the file at %#x", s.Name, s.VirtualAddress, s.Offset)
		}
		end = s.VirtualAddress + s.VirtualSize
		if i == 0 {
			continue
		}
		data, err := s.Data()
		if err != nil || s.Name != want[i-1].Name || !bytes.Equal(data[:s.VirtualSize], want[i-1].Content) {
			t.Errorf("section %s of %d bytes: %v", s.Name, len(data), err)
		}
	}
	if size := f.OptionalHeader.(*pe.OptionalHeader64).SizeOfImage; size < end || size%4096 != 0 {
		t.Errorf("the image has %d bytes, its sections end at %d", size, end)
	}
}

func TestRefused(t *testing.T) {
	good := []Section{{".linux", []byte("k")}}
	for name, raw := range map[string][]byte{"nothing": nil, "text": bytes.Repeat([]byte("MZ"), 200), "cut": stub(1024)[:0x60]} {
		if _, err := New(raw, good); err == nil {
			t.Errorf("%s: was accepted", name)
		}
	}
	if _, err := New(stub(0x58+240+40), good); err == nil {
		t.Error("a stub without room was accepted")
	}
	if _, err := New(stub(1024), []Section{{".toolongname", []byte("x")}}); err == nil {
		t.Error("a long name was accepted")
	}
	if _, err := New(stub(1024), []Section{{".empty", nil}}); err == nil {
		t.Error("an empty section was accepted")
	}
}

func FuzzNew(f *testing.F) {
	f.Add(stub(1024))
	f.Fuzz(func(t *testing.T, raw []byte) { New(raw, []Section{{".linux", []byte("k")}}) })
}
