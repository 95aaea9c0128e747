package deb

import (
	"archive/tar"
	"bytes"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"

	"github.com/opencontainers/go-digest"
)

// Options say what is converted, and how.
type Options struct {
	SHA256        digest.Digest // of the whole .deb; always verified
	Emit          func(p compose.Piece, data []byte) error
	Plain         io.Writer     // if set, also gets the member's uncompressed bytes: a worker's cache
	Decompressors Decompressors // nil: PureGo
	Limits        Limits        // zero: DefaultLimits
	Parallel      int           // segments compressed at once; 0: the number of processors
}

// Result is a converted package.
type Result struct {
	Member compose.Member
	Record *Record
}

// Convert reads a .deb of size bytes once, from its first byte to its last, and writes its member's pieces to o.Emit as
// they get ready. Directories go to the Record's inventory, everything else to the member, in data.tar's order.
//
// When it returns an error, be it at the very end because the digest is wrong (ErrDigest), everything that was emitted
// must be thrown away.
//
// Refused, whatever the digest: absolute paths, "..", paths that are there twice, entries below a path that is a
// symbolic link or any other non-directory, hard links to what the package does not have before them, devices, sparse
// files, unknown types, anything over the Limits (ErrLimit).
func Convert(r io.Reader, size int64, o Options) (Result, error) {
	if o.Decompressors == nil {
		o.Decompressors = PureGo()
	}
	if o.Limits == (Limits{}) {
		o.Limits = DefaultLimits
	}
	d, err := NewReader(r, size, o.SHA256, o.Decompressors, o.Limits)
	if err != nil {
		return Result{}, err
	}
	c := &conversion{limits: o.Limits, date: d.Date, kinds: map[string]kind{}, rawDirs: map[string]bool{}, dirs: map[string]compose.Entry{}, aliases: map[string]bool{}}
	if err := c.control(d); err != nil {
		return Result{}, fmt.Errorf("control.tar: %w", err)
	}
	w := compose.NewMemberWriter(o.Parallel, o.Emit)
	defer w.Abort()
	c.out = w
	if o.Plain != nil {
		c.out = io.MultiWriter(w, o.Plain)
	}
	if err := c.data(d); err != nil {
		return Result{}, fmt.Errorf("%s: data.tar: %w", c.rec.Package, err)
	}
	m, err := w.Close()
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", c.rec.Package, err)
	}
	if err := d.Close(); err != nil {
		return Result{}, fmt.Errorf("%s: %w", c.rec.Package, err)
	}
	return Result{Member: m, Record: c.record()}, nil
}

// kind is what stands at a path of the package.
type kind byte

const (
	isParent kind = iota + 1 // has something below it, but no entry so far
	isDir
	isFile // or a hard link to one: may be linked to
	isOther
)

// conversion is one run of Convert.
type conversion struct {
	limits Limits
	date   int64
	out    io.Writer
	rec    Record

	conffiles []string          // as the package lists them: absolute, not merged
	hashes    map[string]string // MD5 in hex of the files whose hash is wanted, by merged path
	hashAll   bool              // the package has no md5sums file: dpkg makes one, so do we
	kinds     map[string]kind   // by merged path
	rawDirs   map[string]bool   // by path as in the archive: two of them may be one when merged
	dirs      map[string]compose.Entry
	aliases   map[string]bool
	entries   int
	names     int64
}

// control reads the control archive into the record.
func (c *conversion) control(d *Reader) error {
	r, err := d.Control()
	if err != nil {
		return err
	}
	control, files, err := readControl(r)
	if err := finish(r, err); err != nil {
		return err
	}
	fields, err := ParseParagraph(control)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	c.rec = Record{
		Package: get(fields, "Package"), Version: get(fields, "Version"), Architecture: get(fields, "Architecture"),
		MultiArch: get(fields, "Multi-Arch"), Date: c.date, Control: control, Files: files,
	}
	if err := c.rec.validate(); err != nil {
		return err
	}
	c.hashAll = true
	for _, f := range files {
		switch f.Name {
		case "md5sums":
			c.hashAll = false
		case "conffiles":
			if c.conffiles, err = conffileNames(f.Data); err != nil {
				return err
			}
		}
	}
	c.hashes = map[string]string{}
	for _, p := range c.conffiles {
		c.hashes[mergedName(p)] = ""
	}
	return nil
}

