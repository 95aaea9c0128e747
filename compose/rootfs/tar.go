package rootfs

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"
)

// MaxTar bounds an uncompressed tar, in bytes: what unpacks to more is no system but a bomb.
const MaxTar = 16 << 30

// ErrTar means that a tar holds what no layer of ours may.
var ErrTar = errors.New("is no root file system")

// Contents is what a tar of a root file system holds, once its entries are settled:
//
//   - of entries with the same path the last one counts, as tar unpacks them;
//   - device nodes and everything else below /dev but directories and links are left out: what runs the image brings its
//     own /dev. Elsewhere they are refused;
//   - names that lead out of the root, names that mean something else in a layer (.wh.), and hard links to what does not
//     come before are refused;
//   - of times there is the modification time, in whole seconds; user and group have numbers, no names.
type Contents struct {
	Dirs  []compose.Entry // sorted by path
	Files int             // entries that are no directories
	wins  map[string]int  // non-directories: the number of the entry that counts
}

// Scan reads a tar through, to settle which of its entries count.
func Scan(r io.Reader) (*Contents, error) {
	c := &Contents{wins: map[string]int{}}
	dirs := map[string]compose.Entry{}
	err := eachEntry(r, func(n int, e compose.Entry, _ io.Reader) error {
		if e.Type == tar.TypeDir {
			if _, file := c.wins[e.Path]; file {
				return errors.New("is a directory here, and something else before: which of them was meant?")
			}
			dirs[e.Path] = e
			return nil
		}
		if _, dir := dirs[e.Path]; dir {
			return errors.New("is a directory before, and something else here: which of them was meant?")
		}
		if _, ok := c.wins[e.Link]; e.Type == tar.TypeLink && !ok {
			return fmt.Errorf("is a hard link to %.200q, which does not come before it", e.Link)
		}
		c.wins[e.Path] = n
		if len(c.wins)+len(dirs) > MaxEntries {
			return fmt.Errorf("there are more than %d files", MaxEntries)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(c.wins) == 0 {
		return nil, fmt.Errorf("%w: it has no file in it", ErrTar)
	}
	for p := range c.wins {
		if err := c.parents(p, dirs); err != nil {
			return nil, err
		}
	}
	for p := range maps.Clone(dirs) {
		if err := c.parents(p, dirs); err != nil {
			return nil, err
		}
	}
	c.Dirs = slices.Collect(maps.Values(dirs))
	slices.SortFunc(c.Dirs, func(a, b compose.Entry) int { return strings.Compare(a.Path, b.Path) })
	c.Files = len(c.wins)
	return c, nil
}

// parents adds the directories above a path that have no entry, as tools make them.
func (c *Contents) parents(p string, dirs map[string]compose.Entry) error {
	for dir := path.Dir(p); dir != "."; dir = path.Dir(dir) {
		if _, file := c.wins[dir]; file {
			return fmt.Errorf("%w: %.200q: %.200q is no directory", ErrTar, p, dir)
		}
		if _, ok := dirs[dir]; !ok {
			dirs[dir] = compose.Dir(dir)
		}
	}
	return nil
}

// Write writes the entries of the tar that count, but for directories, to w: a member of a layer. r must read the same
// bytes as for Scan.
func (c *Contents) Write(w io.Writer, r io.Reader) error {
	return eachEntry(r, func(n int, e compose.Entry, content io.Reader) error {
		if e.Type == tar.TypeDir || c.wins[e.Path] != n {
			return nil
		}
		return compose.WriteEntry(w, e, content)
	})
}

// eachEntry reads a tar, and gives the entries that may be in a layer to fn with their numbers, from 1.
func eachEntry(r io.Reader, fn func(n int, e compose.Entry, content io.Reader) error) error {
	bounded := &io.LimitedReader{R: r, N: MaxTar + 1}
	t := tar.NewReader(bounded)
	for n := 1; ; n++ {
		h, err := t.Next()
		if bounded.N <= 0 {
			return fmt.Errorf("%w: it unpacks to more than %d bytes", ErrTar, int64(MaxTar))
		}
		if errors.Is(err, io.EOF) {
			_, err := io.Copy(io.Discard, bounded) // padding, and what the decompressor checks at the end
			return err
		}
		if err == nil && n > maxSeen {
			err = fmt.Errorf("more than %d entries", maxSeen)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrTar, err)
		}
		e, keep, err := entryOf(h)
		if err == nil && keep {
			err = fn(n, e, t)
		}
		if err != nil {
			return fmt.Errorf("%w: %.200q: %w", ErrTar, h.Name, err)
		}
	}
}

// entryOf makes an entry of a layer out of a header; keep says whether it belongs into one.
func entryOf(h *tar.Header) (e compose.Entry, keep bool, err error) {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return e, false, nil
	}
	name := strings.TrimSuffix(strings.TrimPrefix(h.Name, "./"), "/")
	if name = strings.TrimLeft(name, "/"); name == "" || name == "." {
		return e, false, nil // the root's own
	}
	if clean := path.Clean(name); clean != name && !slices.Contains(strings.Split(name, "/"), "..") {
		name = clean
	}
	e = compose.EntryOf(h)
	e.Path, e.Mode = name, e.Mode&0o7777
	switch h.Typeflag {
	case tar.TypeReg, tar.TypeGNUSparse:
		e.Type = tar.TypeReg
	case tar.TypeLink:
		e.Link = strings.TrimLeft(strings.TrimPrefix(h.Linkname, "./"), "/")
		e.Size = 0
	case tar.TypeSymlink, tar.TypeDir, tar.TypeFifo, tar.TypeChar, tar.TypeBlock:
		e.Size = 0
	default:
		return e, false, fmt.Errorf("type %q: want files, directories, links, devices or fifos", h.Typeflag)
	}
	if e.Type == tar.TypeDir || e.Type == tar.TypeFifo || e.Type == tar.TypeReg {
		e.Link = ""
	}
	if e.Type != tar.TypeChar && e.Type != tar.TypeBlock {
		e.Major, e.Minor = 0, 0
	}
	if err := e.Validate(); err != nil {
		return e, false, err
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, whiteoutPrefix) {
			return e, false, fmt.Errorf("a name that begins with %s means a deleted file in a layer", whiteoutPrefix)
		}
	}
	device := e.Type == tar.TypeChar || e.Type == tar.TypeBlock
	if strings.HasPrefix(name, "dev/") && e.Type != tar.TypeDir && e.Type != tar.TypeSymlink {
		return e, false, nil
	}
	if device {
		return e, false, fmt.Errorf("is a device node (%d:%d) outside /dev: leave it out of the tar", e.Major, e.Minor)
	}
	return e, true, nil
}
