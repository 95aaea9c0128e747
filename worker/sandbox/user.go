package sandbox

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// maxUsers bounds how much of a passwd or group file is read, in bytes.
const maxUsers = 4 << 20

// become gives a process the user of an image's configuration, as the root's own files say who that is (OCI image
// specification, config.User).
func become(p *specs.Process, want, root string) error {
	files, err := os.OpenRoot(root) // links lead nowhere else
	if err != nil {
		return err
	}
	defer files.Close()
	user, group, hasGroup := strings.Cut(want, ":")
	var id specs.User
	number, numeric := parseID(user)
	entry, found, err := findLine(files, "etc/passwd", func(f []string) bool {
		return len(f) >= 4 && (f[0] == user || numeric && f[2] == user)
	})
	if err != nil {
		return err
	}
	switch {
	case found:
		uid, ok1 := parseID(entry[2])
		gid, ok2 := parseID(entry[3])
		if !ok1 || !ok2 {
			return fmt.Errorf("user %s: /etc/passwd of the image has %q:%q for it", user, entry[2], entry[3])
		}
		id.UID, id.GID = uid, gid
	case numeric:
		id.UID = number
	default:
		return fmt.Errorf("user %s: /etc/passwd of the image has none of that name", user)
	}
	if hasGroup {
		number, numeric := parseID(group)
		entry, found, err := findLine(files, "etc/group", func(f []string) bool { return len(f) >= 3 && f[0] == group })
		if err != nil {
			return err
		}
		if found {
			number, numeric = parseID(entry[2])
		}
		if !numeric {
			return fmt.Errorf("group %s: /etc/group of the image has none of that name", group)
		}
		id.GID = number
	} else if found {
		if id.AdditionalGids, err = groupsOf(files, entry[0]); err != nil {
			return err
		}
	}
	p.User = id
	if id.UID != 0 { // others get them by running setuid programs, or not
		p.Capabilities.Effective, p.Capabilities.Permitted = nil, nil
	}
	return nil
}

// groupsOf are the supplementary groups of a user.
func groupsOf(files *os.Root, user string) (ids []uint32, err error) {
	_, _, err = findLine(files, "etc/group", func(f []string) bool {
		if len(f) >= 4 {
			for member := range strings.SplitSeq(f[3], ",") {
				if id, ok := parseID(f[2]); ok && member == user {
					ids = append(ids, id)
				}
			}
		}
		return false
	})
	return ids, err
}

// findLine returns the first line of a file with colons that fits. A file that is not there has none.
func findLine(files *os.Root, name string, fits func(fields []string) bool) ([]string, bool, error) {
	f, err := files.Open(name)
	if err != nil {
		if _, lerr := files.Lstat(name); lerr != nil {
			return nil, false, ignoreAbsence(lerr)
		}
		return nil, false, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Size() > maxUsers {
		return nil, false, fmt.Errorf("/%s of the image is no file of at most %d bytes", name, maxUsers)
	}
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		if fields := strings.Split(lines.Text(), ":"); fits(fields) {
			return fields, true, nil
		}
	}
	return nil, false, lines.Err()
}

func ignoreAbsence(err error) error {
	if os.IsNotExist(err) || err == fs.ErrNotExist {
		return nil
	}
	return err
}

func parseID(s string) (uint32, bool) {
	n, err := strconv.ParseUint(s, 10, 31)
	return uint32(n), err == nil
}
