package sandbox

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"bakefarm/compose"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// unpackRequest: unpack the tar on standard input into a directory, as a layer for overlays.
type unpackRequest struct {
	Into     string // empty directory, relative
	MaxBytes int64  // of content
}

// Bounds of a layer.
const (
	maxEntries  = 4 << 20
	inMemory    = 1 << 20 // files up to this size are made by several goroutines
	pendingMade = 64      // files read ahead of them
)

// Names that have a meaning of their own in a layer (OCI image-spec, layer.md).
const (
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
	reservedPrefix = ".wh..wh."
)

func (req *unpackRequest) serve(user bool) (int64, error) {
	// From here on the layer is all that there is: no symbolic link leads out of it, and no name does.
	if err := unix.Chroot(req.Into); err != nil {
		return 0, fmt.Errorf("chroot: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return 0, err
	}
	u := unpacker{user: user, maxBytes: req.MaxBytes, made: map[string]byte{}, real: map[string]string{".": "."}, dirs: map[string]*tar.Header{}}
	if err := u.run(os.Stdin); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrLayer, err)
	}
	_, err := io.Copy(io.Discard, os.Stdin) // padding after the tar's end is part of what the digest is of
	return u.bytes, err
}

// unpacker makes files out of a tar. One goroutine reads and makes everything but the files that fit into memory, which
// several make: a tar's order counts only where a path is made twice, and the reader waits for them before that.
type unpacker struct {
	user     bool
	maxBytes int64
	bytes    int64

	made  map[string]byte        // type of everything made, by its path without symbolic links
	real  map[string]string      // directories as tars name them → without symbolic links
	dirs  map[string]*tar.Header // attributes that directories get in the end: until then files are made in them
	links []*tar.Header          // hard links are made when all files are; Name is without symbolic links
	files errgroup.Group
}

// whiteout is the made type of a path that a layer removes. Tars know no such type.
const whiteout = 'w'

func (u *unpacker) run(r io.Reader) error {
	// One CPU reads, and decompresses on the caller's side; file systems make files on as many as there are.
	u.files.SetLimit(max(2, runtime.NumCPU()))
	entries := tar.NewReader(r)
	for n := 0; ; n++ {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err == nil && n == maxEntries {
			err = fmt.Errorf("more than %d entries", maxEntries)
		}
		if err == nil {
			err = u.entry(h, entries)
			if err != nil {
				err = fmt.Errorf("%.200q: %w", h.Name, err)
			}
		}
		if err != nil {
			return errors.Join(err, u.files.Wait())
		}
	}
	if err := u.files.Wait(); err != nil {
		return err
	}
	for _, h := range u.links {
		if err := u.link(h); err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
	}
	return u.finishDirs()
}

// entry makes one entry, or has it made.
func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := path.Clean(strings.TrimLeft(h.Name, "/"))
	if name == "." {
		if h.Typeflag == tar.TypeDir {
			u.dirs["."] = h
		}
		return nil
	}
	if err := compose.ValidatePath(name); err != nil {
		return err
	}
	parent, err := u.parent(path.Dir(name))
	if err != nil {
		return err
	}
	base := path.Base(name)
	if strings.HasPrefix(base, whiteoutPrefix) {
		return u.whiteout(parent, base)
	}
	name = path.Join(parent, base)
	if u.user && (h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock) {
		return nil // see the package comment
	}
	opaque, err := u.clear(name, h.Typeflag)
	if err != nil {
		return err
	}
	h.Name = name
	u.made[name] = h.Typeflag
	switch h.Typeflag {
	case tar.TypeDir:
		u.dirs[name] = h
		if err := os.Mkdir(name, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if opaque {
			return u.setOpaque(name)
		}
		return nil
	case tar.TypeReg:
		return u.file(h, content)
	case tar.TypeLink:
		u.links = append(u.links, h)
		return nil
	case tar.TypeSymlink:
		if err := os.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return attributes(h)
	case tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		kind := map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}[h.Typeflag]
		if h.Typeflag == tar.TypeChar && h.Devmajor == 0 && h.Devminor == 0 {
			return errors.New("device 0:0 is an overlay's own mark")
		}
		if err := unix.Mknod(name, kind, int(unix.Mkdev(uint32(h.Devmajor), uint32(h.Devminor)))); err != nil {
			return err
		}
		return attributes(h)
	}
	return fmt.Errorf("type %q: want files, directories, links, devices or fifos", h.Typeflag)
}

// parent makes a directory where there is none and returns its path without symbolic links.
func (u *unpacker) parent(dir string) (string, error) {
	if known, ok := u.real[dir]; ok {
		return known, nil
	}
	above, err := u.parent(path.Dir(dir))
	if err != nil {
		return "", err
	}
	found := path.Join(above, path.Base(dir))
	info, err := os.Lstat(found)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		u.made[found] = tar.TypeDir
		if err := os.Mkdir(found, 0o755); err != nil {
			return "", err
		}
	case err != nil:
		return "", err
	case info.Mode()&fs.ModeSymlink != 0:
		// As everything is below the root directory, so is what this finds.
		target, err := filepath.EvalSymlinks("/" + found)
		if err != nil {
			return "", err
		}
		if info, err := os.Stat(target); err != nil || !info.IsDir() {
			return "", fmt.Errorf("%s is a link to something that is no directory", found)
		}
		found = path.Join(".", target)
	case !info.IsDir():
		return "", fmt.Errorf("%s is no directory", found)
	}
	u.real[dir] = found
	return found, nil
}

// clear removes what an earlier entry of the tar made where another is to be, unless both are directories. opaque is
// whether a directory that comes there hides that of the layers below.
func (u *unpacker) clear(name string, kind byte) (opaque bool, err error) {
	before, ok := u.made[name]
	if !ok || before == tar.TypeDir && kind == tar.TypeDir {
		return false, nil
	}
	if err := u.files.Wait(); err != nil {
		return false, err
	}
	delete(u.made, name)
	u.links = slices.DeleteFunc(u.links, func(h *tar.Header) bool { return h.Name == name })
	if before == tar.TypeDir {
		for _, dirs := range []string{name, name + "/"} {
			for p := range u.dirs {
				if p == name || strings.HasPrefix(p, dirs) {
					delete(u.dirs, p)
				}
			}
		}
		for p := range u.made {
			if strings.HasPrefix(p, name+"/") {
				delete(u.made, p)
			}
		}
		u.links = slices.DeleteFunc(u.links, func(h *tar.Header) bool { return strings.HasPrefix(h.Name, name+"/") })
	}
	if before == tar.TypeDir || before == tar.TypeSymlink {
		u.real = map[string]string{".": "."}
	}
	return before == whiteout, os.RemoveAll(name)
}

// whiteout hides what layers below have. What this layer itself has stays, wherever in the tar it stands.
func (u *unpacker) whiteout(parent, base string) error {
	if base == opaqueName {
		return u.setOpaque(parent)
	}
	if strings.HasPrefix(base, reservedPrefix) {
		return nil // AUFS's own notes, which nobody reads
	}
	hidden := strings.TrimPrefix(base, whiteoutPrefix)
	if err := compose.ValidatePath(hidden); err != nil {
		return fmt.Errorf("whiteout: %w", err)
	}
	name := path.Join(parent, hidden)
	switch u.made[name] {
	case 0:
		u.made[name] = whiteout
		return unix.Mknod(name, unix.S_IFCHR, 0)
	case tar.TypeDir:
		return u.setOpaque(name)
	}
	return nil
}

func (u *unpacker) setOpaque(dir string) error {
	return unix.Lsetxattr(dir, overlayXattr(u.user)+"opaque", []byte("y"), 0)
}

// file makes a regular file: later by another goroutine, when it's small.
func (u *unpacker) file(h *tar.Header, content io.Reader) error {
	if u.bytes += h.Size; u.bytes > u.maxBytes || h.Size < 0 {
		return fmt.Errorf("more than %d bytes of content", u.maxBytes)
	}
	if h.Size > inMemory {
		return makeFile(h, func(f *os.File) error {
			_, err := io.CopyBuffer(struct{ io.Writer }{f}, content, make([]byte, inMemory))
			return err
		})
	}
	data := make([]byte, h.Size)
	if _, err := io.ReadFull(content, data); err != nil {
		return err
	}
	u.files.Go(func() error {
		err := makeFile(h, func(f *os.File) error {
			_, err := f.Write(data)
			return err
		})
		if err != nil {
			return fmt.Errorf("%.200q: %w", h.Name, err)
		}
		return nil
	})
	return nil
}

func makeFile(h *tar.Header, write func(*os.File) error) error {
	fd, err := unix.Open(h.Name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), h.Name)
	if err := errors.Join(write(f), f.Close()); err != nil {
		return err
	}
	return attributes(h)
}

// link makes a hard link. Its target must be in the same layer.
func (u *unpacker) link(h *tar.Header) error {
	target := path.Clean(strings.TrimLeft(h.Linkname, "/"))
	if err := compose.ValidatePath(target); err != nil {
		return fmt.Errorf("hard link: %w", err)
	}
	parent, err := u.parent(path.Dir(target))
	if err != nil {
		return err
	}
	target = path.Join(parent, path.Base(target))
	switch u.made[target] {
	case tar.TypeDir, whiteout:
		return fmt.Errorf("hard link to %q, which is no file", target)
	}
	if err := unix.Linkat(unix.AT_FDCWD, target, unix.AT_FDCWD, h.Name, 0); err != nil {
		return fmt.Errorf("hard link to %q, which must be in the same layer: %w", target, err)
	}
	return nil
}

// finishDirs gives directories their attributes, the deepest first, because a directory's own may forbid to look into it
// and changing what it holds changes its time.
func (u *unpacker) finishDirs() error {
	for name := range u.made {
		if u.made[name] == tar.TypeDir && u.dirs[name] == nil {
			u.dirs[name] = &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(compose.ModTime, 0)}
		}
	}
	if u.dirs["."] == nil {
		u.dirs["."] = &tar.Header{Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(compose.ModTime, 0)}
	}
	names := make([]string, 0, len(u.dirs))
	for name, h := range u.dirs {
		h.Name = name
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(-cmp.Compare(depth(a), depth(b)), strings.Compare(a, b)) })
	for _, name := range names {
		if err := attributes(u.dirs[name]); err != nil {
			return fmt.Errorf("%.200q: %w", name, err)
		}
	}
	return nil
}

func depth(p string) int {
	if p == "." {
		return -1
	}
	return strings.Count(p, "/")
}

// attributes sets owner, mode, extended attributes and time, in the one order that keeps all of them: a change of owner
// clears setuid bits and capabilities.
func attributes(h *tar.Header) error {
	if err := unix.Lchown(h.Name, h.Uid, h.Gid); err != nil {
		if errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("owner %d:%d is not among the IDs of this user namespace: a larger range in /etc/subuid and /etc/subgid mends that", h.Uid, h.Gid)
		}
		return fmt.Errorf("owner: %w", err)
	}
	if h.Typeflag != tar.TypeSymlink {
		if err := unix.Fchmodat(unix.AT_FDCWD, h.Name, uint32(h.Mode)&0o7777, 0); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
	}
	for key, value := range h.PAXRecords {
		name, ok := strings.CutPrefix(key, "SCHILY.xattr.")
		if !ok || !kept(name) {
			continue
		}
		if err := unix.Lsetxattr(h.Name, name, []byte(value), 0); err != nil {
			return fmt.Errorf("extended attribute %s: %w", name, err)
		}
	}
	at := []unix.Timespec{unix.NsecToTimespec(h.ModTime.UnixNano()), unix.NsecToTimespec(h.ModTime.UnixNano())}
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, h.Name, at, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// kept reports whether an extended attribute is part of an image: capabilities, access control lists and the users' own.
// Others belong to the machine (labels), and those of overlays would tell this one's kernel where to look for files.
func kept(xattr string) bool {
	switch xattr {
	case "security.capability", "system.posix_acl_access", "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(xattr, "user.") && !strings.HasPrefix(xattr, "user.overlay.") && !strings.HasPrefix(xattr, "user.fuseoverlayfs.")
}
