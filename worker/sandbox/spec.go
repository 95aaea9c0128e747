package sandbox

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/docker/docker/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// capabilities are Docker's default ones less NET_RAW: there is no network to send raw packets to. SYS_CHROOT is for
// scripts that chroot, MKNOD and SETFCAP for those that make devices and give programs capabilities.
var capabilities = []string{
	"CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
	"CAP_NET_BIND_SERVICE", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
}

// Parts of /proc and /sys that are hidden or read-only, as every OCI engine has them: they say or change what is the
// machine's.
var (
	masked = []string{
		"/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats",
		"/sys/devices/virtual/powercap", "/sys/firmware",
	}
	readonly = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// spec describes the container (OCI runtime-spec). The network namespace is the helper's, and so is the user namespace.
func (r *Runner) spec(c Command, limits Limits, id string) (*specs.Spec, error) {
	env, err := c.environment()
	if err != nil {
		return nil, err
	}
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	caps := &specs.LinuxCapabilities{Bounding: capabilities}
	if c.UID == 0 { // others get them by running setuid programs, or not
		caps.Effective, caps.Permitted = capabilities, capabilities
	}
	s := &specs.Spec{
		Version:  "1.0.2", // what runc 1.1 and crun 1.8 (Debian 12) know
		Hostname: hostname,
		Process: &specs.Process{
			Args: c.Args, Env: env, Cwd: dir,
			User:         specs.User{UID: c.UID, GID: c.GID, AdditionalGids: c.Groups},
			Capabilities: caps,
			Rlimits:      r.rlimits(limits),
		},
		Mounts: mounts(limits.Tmp),
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.MountNamespace},
			},
			MaskedPaths:   masked,
			ReadonlyPaths: readonly,
		},
	}
	if r.cgroup != "" {
		s.Linux.CgroupsPath = r.cgroup + "/" + id
		s.Linux.Resources = resources(limits)
	}
	if s.Linux.Seccomp, err = seccomp.GetDefaultProfile(s); err != nil {
		return nil, fmt.Errorf("seccomp profile: %w", err)
	}
	unsynced(s.Linux.Seccomp)
	return s, nil
}

// syncs write through what everybody on the machine has written.
var syncs = []string{"sync", "syncfs"}

// unsynced has commands believe that all is on disk. Nobody needs it there: what a command leaves is read from memory, and
// of a machine that crashes nothing is kept. The overlay does the same for the files of the root.
func unsynced(profile *specs.LinuxSeccomp) {
	for i := range profile.Syscalls {
		rule := &profile.Syscalls[i]
		rule.Names = slices.DeleteFunc(slices.Clone(rule.Names), func(name string) bool { return slices.Contains(syncs, name) })
	}
	profile.Syscalls = append(profile.Syscalls, specs.LinuxSyscall{Names: syncs, Action: specs.ActErrno, ErrnoRet: new(uint)}) // 0: done
}

// resources limit all processes of the command together. Swap does not add to memory.
func resources(limits Limits) *specs.LinuxResources {
	return &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &limits.Memory, Swap: &limits.Memory},
		Pids:   &specs.LinuxPids{Limit: limits.Pids},
		// The runtime adds the devices of /dev. Nodes of others can be made, and not opened.
		Devices: []specs.LinuxDeviceCgroup{
			{Allow: false, Access: "rwm"},
			{Allow: true, Type: "c", Access: "m"},
			{Allow: true, Type: "b", Access: "m"},
		},
	}
}

// rlimits limit each process. Where there is no cgroup to do better, memory and processes are among them: a process's
// data (what it can write and nobody else sees, so that reserving addresses is free), and the user namespace's processes.
func (r *Runner) rlimits(limits Limits) []specs.POSIXRlimit {
	rlimits := []specs.POSIXRlimit{
		rlimit("RLIMIT_CORE", unix.RLIMIT_CORE, 0),
		rlimit("RLIMIT_FSIZE", unix.RLIMIT_FSIZE, limits.File),
		// dpkg, and much else, closes every descriptor up to the limit before each exec.
		rlimit("RLIMIT_NOFILE", unix.RLIMIT_NOFILE, 4096),
	}
	if r.cgroup == "" {
		rlimits = append(rlimits, rlimit("RLIMIT_DATA", unix.RLIMIT_DATA, limits.Memory), rlimit("RLIMIT_NPROC", unix.RLIMIT_NPROC, limits.Pids))
	}
	return rlimits
}

// rlimit is at most what the caller itself may have: more is refused to ordinary users.
func rlimit(name string, which int, value int64) specs.POSIXRlimit {
	v := uint64(value)
	var own unix.Rlimit
	if err := unix.Getrlimit(which, &own); err == nil {
		v = min(v, own.Max)
	}
	return specs.POSIXRlimit{Type: name, Hard: v, Soft: v}
}

func mounts(tmp int64) []specs.Mount {
	mount := func(at, kind string, options ...string) specs.Mount {
		return specs.Mount{Destination: at, Type: kind, Source: kind, Options: append([]string{"nosuid"}, options...)}
	}
	return []specs.Mount{
		mount("/proc", "proc", "noexec", "nodev"),
		mount("/dev", "tmpfs", "strictatime", "mode=755", "size=65536k"),
		mount("/dev/pts", "devpts", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"),
		mount("/dev/shm", "tmpfs", "noexec", "nodev", "mode=1777", "size=65536k"),
		mount("/dev/mqueue", "mqueue", "noexec", "nodev"),
		mount("/sys", "sysfs", "noexec", "nodev", "ro"),
		mount("/tmp", "tmpfs", "nodev", "mode=1777", "size="+strconv.FormatInt(tmp, 10)),
	}
}
