package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// arch is what starting a disk of an architecture takes.
type arch struct {
	program  string   // QEMU's
	goarch   string   // of hosts that may have KVM for it
	machine  []string // options
	emulated string   // -cpu without KVM
	firmware []string // places of UEFI firmware for a flash device, in order of preference
	install  string   // what Debian calls the packages
}

// arches are by Debian's names.
var arches = map[string]arch{
	"amd64": {
		program: "qemu-system-x86_64", goarch: "amd64", emulated: "max",
		machine: []string{"-machine", "q35", "-device", "virtio-rng-pci"},
		firmware: []string{
			"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_CODE.fd",
			"/usr/share/edk2/x64/OVMF_CODE.4m.fd", "/usr/share/qemu/edk2-x86_64-code.fd",
		},
		install: "qemu-system-x86 ovmf",
	},
	"arm64": {
		program: "qemu-system-aarch64", goarch: "arm64", emulated: "cortex-a72", // max has features that are slow to emulate
		machine: []string{"-machine", "virt", "-device", "virtio-rng-pci"},
		firmware: []string{
			"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/qemu/edk2-aarch64-code.fd",
		},
		install: "qemu-system-arm qemu-efi-aarch64",
	},
}

// ErrUnavailable means that disks of that architecture can't be started here. The error says what is missing and how to mend it.
var ErrUnavailable = errors.New("no virtual machine")

// Host starts disks on this machine. Its methods may be called by several goroutines.
type Host struct {
	dir string // of what machines need while they run
	kvm atomic.Int32
}

// What is known of KVM.
const (
	kvmUnknown = iota
	kvmWorks
	kvmFails
)

// Open returns a Host that keeps the files of running machines in dir, which is made when absent. What an earlier
// process left there goes.
func Open(dir string) (*Host, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	h := &Host{dir: dir}
	if !mayUseKVM() {
		h.kvm.Store(kvmFails)
	}
	return h, nil
}

// mayUseKVM reports whether a QEMU that is started here may open /dev/kvm.
func mayUseKVM() bool {
	if os.Geteuid() != 0 {
		return unix.Access("/dev/kvm", unix.R_OK|unix.W_OK) == nil
	}
	var st unix.Stat_t // it will be nobody's
	const others, group = 0o006, 0o060
	return unix.Stat("/dev/kvm", &st) == nil && (st.Mode&others == others || st.Mode&group == group && st.Gid != 0)
}

// NewDir makes a directory for the files of a machine. The caller removes it.
func (h *Host) NewDir() (string, error) { return os.MkdirTemp(h.dir, "machine-") }

// Arches returns the architectures whose disks this machine can start, and for the others what it lacks.
func Arches(ctx context.Context) (run []string, lacks map[string]string) {
	lacks = make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(arches)) {
		if err := check(ctx, name); err != nil {
			lacks[name] = err.Error()
			continue
		}
		run = append(run, name)
	}
	return run, lacks
}

// check starts QEMU without a machine, to see whether it starts at all, with the options that every machine has.
func check(ctx context.Context, name string) error {
	a, ok := arches[name]
	if !ok {
		return fmt.Errorf("%w: architecture %s", ErrUnavailable, name)
	}
	program, err := exec.LookPath(a.program)
	if err != nil {
		return fmt.Errorf("%w: %s is not installed: apt-get install --no-install-recommends %s", ErrUnavailable, a.program, a.install)
	}
	if _, err := a.findFirmware(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, append(slices.Clone(sandboxed), "-machine", "none", "-display", "none", "-nodefaults", "-netdev", "help")...)
	cmd.Env = environment
	out, err := cmd.CombinedOutput()
	switch {
	case err != nil:
		return fmt.Errorf("%w: %s does not run: %v: %s", ErrUnavailable, a.program, err, firstLine(out))
	case !slices.Contains(strings.Fields(string(out)), "user"):
		return fmt.Errorf("%w: %s is without user networking (slirp)", ErrUnavailable, a.program)
	}
	return nil
}

func (a arch) findFirmware() (string, error) {
	for _, file := range a.firmware {
		if _, err := os.Stat(file); err == nil {
			return file, nil
		} else if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("%w: firmware: %w", ErrUnavailable, err)
		}
	}
	return "", fmt.Errorf("%w: no UEFI firmware for %s: apt-get install --no-install-recommends %s", ErrUnavailable, a.program, a.install)
}

// environment of QEMU: nothing of the caller's.
var environment = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C"}

// sandboxed has QEMU forbid itself what no machine of ours needs.
var sandboxed = []string{"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"}

// tryKVM reports whether a machine of an architecture is to be started with KVM.
func (h *Host) tryKVM(a arch) bool { return a.goarch == runtime.GOARCH && h.kvm.Load() != kvmFails }

// kvmGroup is the group that may open /dev/kvm.
func kvmGroup() []uint32 {
	var st unix.Stat_t
	if unix.Stat("/dev/kvm", &st) != nil || st.Gid == 0 {
		return nil
	}
	return []uint32{st.Gid}
}

func firstLine(text []byte) string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
	return line
}
