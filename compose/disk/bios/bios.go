// Package bios makes what a PC's BIOS starts a kernel with: the code at the disk's beginning, and a loader behind the
// partition table. It is pure.
//
//	 0      440     512     17 KiB               1 MiB
//	┌──────┬───────┬───────┬──────────┬──────────┬────────────────────────────┬───────
//	│ boot │ table │  GPT  │  loader  │          │ ESP: a UKI, in it kernel │ root …
//	└──┬───┴───────┴───────┴────┬─────┴──────────┴──────────────┬─────────────┴───────
//	   └── loads ──────────────▶└── loads ──────────────────────┘ by sector numbers
//
// Kernel and initrd stand on the disk once, as sections of the UKI, each in a row of sectors: the loader knows these, and
// nothing of file systems. It is written in assembly (loader.S) and kept as build.sh has made it. It wants a BIOS that
// reads by LBA (EDD, since 1995) and says what memory there is (E820).
package bios

import (
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

//go:generate sh build.sh

//go:embed boot.bin
var boot []byte

//go:embed loader.bin
var loader []byte

const (
	sector = 512
	// LoaderSector is where the loader stands, in sectors: behind the partition table.
	LoaderSector = 34
	// LoaderSize is the size of the loader with its parameters, in bytes.
	LoaderSize = 16 * sector
	// BootSize is the size of the code in the first sector, in bytes: behind it comes the table of the MBR.
	BootSize = 440
	// maxCmdline is what the kernel takes, with a zero at its end (COMMAND_LINE_SIZE).
	maxCmdline = 2048
)

// Extent is a row of bytes on the disk: it begins with a sector.
type Extent struct{ Offset, Size int64 }

// Start is what the BIOS is to start.
type Start struct {
	Image          []byte // the kernel's: its header is read
	Kernel, Initrd Extent // where they stand
	Cmdline        string
}

// ErrKernel says that a kernel is none that the loader starts.
var ErrKernel = errors.New("the kernel is no bzImage that a BIOS can start")

// Code makes the BootSize bytes at the disk's beginning and the LoaderSize bytes from LoaderSector on.
func Code(s Start) (atStart, atLoader []byte, err error) {
	h, err := readHeader(s.Image)
	if err != nil {
		return nil, nil, err
	}
	for _, x := range []Extent{s.Kernel, s.Initrd} {
		if x.Offset%sector != 0 || x.Offset <= 0 || x.Size <= 0 || x.Size >= 1<<31 {
			return nil, nil, fmt.Errorf("bios: %d bytes at %d: want up to 2 GiB from the beginning of a sector on", x.Size, x.Offset)
		}
	}
	if len(s.Cmdline) >= maxCmdline || strings.ContainsRune(s.Cmdline, 0) {
		return nil, nil, fmt.Errorf("bios: a command line of %d bytes: want less than %d, without NUL", len(s.Cmdline), maxCmdline)
	}
	le := binary.LittleEndian
	atStart = make([]byte, BootSize)
	copy(atStart, boot)
	atLoader = make([]byte, LoaderSize)
	copy(atLoader, loader)
	p := atLoader[4:] // as loader.S has them
	put := func(x Extent) {
		le.PutUint64(p, uint64(x.Offset/sector))
		le.PutUint32(p[8:], uint32(x.Size))
		p = p[12:]
	}
	put(Extent{s.Kernel.Offset, h.setup})
	put(Extent{s.Kernel.Offset + h.setup, s.Kernel.Size - h.setup})
	put(s.Initrd)
	le.PutUint32(p, h.lowest)
	le.PutUint32(p[4:], h.end)
	le.PutUint16(p[8:], uint16(len(loader)))
	copy(atLoader[len(loader):], s.Cmdline)
	return atStart, atLoader, nil
}

// header is what matters of a kernel's ("The Real-Mode Kernel Header", Documentation/arch/x86/boot.rst).
type header struct {
	setup       int64  // bytes of its real-mode code
	lowest, end uint32 // addresses between which an initrd may stand
}

func readHeader(image []byte) (header, error) {
	le := binary.LittleEndian
	const version = 0x020a // the first that says how much memory the kernel takes to begin with
	if len(image) < 0x268 || string(image[0x202:0x206]) != "HdrS" || le.Uint16(image[0x206:]) < version || image[0x211]&1 == 0 {
		return header{}, ErrKernel
	}
	sectors := int64(image[0x1f1])
	if sectors == 0 {
		sectors = 4
	}
	h := header{setup: (sectors + 1) * sector}
	preferred, size := le.Uint64(image[0x258:]), uint64(le.Uint32(image[0x260:]))
	lowest := max(preferred+size, uint64(1<<20+len(image)))
	end := uint64(le.Uint32(image[0x22c:])) + 1
	if h.setup >= int64(len(image)) || h.setup > 0xd000 || preferred > 1<<32 || lowest >= end || end > 1<<32 {
		return header{}, ErrKernel
	}
	h.lowest, h.end = uint32((lowest+4095)&^4095), uint32(min(end, 0xfffff000))
	return h, nil
}
