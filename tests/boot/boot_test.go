// Package boot bakes disks on a farm of its own and starts them, each in the ways that its recipe promises. It takes a
// kernel from the machine's own mirror and minutes of emulation, so it runs only when it is asked: make boot.
package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

var start = flag.Bool("boot", false, "bake disks and start them, for many minutes where the processor is emulated")

// patience is how long a machine may take until what a test waits for is on its console.
const patience = 8 * time.Minute

// aFarm is a `bakefarm up` of its own.
type aFarm struct {
	t       *testing.T
	dir     string
	program string
	server  string
}

var ready = regexp.MustCompile(`ready at (http://\S+)`)

func startFarm(t *testing.T, flags ...string) *aFarm {
	t.Helper()
	if !*start {
		t.Skip("starts disks only with -boot: make boot")
	}
	f := &aFarm{t: t, dir: t.TempDir()}
	var err error
	if f.program, err = filepath.Abs("../../bin/bakefarm"); err != nil {
		t.Fatal(err)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(f.dir, "app", "dist", "hello"), "bakefarm/examples/hello")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	arm := exec.Command("go", "build", "-o", filepath.Join(f.dir, "arm", "dist", "hello"), "bakefarm/examples/hello")
	arm.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	if out, err := arm.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	farm := exec.Command(f.program, append([]string{"up", "--data", filepath.Join(f.dir, "farm"), "--listen", "127.0.0.1:0", "--log-level", "warn"}, flags...)...)
	farm.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	farm.Stderr = os.Stderr
	out, err := farm.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := farm.Start(); err != nil {
		t.Fatalf("%v: make build first", err)
	}
	t.Cleanup(func() {
		farm.Process.Signal(os.Interrupt)
		farm.Wait()
	})
	lines := bufio.NewScanner(out)
	for f.server == "" && lines.Scan() {
		if m := ready.FindStringSubmatch(lines.Text()); m != nil {
			f.server = m[1]
		}
	}
	if f.server == "" {
		t.Fatal("the farm has ended before it was ready")
	}
	go func() {
		for lines.Scan() {
		}
	}()
	return f
}

// recipe is that of examples/hello with a part of its own.
func (f *aFarm) recipe(t *testing.T, context, os_, outputs, tests string) string {
	t.Helper()
	return f.recipeOf(t, context, os_, "{copy: dist, to: /opt/hello}", outputs, tests)
}

// recipeOf is one with an app of its own.
func (f *aFarm) recipeOf(t *testing.T, context, os_, app, outputs, tests string) string {
	t.Helper()
	file := filepath.Join(f.dir, context, strings.ReplaceAll(t.Name(), "/", "-")+".yaml")
	text := "apiVersion: bakefarm/v1\nname: boot/hello\nos: " + os_ + "\napp: [" + app + "]\n" +
		"config: {entrypoint: [/opt/hello/hello], env: {PORT: \"8080\"}}\noutputs: [" + outputs + "]\n"
	if tests != "" {
		text += "tests: [" + tests + "]\n"
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// bake bakes a recipe; its tests are the farm's gate. It returns the reference.
func (f *aFarm) bake(t *testing.T, recipe string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), f.program, "--server", f.server, "bake", recipe, "-o", "json")
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, said.String())
	}
	var bake struct {
		Images []struct{ Ref string } `json:"images"`
	}
	if err := json.Unmarshal(out, &bake); err != nil || len(bake.Images) == 0 {
		t.Fatalf("%s: %v", out, err)
	}
	for _, line := range strings.Split(said.String(), "\n") {
		if strings.Contains(line, "passed") || strings.Contains(line, "by BIOS") {
			t.Log(line)
		}
	}
	return bake.Images[0].Ref
}

// pull pulls a disk into a file of the test's own.
func (f *aFarm) pull(t *testing.T, ref string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "disk")
	if out, err := exec.CommandContext(t.Context(), f.program, "--server", f.server, "images", "pull", ref, "--disk", "raw", "-f", file).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

const (
	skip    = "{debian: {suite: bookworm, scripts: skip}}"
	run     = "{debian: {suite: bookworm, packages: [openssh-server]}}"
	answers = "{http: {port: 8080, path: /healthz}, within: 3m, on: disk}"
)

func TestBoot(t *testing.T) {
	f := startFarm(t)
	t.Run("gate", f.gates)
	t.Run("base", f.base)
	t.Run("microvm", f.microVM)
	t.Run("first", f.firstStart)
	t.Run("growth cut short", f.growthCutShort)
	t.Run("login", f.login)
}

