package bios

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// kernel is as much of a bzImage as the loader looks at.
func kernel() []byte {
	le := binary.LittleEndian
	b := make([]byte, 2<<20)
	b[0x1f1] = 27
	copy(b[0x202:], "HdrS")
	le.PutUint16(b[0x206:], 0x020f)
	b[0x211] = 1
	le.PutUint32(b[0x22c:], 0x7fffffff)
	le.PutUint64(b[0x258:], 0x1000000)
	le.PutUint32(b[0x260:], 0x3000000)
	return b
}

func TestCode(t *testing.T) {
	s := Start{Image: kernel(), Kernel: Extent{5 << 20, 2 << 20}, Initrd: Extent{4 << 20, 1000}, Cmdline: "root=x"}
	start, loader, err := Code(s)
	if err != nil || len(start) != BootSize || len(loader) != LoaderSize {
		t.Fatalf("%d, %d, %v", len(start), len(loader), err)
	}
	le := binary.LittleEndian
	for i, want := range []struct{ sector, size int }{{5 << 11, 28 * 512}, {5<<11 + 28, 2<<20 - 28*512}, {4 << 11, 1000}} {
		p := loader[4+12*i:]
		if int(le.Uint64(p)) != want.sector || int(le.Uint32(p[8:])) != want.size {
			t.Errorf("extent %d: sector %d, %d bytes", i, le.Uint64(p), le.Uint32(p[8:]))
		}
	}
	if lowest, end := le.Uint32(loader[40:]), le.Uint32(loader[44:]); lowest != 0x4000000 || end != 0x80000000 {
		t.Errorf("an initrd between %x and %x", lowest, end)
	}
	if at := le.Uint16(loader[48:]); !bytes.HasPrefix(loader[at:], []byte("root=x\x00")) {
		t.Error("the command line is not where it is said to be")
	}
	for name, change := range map[string]func(*Start){
		"no kernel":   func(s *Start) { s.Image = []byte("MZ") },
		"old kernel":  func(s *Start) { s.Image[0x206] = 3; s.Image[0x207] = 2 },
		"zImage":      func(s *Start) { s.Image[0x211] = 0 },
		"huge setup":  func(s *Start) { s.Image[0x1f1] = 255 },
		"large":       func(s *Start) { le.PutUint32(s.Image[0x260:], 0x7fffffff) },
		"no sector":   func(s *Start) { s.Initrd.Offset++ },
		"no initrd":   func(s *Start) { s.Initrd.Size = 0 },
		"long":        func(s *Start) { s.Cmdline = strings.Repeat("x", 2048) },
		"with a zero": func(s *Start) { s.Cmdline = "a\x00b" },
	} {
		bad := s
		bad.Image = kernel()
		change(&bad)
		_, _, err := Code(bad)
		if err == nil || bytes.Equal(bad.Image, kernel()) == errors.Is(err, ErrKernel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is kept is what build.sh makes, where it can run.
func TestBuilt(t *testing.T) {
	for _, program := range []string{"as", "ld", "objcopy"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"build.sh", "loader.S"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), raw, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("sh", "build.sh")
	build.Dir = dir
	if out, err := build.CombinedOutput(); err != nil {
		t.Skipf("no assembler for x86: %v: %s", err, out)
	}
	for name, kept := range map[string][]byte{"boot.bin": boot, "loader.bin": loader} {
		made, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !bytes.Equal(made, kept) {
			t.Errorf("%s is not what build.sh makes (%v): go generate ./compose/disk/bios", name, err)
		}
	}
	if len(boot) > BootSize || len(loader) > LoaderSize-maxCmdline {
		t.Errorf("%d and %d bytes", len(boot), len(loader))
	}
}
