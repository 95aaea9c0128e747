package sandbox

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"bakefarm/compose"

	"golang.org/x/sys/unix"
)

// Change is an entry of the layer that commands made.
type Change struct {
	compose.Entry

	// Above: the directory is as it was, and comes along because something below it has changed. Tools that unpack a
	// layer into a tree of its own make up the directories that it lacks, and hide the real one's owner and mode.
	Above bool
}

// Changes calls fn with every entry of the layer that the commands made, in an order that depends on the paths alone:
// directories before what they hold, names bytewise. content is nil for everything but files.
//
// The layer is an OCI one: ".wh.NAME" stands for what was removed, and ".wh..wh..opq" follows a directory that was
// removed and made again. It is read from the overlay's upper layer, and what differs from the lower layers in
// nothing but its time, or in nothing at all, is left out: files that were touched, or written as they were, and
// directories with nothing else in them. Times are the machine's; sockets have no entries.
func (root *Root) Changes(ctx context.Context, fn func(c Change, content io.Reader) error) (err error) {
	if err := root.take(ctx); err != nil {
		return err
	}
	defer root.give()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	read, write := io.Pipe()
	done := make(chan error, 1)
	go func() {
		_, err := root.r.call(ctx, request{Diff: &diffRequest{Root: root.dir, Lowers: root.lowers()}}, stdio{out: write})
		write.CloseWithError(err) // io.EOF when nil
		done <- err
	}()
	err = eachEntry(read, fn)
	read.CloseWithError(err)
	if err != nil {
		cancel() // the helper has more to say, and nobody listens
		if helper := <-done; helper != nil && ctx.Err() == nil {
			return helper
		}
		return err
	}
	return <-done
}

// eachEntry reads the helper's stream.
func eachEntry(r io.Reader, fn func(c Change, content io.Reader) error) error {
	for entries := tar.NewReader(r); ; {
		h, err := entries.Next()
		if err == io.EOF {
			_, err := io.Copy(io.Discard, r)
			return err
		}
		if err != nil {
			return err
		}
		c := Change{Entry: compose.EntryOf(h)}
		if _, c.Above = c.Xattrs[aboveMark]; c.Above {
			delete(c.Xattrs, aboveMark)
		}
		var content io.Reader
		if c.Type == tar.TypeReg {
			content = entries
		}
		if err := fn(c, content); err != nil {
			return err
		}
	}
}

// diffRequest: write the changes of a root to standard output, as a tar.
type diffRequest struct {
	Root   string
	Lowers []string
}

