package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Conditions that callers act on.
var (
	// ErrUnavailable: this machine or user can't run sandboxes. The error says what is missing and how to mend it.
	ErrUnavailable = errors.New("no sandbox")
	// ErrBusy: another process has the directory.
	ErrBusy = errors.New("sandbox directory is in use by another process")
	// ErrTimeout: the command ran longer than its timeout and was killed.
	ErrTimeout = errors.New("took longer than allowed")
	// ErrOutput: the command wrote more output than its limit and was killed.
	ErrOutput = errors.New("wrote more output than allowed")
	// ErrLayer: a layer is not the tar it should be: damaged, hostile, or not what its digest says.
	ErrLayer = errors.New("bad layer")
	// ErrClosed: the Runner or Root was closed.
	ErrClosed = errors.New("sandbox is closed")
)

// Config says where and with what sandboxes run.
type Config struct {
	// Dir holds unpacked layers and roots. It's made when absent. It must be on a filesystem that overlays can write
	// to: ext4, xfs, btrfs, tmpfs, but not an overlay itself (a container's own root).
	Dir string

	// Runtime is the OCI runtime, by name or path: runc, crun and runsc are known to have the command line that this
	// package uses. Empty: "runc".
	Runtime string

	// LayerBytes is how much disk unpacked layers may take that no Root uses, and how large one layer may be, in bytes
	// of content. 0: 8 GiB.
	LayerBytes int64

	Log *slog.Logger // nil: slog.Default()
}

const (
	defaultRuntime    = "runc"
	defaultLayerBytes = 8 << 30
	lockWait          = 10 * time.Second // for the helpers of a killed process to end
)

// Runner makes roots. Its methods may be called by several goroutines.
type Runner struct {
	dir     string // absolute
	runtime string // absolute
	budget  int64
	host    host
	cgroup  string // parent of the containers' cgroups; empty: limits are resource limits
	lock    *os.File
	log     *slog.Logger
	layers  layers

	mu     sync.Mutex
	closed bool
	roots  map[*Root]struct{}
}

// Open takes the directory, clears away what a killed process left in it and proves that sandboxes work here by running
// one. It returns an error that wraps ErrUnavailable when they don't, and ErrBusy when another process keeps the
// directory.
func Open(ctx context.Context, c Config) (*Runner, error) {
	r, err := open(ctx, c)
	if err != nil {
		return nil, err
	}
	native := NativeArch()
	if native == "" {
		return nil, errors.Join(fmt.Errorf("%w: no sandboxes for %s", ErrUnavailable, runtime.GOARCH), r.Close())
	}
	if err := r.Runs(ctx, native); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// open is Open without the proof.
func open(ctx context.Context, c Config) (*Runner, error) {
	if !entered {
		return nil, errors.New("sandbox: this program does not call sandbox.Enter first thing in main")
	}
	if c.Dir == "" {
		return nil, errors.New("sandbox: Config.Dir is empty")
	}
	dir, err := filepath.Abs(c.Dir)
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(dir, ":,\\") {
		// The kernel splits an overlay's options at these.
		return nil, fmt.Errorf("sandbox directory %q: has a colon, comma or backslash: choose another path", dir)
	}
	program, err := findRuntime(c.Runtime)
	if err != nil {
		return nil, err
	}
	h, err := thisHost()
	if err != nil {
		return nil, err
	}
	for _, sub := range []string{"layers", "roots", "tmp"} {
		// Not readable by others: files of any owner and setuid programs lie below.
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, fmt.Errorf("sandbox directory: %w", err)
		}
	}
	for _, sub := range []string{"roots", "tmp"} {
		spread(filepath.Join(dir, sub))
	}
	lock, err := lockDir(ctx, dir)
	if err != nil {
		return nil, err
	}
	r := &Runner{dir: dir, runtime: program, budget: c.LayerBytes, host: h, lock: lock, log: c.Log, roots: map[*Root]struct{}{}}
	if r.budget == 0 {
		r.budget = defaultLayerBytes
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	if h.privileged && !h.userns {
		r.cgroup = cgroupOf(dir)
	}
	if err := r.recover(ctx); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return r, nil
}

// spread has the directories that are made in a directory lie far apart on an ext4 filesystem, each with the files below
// it: near the inodes of a layer that was removed a moment ago ext4 takes some milliseconds to make a file, because it
// looks for one that was not used lately. Other filesystems don't know the flag and need none.
func spread(dir string) {
	const topDir = 0x20000 // EXT4_TOPDIR_FL, the T of chattr(1)
	f, err := os.Open(dir)
	if err != nil {
		return
	}
	defer f.Close()
	flags, err := unix.IoctlGetUint32(int(f.Fd()), unix.FS_IOC_GETFLAGS)
	if err == nil {
		_ = unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, int(flags|topDir)) // it is only slower without
	}
}

// lockDir takes the directory's lock. Helpers inherit it, so it is free only when the last of them has ended.
func lockDir(ctx context.Context, dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("sandbox directory: %w", err)
	}
	for deadline := time.Now().Add(lockWait); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return f, nil
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", f.Name(), err), f.Close())
		case time.Now().After(deadline):
			return nil, errors.Join(fmt.Errorf("%w: %s", ErrBusy, dir), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// recover removes what a killed process left behind. Unpacked layers are kept, unless the machine was started anew since:
// they are not written through to disk, and a crash of the machine may have torn them.
func (r *Runner) recover(ctx context.Context) error {
	stale := []string{"roots", "tmp"}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("which boot of the machine this is: %w", err)
	}
	mark := filepath.Join(r.dir, "boot")
	if have, err := os.ReadFile(mark); err != nil || string(have) != string(boot) {
		stale = append(stale, "layers")
	}
	for _, sub := range stale {
		names, err := os.ReadDir(filepath.Join(r.dir, sub))
		if err != nil {
			return err
		}
		for _, n := range names {
			r.log.Info("sandbox: clearing up after an earlier process", "path", filepath.Join(sub, n.Name()))
			if err := r.remove(ctx, filepath.Join(sub, n.Name())); err != nil {
				return err
			}
		}
	}
	if err := removeCgroups(r.cgroup); err != nil {
		return err
	}
	if err := os.WriteFile(mark, boot, 0o600); err != nil {
		return err
	}
	return r.layers.load(filepath.Join(r.dir, "layers"))
}

// Close closes the roots that are still open and gives the directory back. Unpacked layers stay for the next Open.
func (r *Runner) Close() error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	var open []*Root
	for root := range r.roots {
		open = append(open, root)
	}
	r.mu.Unlock()
	var errs []error
	for _, root := range open {
		errs = append(errs, root.Close())
	}
	return errors.Join(append(errs, removeCgroups(r.cgroup), r.lock.Close())...)
}

// newID names something uniquely within the directory.
func newID() string { return strings.ToLower(rand.Text()[:12]) }
