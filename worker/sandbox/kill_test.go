package sandbox_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"bakefarm/worker/sandbox"
)

// A caller that is killed while a command runs leaves no process and no mount, and the next Open removes its files.
func TestKilledCaller(t *testing.T) {
	if dir := os.Getenv("SANDBOX_TEST_KILLED"); dir != "" {
		killedCaller(t, dir)
		return
	}
	dir := t.TempDir()
	caller := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestKilledCaller$")
	caller.Env = append(os.Environ(), "SANDBOX_TEST_KILLED="+dir)
	out, err := caller.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := caller.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && lines.Text() != "running" {
		t.Log(lines.Text())
	}
	if roots, _ := os.ReadDir(filepath.Join(dir, "roots")); len(roots) != 1 {
		t.Errorf("%d roots while it runs, want 1", len(roots))
	}
	if err := caller.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = caller.Wait() // killed
	// At once: Open itself waits for the helpers.
	begin := time.Now()
	r := open(t, sandbox.Config{Dir: dir})
	t.Logf("open after a kill: %s", time.Since(begin))
	if roots, err := os.ReadDir(filepath.Join(dir, "roots")); err != nil || len(roots) > 0 {
		t.Errorf("roots are left: %v %v", roots, err)
	}
	if helpers := helpersOf(t, dir); len(helpers) > 0 {
		t.Errorf("helpers are left: %v", helpers)
	}
	if layers, err := os.ReadDir(filepath.Join(dir, "layers")); err != nil || len(layers) < 2 {
		t.Errorf("unpacked layers were not kept: %v %v", layers, err)
	}
	if got := script(t, debian(t, r), "ls /home"); got != "" {
		t.Errorf("the next root has what the killed one wrote: %q", got)
	}
}

// killedCaller is the process that is killed.
func killedCaller(t *testing.T, dir string) {
	r, err := sandbox.Open(t.Context(), sandbox.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	root := debian(t, r)
	err = root.Run(t.Context(), sandbox.Command{
		Args:   []string{"sh", "-c", "echo x >/home/file; setsid sleep 1000 & echo running; sleep 1000"},
		Stdout: os.Stdout,
	})
	t.Errorf("was not killed: %v", err)
}

// A crash of the machine may have torn layers, so that those of an earlier boot are not used.
func TestLayersOfAnEarlierBoot(t *testing.T) {
	dir := t.TempDir()
	r := open(t, sandbox.Config{Dir: dir})
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "boot"), []byte("earlier\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	layers := func() []os.DirEntry {
		names, err := os.ReadDir(filepath.Join(dir, "layers"))
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	if err := os.Mkdir(filepath.Join(dir, "layers", "torn"), 0o700); err != nil {
		t.Fatal(err)
	}
	open(t, sandbox.Config{Dir: dir})
	for _, n := range layers() {
		if n.Name() == "torn" {
			t.Error("a layer of an earlier boot was kept")
		}
	}
}

// Closing a Runner while commands run waits for them, and those that come too late are refused.
func TestCloseWhileRunning(t *testing.T) {
	r := open(t, sandbox.Config{})
	root := debian(t, r)
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- root.Run(t.Context(), sandbox.Command{Args: []string{"sh", "-c", "echo running; sleep 0.3"}, Stdout: write})
	}()
	if _, err := io.ReadFull(read, make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, read) //nolint:errcheck // ends with the pipe
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Errorf("the command that ran: %v", err)
	}
	write.Close()
}

// Roots are made and commands run side by side.
func TestSideBySide(t *testing.T) {
	r := open(t, sandbox.Config{})
	errs := make(chan error)
	const n = 4
	for i := range n {
		go func() {
			errs <- func() error {
				data, err := toolsLayer()
				if err != nil {
					return err
				}
				root, err := r.Root(t.Context(), []sandbox.Layer{layer(data)})
				if err != nil {
					return err
				}
				var out bytes.Buffer
				err = root.Run(t.Context(), sandbox.Command{Args: []string{"sh", "-c", fmt.Sprintf("echo %d >/etc/mine; cat /etc/mine", i)}, Stdout: &out})
				if err == nil && out.String() != fmt.Sprintf("%d\n", i) {
					err = fmt.Errorf("root %d has another's file: %q", i, out.String())
				}
				return errors.Join(err, root.Close())
			}()
		}()
	}
	for range n {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
}

// One who wants a layer is not failed by the cancellation of another who was unpacking it.
func TestUnpackingIsCalledOff(t *testing.T) {
	r := open(t, sandbox.Config{})
	data, err := toolsLayer()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	opened, reads := make(chan struct{}), 0
	slow := layer(data)
	slow.Open = func(context.Context) (io.ReadCloser, error) {
		close(opened)
		return io.NopCloser(readerFunc(func(p []byte) (int, error) {
			if reads++; reads == 1 {
				return copy(p, data[:1024]), nil
			}
			<-ctx.Done()
			return 0, ctx.Err()
		})), nil
	}
	first := make(chan error, 1)
	go func() {
		root, err := r.Root(ctx, []sandbox.Layer{slow})
		if err == nil {
			err = errors.Join(errors.New("a root of a layer that was called off"), root.Close())
		}
		first <- err
	}()
	<-opened
	time.AfterFunc(50*time.Millisecond, cancel)
	root, err := r.Root(t.Context(), []sandbox.Layer{layer(data)})
	if err != nil {
		t.Fatal(err)
	}
	if err := root.Close(); err != nil {
		t.Error(err)
	}
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("called off: %v", err)
	}
}

type readerFunc func(p []byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }
