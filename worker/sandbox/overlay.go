package sandbox

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// overlayXattr is the prefix of the attributes in which overlays keep their marks: users can't write trusted ones.
func overlayXattr(user bool) string {
	if user {
		return "user.overlay."
	}
	return "trusted.overlay."
}

// overlay mounts layers, lowest first, with an upper layer in dir/upper, at dir/merged. The working directory is the
// Runner's, so that the paths are short enough for many.
//
// Every feature is off that would make the upper layer mean something only together with its lower ones: redirect_dir
// and metacopy (a renamed directory is then EXDEV to rename(2), and mv and dpkg copy it), index. volatile leaves out
// syncs, which are most of the time that dpkg takes: what's in the upper layer need not survive the machine.
func overlay(lowers []string, dir string, user bool) error {
	// A volatile overlay that was not unmounted leaves this, so that nobody trusts it after a crash. Processes that are
	// killed leave it as well, and there is nothing wrong with what they wrote.
	if err := os.RemoveAll(dir + "/work/work/incompat"); err != nil {
		return err
	}
	options := []string{lowerOption(lowers), "upperdir=" + dir + "/upper", "workdir=" + dir + "/work", "volatile"}
	return mountOverlay(dir+"/merged", append(options, features(user)...))
}

// lowerView mounts layers, lowest first, read-only.
func lowerView(lowers []string, at string, user bool) error {
	if len(lowers) == 1 { // fewer than two make no overlay
		if err := unix.Mount(lowers[0], at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind the only layer: %w", err)
		}
		return nil
	}
	return mountOverlay(at, append([]string{lowerOption(lowers)}, features(user)...))
}

func features(user bool) []string {
	if user {
		return []string{"userxattr"} // implies the others
	}
	return []string{"index=off", "metacopy=off", "redirect_dir=off"}
}

// lowerOption names layers as overlays want them: the uppermost first.
func lowerOption(lowers []string) string {
	var b strings.Builder
	for i := len(lowers) - 1; i >= 0; i-- {
		b.WriteString(lowers[i])
		if i > 0 {
			b.WriteByte(':')
		}
	}
	return "lowerdir=" + b.String()
}

func mountOverlay(at string, options []string) error {
	all := strings.Join(options, ",")
	if len(all) >= os.Getpagesize() {
		return fmt.Errorf("too many layers: their names take %d bytes, and mount options have a page of %d", len(all), os.Getpagesize())
	}
	err := unix.Mount("overlay", at, "overlay", 0, all)
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENODEV):
		return fmt.Errorf("mount overlay: %w: the kernel has none: modprobe overlay", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("mount overlay: %w: user namespaces may since Linux 5.11, unless the machine forbids it", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("mount overlay: %w: is the directory on a filesystem that is an overlay itself, or has no extended attributes?", err)
	}
	return fmt.Errorf("mount overlay: %w", err)
}
