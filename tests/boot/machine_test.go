package boot

import (
	"context"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine is a QEMU that runs, until the test ends at the latest.
type machine struct {
	ctx     context.Context
	serial  io.Reader
	console *strings.Builder // what came of it, until it was powered on
	monitor string           // socket
	started time.Time
}

// powerOn starts a machine, and waits until its console has had some texts.
func powerOn(t *testing.T, wants []string, args ...string) *machine {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	m := &machine{ctx: ctx, console: &strings.Builder{}, monitor: filepath.Join(t.TempDir(), "monitor"), started: time.Now()}
	common := []string{
		"-monitor", "unix:" + m.monitor + ",server=on,wait=off", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
		"-m", "1024", "-smp", "2", "-accel", "tcg", "-serial", "stdio",
	}
	cmd := exec.CommandContext(ctx, args[0], append(common, args[1:]...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
	})
	m.serial = out
	missing := func(want string) bool { return !strings.Contains(m.console.String(), want) }
	for some := make([]byte, 4096); slices.ContainsFunc(wants, missing) && err == nil; { // not by line: a prompt ends none
		var n int
		n, err = out.Read(some)
		m.console.Write(some[:n])
	}
	if i := slices.IndexFunc(wants, missing); i >= 0 {
		t.Fatalf("no %q within %s:\n%s", wants[i], patience, m.console)
	}
	t.Logf("%q after %s", wants, time.Since(m.started).Round(time.Second))
	return m
}

// greets waits until the machine says hello on one of its ports, which this one forwards.
func (m *machine) greets(t *testing.T, port, hello string) {
	t.Helper()
	said := make([]byte, len(hello))
	for m.ctx.Err() == nil {
		if conn, err := net.Dial("tcp", "127.0.0.1:"+port); err == nil {
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			_, err = io.ReadFull(conn, said)
			conn.Close()
			if err == nil && string(said) == hello {
				return
			}
		}
		time.Sleep(time.Second)
	}
	t.Fatalf("no %q within %s, but %q:\n%s", hello, patience, said, m.console)
}

func freePort(t *testing.T) string {
	t.Helper()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer free.Close()
	_, port, _ := net.SplitHostPort(free.Addr().String())
	return port
}

// powerOff has the machine switch itself off, as its power button does: what it has written is on its disk then.
func (m *machine) powerOff(t *testing.T) {
	t.Helper()
	monitor, err := net.Dial("unix", m.monitor)
	if err != nil {
		t.Fatal(err)
	}
	defer monitor.Close()
	// Nobody hears the button before logind is there, so it is pressed until the machine goes off.
	off := make(chan struct{})
	pressed := make(chan error, 1)
	go func() {
		again := time.NewTicker(5 * time.Second)
		defer again.Stop()
		for {
			if _, err := io.WriteString(monitor, "system_powerdown\n"); err != nil {
				pressed <- err
				return
			}
			select {
			case <-again.C:
			case <-off:
				pressed <- nil
				return
			}
		}
	}()
	io.Copy(io.Discard, m.serial)
	close(off)
	if err := <-pressed; err != nil {
		t.Logf("the power button: %v", err) // as the machine went
	}
	if m.ctx.Err() != nil {
		t.Errorf("the machine does not switch itself off:\n%s", m.console)
	}
}

// qemu runs a machine until its console has had some texts, and switches it off. It returns the console.
func qemu(t *testing.T, wants []string, args ...string) string {
	t.Helper()
	m := powerOn(t, wants, args...)
	m.powerOff(t)
	return m.console.String()
}
