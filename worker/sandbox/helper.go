package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// The program's name tells a helper from the program proper. A helper in a fresh user namespace begins as unmapped and
// starts itself again when its IDs are mapped: capabilities come with an exec by root, and root it is only then.
const (
	helperName   = "bakefarm-sandbox"
	unmappedName = "bakefarm-sandbox-unmapped"
)

// Files that a helper inherits.
const (
	requestFD = 3 // a byte when IDs are mapped, if they must be; the request; end of file when the caller dies
	replyFD   = 4
	lockFD    = 5 // only held
	dialFD    = 6 // of a Run with a Dialer
)

// helperEnv is the whole environment of helpers and runtimes: the caller's may have secrets in it.
var helperEnv = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// entered is whether Enter was called, without which starting the program again would not make a helper.
var entered bool

// Enter does the work of a helper and exits, when the program was started as one. Call it first thing in main (and in
// TestMain): it returns at once when the program was not.
func Enter() {
	switch os.Args[0] {
	case unmappedName:
		awaitMapping()
	case helperName:
		os.Exit(serve())
	}
	entered = true
}

// awaitMapping waits until the caller has mapped IDs into this user namespace, then becomes the helper.
func awaitMapping() {
	if _, err := io.ReadFull(os.NewFile(requestFD, "request"), make([]byte, 1)); err != nil {
		os.Exit(1) // the caller gave up, and knows why
	}
	err := unix.Exec("/proc/self/exe", []string{helperName}, os.Environ())
	fmt.Fprintln(os.Stderr, "sandbox: start again as root of the user namespace:", err)
	os.Exit(1)
}

// request is what a helper is asked: one of these.
type request struct {
	Dir    string         // becomes the working directory
	User   bool           // the helper is in a user namespace
	Unpack *unpackRequest `json:",omitempty"`
	Make   *makeRequest   `json:",omitempty"`
	Run    *runRequest    `json:",omitempty"`
	Diff   *diffRequest   `json:",omitempty"`
	Remove string         `json:",omitempty"` // path, relative to Dir
}

// reply is what it answers.
type reply struct {
	Error string `json:",omitempty"`
	Layer bool   `json:",omitempty"` // the error is one of the layer's
	Exit  int    `json:",omitempty"` // of Run
	Bytes int64  `json:",omitempty"` // of Unpack
}

// serve is the helper's main function.
func serve() int {
	for fd := requestFD; fd <= dialFD; fd++ {
		unix.CloseOnExec(fd)
	}
	unix.Umask(0)
	requests := bufio.NewReader(os.NewFile(requestFD, "request"))
	var req request
	line, err := requests.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &req)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "sandbox: request:", err)
		return 1
	}
	go func() { // for as long as the helper lives
		requests.ReadByte()
		os.Exit(1) // the caller is gone; everything in this PID namespace goes with PID 1
	}()
	rep, err := req.serve()
	if err != nil {
		rep.Error = err.Error()
		rep.Layer = errors.Is(err, ErrLayer)
	}
	if err := json.NewEncoder(os.NewFile(replyFD, "reply")).Encode(rep); err != nil {
		return 1
	}
	return 0
}

func (req *request) serve() (reply, error) {
	if err := ownMounts(); err != nil {
		return reply{}, err
	}
	if err := os.Chdir(req.Dir); err != nil {
		return reply{}, err
	}
	switch {
	case req.Unpack != nil:
		n, err := req.Unpack.serve(req.User)
		return reply{Bytes: n}, err
	case req.Make != nil:
		return reply{}, req.Make.serve(req.User)
	case req.Run != nil:
		code, err := req.Run.serve(req.User)
		return reply{Exit: code}, err
	case req.Diff != nil:
		return reply{}, req.Diff.serve(req.User)
	case req.Remove != "":
		return reply{}, os.RemoveAll(req.Remove)
	}
	return reply{}, errors.New("empty request")
}

// ownMounts cuts the helper's mounts off from the machine's and shows it its own processes.
func ownMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// stdio is what a helper reads and writes. Nil: nothing.
type stdio struct {
	in       io.Reader
	out, err io.Writer
	dial     *os.File // the helper's end of a Dialer
}

// call starts a helper and waits for its end. Ending the context kills the helper and all that it started.
func (r *Runner) call(ctx context.Context, req request, files stdio) (reply, error) {
	req.Dir, req.User = r.dir, r.host.userns
	message, err := json.Marshal(req)
	if err != nil {
		return reply{}, err
	}
	requestRead, requestWrite, err := os.Pipe()
	if err != nil {
		return reply{}, err
	}
	defer requestWrite.Close()
	replyRead, replyWrite, err := os.Pipe()
	if err != nil {
		return reply{}, errors.Join(err, requestRead.Close())
	}
	defer replyRead.Close()

	var complaints tail
	cmd := exec.CommandContext(ctx, "/proc/self/exe")
	cmd.Args = []string{helperName}
	cmd.Env = helperEnv
	cmd.Stdin, cmd.Stdout, cmd.Stderr = files.in, files.out, files.err
	if cmd.Stderr == nil {
		cmd.Stderr = &complaints
	}
	cmd.ExtraFiles = []*os.File{requestRead, replyWrite, r.lock}
	if files.dial != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, files.dial)
	}
	cmd.WaitDelay = 5 * time.Second // for a files.in that does not end
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWNET}
	if r.host.mapping != nil {
		cmd.Args[0] = unmappedName
		cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
	}
	err = cmd.Start()
	requestRead.Close()
	replyWrite.Close()
	if err != nil {
		return reply{}, fmt.Errorf("%w: start a process in namespaces of its own: %w", ErrUnavailable, err)
	}
	// From here on the helper is waited for, whatever fails.
	err = r.host.mapIDs(ctx, cmd.Process.Pid)
	if err == nil {
		if r.host.mapping != nil {
			message = append([]byte{'m'}, message...)
		}
		_, err = requestWrite.Write(append(message, '\n'))
	}
	if err != nil {
		requestWrite.Close()
	}
	answer, readErr := io.ReadAll(io.LimitReader(replyRead, 1<<20))
	waitErr := cmd.Wait()
	if ctx.Err() != nil {
		return reply{}, context.Cause(ctx)
	}
	if err != nil && !errors.Is(err, syscall.EPIPE) {
		return reply{}, err
	}
	var rep reply
	if err := json.Unmarshal(answer, &rep); err != nil {
		return reply{}, fmt.Errorf("sandbox helper died: %w", errors.Join(waitErr, readErr, complaints.err()))
	}
	switch {
	case rep.Layer:
		return rep, layerError(rep.Error)
	case rep.Error != "":
		return rep, errors.New(rep.Error)
	}
	if errors.Is(waitErr, exec.ErrWaitDelay) {
		waitErr = nil // files.in has more, and nobody wants it
	}
	return rep, waitErr
}

// layerError is an error of a layer that has come through a pipe as text.
type layerError string

func (e layerError) Error() string        { return string(e) }
func (e layerError) Is(target error) bool { return target == ErrLayer }

// remove removes a path below the directory. Files of mapped owners are out of the caller's reach, so a helper does it.
func (r *Runner) remove(ctx context.Context, path string) error {
	if _, err := r.call(ctx, request{Remove: path}, stdio{}); err != nil {
		return fmt.Errorf("remove %s: %w", path, err)
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ buf []byte }

const tailSize = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - tailSize; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tail) err() error {
	if s := bytes.TrimSpace(t.buf); len(s) > 0 {
		return errors.New(strconv.Quote(string(s)))
	}
	return nil
}
