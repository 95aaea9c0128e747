package sandbox

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"bakefarm/compose"

	"github.com/opencontainers/go-digest"
)

// A machine is an architecture, by Debian's name, and the code of a program that calls exit(0) on it.
type machine struct {
	arch   string
	goarch string // Go's name
	elf    elf.Machine
	class  elf.Class
	big    bool
	flags  uint32
	qemu   string // the emulator's name in binfmt_misc, without "qemu-"
	code   []byte
}

var machines = []machine{
	{arch: "amd64", goarch: "amd64", elf: elf.EM_X86_64, class: elf.ELFCLASS64, qemu: "x86_64", code: []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
		0x0f, 0x05, // syscall
	}},
	{arch: "arm64", goarch: "arm64", elf: elf.EM_AARCH64, class: elf.ELFCLASS64, qemu: "aarch64", code: []byte{
		0x00, 0x00, 0x80, 0xd2, // mov x0, 0
		0xa8, 0x0b, 0x80, 0xd2, // mov x8, SYS_exit
		0x01, 0x00, 0x00, 0xd4, // svc 0
	}},
	{arch: "i386", goarch: "386", elf: elf.EM_386, class: elf.ELFCLASS32, qemu: "i386", code: []byte{
		0x31, 0xdb, // xor ebx, ebx
		0xb8, 1, 0, 0, 0, // mov eax, SYS_exit
		0xcd, 0x80, // int 0x80
	}},
	{arch: "armhf", goarch: "arm", elf: elf.EM_ARM, class: elf.ELFCLASS32, flags: 0x05000400, qemu: "arm", code: arm},
	{arch: "armel", elf: elf.EM_ARM, class: elf.ELFCLASS32, flags: 0x05000200, qemu: "arm", code: arm},
	{arch: "riscv64", goarch: "riscv64", elf: elf.EM_RISCV, class: elf.ELFCLASS64, qemu: "riscv64", code: []byte{
		0x13, 0x05, 0x00, 0x00, // li a0, 0
		0x93, 0x08, 0xd0, 0x05, // li a7, SYS_exit
		0x73, 0x00, 0x00, 0x00, // ecall
	}},
	{arch: "ppc64el", goarch: "ppc64le", elf: elf.EM_PPC64, class: elf.ELFCLASS64, flags: 2, qemu: "ppc64le", code: []byte{
		0x01, 0x00, 0x00, 0x38, // li r0, SYS_exit
		0x00, 0x00, 0x60, 0x38, // li r3, 0
		0x02, 0x00, 0x00, 0x44, // sc
	}},
	{arch: "s390x", goarch: "s390x", elf: elf.EM_S390, class: elf.ELFCLASS64, big: true, qemu: "s390x", code: []byte{
		0xa7, 0x29, 0x00, 0x00, // lghi %r2, 0
		0x0a, 0x01, // svc SYS_exit
	}},
}

var arm = []byte{
	0x00, 0x00, 0xa0, 0xe3, // mov r0, #0
	0x01, 0x70, 0xa0, 0xe3, // mov r7, SYS_exit
	0x00, 0x00, 0x00, 0xef, // svc 0
}

// NativeArch is this machine's architecture, by Debian's name; empty when it is none of those that are known.
func NativeArch() string {
	i := slices.IndexFunc(machines, func(m machine) bool { return m.goarch == runtime.GOARCH })
	if i < 0 {
		return ""
	}
	return machines[i].arch
}

// Arches are the architectures that are known, by Debian's names: this machine's first.
func Arches() []string {
	arches := []string{}
	native := NativeArch()
	if native != "" {
		arches = append(arches, native)
	}
	for _, m := range machines {
		if m.arch != native {
			arches = append(arches, m.arch)
		}
	}
	return arches
}

// related are the architectures whose programs a processor may run by itself.
var related = map[string][]string{"amd64": {"i386"}, "arm64": {"armhf", "armel"}}

