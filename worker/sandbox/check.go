package sandbox

import (
	"bytes"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"runtime"

	"bakefarm/compose"

	"github.com/opencontainers/go-digest"
)

// Report says whether sandboxes work on a machine, for people.
type Report struct {
	Works   bool
	Runtime string // path of the OCI runtime; empty when there is none
	As      string // whom sandboxes run as: "root" or "user"
	Limits  string // how memory and processes are bounded
	Problem string // what is missing and how to mend it, when they don't work
}

// Check tries everything that Open needs, in a directory of its own below dir, and runs a program in a sandbox.
func Check(ctx context.Context, c Config) Report {
	var rep Report
	if path, err := findRuntime(c.Runtime); err == nil {
		rep.Runtime = path
	}
	r, err := Open(ctx, c)
	if err != nil {
		rep.Problem = err.Error()
		return rep
	}
	rep.Works = true
	rep.As, rep.Limits = "root", "by cgroup, for all processes of a command together"
	if !r.host.privileged {
		rep.As = "user"
	}
	if r.cgroup == "" {
		rep.Limits = "by resource limits, for each process of a command: there is no cgroup that this user may use"
	}
	if err := r.Close(); err != nil {
		rep.Works, rep.Problem = false, err.Error()
	}
	return rep
}

// prove runs a program in a sandbox whose root holds nothing else.
func (r *Runner) prove(ctx context.Context) error {
	var layer bytes.Buffer
	program := exitZero()
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
		err = fmt.Errorf("%w: run a first program: %w", ErrUnavailable, err)
	}
	return errors.Join(err, root.Close())
}

// exitZero makes the smallest program: an ELF header, one segment, and code that calls exit(0).
func exitZero() []byte {
	machine, code := elf.EM_X86_64, []byte{
		0x31, 0xff, // xor edi, edi
		0xb8, 60, 0, 0, 0, // mov eax, SYS_exit
		0x0f, 0x05, // syscall
	}
	if runtime.GOARCH == "arm64" {
		machine, code = elf.EM_AARCH64, []byte{
			0x00, 0x00, 0x80, 0xd2, // mov x0, 0
			0xa8, 0x0b, 0x80, 0xd2, // mov x8, SYS_exit
			0x01, 0x00, 0x00, 0xd4, // svc 0
		}
	}
	const headers, base = 64 + 56, 0x400000
	size := uint64(headers + len(code))
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
			Type:  uint16(elf.ET_EXEC), Machine: uint16(machine), Version: uint32(elf.EV_CURRENT),
			Entry: base + headers, Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
		},
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: uint32(elf.PF_R | elf.PF_X), Vaddr: base, Paddr: base, Filesz: size, Memsz: size, Align: 0x1000},
		code,
	} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err) // fixed sizes, into memory
		}
	}
	return b.Bytes()
}
