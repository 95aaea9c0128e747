package compose

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// ModTime is the modification time, in Unix seconds, of everything that has none of its own: app files, directories
// that nobody owns, files made for a set. It is 1980-01-02T00:00:00Z. Not the epoch, which GNU tar calls implausibly old
// and Go's net/http takes for "unknown"; and the second of January, because zip formats (jar, wheel) hold local time
// from 1980 on, and west of Greenwich the first is still 1979.
const ModTime = 315619200

const (
	blockSize    = 512
	maxPath      = 4096 // PATH_MAX
	maxComponent = 255  // NAME_MAX
	xattrPrefix  = "SCHILY.xattr."
)

var zeros [blockSize]byte

// Validate checks an entry's rules: a clean path, a known type, numbers in their ranges.
func (e Entry) Validate() error {
	if err := ValidatePath(e.Path); err != nil {
		return err
	}
	switch e.Type {
	case tar.TypeReg, tar.TypeDir, tar.TypeFifo:
		if e.Link != "" {
			return fmt.Errorf("%s: has a link target, but is no link", e.Path)
		}
	case tar.TypeLink:
		if err := ValidatePath(e.Link); err != nil {
			return fmt.Errorf("%s: hard link: %w", e.Path, err)
		}
	case tar.TypeSymlink:
		if e.Link == "" || len(e.Link) > maxPath || strings.ContainsRune(e.Link, 0) || !utf8.ValidString(e.Link) {
			return fmt.Errorf("%s: symbolic link target %.100q: want 1 to %d bytes of UTF-8 without NUL", e.Path, e.Link, maxPath)
		}
	case tar.TypeChar, tar.TypeBlock:
		if e.Major < 0 || e.Minor < 0 || e.Major > 0o7777777 || e.Minor > 0o7777777 {
			return fmt.Errorf("%s: device number %d:%d is out of range", e.Path, e.Major, e.Minor)
		}
	default:
		return fmt.Errorf("%s: unknown entry type %q", e.Path, e.Type)
	}
	switch {
	case e.Size < 0 || e.Size > 0 && e.Type != tar.TypeReg:
		return fmt.Errorf("%s: size %d: want 0 for everything but files", e.Path, e.Size)
	case e.Mode&^0o7777 != 0:
		return fmt.Errorf("%s: mode %o: want permission bits with setuid, setgid and sticky", e.Path, e.Mode)
	case e.UID < 0 || e.GID < 0 || e.UID > 1<<32-2 || e.GID > 1<<32-2:
		return fmt.Errorf("%s: owner %d:%d is out of range", e.Path, e.UID, e.GID)
	}
	return nil
}

// ValidatePath checks a path as entries have it: relative, clean, slash-separated UTF-8 without control characters that
// line-based file lists could not hold.
func ValidatePath(p string) error {
	switch {
	case p == "" || p == ".":
		return errors.New("empty path")
	case len(p) > maxPath:
		return fmt.Errorf("path %.100q…: %d bytes long, the limit is %d", p, len(p), maxPath)
	case p[0] == '/':
		return fmt.Errorf("path %q: is absolute", p)
	case !utf8.ValidString(p):
		return fmt.Errorf("path %q: is not UTF-8", p)
	case strings.ContainsAny(p, "\x00\n"):
		return fmt.Errorf("path %q: has a NUL or a line feed", p)
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case part == "..":
			return fmt.Errorf("path %q: leaves its directory through \"..\"", p)
		case part == "" || part == ".":
			return fmt.Errorf("path %q: is not clean, want %q", p, path.Clean(p))
		case len(part) > maxComponent:
			return fmt.Errorf("path %.100q…: a component is %d bytes long, the limit is %d", p, len(part), maxComponent)
		}
	}
	return nil
}

// Header encodes the entry's tar header: one ustar block where the values fit, else preceded by a PAX header (POSIX
// pax) with the records that are needed and no others.
//
// Traps that are stepped around: archive/tar takes the format, and with it the bytes, from every field that is set, so
// access and change times, user and group names stay empty and times have no fractions; and a directory is not given
// its trailing slash, which old readers know it by.
func (e Entry) Header() ([]byte, error) {
	if err := e.Validate(); err != nil {
		return nil, err
	}
	h := tar.Header{
		Typeflag: e.Type, Name: e.Path, Linkname: e.Link,
		Size: e.Size, Mode: e.Mode, Uid: e.UID, Gid: e.GID, ModTime: time.Unix(e.ModTime, 0).UTC(),
		Devmajor: e.Major, Devminor: e.Minor,
	}
	if e.Type == tar.TypeDir {
		h.Name += "/"
	}
	if len(e.Xattrs) > 0 {
		h.PAXRecords = make(map[string]string, len(e.Xattrs))
		for k, v := range e.Xattrs { // sorted by archive/tar when it writes them
			h.PAXRecords[xattrPrefix+k] = v
		}
	}
	// A writer per entry: one for all would want the content between two headers.
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(&h); err != nil {
		return nil, fmt.Errorf("%s: %w", e.Path, err)
	}
	return buf.Bytes(), nil
}

// EntryOf is the entry that a header of a member says: the inverse of Entry.Header.
func EntryOf(h *tar.Header) Entry {
	e := Entry{
		Path: strings.TrimSuffix(h.Name, "/"), Type: h.Typeflag, Mode: h.Mode, UID: h.Uid, GID: h.Gid, ModTime: h.ModTime.Unix(),
		Size: h.Size, Link: h.Linkname, Major: h.Devmajor, Minor: h.Devminor,
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return e
}

// WriteEntry writes a whole entry: header, content and padding. Content must have exactly e.Size bytes and may be nil
// when that is 0.
func WriteEntry(w io.Writer, e Entry, content io.Reader) error {
	h, err := e.Header()
	if err != nil {
		return err
	}
	if _, err := w.Write(h); err != nil {
		return err
	}
	if content != nil {
		if err := copyExactly(w, content, e.Size); err != nil {
			return fmt.Errorf("%s: %w", e.Path, err)
		}
	} else if e.Size != 0 {
		return fmt.Errorf("%s: no content, want %d bytes", e.Path, e.Size)
	}
	return writePadding(w, e.Size)
}

func writePadding(w io.Writer, size int64) error {
	_, err := w.Write(zeros[:-size&(blockSize-1)])
	return err
}

// copyExactly copies size bytes and then wants the end of src.
func copyExactly(w io.Writer, src io.Reader, size int64) error {
	buf := copyBuffers.Get().(*[copyBuffer]byte)
	defer copyBuffers.Put(buf)
	// The struct hides WriterTo and ReaderFrom, which would go around the buffer and the limit's meaning.
	n, err := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{io.LimitReader(src, size)}, buf[:])
	if err != nil {
		return err
	}
	if n < size {
		return fmt.Errorf("content ends after %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	switch k, err := io.ReadFull(src, buf[:1]); {
	case k > 0:
		return fmt.Errorf("content is longer than the %d bytes announced", size)
	case err != io.EOF:
		return err
	}
	return nil
}

const copyBuffer = 128 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// TrailerSize is the uncompressed size of the trailer in bytes: the two zero blocks that end a tar.
const TrailerSize = 2 * blockSize

var trailer = sync.OnceValues(func() ([]byte, Member) {
	m, pieces, err := Compressed(make([]byte, TrailerSize))
	if err != nil {
		panic(err) // compressing constant bytes into memory
	}
	return pieces[0], m
})

// Trailer is the constant member that ends every layer, with the bytes of its only piece.
func Trailer() (Member, []byte) {
	data, m := trailer()
	return m, bytes.Clone(data)
}
