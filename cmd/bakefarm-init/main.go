// Command bakefarm-init is the first program that a disk image runs: it loads the modules of its RAM disk, finds the root
// by PARTUUID, lets it grow to the size of the disk, and hands over to the root's own init. It says on the console what
// it does.
//
//	kernel ─▶ /init ─▶ modules ─▶ root=PARTUUID=… ─▶ grow table, partition, filesystem ─▶ switch root ─▶ /sbin/init
//
// When it can't go on it says why and ends, which makes the kernel panic: with panic=N on the command line the machine
// starts again, and a boot menu or whoever looks after the machine can choose another image.
package main

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	newRoot  = "/root"
	patience = 60 * time.Second // for the root's disk to appear
)

func main() {
	started := time.Now()
	if os.Getpid() != 1 {
		say("is for the start of a machine: it wants to be process 1")
		os.Exit(2)
	}
	say("can't go on: " + boot(started).Error())
	time.Sleep(time.Second) // for the console to drain
	os.Exit(1)
}

// boot hands over to the root's own init. It returns only when it can't.
func boot(started time.Time) error {
	for _, m := range []struct{ kind, at string }{{"devtmpfs", "/dev"}, {"proc", "/proc"}, {"sysfs", "/sys"}} {
		if err := unix.Mount(m.kind, m.at, m.kind, unix.MS_NOSUID, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return errors.New("mount " + m.at + ": " + err.Error())
		}
	}
	loadModules()
	raw, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return err
	}
	options := parse(string(raw))
	id, ok := strings.CutPrefix(options["root"], "PARTUUID=")
	if !ok {
		return errors.New("the kernel's command line has root=" + options["root"] + ": want root=PARTUUID=…")
	}
	part, err := waitFor(strings.ToLower(id))
	if err != nil {
		return err
	}
	if options["rootfstype"] == "erofs" {
		if err := mountReadOnly(part); err != nil {
			return err
		}
		return start(part, options, started)
	}
	if err := grow(part); err != nil {
		say("the partition keeps its size: " + err.Error())
	}
	flags := uintptr(0)
	if _, ok := options["ro"]; ok {
		flags = unix.MS_RDONLY
	}
	if err := unix.Mount("/dev/"+part.name, newRoot, "ext4", flags, options["rootflags"]); err != nil {
		return errors.New("mount /dev/" + part.name + " as root: " + err.Error())
	}
	if flags == 0 {
		if err := resize(part); err != nil {
			say("the root filesystem keeps its size: " + err.Error())
		}
	}
	return start(part, options, started)
}

// mountReadOnly mounts a root that nobody writes to, and over it a place in memory for what is written.
func mountReadOnly(part *partition) error {
	const lower, upper = "/lower", "/upper"
	for _, dir := range []string{lower, upper} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("/dev/"+part.name, lower, "erofs", unix.MS_RDONLY, ""); err != nil {
		return errors.New("mount /dev/" + part.name + ": " + err.Error())
	}
	if err := unix.Mount("tmpfs", upper, "tmpfs", 0, "mode=0755"); err != nil {
		return errors.New("mount memory to write to: " + err.Error())
	}
	for _, dir := range []string{"/data", "/work"} {
		if err := os.Mkdir(upper+dir, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Mount("overlay", newRoot, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+"/data,workdir="+upper+"/work"); err != nil {
		return errors.New("mount the root: " + err.Error())
	}
	say("what is written is in memory, and goes with the machine's end")
	return nil
}

// start runs the root's own init.
func start(part *partition, options map[string]string, started time.Time) error {
	program := options["init"]
	if program == "" {
		program = "/sbin/init"
	}
	say("root on /dev/" + part.name + " after " + time.Since(started).Round(time.Millisecond).String() + ", starting " + program)
	return switchRoot(program)
}

// say writes to the kernel's log, which is on the console, with our name before it.
func say(text string) {
	line := "bakefarm-init: " + text + "\n"
	if f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0); err == nil {
		f.WriteString("<4>" + line)
		f.Close()
		return
	}
	os.Stderr.WriteString(line)
}

// loadModules loads what the list names, in its order. One that has no device here may refuse, and what needs it is left
// out then: that is no failure.
func loadModules() {
	list, err := os.ReadFile("/modules")
	if err != nil {
		say(err.Error())
		return
	}
	loaded := 0
	refused := make(map[string]bool)
lines:
	for line := range strings.Lines(string(list)) {
		names := strings.Fields(line)
		if len(names) == 0 {
			continue
		}
		for _, need := range names[1:] {
			if refused[need] {
				refused[names[0]] = true
				continue lines
			}
		}
		f, err := os.Open("/lib/modules/" + names[0] + ".ko")
		if err != nil {
			say(err.Error())
			continue
		}
		err = unix.FinitModule(int(f.Fd()), "", 0)
		f.Close()
		switch {
		case err == nil, errors.Is(err, unix.EEXIST):
			loaded++
		case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENOENT): // ENOENT: one that it builds on has no device
			refused[names[0]] = true
		default:
			say("module " + names[0] + ": " + err.Error())
		}
	}
	say(strconv.Itoa(loaded) + " modules loaded")
}

// parse splits the kernel's command line; of an option that is there twice the last one counts.
func parse(line string) map[string]string {
	options := make(map[string]string)
	for _, word := range strings.Fields(line) {
		key, value, _ := strings.Cut(word, "=")
		options[key] = value
	}
	return options
}

// switchRoot makes the new root the root, gives back the RAM disk's memory, and runs program in place of this one.
func switchRoot(program string) error {
	for _, at := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(at, newRoot+at, "", unix.MS_MOVE, ""); err != nil {
			return errors.New("move " + at + ": " + err.Error())
		}
	}
	os.RemoveAll("/lib")
	os.Remove("/modules")
	os.Remove("/init")
	if err := unix.Chdir(newRoot); err != nil {
		return err
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return errors.New("move the root: " + err.Error())
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	console, err := os.OpenFile("/dev/console", os.O_RDWR, 0)
	if err == nil {
		for fd := range 3 {
			unix.Dup3(int(console.Fd()), fd, 0)
		}
	}
	return errors.New(program + ": " + syscall.Exec(program, []string{program}, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "TERM=linux"}).Error())
}
