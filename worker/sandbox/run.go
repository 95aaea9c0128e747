package sandbox

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Command is what to run.
type Command struct {
	Args []string          // the program, searched in PATH within the root, and its arguments
	Env  map[string]string // over the environment that every command has, see Environment
	Dir  string            // working directory, absolute; empty: "/"
	UID  uint32            // in the root, as are GID and Groups; 0: root
	GID  uint32
	// Groups are supplementary ones.
	Groups []uint32

	// User is that of an image's configuration, in place of UID and GID: user or user:group, names of the root's passwd
	// and group files, or numbers.
	User string
	// Alone: Env is the whole environment.
	Alone bool
	// Dialer connects to what the command listens on; nil: nobody does.
	Dialer *Dialer

	Stdin          io.Reader // nil: empty
	Stdout, Stderr io.Writer // nil: discarded. The same writer for both is written to by one goroutine.

	Limits Limits
}

// Limits bound a command. Zero fields are those of DefaultLimits.
type Limits struct {
	Time   time.Duration
	Memory int64 // bytes, of all processes; of each process's data where the caller is an ordinary user
	Pids   int64 // processes and threads
	Output int64 // bytes on standard output and error together
	File   int64 // bytes of the largest file
	Tmp    int64 // bytes in /tmp, which count as memory
}

// DefaultLimits let the maintainer scripts of everything in Debian pass.
var DefaultLimits = Limits{Time: 30 * time.Minute, Memory: 2 << 30, Pids: 4096, Output: 64 << 20, File: 16 << 30, Tmp: 1 << 30}

func (l Limits) withDefaults() Limits {
	or := func(v *int64, otherwise int64) {
		if *v == 0 {
			*v = otherwise
		}
	}
	or((*int64)(&l.Time), int64(DefaultLimits.Time))
	or(&l.Memory, DefaultLimits.Memory)
	or(&l.Pids, DefaultLimits.Pids)
	or(&l.Output, DefaultLimits.Output)
	or(&l.File, DefaultLimits.File)
	or(&l.Tmp, DefaultLimits.Tmp)
	return l
}

// Environment is what every command finds in its environment, before Command.Env. Nothing depends on the machine.
func Environment() map[string]string {
	return map[string]string{
		"PATH":               "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"HOME":               "/root",
		"LC_ALL":             "C.UTF-8",
		"TZ":                 "UTC",
		"DEBIAN_FRONTEND":    "noninteractive",
		"DEBCONF_NOWARNINGS": "yes",
		"SYSTEMD_OFFLINE":    "1",         // systemctl talks to no manager: there is none
		"SOURCE_DATE_EPOCH":  "315619200", // compose.ModTime: tools that stamp what they generate stamp it with that
	}
}

// hostname is every command's.
const hostname = "bakefarm"

// ExitError is a command that ended with a status other than 0.
type ExitError struct {
	Args   []string
	Code   int   // 128 + signal when a signal killed it
	Memory int64 // the limit, in bytes
}

func (e *ExitError) Error() string {
	switch {
	case e.Code == 128+int(unix.SIGKILL):
		return fmt.Sprintf("%s: killed, by itself or because its memory reached the limit of %d MiB", e.Args[0], e.Memory>>20)
	case e.Code == 128+int(unix.SIGSYS):
		return fmt.Sprintf("%s: killed for a system call that sandboxes forbid", e.Args[0])
	case e.Code > 128 && e.Code < 128+65:
		return fmt.Sprintf("%s: %s", e.Args[0], unix.SignalName(unix.Signal(e.Code-128)))
	}
	return fmt.Sprintf("%s: exit status %d", e.Args[0], e.Code)
}

// Run runs a command and waits until it and all processes that it started have ended: those that it leaves behind are
// killed. The error is an *ExitError when the command said so itself; it wraps ErrTimeout or ErrOutput when the command
// was killed for that, ErrClosed when the Root was closed, and the context's error when that ended. What the command
// changed until then stays changed.
func (root *Root) Run(ctx context.Context, c Command) error {
	if len(c.Args) == 0 || c.Args[0] == "" {
		return errors.New("sandbox: Command.Args is empty")
	}
	if c.Dir != "" && !filepath.IsAbs(c.Dir) {
		return fmt.Errorf("sandbox: Command.Dir %q is not absolute", c.Dir)
	}
	limits := c.Limits.withDefaults()
	if err := root.take(ctx); err != nil {
		return err
	}
	defer root.give()

	ctx, cancel := context.WithTimeoutCause(ctx, limits.Time, fmt.Errorf("%s: %w: %s", c.Args[0], ErrTimeout, limits.Time))
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	output := &bounded{left: limits.Output, over: func() {
		stop(fmt.Errorf("%s: %w: %d bytes", c.Args[0], ErrOutput, limits.Output))
	}}
	files := stdio{in: c.Stdin, out: output.writer(c.Stdout)}
	if c.Dialer != nil {
		files.dial = c.Dialer.far
	}
	if c.Stderr == c.Stdout {
		files.err = files.out
	} else {
		files.err = output.writer(c.Stderr)
	}
	id := newID()
	spec, err := root.r.spec(c, limits, id)
	if err != nil {
		return err
	}
	rep, err := root.r.call(ctx, request{Run: &runRequest{
		Root: root.dir, Lowers: root.lowers(), Runtime: root.r.runtime, ID: id, Spec: spec, User: c.User, Dial: c.Dialer != nil,
	}}, files)
	if ctx.Err() != nil { // killed: nobody has removed its cgroup
		if root.r.cgroup != "" {
			err = errors.Join(err, removeCgroups(root.r.cgroup+"/"+id))
		}
		return err
	}
	if err == nil && rep.Exit != 0 {
		err = &ExitError{Args: c.Args, Code: rep.Exit, Memory: limits.Memory}
	}
	return err
}

