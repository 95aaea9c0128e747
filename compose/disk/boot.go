package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"bakefarm/compose/disk/bios"
	"bakefarm/compose/disk/fat"
	"bakefarm/compose/disk/gpt"
	"bakefarm/compose/disk/initrd"
	"bakefarm/compose/disk/uki"
)

// BootError says what an OS lacks to be started.
type BootError struct{ What string }

func (e *BootError) Error() string { return "the disk can't start: " + e.What }

// Bounds of what is kept of the layers, in bytes: a kernel with the modules that may be of use.
const (
	maxBootFile  = 96 << 20
	maxBootFiles = 192 << 20
)

// bootFiles are the files of the layers that are needed to start.
type bootFiles struct {
	stub string // the UEFI stub's path
	// initrd: the OS's own is wanted, and no modules to make one.
	initrd bool
	files  map[string]*bytes.Buffer
	size   int64
	err    error
}

func newBootFiles(stub string) *bootFiles {
	return &bootFiles{stub: stub, files: make(map[string]*bytes.Buffer)}
}

// drivers are the directories below lib/modules/VERSION/kernel whose modules may be of use before there is a root.
var drivers = []string{
	"arch/", "block/", "crypto/", "drivers/ata/", "drivers/block/", "drivers/hv/", "drivers/message/fusion/", "drivers/nvme/",
	"drivers/pci/", "drivers/scsi/", "drivers/virtio/", "drivers/xen/", "fs/erofs/", "fs/ext4/", "fs/overlayfs/", "fs/jbd2/", "fs/mbcache", "lib/",
}

// modulePath splits the path of a file of a kernel's modules: lib/modules/VERSION/REST, below usr or not.
func modulePath(file string) (version, rest string, ok bool) {
	file, ok = strings.CutPrefix(strings.TrimPrefix(file, "usr/"), "lib/modules/")
	if !ok {
		return "", "", false
	}
	return strings.Cut(file, "/")
}

func (b *bootFiles) wanted(file string) bool {
	if strings.HasPrefix(file, "boot/vmlinuz-") || b.initrd && strings.HasPrefix(file, initrdPrefix) || file == b.stub || file == "usr/lib/os-release" {
		return true
	}
	_, rest, ok := modulePath(file)
	if !ok || b.initrd {
		return false
	}
	inner, ok := strings.CutPrefix(rest, "kernel/")
	if !ok {
		return rest == "modules.builtin"
	}
	return initrd.IsModule(inner) && slices.ContainsFunc(drivers, func(d string) bool { return strings.HasPrefix(inner, d) })
}

// watch keeps what is wanted; an upper layer's file counts.
func (b *bootFiles) watch(file string, size int64) io.Writer {
	if !b.wanted(file) {
		return nil
	}
	if old := b.files[file]; old != nil {
		b.size -= int64(old.Len())
	}
	if b.size += size; size > maxBootFile || b.size > maxBootFiles {
		b.err = &BootError{fmt.Sprintf("%s has %d MiB: kernel and modules are larger than any that is known", file, size/mebi)}
		return nil
	}
	buf := bytes.NewBuffer(make([]byte, 0, size))
	b.files[file] = buf
	return buf
}

// kernel finds the one kernel and makes its initrd.
func (b *bootFiles) kernel(o Options) (*Kernel, error) {
	var versions []string
	for _, file := range slices.Sorted(maps.Keys(b.files)) {
		if v, ok := strings.CutPrefix(file, "boot/vmlinuz-"); ok {
			versions = append(versions, v)
		}
	}
	switch len(versions) {
	case 0:
		return nil, &BootError{"there is no kernel in the OS (no /boot/vmlinuz-…): add linux-image-cloud-" + o.Arch + " to its packages"}
	case 1:
	default:
		return nil, &BootError{"there are several kernels in the OS: " + strings.Join(versions, ", ") + ": keep one"}
	}
	version := versions[0]
	ram, err := b.ram(version, o)
	if err != nil {
		return nil, err
	}
	mode := "rw"
	if o.ReadOnly {
		mode = "ro rootfstype=erofs"
	}
	cmdline := fmt.Sprintf("root=PARTUUID=%s %s console=tty0 console=%s", gpt.GUID(o.identifier("root")), mode, arches[o.Arch].console)
	if o.Cmdline != "" {
		cmdline += " " + o.Cmdline
	}
	return &Kernel{Version: version, Image: b.files["boot/vmlinuz-"+version].Bytes(), Initrd: ram, Cmdline: cmdline}, nil
}

// initrdPrefix is where the OS's own initrd lies: behind it comes the kernel's version.
const initrdPrefix = "boot/initrd.img-"

// rootModules are the filesystems that the root takes.
func rootModules(o Options) []string {
	if o.ReadOnly {
		return []string{"erofs", "overlay"}
	}
	return []string{"ext4"}
}

