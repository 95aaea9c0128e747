package vm

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a disk to start, with what starts it.
type Disk struct {
	Arch string // Debian's name
	Dir  string // of Host.NewDir: the files below are in it, and what the machine writes goes there
	File string // raw
	// Kernel and Initrd start the disk with Cmdline; without them its firmware does.
	Kernel, Initrd, Cmdline string
	Ports                   []int // that Dial may reach
	// BIOS starts the disk as a PC of old does, always under emulation: a BIOS runs in modes that not every KVM has.
	BIOS bool
}

const (
	memory     = "1024" // MiB
	processors = "2"
	// provesKVM is how long the first machine with KVM has to reach its kernel: firmware takes a second or two.
	provesKVM = 15 * time.Second
	maxLine   = 4 << 10 // bytes of a line of the console
	nobody    = 65534
)

// QEMUError is a QEMU that ended by itself for a reason that is none of the disk's.
type QEMUError struct {
	Program string
	Err     error
	Said    string
}

func (e *QEMUError) Error() string {
	s := e.Program + " ended: " + e.Err.Error()
	if e.Said != "" {
		s += ": " + e.Said
	}
	return s
}

func (e *QEMUError) Unwrap() error { return e.Err }

// ErrOff is how a machine ended that switched itself off or asked to be started again.
var ErrOff = errors.New("the machine switched itself off, or started again")

// Machine is a virtual machine that runs.
type Machine struct {
	// Emulated: its processor is not the host's own but an emulated one, some ten times slower.
	Emulated bool

	cmd     *exec.Cmd
	control *control
	dialing sync.Mutex
	alive   chan struct{} // closed when a kernel has said something
	done    chan struct{}
	err     error // valid when done is closed
	end     func()
}

// Start starts a disk. Lines of its console go to console, from one goroutine. The caller closes the machine; when ctx
// ends it is killed.
func (h *Host) Start(ctx context.Context, d Disk, console func(line string)) (*Machine, error) {
	a, ok := arches[d.Arch]
	if !ok {
		return nil, fmt.Errorf("%w: architecture %s", ErrUnavailable, d.Arch)
	}
	if d.BIOS && d.Arch != "amd64" {
		return nil, fmt.Errorf("%w: a machine of %s has no BIOS", ErrUnavailable, d.Arch)
	}
	if d.BIOS || !h.tryKVM(a) {
		return h.start(ctx, a, d, false, console)
	}
	m, err := h.start(ctx, a, d, true, console)
	if err != nil || h.kvm.Load() == kvmWorks {
		return m, err
	}
	why := ""
	select {
	case <-m.alive:
		h.kvm.Store(kvmWorks)
		return m, nil
	case <-m.done:
		why = firstLine([]byte(fmt.Sprint(m.err)))
	case <-time.After(provesKVM):
		why = "no kernel has said anything in " + provesKVM.String()
	case <-ctx.Done():
		return nil, errors.Join(context.Cause(ctx), m.Close())
	}
	h.kvm.Store(kvmFails)
	if err := m.Close(); err != nil {
		return nil, err
	}
	console("KVM is of no use here (" + why + "): starting again without it")
	return h.start(ctx, a, d, false, console)
}

