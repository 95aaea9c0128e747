package disk

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/disk/gpt"
)

// Machine says what a disk has beside the layers of the image: what makes a machine of it.
type Machine struct {
	Entrypoint []string // with its arguments; empty: no program is started. systemd starts it
	Env        map[string]string
	User       string // as in an image's configuration: user, user:group, uid:gid
	WorkingDir string
	StopSignal string
	Restart    string // when it is started again after its end, as systemd has it: always (empty), on-failure, no
	// Packages are the names of the OS's packages.
	Packages []string
	// Enabled: the units that are to start are enabled already, and presets have no say.
	Enabled bool
}

// Service is the unit that runs the image's program.
const Service = "app.service"

// networkManagers configure the network by themselves. cloud-init is none: where no cloud tells it anything it does nothing, and
// what it writes for systemd-networkd comes before ours.
var networkManagers = []string{"ifupdown", "netplan.io", "network-manager", "connman", "dhcpcd"}

func (m Machine) has(names ...string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(m.Packages, n) })
}

// Machine adds the layer of a machine, over the app's. A file that the app itself has at the same place stays: it is
// somebody's decision. What names the machine is never the app's, and the hosts file of the OS stays too.
func (b *Builder) Machine(m Machine) error {
	files, err := m.files(b.Options)
	if err != nil {
		return err
	}
	files = slices.DeleteFunc(files, func(f compose.File) bool {
		inode := b.root.Lookup(f.Path)
		return inode != 0 && f.Path != identity && (f.Path == hosts || b.app != 0 && inode >= b.app)
	})
	layer, err := compose.Head(nil, files)
	if err != nil {
		return err
	}
	return b.Layer(bytes.NewReader(append(layer, make([]byte, compose.TrailerSize)...)))
}

const (
	identity = "etc/machine-id"
	hosts    = "etc/hosts"
)

