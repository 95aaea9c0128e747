package boot

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A machine is a QEMU that runs, until the test ends at the latest.
type machine struct {
	ctx     context.Context
	lines   *bufio.Scanner // of its console
	console *strings.Builder
	monitor string // socket
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
	m.lines = bufio.NewScanner(out)
	left := append([]string(nil), wants...)
	for len(left) > 0 && m.lines.Scan() {
		line := m.lines.Text()
		fmt.Fprintln(m.console, line)
		for i := 0; i < len(left); i++ {
			if strings.Contains(line, left[i]) {
				left = append(left[:i], left[i+1:]...)
				i--
			}
		}
	}
	if len(left) > 0 {
		t.Fatalf("no %q within %s:\n%s", left, patience, m.console)
	}
	t.Logf("%q after %s", wants, time.Since(m.started).Round(time.Second))
	return m
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
	for m.lines.Scan() {
	}
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
