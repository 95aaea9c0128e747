package deb

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"bakefarm/compose"
)

// Repack writes a .deb that dpkg unpacks to the same files, and the same database, as the package that the record and
// the member were made of: for packages that dpkg itself must lay. member opens the member's uncompressed bytes, and is
// called twice, since an ar archive says sizes first. It's not the package's own file: nothing is compressed, and
// the format is deb(5)'s with control.tar and data.tar.
func Repack(w io.Writer, r *Record, member func() (io.ReadCloser, error)) error {
	if err := r.validate(); err != nil {
		return err
	}
	control, err := r.controlTar()
	if err != nil {
		return err
	}
	data := func(w io.Writer) error {
		rc, err := member()
		if err != nil {
			return err
		}
		return errors.Join(r.dataTar(w, rc), rc.Close())
	}
	var size counter
	if err := data(&size); err != nil {
		return fmt.Errorf("%s: data.tar: %w", r.Package, err)
	}
	a := arWriter{w: w, date: r.Date}
	a.magic()
	a.member("debian-binary", 4, func(w io.Writer) error { return writeAll(w, []byte("2.0\n")) })
	a.member("control.tar", int64(len(control)), func(w io.Writer) error { return writeAll(w, control) })
	a.member("data.tar", int64(size), data)
	return a.err
}

func writeAll(w io.Writer, p []byte) error {
	_, err := w.Write(p)
	return err
}

// counter counts what is written to it.
type counter int64

func (c *counter) Write(p []byte) (int, error) {
	*c += counter(len(p))
	return len(p), nil
}

// arWriter writes an ar archive. It does nothing more after an error.
type arWriter struct {
	w    io.Writer
	date int64
	err  error
}

func (a *arWriter) magic() { a.err = writeAll(a.w, []byte(arMagic)) }

func (a *arWriter) member(name string, size int64, content func(io.Writer) error) {
	if a.err != nil {
		return
	}
	if _, a.err = fmt.Fprintf(a.w, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", name, a.date, 0, 0, "100644", size); a.err != nil {
		return
	}
	if a.err = content(a.w); a.err == nil && size%2 == 1 {
		a.err = writeAll(a.w, []byte{'\n'})
	}
}

// controlTar makes the control archive.
func (r *Record) controlTar() ([]byte, error) {
	var b bytes.Buffer
	write := func(name string, mode int64, data []byte) error {
		e := compose.Text(name, mode, data).Entry
		e.ModTime = r.Date
		return compose.WriteEntry(&b, e, bytes.NewReader(data))
	}
	err := write("control", 0o644, r.Control)
	for _, f := range r.Files {
		mode := int64(0o644)
		if f.Exec {
			mode = 0o755
		}
		err = errors.Join(err, write(f.Name, mode, f.Data))
	}
	b.Write(make([]byte, compose.TrailerSize))
	return b.Bytes(), err
}

// dataTar writes the data archive: the directories and the member's entries by their names in the package's own list, and
// in its order as far as the member has it.
func (r *Record) dataTar(w io.Writer, member io.Reader) error {
	dirs := map[string]compose.Entry{}
	for _, d := range r.Inventory.Dirs {
		dirs[d.Path] = d
	}
	names, at := map[string]string{}, map[string]int{} // by merged path
	for i, absolute := range r.List {
		merged, name := MergedPath(absolute), strings.TrimPrefix(absolute, "/")
		names[merged], at[merged] = name, i
	}
	// dpkg lists the root if the archive has it. Its path is none that entries have elsewhere.
	root := tar.Header{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755, ModTime: time.Unix(r.Date, 0).UTC(), Format: tar.FormatUSTAR}
	if err := tar.NewWriter(w).WriteHeader(&root); err != nil {
		return err
	}
	next := 1 // of the list: what comes first is the root
	dirsUpTo := func(end int) error {
		for ; next < end; next++ {
			d, is := dirs[MergedPath(r.List[next])]
			if !is {
				continue
			}
			d.Path = strings.TrimPrefix(r.List[next], "/")
			if err := compose.WriteEntry(w, d, nil); err != nil {
				return err
			}
		}
		return nil
	}
	count := 0
	for entries := tar.NewReader(member); ; count++ {
		h, err := entries.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		e := compose.EntryOf(h)
		i, listed := at[e.Path]
		if !listed {
			return fmt.Errorf("%s is not in the package's list", e.Path)
		}
		if err := dirsUpTo(i); err != nil {
			return err
		}
		e.Path = names[e.Path]
		if e.Type == tar.TypeLink {
			e.Link = names[e.Link]
		}
		var content io.Reader
		if e.Type == tar.TypeReg {
			content = entries
		}
		if err := compose.WriteEntry(w, e, content); err != nil {
			return err
		}
	}
	if want := len(r.Inventory.Paths); count != want {
		return fmt.Errorf("the member has %d entries, the package %d", count, want)
	}
	if err := dirsUpTo(len(r.List)); err != nil {
		return err
	}
	return writeAll(w, make([]byte, compose.TrailerSize))
}