// Runs proves that programs of an architecture run in sandboxes here, by running one: natively, or by an emulator that
// binfmt_misc knows and keeps open (the flag F), since there is none in the root. The error wraps ErrUnavailable, and
// says what is missing, when they don't.
func (r *Runner) Runs(ctx context.Context, arch string) error {
	i := slices.IndexFunc(machines, func(m machine) bool { return m.arch == arch })
	if i < 0 {
		return fmt.Errorf("%w: nothing is known of the architecture %.20q", ErrUnavailable, arch)
	}
	native := NativeArch()
	if arch != native && !slices.Contains(related[native], arch) {
		if err := emulated(machines[i]); err != nil {
			return err
		}
	}
	return r.prove(ctx, machines[i])
}

const binfmtDir = "/proc/sys/fs/binfmt_misc"

// emulated looks for an emulator in binfmt_misc.
func emulated(m machine) error {
	name := filepath.Join(binfmtDir, "qemu-"+m.qemu)
	entry, err := os.ReadFile(name)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: programs of %s need an emulator, and %s has none: apt-get install qemu-user-static binfmt-support (as root, outside of containers)", ErrUnavailable, m.arch, name)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	lines := strings.Split(string(entry), "\n")
	if !slices.Contains(lines, "enabled") {
		return fmt.Errorf("%w: %s is not enabled: echo 1 > %s", ErrUnavailable, name, name)
	}
	if !slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, "flags:") && strings.Contains(l, "F") }) {
		return fmt.Errorf("%w: %s opens its emulator when a program starts, in the image's own root, where there is none (no flag F): "+
			"apt-get install qemu-user-static", ErrUnavailable, name)
	}
	return nil
}

// prove runs a program in a sandbox whose root holds nothing else.
func (r *Runner) prove(ctx context.Context, m machine) error {
	var layer bytes.Buffer
	program := m.exitZero()
	err := compose.WriteEntry(&layer, compose.Entry{Path: "true", Type: '0', Mode: 0o755, Size: int64(len(program))}, bytes.NewReader(program))
	if err != nil {
		return err
	}
	layer.Write(make([]byte, compose.TrailerSize))
	root, err := r.Root(ctx, []Layer{{
		DiffID: digest.FromBytes(layer.Bytes()),
		Open:   func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(layer.Bytes())), nil },
	}})
	if err != nil {
		return fmt.Errorf("%w: make a root filesystem: %w", ErrUnavailable, err)
	}
	err = root.Run(ctx, Command{Args: []string{"/true"}})
	if err != nil {
		err = fmt.Errorf("%w: run a first program of %s: %w", ErrUnavailable, m.arch, err)
	}
	return errors.Join(err, root.Close())
}

// exitZero makes the smallest program: an ELF header, one segment, and the code.
func (m machine) exitZero() []byte {
	const base = 0x400000
	order, data := binary.ByteOrder(binary.LittleEndian), elf.ELFDATA2LSB
	if m.big {
		order, data = binary.BigEndian, elf.ELFDATA2MSB
	}
	ident := [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(m.class), byte(data), byte(elf.EV_CURRENT)}
	var parts []any
	if m.class == elf.ELFCLASS64 {
		const headers = 64 + 56
		size := uint64(headers + len(m.code))
		parts = []any{
			elf.Header64{
				Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(m.elf), Version: uint32(elf.EV_CURRENT),
				Entry: base + headers, Phoff: 64, Flags: m.flags, Ehsize: 64, Phentsize: 56, Phnum: 1,
			},
			elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000},
		}
	} else {
		const headers = 52 + 32
		size := uint32(headers + len(m.code))
		parts = []any{
			elf.Header32{
				Ident: ident, Type: uint16(elf.ET_EXEC), Machine: uint16(m.elf), Version: uint32(elf.EV_CURRENT),
				Entry: base + headers, Phoff: 52, Flags: m.flags, Ehsize: 52, Phentsize: 32, Phnum: 1,
			},
			elf.Prog32{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x10000},
		}
	}
	var b bytes.Buffer
	for _, part := range append(parts, m.code) {
		if err := binary.Write(&b, order, part); err != nil {
			panic(err) // fixed sizes, into memory
		}
	}
	return b.Bytes()
}
