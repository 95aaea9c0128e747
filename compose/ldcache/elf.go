package ldcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// Library is what an ELF file says of itself.
type Library struct {
	Soname string // empty: it has none
	ABI
}

// ABI is who can load a library, as far as the loader looks.
type ABI struct {
	Class   byte   // EI_CLASS: 32 or 64 bits
	Machine uint16 // e_machine
}

const elf32, elf64 = 1, 2 // EI_CLASS

// kinds are the loader's words for the ABIs that a Debian architecture's ldconfig indexes (elf.h,
// sysdeps/unix/sysv/linux/*/readelflib.c): that of its own processor and, for amd64, the two that run on it as well.
var kinds = map[string]map[ABI]uint32{
	"amd64":   {{elf64, 62}: 0x0303, {elf32, 3}: 0x0003, {elf32, 62}: 0x0803},
	"i386":    {{elf32, 3}: 0x0003},
	"arm64":   {{elf64, 183}: 0x0a03},
	"ppc64el": {{elf64, 21}: 0x0503},
	"riscv64": {{elf64, 243}: 0x1003}, // Debian's port is double-float
}

// Knows reports whether libraries of a Debian architecture can be indexed.
func Knows(arch string) bool { return kinds[arch] != nil }

// IsLibrary reports whether a file's name is one that ldconfig looks into.
func IsLibrary(name string) bool {
	return strings.Contains(name, ".so") && (strings.HasPrefix(name, "lib") || strings.HasPrefix(name, "ld-") || strings.HasPrefix(name, "ld."))
}

// Bounds of what is kept of a file. Libraries are larger, but what is wanted stands in few places.
const (
	maxWindow  = 16 << 20 // bytes from the beginning: headers and, before code and data, the string table
	maxSegment = 1 << 20  // of the dynamic segment
	maxSoname  = 255
)

// errNone says that a file is no shared library of the architecture: a linker script, debugging symbols.
var errNone = errors.New("no shared library")

// Inspect reads an ELF file of size bytes from its beginning, and no further than it must. It is false for anything that
// is no shared library, little-endian, damaged ones included; the error is the reader's.
func Inspect(r io.Reader, size int64) (Library, bool, error) {
	w, err := newWindow(r, size)
	if err != nil {
		return Library{}, false, err
	}
	l, err := w.library()
	if errors.Is(err, errNone) {
		return Library{}, false, nil
	}
	return l, err == nil, err
}

// window is the part of a file that is kept: its beginning and, wherever it lies, the dynamic segment.
type window struct {
	rest    io.Reader // behind head
	head    []byte
	loads   []segment
	dynamic segment
	bits64  bool
}

// segment is a program header, as far as it matters.
type segment struct{ offset, address, size uint64 }

func newWindow(r io.Reader, size int64) (*window, error) {
	if size < 20 {
		return &window{}, nil
	}
	// Most of what has a library's name is one, but not all: look before everything is read.
	start := make([]byte, min(size, 64))
	if _, err := io.ReadFull(r, start); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(start, []byte("\x7fELF")) {
		return &window{}, nil
	}
	head := make([]byte, min(size, maxWindow))
	if _, err := io.ReadFull(r, head[copy(head, start):]); err != nil {
		return nil, err
	}
	return &window{rest: r, head: head}, nil
}

// library reads the headers and the dynamic segment (System V ABI, chapters 4 and 5).
func (w *window) library() (Library, error) {
	kind, err := w.header()
	if err != nil {
		return Library{}, err
	}
	entries, err := w.segment(w.dynamic)
	if err != nil {
		return Library{}, err
	}
	const dtNull, dtStrtab, dtSoname = 0, 5, 14
	var strtab, soname uint64
	named := false
	width := w.word() * 2
	for ; len(entries) >= width; entries = entries[width:] {
		tag, value := w.number(entries), w.number(entries[w.word():])
		switch tag {
		case dtStrtab:
			strtab = value
		case dtSoname:
			soname, named = value, true
		}
		if tag == dtNull {
			break
		}
	}
	if strtab == 0 {
		return Library{}, errNone
	}
	if !named {
		return Library{ABI: kind}, nil
	}
	name, err := w.text(strtab, soname)
	return Library{name, kind}, err
}

// header reads the file header and the program headers.
func (w *window) header() (kind ABI, err error) {
	h := w.head
	if len(h) < 64 || h[5] != 1 { // EI_DATA: little-endian
		return kind, errNone
	}
	kind = ABI{h[4], binary.LittleEndian.Uint16(h[18:])}
	if etype := binary.LittleEndian.Uint16(h[16:]); etype != 3 || kind.Class != elf32 && kind.Class != elf64 { // ET_DYN
		return kind, errNone
	}
	w.bits64 = kind.Class == elf64
	offset, size, count := uint64(binary.LittleEndian.Uint32(h[28:])), binary.LittleEndian.Uint16(h[42:]), binary.LittleEndian.Uint16(h[44:])
	if w.bits64 {
		offset, size, count = binary.LittleEndian.Uint64(h[32:]), binary.LittleEndian.Uint16(h[54:]), binary.LittleEndian.Uint16(h[56:])
	}
	want := uint16(32)
	if w.bits64 {
		want = 56
	}
	total := uint64(len(h))
	if size != want || offset > total || uint64(count)*uint64(size) > total-offset {
		return kind, errNone
	}
	for i := range uint64(count) {
		const ptLoad, ptDynamic = 1, 2
		p := h[offset+i*uint64(size):]
		s := segment{w.number(p[4:]), w.number(p[8:]), w.number(p[16:])}
		if w.bits64 {
			s = segment{w.number(p[8:]), w.number(p[16:]), w.number(p[32:])}
		}
		switch binary.LittleEndian.Uint32(p) {
		case ptLoad:
			w.loads = append(w.loads, s)
		case ptDynamic:
			w.dynamic = s
		}
	}
	if w.dynamic.size == 0 || w.dynamic.size > maxSegment {
		return kind, errNone
	}
	return kind, nil
}

// segment returns a segment's bytes, which may lie behind the window.
func (w *window) segment(s segment) ([]byte, error) {
	have := uint64(len(w.head))
	switch {
	case s.offset <= have && s.size <= have-s.offset:
		return w.head[s.offset:][:s.size], nil
	case s.offset < have || s.offset > 1<<40: // astride of the end, or nonsense
		return nil, errNone
	}
	data := make([]byte, s.size)
	_, err := io.CopyN(io.Discard, w.rest, int64(s.offset-have))
	if err == nil {
		_, err = io.ReadFull(w.rest, data)
	}
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		err = errNone
	}
	return data, err
}

// text returns the string at an index of the string table, which is given by its address.
func (w *window) text(strtab, index uint64) (string, error) {
	for _, l := range w.loads {
		if strtab < l.address || strtab-l.address >= l.size {
			continue
		}
		at := l.offset + (strtab - l.address)
		if at > uint64(len(w.head)) || index > uint64(len(w.head))-at {
			break
		}
		rest := w.head[at+index:]
		name, _, ended := bytes.Cut(rest[:min(len(rest), maxSoname+1)], []byte{0})
		if !ended || len(name) == 0 || bytes.ContainsAny(name, "/\n") {
			break
		}
		return string(name), nil
	}
	return "", errNone
}

// word is the size of an address in bytes.
func (w *window) word() int {
	if w.bits64 {
		return 8
	}
	return 4
}

func (w *window) number(p []byte) uint64 {
	if w.bits64 {
		return binary.LittleEndian.Uint64(p)
	}
	return uint64(binary.LittleEndian.Uint32(p))
}
