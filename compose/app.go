package compose

import (
	"archive/tar"
	"fmt"
	"io"
)

// CutFiles writes a run of app entries (files and links, no directories) to w, which is a MemberWriter, in the order
// given. Open opens the content of entry i, for files that have any; CutFiles closes it, and a failed Close fails.
func CutFiles(w io.Writer, entries []Entry, open func(i int) (io.ReadCloser, error)) (Inventory, error) {
	inv := Inventory{Paths: make([]string, 0, len(entries))}
	for i, e := range entries {
		if e.Type == tar.TypeDir {
			return Inventory{}, fmt.Errorf("%s: a directory belongs in the layer's head, not in a run", e.Path)
		}
		if err := cutFile(w, e, func() (io.ReadCloser, error) { return open(i) }); err != nil {
			return Inventory{}, err
		}
		inv.Paths = append(inv.Paths, e.Path)
	}
	return inv, nil
}

func cutFile(w io.Writer, e Entry, open func() (io.ReadCloser, error)) (err error) {
	if e.Size == 0 {
		return WriteEntry(w, e, nil)
	}
	content, err := open()
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	defer func() {
		if cerr := content.Close(); err == nil && cerr != nil {
			err = fmt.Errorf("%s: %w", e.Path, cerr)
		}
	}()
	return WriteEntry(w, e, content)
}

// Segment is the part of a large file that one member holds: n bytes from offset on. The first segment (offset 0)
// carries the tar header, the last one the padding, so that the segments' members one after another are the whole entry.
type Segment struct {
	Offset int64
	Size   int64
}

// CutSegment writes one segment of a large file to w. Content must have exactly the segment's bytes. Only the first
// segment's inventory has the path.
func CutSegment(w io.Writer, e Entry, s Segment, content io.Reader) (Inventory, error) {
	if e.Type != tar.TypeReg || s.Offset < 0 || s.Size <= 0 || s.Offset > e.Size-s.Size {
		return Inventory{}, fmt.Errorf("%s: segment of %d bytes at %d: want a part of a file of %d bytes", e.Path, s.Size, s.Offset, e.Size)
	}
	var inv Inventory
	if s.Offset == 0 {
		h, err := e.Header()
		if err != nil {
			return Inventory{}, err
		}
		if _, err := w.Write(h); err != nil {
			return Inventory{}, err
		}
		inv.Paths = []string{e.Path}
	}
	if err := copyExactly(w, content, s.Size); err != nil {
		return Inventory{}, fmt.Errorf("%s: %w", e.Path, err)
	}
	if s.Offset+s.Size == e.Size {
		if err := writePadding(w, e.Size); err != nil {
			return Inventory{}, err
		}
	}
	return inv, nil
}
