// Package vmtest makes virtual machines for tests that start within seconds also where they are emulated: Debian's kernel
// with an init of the tests' own (guest) in place of a system.
package vmtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"bakefarm/compose/disk/initrd"
)

// modules bring the guest's network, in the order of loading.
var modules = []string{
	"virtio/virtio_ring", "virtio/virtio", "virtio/virtio_pci_legacy_dev", "virtio/virtio_pci_modern_dev", "virtio/virtio_pci",
	"../net/core/failover", "net/net_failover", "net/virtio_net",
}

// Cmdline has the guest do what (see there).
func Cmdline(what string) string { return "console=ttyS0 tsc_early_khz=2000000 guest=" + what }

// boots are made once for all tests of a process.
var boots = sync.OnceValues(func() (b struct{ kernel, initrd []byte }, err error) {
	dir, err := os.MkdirTemp("", "bakefarm-vmtest-")
	if err != nil {
		return b, err
	}
	defer os.RemoveAll(dir)
	out, err := sh(dir, `apt-cache depends linux-image-cloud-amd64 | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1`)
	if err != nil {
		return b, err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = os.TempDir()
	}
	kept := filepath.Join(cache, "bakefarm-tests", out)
	if _, err := os.Stat(kept); err != nil {
		if err := os.MkdirAll(filepath.Dir(kept), 0o755); err != nil {
			return b, err
		}
		if _, err := sh(dir, "apt-get download -qq "+out+" 2>/dev/null && dpkg-deb -x *.deb x && rm -rf "+kept+" && mv x "+kept); err != nil {
			return b, err
		}
	}
	version := strings.TrimPrefix(out, "linux-image-")
	if b.kernel, err = os.ReadFile(filepath.Join(kept, "boot", "vmlinuz-"+version)); err != nil {
		return b, err
	}
	var load []initrd.Module
	for _, name := range modules {
		elf, err := os.ReadFile(filepath.Join(kept, "lib/modules", version, "kernel/drivers", name+".ko"))
		if err != nil {
			return b, err
		}
		load = append(load, initrd.Module{Name: filepath.Base(name), ELF: elf})
	}
	program := filepath.Join(dir, "guest")
	build := exec.Command("go", "build", "-o", program, "bakefarm/worker/vm/vmtest/guest")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
	if out, err := build.CombinedOutput(); err != nil {
		return b, &exec.Error{Name: "go build: " + string(out), Err: err}
	}
	init, err := os.ReadFile(program)
	if err != nil {
		return b, err
	}
	b.initrd, err = initrd.New(init, load, 0)
	return b, err
})

func sh(dir, script string) (string, error) {
	cmd := exec.Command("sh", "-ec", script)
	cmd.Dir = dir
	out, err := cmd.Output()
	return strings.TrimSpace(string(out)), err
}

// Boot returns a kernel and an initrd for amd64 machines. The kernel is Debian's, from this machine's apt sources, and
// kept in the user's cache directory.
func Boot(t testing.TB) (kernel, initrd []byte) {
	t.Helper()
	b, err := boots()
	if err != nil {
		t.Fatalf("a kernel to start machines with: %v", err)
	}
	return b.kernel, b.initrd
}