// start starts QEMU.
func (h *Host) start(ctx context.Context, a arch, d Disk, kvm bool, console func(string)) (_ *Machine, err error) {
	program, err := exec.LookPath(a.program)
	if err != nil {
		return nil, fmt.Errorf("%w: %s is not installed", ErrUnavailable, a.program)
	}
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	defer func() {
		if err != nil {
			ours.Close()
		}
	}()
	root := os.Geteuid() == 0
	if root {
		for _, name := range []string{".", d.File, d.Kernel, d.Initrd} {
			if err := os.Chown(filepath.Join(d.Dir, name), nobody, nobody); err != nil {
				return nil, err
			}
		}
	}
	// By a descriptor, since nobody may not go through the directories above.
	dir, err := os.Open(d.Dir)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	const inDir = "/proc/self/fd/4/"
	args := slices.Concat(sandboxed, a.machine, []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", memory, "-smp", processors, "-snapshot",
		"-drive", "file=" + inDir + escape(d.File) + ",format=raw,if=virtio,cache=unsafe",
		"-netdev", "user,id=net,restrict=on" + forwards(d.Ports), "-device", "virtio-net-pci,netdev=net,romfile=",
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-chardev", "socket,id=control,fd=3", "-mon", "chardev=control,mode=control",
	})
	if kvm {
		args = append(args, "-accel", "kvm", "-cpu", "host")
	} else {
		args = append(args, "-accel", "tcg", "-cpu", a.emulated)
	}
	if d.Kernel != "" {
		args = append(args, "-kernel", inDir+d.Kernel, "-initrd", inDir+d.Initrd, "-append", d.Cmdline)
	} else if !d.BIOS {
		firmware, err := a.findFirmware()
		if err != nil {
			return nil, err
		}
		args = append(args, "-drive", "if=pflash,format=raw,readonly=on,file="+escape(firmware))
	}
	ctx, cancel := context.WithCancel(ctx)
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir, cmd.Env = "/", append(slices.Clone(environment), "TMPDIR="+inDir)
	cmd.ExtraFiles = []*os.File{theirs, dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if root {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: nobody, Gid: nobody, Groups: kvmGroup()}
	}
	var said tail
	cmd.Stderr = &said
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		cancel()
		return nil, err
	}
	m := &Machine{Emulated: !kvm, cmd: cmd, end: cancel, alive: make(chan struct{}), done: make(chan struct{}), control: newControl(ours)}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // QEMU ends with the thread that has started it: that has to live as long
		defer runtime.UnlockOSThread()
		defer close(m.done)
		err := cmd.Start()
		started <- err
		if err != nil {
			return
		}
		m.read(stdout, console)
		err = cmd.Wait()
		m.control.close()
		switch {
		case ctx.Err() != nil:
			m.err = context.Cause(ctx)
		case err == nil:
			m.err = ErrOff
		default:
			m.err = &QEMUError{a.program, err, said.String()}
		}
	}()
	if err = <-started; err != nil {
		cancel()
		return nil, err
	}
	return m, nil
}

// read hands on the lines of the console.
func (m *Machine) read(r io.Reader, console func(string)) {
	lines := bufio.NewReaderSize(r, maxLine)
	once := sync.OnceFunc(func() { close(m.alive) })
	for {
		raw, err := lines.ReadSlice('\n')
		if line := Plain(string(raw)); line != "" {
			if kernelSays.MatchString(line) {
				once()
			}
			console(line)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// kernelSays is a line of a kernel's log.
var kernelSays = regexp.MustCompile(`^\[ *[0-9]+\.[0-9]{6}\] `)

// escapes are what moves a terminal's cursor and colours (ECMA-48), and what else is no text.
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b[()][0-9A-Za-z]|\x1b[=>78cM]|[\x00-\x08\x0b-\x1f\x7f]")

// Plain is a line of a console as a log has it: text, and nothing that a terminal would act on.
func Plain(line string) string {
	return strings.TrimRight(escapes.ReplaceAllString(strings.ToValidUTF8(line, "\uFFFD"), ""), " \t\r\n")
}

// Done is closed when the machine has ended; Err says why then.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err says why the machine has ended: ErrOff, a *QEMUError, or the context's error.
func (m *Machine) Err() error { return m.err }

// Signal sends a signal to QEMU.
func (m *Machine) Signal(s os.Signal) error { return m.cmd.Process.Signal(s) }

// Close kills the machine and waits for its end.
func (m *Machine) Close() error {
	m.end()
	<-m.done
	return nil
}

// escape doubles the commas of a path in a QEMU option.
func escape(path string) string { return strings.ReplaceAll(path, ",", ",,") }

// forwards are the options that open a port of this host's own choice for each of the machine's.
func forwards(ports []int) string {
	var b strings.Builder
	for _, port := range ports {
		fmt.Fprintf(&b, ",hostfwd=tcp:127.0.0.1:0-:%d", port)
	}
	return b.String()
}

// socketPair returns two ends of a stream, the second one to be inherited.
func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-maxLine):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.buf))
}