// login comes in by SSH with a key that the app has, and looks whether the machine knows its network and itself.
func (f *aFarm) login(t *testing.T) {
	for _, program := range []string{"ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skip(err)
		}
	}
	dir := t.TempDir()
	key := filepath.Join(dir, "key")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	public, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(f.dir, "app", "keys"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(f.dir, "app", "keys", "authorized_keys"), public, 0o644); err != nil {
		t.Fatal(err)
	}
	disk := f.pull(t, f.bake(t, f.recipeOf(t, "app", "{debian: {suite: bookworm, packages: [openssh-server, sudo, curl]}}",
		"{copy: dist, to: /opt/hello}, {copy: keys, to: /root/.ssh}", "{disk: {size: 2GiB, boot: direct}}", "")))
	cmdline, err := os.ReadFile(disk + ".cmdline")
	if err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	machine := exec.CommandContext(ctx, "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-m", "768", "-smp", "2", "-accel", "tcg",
		"-cpu", "max", "-kernel", disk+".kernel", "-initrd", disk+".initrd", "-append", strings.TrimSpace(string(cmdline)),
		"-drive", "format=raw,if=virtio,cache=unsafe,file="+disk, "-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:"+port+"-:22",
		"-device", "virtio-net-pci,netdev=net,romfile=")
	machine.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := machine.Start(); err != nil {
		t.Fatal(err)
	}
	defer machine.Wait()
	defer cancel()
	const look = `set -e; getent ahosts localhost; getent hosts "$(hostname)"; sudo -n true; curl -fsS localhost:8080/healthz; hostname`
	var said []byte
	for ctx.Err() == nil {
		said, err = exec.CommandContext(ctx, "ssh", "-i", key, "-p", port, "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
			"-o", "ConnectTimeout=30", "-o", "LogLevel=ERROR", "root@127.0.0.1", look).CombinedOutput()
		if err == nil {
			break
		}
		time.Sleep(3 * time.Second)
	}
	t.Logf("%s", said)
	if err != nil || !regexp.MustCompile(`127\.0\.0\.1 `).Match(said) || !regexp.MustCompile(`(?m)^host-[0-9a-f]{8}$`).Match(said) || strings.Contains(string(said), "unable to resolve") {
		t.Errorf("%v", err)
	}
}

// gates has the farm's own gate start disks of all kinds until their service answers.
func (f *aFarm) gates(t *testing.T) {
	for name, c := range map[string]struct{ context, os, disk string }{
		"uefi":         {"app", run, "{disk: {size: 2GiB}}"},
		"hybrid":       {"app", skip, "{disk: {size: 2GiB, boot: hybrid}}"},
		"direct":       {"app", skip, "{disk: {size: 2GiB, boot: direct}}"},
		"erofs":        {"app", run, "{disk: {size: 2GiB, filesystem: erofs}}"},
		"distribution": {"app", run, "{disk: {size: 2GiB, initrd: distribution}}"},
		"cloud-init":   {"app", "{debian: {suite: bookworm, packages: [cloud-init]}}", "{disk: {size: 2GiB}}"},
		"arm64":        {"arm", skip, "{disk: {size: 2GiB, platform: linux/arm64}}"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "arm64" {
				if _, err := exec.LookPath("qemu-system-aarch64"); err != nil {
					t.Skip(err)
				}
			}
			f.bake(t, f.recipe(t, c.context, c.os, c.disk, answers))
		})
	}
}

// base makes a disk of an image that has an init and a kernel of its own.
func (f *aFarm) base(t *testing.T) {
	const machine = "{debian: {suite: bookworm, packages: [systemd-sysv, udev, dbus, linux-image-cloud-amd64, systemd-boot-efi]}}"
	ref := f.bake(t, f.recipe(t, "app", machine, "{oci: {}}", ""))
	image := "{image: " + strings.TrimPrefix(f.server, "http://") + "/" + ref + "}"
	f.bake(t, f.recipe(t, "app", image, "{disk: {size: 2GiB}}", answers))
}

// A machine of the smallest kind, with kernel and initrd from outside.
func (f *aFarm) microVM(t *testing.T) {
	disk := f.pull(t, f.bake(t, f.recipe(t, "app", skip, "{disk: {size: 2GiB, boot: direct}}", "")))
	cmdline, err := os.ReadFile(disk + ".cmdline")
	if err != nil {
		t.Fatal(err)
	}
	qemu(t, []string{"bakefarm-init: root on /dev/vda1", "listening on :8080"}, "qemu-system-x86_64", "-machine", "microvm,acpi=on", "-cpu", "max",
		"-kernel", disk+".kernel", "-initrd", disk+".initrd", "-append", strings.TrimSpace(string(cmdline))+" tsc_early_khz=2000000",
		"-drive", "id=root,format=raw,if=none,snapshot=on,file="+disk, "-device", "virtio-blk-device,drive=root",
		"-netdev", "user,id=net,restrict=on", "-device", "virtio-net-device,netdev=net")
}

// At the first start on a larger disk the root grows, the machine has an identity and keys of its own; what a BIOS starts
// is still there at the second start.
func (f *aFarm) firstStart(t *testing.T) {
	disk := f.pull(t, f.bake(t, f.recipe(t, "app", run, "{disk: {size: 2GiB, boot: hybrid}}", "")))
	if err := os.Truncate(disk, 5<<30); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	boot := func(wants ...string) *machine {
		return powerOn(t, wants, "qemu-system-x86_64", "-machine", "q35", "-cpu", "max", "-drive", "format=raw,if=virtio,cache=unsafe,file="+disk,
			"-netdev", "user,id=net,restrict=on,hostfwd=tcp:127.0.0.1:"+port+"-:22", "-device", "virtio-net-pci,netdev=net,romfile=")
	}
	first := boot("/dev/vda3 has grown to 5055 MiB", "starting /sbin/init", "listening on :8080", "login:")
	first.greets(t, port, "SSH-2.0-") // after it has made its keys; the console is the login's by then
	first.powerOff(t)
	second := boot("starting /sbin/init", "listening on :8080", "login:")
	second.powerOff(t)
	if strings.Contains(second.console.String(), "has grown") {
		t.Error("it has grown once more")
	}
	root := rootOf(t, disk, 64<<20)
	if id := strings.TrimSpace(debugfs(t, root, "cat /etc/machine-id")); !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
		t.Errorf("the machine's identity is %q", id)
	}
	if key := debugfs(t, root, "cat /etc/ssh/ssh_host_ed25519_key.pub"); !strings.HasPrefix(key, "ssh-ed25519 ") {
		t.Errorf("the machine's key is %q", key)
	}
	if blocks := blocksOf(t, root); blocks != 5055<<20/4096 {
		t.Errorf("the root has %d blocks", blocks)
	}
}