func (req *diffRequest) serve(user bool) error {
	lower, upper := filepath.Join(req.Root, "lower"), filepath.Join(req.Root, "upper")
	if err := lowerView(req.Lowers, lower, user); err != nil {
		return err
	}
	d := differ{w: os.Stdout, standIns: filepath.Join(req.Root, standInsDir), opaque: overlayXattr(user) + "opaque", first: map[inode]string{}}
	up, err := unix.Open(upper, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	low, err := unix.Open(lower, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return errors.Join(err, unix.Close(up))
	}
	if err := d.dir("", os.NewFile(uintptr(up), upper), os.NewFile(uintptr(low), lower)); err != nil {
		return err
	}
	_, err = d.w.Write(make([]byte, compose.TrailerSize))
	return err
}

type inode struct{ dev, ino uint64 }

// aboveMark is the attribute that stands for Change.Above on the way from the helper.
const aboveMark = "bakefarm.above"

// differ writes the upper layer's entries. Names are looked up in open directories and links never followed, so that
// nothing is found but what the two trees have at the same place.
type differ struct {
	w        io.Writer
	standIns string // directory
	opaque   string
	first    map[inode]string // the first path of files with several names
	above    []compose.Entry  // directories that lead to where it is, and that have no entry yet
}

// write writes an entry, after the directories above it that have none yet.
func (d *differ) write(e compose.Entry, content io.Reader) error {
	for _, dir := range d.above {
		dir.Xattrs = maps.Clone(dir.Xattrs)
		if dir.Xattrs == nil {
			dir.Xattrs = map[string]string{}
		}
		dir.Xattrs[aboveMark] = "y"
		if err := compose.WriteEntry(d.w, dir, nil); err != nil {
			return err
		}
	}
	d.above = d.above[:0]
	return compose.WriteEntry(d.w, e, content)
}

// node is one name in one tree.
type node struct {
	compose.Entry
	at    string // a path to it that no symbolic link is part of
	inode inode
	links int
}

// dir writes what a directory holds and closes both. low is nil where the lower layers have no such directory.
func (d *differ) dir(prefix string, up, low *os.File) (err error) {
	defer func() {
		err = errors.Join(err, up.Close())
		if low != nil {
			err = errors.Join(err, low.Close())
		}
	}()
	names, err := up.Readdirnames(-1)
	if err != nil {
		return err
	}
	slices.Sort(names)
	for _, name := range names {
		if err := d.name(path.Join(prefix, name), name, up, low); err != nil {
			return fmt.Errorf("%.200q: %w", path.Join(prefix, name), err)
		}
	}
	return nil
}

func (d *differ) name(p, name string, up, low *os.File) error {
	if strings.HasPrefix(name, whiteoutPrefix) {
		return fmt.Errorf("names that begin with %q can't be in a layer: they mean removed files", whiteoutPrefix)
	}
	now, err := lookUp(up, name, p)
	if err != nil {
		return err
	}
	var before *node
	if low != nil {
		if before, err = lookUp(low, name, p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	switch {
	case now.Type == tar.TypeChar && now.Major == 0 && now.Minor == 0: // an overlay's mark
		if before == nil {
			return nil // a stand-in, or something that a command made and removed
		}
		return d.write(compose.Entry{
			Path: path.Join(path.Dir(p), whiteoutPrefix+name), Type: tar.TypeReg, ModTime: compose.ModTime,
		}, nil)
	case now.Type == 0:
		return nil // a socket
	case now.Type == tar.TypeDir:
		return d.subdir(now, before, name, up, low)
	}
	return d.leaf(now, before)
}

// subdir writes a directory and what it holds.
func (d *differ) subdir(now, before *node, name string, up, low *os.File) error {
	opaque := make([]byte, 1)
	n, err := unix.Lgetxattr(now.at, d.opaque, opaque)
	replaced := err == nil && n == 1 && opaque[0] == 'y'
	wasDir := before != nil && before.Type == tar.TypeDir
	if !wasDir || replaced || !sameAttributes(now.Entry, before.Entry) {
		if err := d.write(now.Entry, nil); err != nil {
			return err
		}
	} else {
		d.above = append(d.above, now.Entry)
		defer func() { // if it is still there, nothing below has changed
			if n := len(d.above); n > 0 {
				d.above = d.above[:n-1]
			}
		}()
	}
	if wasDir && replaced { // overlays mark every new directory
		if err := d.write(compose.Entry{
			Path: path.Join(now.Path, opaqueName), Type: tar.TypeReg, ModTime: compose.ModTime,
		}, nil); err != nil {
			return err
		}
	}
	below, err := openDir(up, name)
	if err != nil {
		return err
	}
	var lowBelow *os.File
	if wasDir && !replaced {
		if lowBelow, err = openDir(low, name); err != nil {
			return errors.Join(err, below.Close())
		}
	}
	return d.dir(now.Path, below, lowBelow)
}

// leaf writes anything else, unless it is what the lower layers have.
func (d *differ) leaf(now, before *node) error {
	if now.links > 1 {
		// All names of a file are written: whether another of them changed is not known here.
		if first, ok := d.first[now.inode]; ok {
			e := now.Entry
			e.Type, e.Link, e.Size, e.Xattrs = tar.TypeLink, first, 0, nil
			return d.write(e, nil)
		}
		d.first[now.inode] = now.Path
	} else if before != nil && sameAttributes(now.Entry, before.Entry) {
		same := now.Type != tar.TypeReg
		if !same {
			var err error
			if same, err = sameContent(now.at, before.at); err != nil {
				return err
			}
		}
		if same {
			return nil
		}
	}
	if now.Type != tar.TypeReg {
		return d.write(now.Entry, nil)
	}
	if is, err := isStandIn(d.standIns, now.Path, now.at); err != nil || is {
		return err
	}
	f, err := os.Open(now.at)
	if err != nil {
		return err
	}
	return errors.Join(d.write(now.Entry, f), f.Close())
}

// sameAttributes compares everything but time and content.
func sameAttributes(a, b compose.Entry) bool {
	return a.Type == b.Type && a.Mode == b.Mode && a.UID == b.UID && a.GID == b.GID && a.Size == b.Size && a.Link == b.Link &&
		a.Major == b.Major && a.Minor == b.Minor && maps.Equal(a.Xattrs, b.Xattrs)
}

func sameContent(a, b string) (same bool, err error) {
	f, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer f.Close()
	g, err := os.Open(b)
	if err != nil {
		return false, err
	}
	defer g.Close()
	for x, y := make([]byte, 64<<10), make([]byte, 64<<10); ; {
		n, err1 := io.ReadFull(f, x)
		m, err2 := io.ReadFull(g, y)
		if !bytes.Equal(x[:n], y[:m]) {
			return false, nil
		}
		for _, err := range []error{err1, err2} {
			if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
				return false, err
			}
		}
		if err1 != nil || err2 != nil {
			return err1 == err2, nil
		}
	}
}

// lookUp describes a name in an open directory. Its type is 0 when tars have none for it.
func lookUp(dir *os.File, name, p string) (*node, error) {
	var st unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, err
	}
	n := &node{
		Entry: compose.Entry{Path: p, Mode: int64(st.Mode & 0o7777), UID: int(st.Uid), GID: int(st.Gid), ModTime: st.Mtim.Sec},
		at:    procPath(dir) + "/" + name,
		inode: inode{st.Dev, st.Ino}, links: int(st.Nlink),
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Type, n.Size = tar.TypeReg, st.Size
	case unix.S_IFDIR:
		n.Type = tar.TypeDir
	case unix.S_IFLNK:
		n.Type = tar.TypeSymlink
		target, err := os.Readlink(n.at)
		if err != nil {
			return nil, err
		}
		n.Link = target
	case unix.S_IFIFO:
		n.Type = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		n.Type = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			n.Type = tar.TypeBlock
		}
		n.Major, n.Minor = int64(unix.Major(uint64(st.Rdev))), int64(unix.Minor(uint64(st.Rdev)))
	}
	if n.Type == tar.TypeReg || n.Type == tar.TypeDir { // the only ones that may have any of those that are kept
		xattrs, err := readXattrs(n.at)
		if err != nil {
			return nil, err
		}
		n.Xattrs = xattrs
	}
	return n, nil
}

func openDir(in *os.File, name string) (*os.File, error) {
	fd, err := unix.Openat(int(in.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// procPath is a path to an open directory, for calls that want paths.
func procPath(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// readXattrs reads the extended attributes that are part of an image; nil when there are none. A last component that is
// a symbolic link is followed: callers have looked before, and nobody else is in these trees.
func readXattrs(at string) (map[string]string, error) {
	size, err := unix.Listxattr(at, nil)
	if errors.Is(err, unix.ENOTSUP) || err == nil && size == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	list := make([]byte, size)
	if size, err = unix.Listxattr(at, list); err != nil {
		return nil, fmt.Errorf("list extended attributes: %w", err)
	}
	var xattrs map[string]string
	for name := range strings.SplitSeq(strings.TrimRight(string(list[:size]), "\x00"), "\x00") {
		if !kept(name) {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Getxattr(at, name, value)
		if err != nil {
			return nil, fmt.Errorf("extended attribute %s: %w", name, err)
		}
		if xattrs == nil {
			xattrs = map[string]string{}
		}
		xattrs[name] = string(value[:n])
	}
	return xattrs, nil
}
