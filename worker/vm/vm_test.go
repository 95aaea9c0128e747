package vm_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/worker/vm"
	"bakefarm/worker/vm/vmtest"
)

// console collects lines.
type console struct {
	mu    sync.Mutex
	lines []string
	is    map[string]chan struct{}
}

func (c *console) line(s string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lines = append(c.lines, s)
	for text, seen := range c.is {
		if strings.Contains(s, text) {
			close(seen)
			delete(c.is, text)
		}
	}
}

func (c *console) wait(t *testing.T, text string, m *vm.Machine) {
	t.Helper()
	c.mu.Lock()
	seen := make(chan struct{})
	for _, l := range c.lines {
		if strings.Contains(l, text) {
			c.mu.Unlock()
			return
		}
	}
	c.is[text] = seen
	c.mu.Unlock()
	select {
	case <-seen:
	case <-m.Done():
		t.Fatalf("ended: %v\n%s", m.Err(), strings.Join(c.lines, "\n"))
	case <-time.After(2 * time.Minute):
		t.Fatalf("no %q in two minutes:\n%s", text, strings.Join(c.lines, "\n"))
	}
}

// start starts the tests' guest.
func start(t *testing.T, what string) (*vm.Machine, *console) {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a virtual machine")
	}
	h, err := vm.Open(filepath.Join(t.TempDir(), "machines"))
	if err != nil {
		t.Fatal(err)
	}
	dir, err := h.NewDir()
	if err != nil {
		t.Fatal(err)
	}
	kernel, ram := vmtest.Boot(t)
	for name, content := range map[string][]byte{"kernel": kernel, "initrd": ram, "disk": make([]byte, 1<<20)} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c := &console{is: map[string]chan struct{}{}}
	m, err := h.Start(t.Context(), vm.Disk{
		Arch: "amd64", Dir: dir, File: "disk", Kernel: "kernel", Initrd: "initrd", Cmdline: vmtest.Cmdline(what), Ports: []int{8080, 9},
	}, c.line)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m, c
}

func TestServe(t *testing.T) {
	t.Parallel()
	m, c := start(t, "serve")
	c.wait(t, "guest: listening <nil>", m)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	conn, err := m.Dial(ctx, 8080)
	if err != nil {
		t.Fatal(err)
	}
	io.WriteString(conn, "GET /healthz HTTP/1.0\r\n\r\n")
	answer, err := io.ReadAll(conn)
	conn.Close()
	if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 200 OK") {
		t.Errorf("%q, %v", answer, err)
	}
	if _, err := m.Dial(ctx, 9); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port that nobody listens on: %v", err)
	}
	if _, err := m.Dial(ctx, 10); err == nil {
		t.Error("a port that was not named")
	}
	for _, l := range c.lines {
		if strings.ContainsAny(l, "\x1b\r") {
			t.Errorf("%q is no plain text", l)
		}
	}
}

func TestOff(t *testing.T) {
	t.Parallel()
	m, _ := start(t, "off")
	select {
	case <-m.Done():
	case <-time.After(2 * time.Minute):
		t.Fatal("is still there")
	}
	if !errors.Is(m.Err(), vm.ErrOff) {
		t.Error(m.Err())
	}
}
