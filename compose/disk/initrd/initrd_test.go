package initrd

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// module makes an ELF file with a .modinfo section.
func module(info ...string) []byte {
	data := strings.Join(info, "\x00") + "\x00"
	names := "\x00.modinfo\x00.shstrtab\x00"
	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: 1, Ehsize: 64, Shentsize: 64, Shnum: 3, Shstrndx: 2,
		Shoff: uint64(64 + len(data) + len(names)),
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA], header.Ident[elf.EI_VERSION] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), 1
	var b bytes.Buffer
	binary.Write(&b, binary.LittleEndian, header)
	b.WriteString(data + names)
	binary.Write(&b, binary.LittleEndian, []elf.Section64{
		{}, {Name: 1, Type: uint32(elf.SHT_PROGBITS), Off: 64, Size: uint64(len(data))},
		{Name: 10, Type: uint32(elf.SHT_STRTAB), Off: uint64(64 + len(data)), Size: uint64(len(names))},
	})
	return b.Bytes()
}

func packed(raw []byte) []byte {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	z.Write(raw)
	z.Close()
	return b.Bytes()
}

func cloud() Modules {
	return Modules{
		Files: map[string][]byte{
			"kernel/drivers/block/virtio_blk.ko":                module("depends=virtio,virtio_ring", "license=GPL"),
			"kernel/drivers/virtio/virtio.ko":                   module("depends="),
			"kernel/drivers/virtio/virtio_ring.ko":              module("depends=virtio"),
			"kernel/drivers/virtio/virtio_pci.ko":               module("depends=virtio_ring,virtio,virtio-pci-modern-dev"),
			"kernel/drivers/virtio/virtio-pci-modern-dev.ko.gz": packed(module("depends=")),
			"kernel/fs/ext4/ext4.ko":                            module("depends=jbd2,crc16", "softdep=pre: crc32c"),
			"kernel/fs/jbd2/jbd2.ko":                            module("depends="),
			"kernel/drivers/scsi/never-wanted.ko":               module("depends="),
		},
		Builtin: []string{"kernel/lib/crc16.ko"},
	}
}

func TestSelect(t *testing.T) {
	modules, err := cloud().Select("ext4")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, m := range modules {
		names = append(names, m.Name)
	}
	want := []string{"virtio", "virtio_ring", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "jbd2", "ext4"}
	if !slices.Equal(names, want) {
		t.Errorf("got %v\nwant %v", names, want)
	}
	if last := modules[len(modules)-1]; !slices.Equal(last.Needs, []string{"jbd2"}) {
		t.Errorf("ext4 needs %v", last.Needs) // what is built in is always there
	}
	for change, say := range map[string]func(m Modules){
		"driver for no disk":     func(m Modules) { delete(m.Files, "kernel/drivers/block/virtio_blk.ko") },
		"can't mount ext4":       func(m Modules) { delete(m.Files, "kernel/fs/ext4/ext4.ko") },
		"jbd2, which ext4":       func(m Modules) { delete(m.Files, "kernel/fs/jbd2/jbd2.ko") },
		"module kernel/fs/ext4/": func(m Modules) { m.Files["kernel/fs/ext4/ext4.ko"] = []byte("\x7fELF") },
	} {
		m := cloud()
		say(m)
		if _, err := m.Select("ext4"); err == nil || !strings.Contains(err.Error(), change) {
			t.Errorf("%s: %v", change, err)
		}
	}
}

func TestArchive(t *testing.T) {
	modules, err := cloud().Select("ext4")
	if err != nil {
		t.Fatal(err)
	}
	init, err := Init("amd64")
	if err != nil {
		t.Fatal(err)
	}
	one, err := New(init, modules, 315619200)
	if err != nil {
		t.Fatal(err)
	}
	two, _ := New(init, modules, 315619200)
	if !bytes.Equal(one, two) {
		t.Error("other bytes the second time")
	}
	z, err := gzip.NewReader(bytes.NewReader(one))
	if err != nil {
		t.Fatal(err)
	}
	cpio, err := exec.LookPath("cpio")
	if err != nil {
		t.Skip("cpio is not here")
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cpio, "-tv")
	cmd.Stdin = bytes.NewReader(plain)
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"-rwxr-xr-x", " init\n", "crw-------", "dev/console", "lib/modules/ext4.ko"} {
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("no %q in %s: %v", want, out, err)
		}
	}
}

// The inits are programs for their architecture that need nothing else.
func TestInits(t *testing.T) {
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		raw, err := Init(arch)
		if err != nil {
			t.Fatal(err)
		}
		f, err := elf.NewFile(bytes.NewReader(raw))
		if err != nil || f.Machine != machine || f.Section(".interp") != nil {
			t.Errorf("%s: %v, %v", arch, f, err)
		}
	}
	if _, err := Init("mips"); err == nil {
		t.Error("there is one for mips")
	}
	if files, _ := filepath.Glob("init.*.gz"); len(files) != 2 {
		t.Errorf("%v", files)
	}
}

func FuzzSelect(f *testing.F) {
	f.Add(module("depends=a,b", "softdep=pre: c post: d"))
	f.Fuzz(func(t *testing.T, raw []byte) { dependencies(raw) })
}
