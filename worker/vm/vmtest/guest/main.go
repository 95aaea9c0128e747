// Command guest is the init of the virtual machine that tests start in place of a disk's: it does what guest= on the
// kernel's command line says.
//
//	serve   an address on the network, HTTP on port 8080: ok on /healthz
//	silent  an address, and nobody who listens
//	panic   it ends, which makes the kernel panic
//	off     it switches the machine off
//	hang    it never says that it has found a root
package main

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	unix.Mount("proc", "/proc", "proc", 0, "")
	unix.Mount("dev", "/dev", "devtmpfs", 0, "")
	raw, _ := os.ReadFile("/proc/cmdline")
	_, what, _ := strings.Cut(string(raw), "guest=")
	what, _, _ = strings.Cut(strings.TrimSpace(what), " ")
	fmt.Println("guest:", what)
	if what == "hang" {
		time.Sleep(time.Hour)
	}
	list, _ := os.ReadFile("/modules")
	for line := range strings.Lines(string(list)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		f, err := os.Open("/lib/modules/" + name + ".ko")
		if err == nil {
			err = unix.FinitModule(int(f.Fd()), "", 0)
		}
		if err != nil {
			fmt.Println("guest:", name, err)
		}
	}
	if err := address("lo", "127.0.0.1", "255.0.0.0"); err != nil {
		fmt.Println("guest:", err)
	}
	for try := range 50 {
		err := address("eth0", "10.0.2.15", "255.255.255.0")
		if err == nil {
			break
		}
		if try == 49 {
			fmt.Println("guest:", err)
		}
		time.Sleep(100 * time.Millisecond)
	}
	fmt.Println("\x1b[1;32mbakefarm-init: root on nothing\x1b[0m, starting nothing")
	switch what {
	case "serve":
		http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
		l, err := net.Listen("tcp", ":8080")
		fmt.Println("guest: listening", err)
		fmt.Println("guest:", http.Serve(l, nil))
	case "off":
		unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "silent":
		time.Sleep(time.Hour)
	}
}

// address gives an interface an address and starts it.
func address(name, ip, mask string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, set := range []struct {
		what  uint
		value string
	}{{unix.SIOCSIFADDR, ip}, {unix.SIOCSIFNETMASK, mask}, {unix.SIOCSIFFLAGS, ""}} {
		req, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		if set.value == "" {
			req.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
		} else if err := req.SetInet4Addr(net.ParseIP(set.value).To4()); err != nil {
			return err
		}
		if err := unix.IoctlIfreq(fd, set.what, req); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}