// ram is the initrd of a kernel.
func (b *bootFiles) ram(version string, o Options) ([]byte, error) {
	if b.initrd {
		ram := b.files[initrdPrefix+version]
		if ram == nil || ram.Len() == 0 {
			return nil, &BootError{"the OS has made no initrd of its own (no /" + initrdPrefix + version + "): add initramfs-tools to its packages and have their scripts run, or leave initrd out"}
		}
		return ram.Bytes(), nil
	}
	modules := initrd.Modules{Files: make(map[string][]byte)}
	for file, content := range b.files {
		v, rest, ok := modulePath(file)
		switch {
		case !ok || v != version:
		case rest == "modules.builtin":
			modules.Builtin = strings.Fields(content.String())
		default:
			modules.Files[rest] = content.Bytes()
		}
	}
	selected, err := modules.Select(rootModules(o)...)
	if err != nil {
		return nil, &BootError{fmt.Sprintf("kernel %s: %v", version, err)}
	}
	program, err := initrd.Init(o.Arch)
	if err != nil {
		return nil, err
	}
	return initrd.New(program, selected, o.Time)
}

// program makes the UEFI program.
func (b *bootFiles) program(k *Kernel) ([]byte, error) {
	stub := b.files[b.stub]
	if stub == nil {
		return nil, &BootError{"there is no UEFI stub in the OS (" + b.stub + "): add systemd-boot-efi to its packages"}
	}
	sections := []uki.Section{
		{Name: ".cmdline", Content: []byte(k.Cmdline)}, {Name: ".uname", Content: []byte(k.Version)},
		{Name: ".initrd", Content: k.Initrd}, {Name: ".linux", Content: k.Image},
	}
	if release := b.files["usr/lib/os-release"]; release != nil && release.Len() > 0 {
		sections = slices.Insert(sections, 0, uki.Section{Name: ".osrel", Content: release.Bytes()})
	}
	program, err := uki.New(stub.Bytes(), sections)
	if err != nil {
		return nil, &BootError{path.Base(b.stub) + ": " + err.Error()}
	}
	return program, nil
}

// systemPartition is the ESP: what stands on it, and how it is made.
func (b *Builder) systemPartition(program []byte) (fat.Options, fat.File, error) {
	const size = rootStart - espStart
	if need := fat.Space(int64(len(program))); need > size {
		return fat.Options{}, fat.File{}, &BootError{fmt.Sprintf("kernel and initrd have %d MiB: the system partition has room for %d", len(program)/mebi, size/mebi)}
	}
	id := b.identifier("esp")
	return fat.Options{
		Size: size, ID: uint32(id[0])<<24 | uint32(id[1])<<16 | uint32(id[2])<<8 | uint32(id[3]), Label: "ESP", Time: b.Time,
	}, fat.File{Path: "EFI/BOOT/" + arches[b.Arch].program, Content: program}, nil
}

// writeBoot writes what starts the disk: the partition table, and behind it what the kernel comes from.
func (b *Builder) writeBoot(head []byte, k *Kernel) error {
	if b.Boot == BootDirect {
		_, err := b.chunks.WriteAt(head, 0)
		return err
	}
	program, err := b.boot.program(k)
	if err != nil {
		return err
	}
	if b.Sign != nil {
		if program, err = b.Sign(program); err != nil {
			return err
		}
	}
	options, file, err := b.systemPartition(program)
	if err != nil {
		return err
	}
	if b.Boot == BootHybrid {
		at, err := fat.Locate(options, file)
		if err != nil {
			return err
		}
		code, loader, err := biosCode(program, espStart+at, k)
		if err != nil {
			return err
		}
		copy(head, code)
		head = append(head, loader...)
	}
	if _, err := b.chunks.WriteAt(head, 0); err != nil {
		return err
	}
	return fat.Write(offset{b.chunks, espStart}, options, []fat.File{file})
}

// biosCode is what a BIOS starts: it loads kernel and initrd out of the UEFI program, which stands on the disk from at on.
func biosCode(program []byte, at int64, k *Kernel) (code, loader []byte, err error) {
	kernel, err := uki.Locate(program, ".linux")
	if err != nil {
		return nil, nil, err
	}
	ram, err := uki.Locate(program, ".initrd")
	if err != nil {
		return nil, nil, err
	}
	code, loader, err = bios.Code(bios.Start{
		Image: k.Image, Cmdline: k.Cmdline,
		Kernel: bios.Extent{Offset: at + kernel, Size: int64(len(k.Image))}, Initrd: bios.Extent{Offset: at + ram, Size: int64(len(k.Initrd))},
	})
	if errors.Is(err, bios.ErrKernel) {
		err = &BootError{err.Error() + ": another kernel package, or boot: uefi"}
	}
	return code, loader, err
}