// data streams the data archive into the member.
func (c *conversion) data(d *Reader) error {
	r, err := d.Data()
	if err != nil {
		return err
	}
	tr := tar.NewReader(r)
	for err == nil {
		var h *tar.Header
		if h, err = tr.Next(); err == nil {
			err = c.entry(h, tr)
		}
	}
	if err == io.EOF {
		err = nil
	}
	return finish(r, err)
}

// entry takes one entry of the data archive.
func (c *conversion) entry(h *tar.Header, content io.Reader) error {
	if c.entries++; c.entries > c.limits.Entries {
		return fmt.Errorf("%w: more than %d entries", ErrLimit, c.limits.Entries)
	}
	c.names += int64(len(h.Name) + len(h.Linkname))
	for k, v := range h.PAXRecords {
		c.names += int64(len(k) + len(v))
	}
	if c.names > c.limits.Names {
		return fmt.Errorf("%w: names and attributes of more than %d bytes", ErrLimit, c.limits.Names)
	}
	raw, err := rawPath(h.Name)
	if err != nil {
		return err
	}
	if raw == "." {
		if h.Typeflag != tar.TypeDir {
			return fmt.Errorf("%q: the root is no directory", h.Name)
		}
		if c.rawDirs[raw] {
			return fmt.Errorf("%q is there twice", h.Name)
		}
		c.rawDirs[raw] = true
		c.rec.List = append(c.rec.List, "/.")
		return nil
	}
	e, err := c.describe(raw, h)
	if err != nil {
		return err
	}
	dropped, err := c.place(raw, e)
	if err != nil {
		return err
	}
	c.rec.List = append(c.rec.List, "/"+raw)
	switch {
	case dropped:
		return nil
	case e.Type == tar.TypeDir:
		if _, ok := c.dirs[e.Path]; !ok {
			c.dirs[e.Path] = e
		}
		return nil
	}
	c.rec.Inventory.Paths = append(c.rec.Inventory.Paths, e.Path)
	return c.write(e, content)
}

// write writes the entry to the member, and hashes it when dpkg will want to know its hash.
func (c *conversion) write(e compose.Entry, content io.Reader) error {
	if e.Type != tar.TypeReg {
		if sum := c.hashes[e.Link]; e.Type == tar.TypeLink && sum != "" {
			c.hashes[e.Path] = sum
		}
		return compose.WriteEntry(c.out, e, nil)
	}
	var sum hash.Hash
	if _, wanted := c.hashes[e.Path]; wanted || c.hashAll {
		sum = md5.New() // dpkg's choice; nothing is secured by it
		content = io.TeeReader(content, sum)
	}
	if err := compose.WriteEntry(c.out, e, content); err != nil {
		return err
	}
	if sum != nil {
		c.hashes[e.Path] = hex.EncodeToString(sum.Sum(nil))
	}
	return nil
}

// describe makes the entry as it will stand in the layer.
func (c *conversion) describe(raw string, h *tar.Header) (compose.Entry, error) {
	merged, alias := merge(raw)
	if alias != "" {
		c.aliases[alias] = true
	}
	e := compose.Entry{Path: merged, Type: h.Typeflag, Mode: h.Mode & 0o7777, UID: h.Uid, GID: h.Gid, ModTime: c.clamp(h.ModTime.Unix())}
	for k, v := range h.PAXRecords {
		if strings.HasPrefix(k, "GNU.sparse.") {
			return e, fmt.Errorf("%s: is a sparse file, which dpkg does not know", raw)
		}
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		e.Size = h.Size
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		e.Link = h.Linkname
	case tar.TypeLink:
		target, err := rawPath(h.Linkname)
		if err != nil {
			return e, fmt.Errorf("%s: hard link: %w", raw, err)
		}
		e.Link, _ = merge(target)
		if c.kinds[e.Link] != isFile {
			return e, fmt.Errorf("%s: hard link to %s, which is no file that the package has before it", raw, target)
		}
	case tar.TypeChar, tar.TypeBlock:
		return e, fmt.Errorf("%s: is a device; packages make devices in maintainer scripts, or not at all", raw)
	default:
		return e, fmt.Errorf("%s: entry type %q is none that dpkg knows", raw, h.Typeflag)
	}
	return e, e.Validate()
}

