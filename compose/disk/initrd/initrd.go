// Package initrd makes the initial RAM disk of a disk image: a static init, and the kernel modules that reach and mount
// the root, found by what they say of their dependencies. It is pure.
//
//	wanted drivers ─▶ modules with their dependencies, in the order of loading ─┐
//	init (built from cmd/bakefarm-init, one per architecture) ──────────────────┴─▶ cpio ─▶ gzip
package initrd

import (
	"bytes"
	"debug/elf"
	"embed"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

//go:generate sh build.sh

// inits are the programs that build.sh makes, compressed.
//
//go:embed init.*.gz
var inits embed.FS

// maxModule bounds a module when it is unpacked.
const maxModule = 64 << 20

// Init returns the init of an architecture (Go's name).
func Init(arch string) ([]byte, error) {
	packed, err := inits.ReadFile("init." + arch + ".gz")
	if err != nil {
		return nil, fmt.Errorf("initrd: there is no init for %s", arch)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	return io.ReadAll(r)
}

// Disks are the drivers of the disks that a machine may have, checksums what filesystems want and don't say.
var (
	Disks = []string{"virtio_pci", "virtio_mmio", "virtio_blk", "virtio_scsi", "nvme", "ahci", "ata_piix", "sd_mod",
		"xen_blkfront", "hv_vmbus", "hv_storvsc", "vmw_pvscsi", "mptspi"}
	checksums = []string{"crc32c_generic", "crc32c_intel"}
)

// Modules are a kernel's modules by path below lib/modules/VERSION, as they are in the package, and the paths that are
// built into the kernel (modules.builtin).
type Modules struct {
	Files   map[string][]byte
	Builtin []string
}

// Module is one module to load.
type Module struct {
	Name  string
	Needs []string // modules that it can't be loaded without
	ELF   []byte
}

// moduleName is the name by which modules know each other.
func moduleName(file string) string {
	base := path.Base(file)
	base, _, _ = strings.Cut(base, ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// IsModule reports whether a path is that of a kernel module.
func IsModule(file string) bool {
	return slices.Contains([]string{".ko", ".xz", ".zst", ".gz"}, path.Ext(file)) && strings.Contains(path.Base(file), ".ko")
}

// Select returns the wanted modules that there are, with all that they depend on, in the order in which they must be
// loaded. What the kernel has built in needs no module. A dependency that is missing is an error, and so is a kernel
// that has none of the disks' drivers, or not all of the filesystems.
func (m Modules) Select(filesystems ...string) ([]Module, error) {
	byName := make(map[string]string, len(m.Files))
	for file := range m.Files {
		byName[moduleName(file)] = file
	}
	builtin := make(map[string]bool, len(m.Builtin))
	for _, file := range m.Builtin {
		builtin[moduleName(file)] = true
	}
	var order []Module
	state := map[string]int{} // 1: being looked at, 2: done
	var visit func(name, by string) error
	visit = func(name, by string) error {
		name = strings.ReplaceAll(name, "-", "_")
		if state[name] != 0 {
			return nil // a circle can't be loaded by anybody: the kernel will say so
		}
		state[name] = 1
		file, ok := byName[name]
		if !ok {
			if builtin[name] || by == "" {
				return nil
			}
			return fmt.Errorf("module %s, which %s depends on, is not there", name, by)
		}
		raw, err := unpack(file, m.Files[file])
		if err != nil {
			return fmt.Errorf("module %s: %w", file, err)
		}
		hard, soft, err := dependencies(raw)
		if err != nil {
			return fmt.Errorf("module %s: %w", file, err)
		}
		for _, dep := range soft {
			if err := visit(dep, ""); err != nil {
				return err
			}
		}
		var needs []string
		for _, dep := range hard {
			if err := visit(dep, name); err != nil {
				return err
			}
			if dep = strings.ReplaceAll(dep, "-", "_"); byName[dep] != "" {
				needs = append(needs, dep)
			}
		}
		state[name] = 2
		order = append(order, Module{name, needs, raw})
		return nil
	}
	disks := 0
	for _, name := range slices.Concat(Disks, checksums, filesystems) {
		if err := visit(name, ""); err != nil {
			return nil, err
		}
		if slices.Contains(Disks, name) && (state[name] == 2 || builtin[name]) && name != "virtio_pci" && name != "virtio_mmio" && name != "hv_vmbus" {
			disks++
		}
	}
	if disks == 0 {
		return nil, fmt.Errorf("the kernel has a driver for no disk: none of %s", strings.Join(Disks, ", "))
	}
	for _, name := range filesystems {
		if state[name] != 2 && !builtin[name] {
			return nil, fmt.Errorf("the kernel can't mount %s: neither a module nor built in", name)
		}
	}
	return order, nil
}

// unpack returns a module's ELF file. Modules are unpacked here, since not every kernel can do it.
func unpack(file string, raw []byte) ([]byte, error) {
	var r io.Reader
	var err error
	switch path.Ext(file) {
	case ".xz":
		r, err = xz.NewReader(bytes.NewReader(raw))
	case ".gz":
		r, err = gzip.NewReader(bytes.NewReader(raw))
	case ".zst":
		var z *zstd.Decoder
		z, err = zstd.NewReader(bytes.NewReader(raw), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxModule))
		if err == nil {
			defer z.Close()
		}
		r = z
	default:
		return raw, nil
	}
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(r, maxModule+1))
	if err == nil && len(out) > maxModule {
		err = fmt.Errorf("unpacks to more than %d bytes", maxModule)
	}
	return out, err
}

// dependencies reads what a module says in its section .modinfo: depends=a,b and softdep=pre: c post: d.
func dependencies(raw []byte) (hard, soft []string, err error) {
	f, err := elf.NewFile(bytes.NewReader(raw))
	if err != nil {
		return nil, nil, err
	}
	section := f.Section(".modinfo")
	if section == nil {
		return nil, nil, errors.New("has no .modinfo: is it a kernel module?")
	}
	info, err := section.Data()
	if err != nil {
		return nil, nil, err
	}
	for field := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(field, "depends="); ok && list != "" {
			hard = append(hard, strings.Split(list, ",")...)
		}
		if list, ok := strings.CutPrefix(field, "softdep="); ok {
			_, list, _ = strings.Cut(list, "pre:")
			list, _, _ = strings.Cut(list, "post:")
			soft = append(soft, strings.Fields(list)...)
		}
	}
	return hard, soft, nil
}

// New makes the RAM disk: init, the modules, and the list of these in the order in which it will load them, each line a name
// and those of the modules that it needs.
func New(init []byte, modules []Module, time int64) ([]byte, error) {
	var packed bytes.Buffer
	z, err := gzip.NewWriterLevel(&packed, gzip.BestSpeed)
	if err != nil {
		return nil, err
	}
	c := archive{w: z, time: time}
	for _, dir := range []string{"dev", "lib", "lib/modules", "proc", "root", "run", "sys"} {
		c.add(dir, 0o40755, nil, 0, 0)
	}
	c.add("dev/console", 0o20600, nil, 5, 1) // what init says before it has a devtmpfs
	c.add("init", 0o100755, init, 0, 0)
	var list strings.Builder
	for _, m := range modules {
		list.WriteString(strings.Join(append([]string{m.Name}, m.Needs...), " ") + "\n")
		c.add("lib/modules/"+m.Name+".ko", 0o100644, m.ELF, 0, 0)
	}
	c.add("modules", 0o100644, []byte(list.String()), 0, 0)
	c.add("TRAILER!!!", 0, nil, 0, 0)
	if c.err != nil {
		return nil, fmt.Errorf("initrd: %w", c.err)
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("initrd: %w", err)
	}
	return packed.Bytes(), nil
}

// archive writes a cpio of the kind "newc" (the kernel's Documentation/driver-api/early-userspace/buffer-format).
type archive struct {
	w    io.Writer
	time int64
	next int // inode number
	err  error
}

func (c *archive) add(name string, mode int, content []byte, major, minor int) {
	if c.err != nil {
		return
	}
	c.next++
	links := 1
	if mode&0o170000 == 0o40000 {
		links = 2
	}
	_, c.err = fmt.Fprintf(c.w, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00", c.next, mode, 0, 0, links,
		uint32(c.time), len(content), 0, 0, major, minor, len(name)+1, 0, name)
	c.pad(110 + len(name) + 1)
	if c.err == nil {
		_, c.err = c.w.Write(content)
	}
	c.pad(len(content))
}

func (c *archive) pad(n int) {
	if c.err == nil {
		_, c.err = c.w.Write(make([]byte, -n&3))
	}
}