// bounded counts what goes through its writers, from several goroutines, and calls over once it's too much.
type bounded struct {
	left int64
	used atomic.Int64
	over func()
}

func (b *bounded) writer(w io.Writer) io.Writer {
	if w == nil {
		w = io.Discard
	}
	return &boundedWriter{b, w}
}

type boundedWriter struct {
	*bounded
	w io.Writer
}

func (b *boundedWriter) Write(p []byte) (int, error) {
	if b.used.Add(int64(len(p))) > b.left {
		b.over()
		return len(p), nil // the kill is under way; until then nobody must block
	}
	return b.w.Write(p)
}

// runRequest: run a container in a root.
type runRequest struct {
	Root    string
	Lowers  []string
	Runtime string
	ID      string
	Spec    *specs.Spec
	User    string // not empty: to be looked up in the root
	Dial    bool   // somebody connects
}

func (req *runRequest) serve(user bool) (exit int, err error) {
	if err := loopbackUp(); err != nil {
		return 0, fmt.Errorf("loopback interface: %w", err)
	}
	if err := overlay(append(slices.Clip(req.Lowers), filepath.Join(req.Root, standInsDir)), req.Root, user); err != nil {
		return 0, err
	}
	dir, err := filepath.Abs(req.Root)
	if err != nil {
		return 0, err
	}
	if req.User != "" {
		if err := become(req.Spec.Process, req.User, filepath.Join(dir, "merged")); err != nil {
			return 0, err
		}
	}
	if req.Dial {
		go serveDialer(os.NewFile(dialFD, "dialer"))
	}
	bundle := filepath.Join(dir, "bundle")
	req.Spec.Root = &specs.Root{Path: filepath.Join(dir, "merged")}
	config, err := json.Marshal(req.Spec)
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), config, 0o600); err != nil {
		return 0, err
	}
	log := filepath.Join(bundle, "log")
	if err := os.WriteFile(log, nil, 0o600); err != nil {
		return 0, err
	}
	// The options that runc, crun and runsc have in common.
	cmd := exec.Command(req.Runtime, "--root", filepath.Join(bundle, "state"), "--log", log, "--log-format", "json",
		"run", "--bundle", bundle, req.ID)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err = cmd.Run()
	if failed, ok := errors.AsType[*exec.ExitError](err); ok {
		if reason := lastError(log); reason != "" {
			return 0, fmt.Errorf("%s: %s", filepath.Base(req.Runtime), reason)
		}
		return failed.ExitCode(), nil
	}
	return 0, err
}

// lastError is the last error in a runtime's log. A runtime's own failure has the same exit status as a command's.
func lastError(log string) string {
	f, err := os.Open(log)
	if err != nil {
		return ""
	}
	defer f.Close()
	reason := ""
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var line struct{ Level, Msg string }
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Level == "error" {
			reason = line.Msg
		}
	}
	return strings.TrimSpace(reason)
}

// loopbackUp starts the only interface that the network namespace has.
func loopbackUp() error {
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(socket, unix.SIOCGIFFLAGS, lo); err != nil {
		return err
	}
	lo.SetUint16(lo.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(socket, unix.SIOCSIFFLAGS, lo)
}

// environment is the command's, sorted.
func (c Command) environment() ([]string, error) {
	env := map[string]string{}
	if !c.Alone {
		env = Environment()
	}
	for name, value := range c.Env {
		if name == "" || strings.ContainsAny(name, "=\x00") || strings.Contains(value, "\x00") {
			return nil, fmt.Errorf("sandbox: environment variable %s: want a name without '=', and no NUL", strconv.Quote(name))
		}
		env[name] = value
	}
	var list []string
	for _, name := range slices.Sorted(maps.Keys(env)) {
		list = append(list, name+"="+env[name])
	}
	return list, nil
}
