package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// host is what the caller may do on this machine.
type host struct {
	privileged bool      // has CAP_SYS_ADMIN in its user namespace
	userns     bool      // helpers are in a user namespace other than the machine's first
	mapping    *idRanges // of the user namespaces that helpers get; nil: they get none
}

// idRanges are the subordinate IDs of an ordinary user. ID 0 in the namespace is the user, IDs from 1 on are these.
type idRanges struct {
	uid, gid int // the user's
	users    idRange
	groups   idRange
}

type idRange struct{ start, count int }

// minSubIDs makes room for all IDs up to nobody (65534) and one more, as Debian's base-passwd has them.
const minSubIDs = 65536

// thisHost finds out which way sandboxes can work: as root, or as a user with subordinate IDs.
func thisHost() (host, error) {
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return host{}, err
	}
	nested := strings.Join(strings.Fields(string(uidMap)), " ") != "0 0 4294967295"
	if hasSysAdmin() {
		return host{privileged: true, userns: nested}, nil
	}
	for _, program := range []string{"newuidmap", "newgidmap"} {
		if _, err := findProgram(program); err != nil {
			return host{}, fmt.Errorf("%w: to map IDs for an ordinary user, %s is missing: apt-get install uidmap", ErrUnavailable, program)
		}
	}
	ranges := &idRanges{uid: os.Getuid(), gid: os.Getgid()}
	name := ""
	if u, err := user.LookupId(strconv.Itoa(ranges.uid)); err == nil {
		name = u.Username
	}
	var errs []error
	for path, into := range map[string]*idRange{"/etc/subuid": &ranges.users, "/etc/subgid": &ranges.groups} {
		if *into, err = subordinate(path, name, ranges.uid); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		if name == "" {
			name = strconv.Itoa(ranges.uid)
		}
		return host{}, fmt.Errorf("%w: a single ID is not enough for the owners in an image: %w; "+
			"as root: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %s (IDs that nobody else has)", ErrUnavailable, err, name)
	}
	return host{userns: true, mapping: ranges}, nil
}

// hasSysAdmin reports whether the process may mount and make namespaces.
func hasSysAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}

// subordinate reads the first range that is large enough from a file as subuid(5) describes it.
func subordinate(path, name string, id int) (idRange, error) {
	data, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return idRange{}, err
	}
	found := 0
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		fields := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(fields) != 3 || fields[0] != strconv.Itoa(id) && (name == "" || fields[0] != name) {
			continue
		}
		start, err1 := strconv.Atoi(fields[1])
		count, err2 := strconv.Atoi(fields[2])
		if err1 != nil || err2 != nil {
			continue
		}
		if count >= minSubIDs {
			return idRange{start, count}, nil
		}
		found = max(found, count)
	}
	if err := lines.Err(); err != nil {
		return idRange{}, fmt.Errorf("%s: %w", path, err)
	}
	if found > 0 {
		return idRange{}, fmt.Errorf("%s gives only %d IDs in a row, want %d", path, found, minSubIDs)
	}
	return idRange{}, fmt.Errorf("%s gives none", path)
}

// mapIDs maps the ranges into the user namespace of a process, through the setuid programs that may do that.
func (h host) mapIDs(ctx context.Context, pid int) error {
	if h.mapping == nil {
		return nil
	}
	m := h.mapping
	for _, run := range []struct {
		program string
		self    int
		sub     idRange
	}{{"newuidmap", m.uid, m.users}, {"newgidmap", m.gid, m.groups}} {
		program, err := findProgram(run.program)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnavailable, err)
		}
		out, err := exec.CommandContext(ctx, program, strconv.Itoa(pid),
			"0", strconv.Itoa(run.self), "1", "1", strconv.Itoa(run.sub.start), strconv.Itoa(run.sub.count)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s: %w: %s", ErrUnavailable, run.program, err, bytes.TrimSpace(out))
		}
	}
	return nil
}

// findProgram looks where an ordinary user's PATH does not: Debian has runc in /usr/sbin.
func findProgram(name string) (string, error) {
	found, err := exec.LookPath(name)
	if err == nil {
		return filepath.Abs(found)
	}
	if strings.Contains(name, "/") {
		return "", err
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin"} {
		if found, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return found, nil
		}
	}
	return "", err
}

func findRuntime(name string) (string, error) {
	if name == "" {
		name = defaultRuntime
	}
	found, err := findProgram(name)
	if err != nil {
		return "", fmt.Errorf("%w: OCI runtime %q is missing: apt-get install --no-install-recommends runc, or name another (BAKEFARM_RUNTIME)", ErrUnavailable, name)
	}
	return found, nil
}