// place checks that the entry fits to those before it. It reports true for an entry that the layer's head makes: a
// merged-/usr link.
func (c *conversion) place(raw string, e compose.Entry) (dropped bool, err error) {
	top := !strings.Contains(raw, "/")
	if top && raw != e.Path && e.Type != tar.TypeDir {
		if e.Type != tar.TypeSymlink || strings.TrimPrefix(e.Link, "/") != e.Path {
			return false, fmt.Errorf("/%s: is neither a directory nor the merged-/usr link to %s", raw, e.Path)
		}
		if c.rawDirs[raw] {
			return false, fmt.Errorf("/%s is there twice", raw)
		}
		c.rawDirs[raw] = true
		return true, c.parents(e.Path + "/.")
	}
	k := isOther
	switch e.Type {
	case tar.TypeDir:
		k = isDir
		if c.rawDirs[raw] {
			return false, fmt.Errorf("/%s is there twice", raw)
		}
		c.rawDirs[raw] = true
	case tar.TypeReg, tar.TypeLink:
		k = isFile
	}
	switch have := c.kinds[e.Path]; {
	case have == 0:
	case have == isParent && k == isDir, have == isDir && k == isDir: // two directories may be one when merged
	case have == isParent || have == isDir:
		return false, fmt.Errorf("/%s is no directory, but was one before", raw)
	default:
		return false, fmt.Errorf("/%s is there twice (as /%s on a merged-/usr system)", raw, e.Path)
	}
	if err := c.parents(e.Path); err != nil {
		return false, err
	}
	c.kinds[e.Path] = k
	return false, nil
}

// parents notes the directories above p, and refuses those that are something else.
func (c *conversion) parents(p string) error {
	for parent := path.Dir(p); parent != "."; parent = path.Dir(parent) {
		switch c.kinds[parent] {
		case isParent, isDir:
			return nil // as are its own
		case 0:
			c.kinds[parent] = isParent
		default:
			return fmt.Errorf("/%s lies below /%s, which is no directory", p, parent)
		}
	}
	return nil
}

// clamp bounds a time by the package's own date, as dpkg-deb does for what is newer.
func (c *conversion) clamp(t int64) int64 {
	if c.date > 0 {
		t = min(t, c.date)
	}
	return max(t, 0)
}

// record completes the record.
func (c *conversion) record() *Record {
	r := &c.rec
	if len(r.List) == 0 || r.List[0] != "/." {
		r.List = slices.Insert(r.List, 0, "/.")
	}
	for _, p := range c.conffiles {
		if sum := c.hashes[mergedName(p)]; sum != "" {
			r.Conffiles = append(r.Conffiles, Conffile{Path: p, MD5: sum})
		}
	}
	if c.hashAll {
		c.addMD5Sums()
	}
	for p, k := range c.kinds {
		if k == isParent {
			c.dirs[p] = compose.Dir(p)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(c.dirs)) {
		r.Inventory.Dirs = append(r.Inventory.Dirs, c.dirs[p])
	}
	r.Aliases = slices.Sorted(maps.Keys(c.aliases))
	return r
}

// addMD5Sums makes the md5sums file that dpkg makes when a package brings none: of everything but conffiles. It may be
// empty, and is there all the same: dpkg --audit misses it else.
func (c *conversion) addMD5Sums() {
	var sums bytes.Buffer
	for _, p := range c.rec.List {
		if sum := c.hashes[mergedName(p)]; sum != "" && !slices.Contains(c.conffiles, p) {
			fmt.Fprintf(&sums, "%s  %s\n", sum, p[1:])
		}
	}
	f := ControlFile{Name: "md5sums", Data: sums.Bytes()}
	i, _ := slices.BinarySearchFunc(c.rec.Files, f, func(a, b ControlFile) int { return strings.Compare(a.Name, b.Name) })
	c.rec.Files = slices.Insert(c.rec.Files, i, f)
}

// mergedName is the merged path of a path as dpkg writes it, with a slash in front.
func mergedName(p string) string {
	merged, _ := merge(p[1:])
	return merged
}

// rawPath is a name in the data archive without its "./" and a directory's trailing slash; "." for the root.
func rawPath(name string) (string, error) {
	if strings.HasPrefix(name, "/") {
		return "", fmt.Errorf("path %.100q: is absolute, want ./", name)
	}
	p := strings.TrimSuffix(strings.TrimPrefix(name, "./"), "/")
	if name == "." || name == "./" {
		return ".", nil
	}
	return p, compose.ValidatePath(p)
}
