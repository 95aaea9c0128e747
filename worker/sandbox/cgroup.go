package sandbox

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupMount = "/sys/fs/cgroup"

// cgroupOf is the cgroup below which a directory's containers have theirs, so that leftovers are known by it.
func cgroupOf(dir string) string {
	sum := sha256.Sum256([]byte(dir))
	return "/bakefarm-sandbox-" + hex.EncodeToString(sum[:6])
}

// removeCgroups removes a cgroup and those below it from every hierarchy: the only one of version 2, all of version 1.
// Their processes have been killed by then, but may take a moment to end.
func removeCgroups(group string) error {
	if group == "" {
		return nil
	}
	trees, err := filepath.Glob(cgroupMount + "/*" + group)
	if err != nil {
		return err
	}
	var errs []error
	for _, tree := range append(trees, cgroupMount+group) {
		errs = append(errs, removeCgroup(tree))
	}
	return errors.Join(errs...)
}

func removeCgroup(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeCgroup(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := unix.Rmdir(dir)
		switch {
		case err == nil, errors.Is(err, unix.ENOENT):
			return nil
		case !errors.Is(err, unix.EBUSY) || time.Now().After(deadline):
			return fmt.Errorf("remove cgroup %s: %w", dir, err)
		}
	}
}
