package disk

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"bakefarm/compose/disk/erofs"
	"bakefarm/compose/disk/ext4"
	"bakefarm/compose/disk/gpt"

	"github.com/opencontainers/go-digest"
)

// How a disk starts.
const (
	BootUEFI   = "uefi"   // a unified kernel image on a system partition
	BootHybrid = "hybrid" // that, and out of it by the BIOS of a PC
	BootDirect = "direct" // the kernel and its initrd are given to the virtual machine
)

const (
	mebi      = 1 << 20
	espStart  = 1 * mebi
	rootStart = 64 * mebi
	rootEnd   = 1 * mebi // what the backup table has at the end of the disk
)

// MinSize and MaxSize are how small and large a disk may be, in bytes.
const (
	MinSize = 128 * mebi
	MaxSize = 16 << 40
)

// Options say what disk to make.
type Options struct {
	Size    int64         // in bytes, a multiple of 1 MiB
	Arch    string        // Go's name: amd64, arm64
	Boot    string        // BootUEFI, BootHybrid or BootDirect
	Seed    digest.Digest // identifiers come from it: the key of the OS
	Cmdline string        // more for the kernel's command line
	Time    int64         // Unix seconds, of everything that has no time of its own
	// Distribution: the initrd is the one that the OS brings (boot/initrd.img-VERSION), and not one of our own.
	Distribution bool `json:",omitempty"`
	// ReadOnly: the root is EROFS, and what is written to it goes to memory.
	ReadOnly bool `json:",omitempty"`
}

// arches are what depends on the architecture.
var arches = map[string]struct {
	rootType gpt.GUID
	program  string // at the place where firmware looks on removable media
	stub     string // of systemd
	console  string
}{
	"amd64": {gpt.TypeRootAMD64, "BOOTX64.EFI", "usr/lib/systemd/boot/efi/linuxx64.efi.stub", "ttyS0"},
	"arm64": {gpt.TypeRootARM64, "BOOTAA64.EFI", "usr/lib/systemd/boot/efi/linuxaa64.efi.stub", "ttyAMA0"},
}

// Validate checks options by themselves.
func (o Options) Validate() error {
	switch _, known := arches[o.Arch]; {
	case !known:
		return fmt.Errorf("disk: architecture %q: want amd64 or arm64", o.Arch)
	case o.Boot != BootUEFI && o.Boot != BootHybrid && o.Boot != BootDirect:
		return fmt.Errorf("disk: boot %q: want %s, %s or %s", o.Boot, BootUEFI, BootHybrid, BootDirect)
	case o.Boot == BootHybrid && o.Arch != "amd64":
		return fmt.Errorf("disk: boot %q: a machine of %s has no BIOS", o.Boot, o.Arch)
	case o.Size < MinSize || o.Size > MaxSize || o.Size%mebi != 0:
		return fmt.Errorf("disk: size %d: want whole MiB from %d MiB to 16 TiB", o.Size, MinSize/mebi)
	}
	return nil
}

// identifier is one of the disk's.
func (o Options) identifier(of string) [16]byte {
	sum := sha256.Sum256([]byte("bakefarm disk " + of + "\n" + o.Seed.String()))
	return gpt.NewGUID([16]byte(sum[:16]))
}

// Builder makes one disk. It is used by one goroutine.
type Builder struct {
	Options
	// Sign signs what firmware starts; nil: it stays unsigned. Set it before Prefix.
	Sign func(program []byte) ([]byte, error)

	chunks *Chunks
	root   *ext4.Writer
	boot   *bootFiles // nil: the system is complete
	tail   []byte     // the backup table, when it comes last; nil: it is written
	app    uint32     // the first inode that is none of the OS's; 0: the OS is not complete
}

// New begins a disk whose chunks go to chunks.
func New(o Options, chunks *Chunks) (*Builder, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	b := &Builder{Options: o, chunks: chunks, boot: newBootFiles(arches[o.Arch].stub)}
	var err error
	b.boot.initrd = o.Distribution
	options := b.filesystem()
	options.Watch = b.boot.watch
	b.root, err = ext4.New(offset{chunks, rootStart}, options)
	return b, err
}

// filesystem are the root's options.
func (b *Builder) filesystem() ext4.Options {
	return ext4.Options{Size: b.Size - rootStart - rootEnd, UUID: b.identifier("filesystem"), Label: "root", Time: b.Time, DataOnly: b.ReadOnly}
}

// offset is a part of the disk.
type offset struct {
	out io.WriterAt
	at  int64
}

func (o offset) WriteAt(p []byte, off int64) (int, error) { return o.out.WriteAt(p, o.at+off) }

// Layer adds a layer's tar, from the bottom up.
func (b *Builder) Layer(layer io.Reader) error {
	if err := b.root.Layer(layer); err != nil || b.boot == nil {
		return err
	}
	return b.boot.err
}

// Kernel is what starts the disk without firmware: the command line finds the root.
type Kernel struct {
	Version string
	Image   []byte
	Initrd  []byte
	Cmdline string
}

// Finish writes everything else. An *ext4.NoRoom in the error says that the layers don't fit.
func (b *Builder) Finish() error {
	if err := b.finishRoot(); err != nil {
		return advise(err)
	}
	if b.tail == nil {
		return nil
	}
	_, err := b.chunks.WriteAt(b.tail, b.Size-gpt.TailSize)
	return err
}

// finishRoot writes what is no content of the root.
func (b *Builder) finishRoot() error {
	if !b.ReadOnly {
		return b.root.Finish()
	}
	return b.writeEROFS(offset{b.chunks, rootStart}, b.root)
}

func (o Options) writeEROFS(out io.WriterAt, root *ext4.Writer) error {
	inodes, blocks, err := root.Inodes()
	if err != nil {
		return err
	}
	return erofs.Write(out, erofs.Options{Size: o.Size - rootStart - rootEnd, UUID: o.identifier("filesystem"), Label: "root", Time: o.Time}, inodes, blocks)
}

// advise says how large a disk would do where the root has no room.
func advise(err error) error {
	var room *ext4.NoRoom
	if errors.As(err, &room) {
		return fmt.Errorf("%w: give the disk a size of at least %d MiB", err, roundUp(room.Need+rootStart+rootEnd, 64*mebi)/mebi)
	}
	return err
}

// Layers returns the disk's layers; see Chunks.Layers.
func (b *Builder) Layers(ctx context.Context, get func(context.Context, Part) ([]byte, error)) ([]Layer, error) {
	return b.chunks.Layers(ctx, get)
}