// files are what the layer has: units in their own places, and the rest below etc.
func (m Machine) files(o Options) ([]compose.File, error) {
	const units = "etc/systemd/system/"
	var files []compose.File
	text := func(path, content string) { files = append(files, compose.Text(path, 0o644, []byte(content))) }
	enable := func(unit, source, target string) {
		files = append(files, compose.Symlink(units+target+".wants/"+unit, source))
	}
	// An identity of its own at the first start; and the units that presets enable, where no script has.
	if m.Enabled { // machine-id(5), "First Boot Semantics"
		text(identity, "")
	} else {
		text(identity, "uninitialized\n")
	}
	text(hosts, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nff02::1\tip6-allnodes\nff02::2\tip6-allrouters\n")
	text(units+"machine-name.service", `[Unit]
Description=A name of this machine's own, until it is given another one
DefaultDependencies=no
Before=systemd-networkd.service sysinit.target
ConditionPathExists=!/etc/hostname
ConditionKernelCommandLine=!systemd.hostname
ConditionFileIsExecutable=/bin/sh

[Service]
Type=oneshot
ExecStart=/bin/sh -c 'printf host-%%.8s %m >/proc/sys/kernel/hostname'

[Install]
WantedBy=sysinit.target
`)
	enable("machine-name.service", "/"+units+"machine-name.service", "sysinit.target")
	if o.ReadOnly {
		text("etc/fstab", "# The root is EROFS, and over it what is in memory: see bakefarm-init.\n")
	} else {
		text("etc/fstab", "PARTUUID="+gpt.GUID(o.identifier("root")).String()+" / ext4 errors=remount-ro 0 1\n")
	}
	if len(m.Entrypoint) > 0 {
		unit, err := m.unit()
		if err != nil {
			return nil, err
		}
		text(units+Service, unit)
		enable(Service, "/"+units+Service, "multi-user.target")
	}
	if !m.has(networkManagers...) {
		text("etc/systemd/network/80-ether.network", "# Every Ethernet interface asks for an address.\n[Match]\nType=ether\n\n[Network]\nDHCP=yes\n")
		enable("systemd-networkd.service", "/lib/systemd/system/systemd-networkd.service", "multi-user.target")
		enable("systemd-networkd.socket", "/lib/systemd/system/systemd-networkd.socket", "sockets.target")
		enable("systemd-networkd-wait-online.service", "/lib/systemd/system/systemd-networkd-wait-online.service", "network-online.target")
		files = append(files, compose.Symlink(units+"dbus-org.freedesktop.network1.service", "/lib/systemd/system/systemd-networkd.service"))
		if m.has("systemd-resolved") {
			enable("systemd-resolved.service", "/lib/systemd/system/systemd-resolved.service", "multi-user.target")
			files = append(files, compose.Symlink("etc/resolv.conf", "../run/systemd/resolve/stub-resolv.conf"))
		}
	}
	if m.has("openssh-server") {
		text(units+"ssh-hostkeys.service", `[Unit]
Description=Host keys of this machine
Before=ssh.service
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key

[Service]
Type=oneshot
ExecStart=/usr/bin/ssh-keygen -A

[Install]
WantedBy=multi-user.target
`)
		enable("ssh-hostkeys.service", "/"+units+"ssh-hostkeys.service", "multi-user.target")
	}
	if m.has("kmod") {
		text(units+"module-index.service", `[Unit]
Description=Index of the kernel's modules, where no script has made it
DefaultDependencies=no
After=local-fs.target
Before=systemd-modules-load.service systemd-udev-trigger.service sysinit.target
ConditionPathExists=!/lib/modules/%v/modules.dep.bin

[Service]
Type=oneshot
ExecStart=/sbin/depmod

[Install]
WantedBy=sysinit.target
`)
		enable("module-index.service", "/"+units+"module-index.service", "sysinit.target")
	}
	return files, nil
}

// unit is the service of the image's program (systemd.service(5), systemd.exec(5)).
func (m Machine) unit() (string, error) {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	var command []string
	for _, arg := range m.Entrypoint {
		word, err := quote(arg, true)
		if err != nil {
			return "", fmt.Errorf("entrypoint: %w", err)
		}
		command = append(command, word)
	}
	line("[Unit]\nDescription=The program of this image\nAfter=network.target\nStartLimitIntervalSec=0\n\n[Service]")
	line("ExecStart=%s", strings.Join(command, " "))
	restart := m.Restart
	if restart == "" {
		restart = "always"
	}
	line("Restart=%s\nRestartSec=1s", restart)
	if m.User != "" {
		user, group, _ := strings.Cut(m.User, ":")
		if user != "" {
			line("User=%s", user)
		}
		if group == "" && strings.Trim(user, "0123456789") == "" {
			group = user // one that no passwd file has to know
		}
		if group != "" {
			line("Group=%s", group)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(m.Env)) {
		word, err := quote(name+"="+m.Env[name], false)
		if err != nil {
			return "", fmt.Errorf("env %s: %w", name, err)
		}
		line("Environment=%s", word)
	}
	directory := m.WorkingDir
	if directory == "" {
		directory = "/"
	}
	line("WorkingDirectory=%s", strings.ReplaceAll(directory, "%", "%%"))
	if m.StopSignal != "" {
		line("KillSignal=%s", m.StopSignal)
	}
	line("StandardOutput=journal+console\nStandardError=journal+console\n\n[Install]\nWantedBy=multi-user.target")
	return b.String(), nil
}

var quoting = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "%", "%%")

// quote makes one word of a unit file's line. In commands a dollar sign would begin a variable.
func quote(s string, command bool) (string, error) {
	if bytes.ContainsRune([]byte(s), 0) {
		return "", errors.New("has a NUL in it")
	}
	s = quoting.Replace(s)
	if command {
		s = strings.ReplaceAll(s, "$", "$$")
	}
	return `"` + s + `"`, nil
}
