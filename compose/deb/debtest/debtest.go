// Package debtest builds small Debian packages for tests: deterministic, with any compression, and hostile on demand.
// It writes what it is told, so that readers can be shown what no proper tool would make.
package debtest

import (
	"archive/tar"
	"bytes"
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	"github.com/ulikunitz/xz"
)

// Date is the default date of packages, in Unix seconds: 2024-05-01T12:00:00Z.
const Date = 1714564800

// Package is a .deb to build. The zero value is a valid empty package named "fixture".
type Package struct {
	Name         string            // "fixture"
	Version      string            // "1.0-1"
	Architecture string            // "all"
	Fields       map[string]string // further control fields, written sorted by name; they win over the three above
	Control      map[string]string // further control files by name; maintainer scripts get mode 0755
	Entries      []Entry           // of data.tar, in this order

	Compression string // of both archives: "xz", "gz", "zst" or "none"; by default "gz"
	Date        int64  // of the ar headers; Date by default
	NoRoot      bool   // leave out the "./" entries
	Format      string // "2.0\n"

	// RawControl and RawData replace the archives (before compression), RawMembers the whole list of ar members.
	RawControl, RawData []byte
	RawMembers          []Member
}

// Entry is an entry of data.tar. Name is written as it is, after "./" when it does not begin with one of . and /.
type Entry struct {
	Name    string
	Type    byte   // tar type flag; by default a directory when Name ends in "/", a link when Link is set, else a file
	Content string // of a file
	Link    string
	Mode    int64 // 0644 for files, 0755 for directories, 0777 for links
	UID     int
	GID     int
	ModTime int64 // the package's Date by default
	Xattrs  map[string]string
}

// Member is a member of the ar archive.
type Member struct {
	Name string
	Data []byte
}

// Build makes the .deb. Equal packages have equal bytes.
func (p Package) Build(tb testing.TB) []byte {
	tb.Helper()
	p.Format = cmp.Or(p.Format, "2.0\n")
	p.Date = cmp.Or(p.Date, Date)
	members := p.RawMembers
	if members == nil {
		control, data := p.RawControl, p.RawData
		if control == nil {
			control = p.controlTar(tb)
		}
		if data == nil {
			data = p.Data(tb)
		}
		ext, pack := compressor(tb, p.Compression)
		members = []Member{
			{"debian-binary", []byte(p.Format)},
			{"control.tar" + ext, pack(control)},
			{"data.tar" + ext, pack(data)},
		}
	}
	var out bytes.Buffer
	out.WriteString("!<arch>\n")
	for _, m := range members {
		fmt.Fprintf(&out, "%-16s%-12d%-6d%-6d%-8s%-10d`\n", m.Name, p.Date, 0, 0, "100644", len(m.Data))
		out.Write(m.Data)
		if len(m.Data)%2 == 1 {
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// Digest is the sha256 of a .deb.
func Digest(deb []byte) digest.Digest { return digest.FromBytes(deb) }

// ControlText is the package's control file.
func (p Package) ControlText() string {
	fields := map[string]string{
		"Package": cmp.Or(p.Name, "fixture"), "Version": cmp.Or(p.Version, "1.0-1"),
		"Architecture": cmp.Or(p.Architecture, "all"),
		"Maintainer":   "Test <test@example.org>", "Description": "a fixture",
	}
	maps.Copy(fields, p.Fields)
	var text strings.Builder
	write := func(name string) {
		if v, ok := fields[name]; ok {
			fmt.Fprintf(&text, "%s: %s\n", name, v)
			delete(fields, name)
		}
	}
	for _, name := range []string{"Package", "Version", "Architecture"} {
		write(name)
	}
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		write(name)
	}
	return text.String()
}

func (p Package) controlTar(tb testing.TB) []byte {
	files := map[string]string{"control": p.ControlText()}
	maps.Copy(files, p.Control)
	var entries []Entry
	for _, name := range slices.Sorted(maps.Keys(files)) {
		mode := int64(0o644)
		switch name {
		case "preinst", "postinst", "prerm", "postrm", "config":
			mode = 0o755
		}
		entries = append(entries, Entry{Name: name, Content: files[name], Mode: mode})
	}
	return p.tar(tb, entries)
}

// Data is data.tar before compression.
func (p Package) Data(tb testing.TB) []byte {
	tb.Helper()
	return p.tar(tb, p.Entries)
}

func (p Package) tar(tb testing.TB, entries []Entry) []byte {
	tb.Helper()
	if !p.NoRoot {
		entries = append([]Entry{{Name: "./"}}, entries...)
	}
	var out bytes.Buffer
	tw := tar.NewWriter(&out)
	for _, e := range entries {
		h := e.header(cmp.Or(p.Date, Date))
		if err := tw.WriteHeader(h); err != nil {
			tb.Fatalf("debtest: %s: %v", e.Name, err)
		}
		if _, err := io.WriteString(tw, e.Content); err != nil {
			tb.Fatalf("debtest: %s: %v", e.Name, err)
		}
	}
	if err := tw.Close(); err != nil {
		tb.Fatalf("debtest: %v", err)
	}
	return out.Bytes()
}

func (e Entry) header(date int64) *tar.Header {
	if e.Name == "" || e.Name[0] != '.' && e.Name[0] != '/' {
		e.Name = "./" + e.Name
	}
	if e.Type == 0 {
		switch {
		case strings.HasSuffix(e.Name, "/"):
			e.Type = tar.TypeDir
		case e.Link != "":
			e.Type = tar.TypeSymlink
		default:
			e.Type = tar.TypeReg
		}
	}
	if e.Mode == 0 {
		switch e.Type {
		case tar.TypeDir:
			e.Mode = 0o755
		case tar.TypeSymlink:
			e.Mode = 0o777
		default:
			e.Mode = 0o644
		}
	}
	h := &tar.Header{
		Typeflag: e.Type, Name: e.Name, Linkname: e.Link, Size: int64(len(e.Content)), Mode: e.Mode,
		Uid: e.UID, Gid: e.GID, Uname: "root", Gname: "root", ModTime: time.Unix(cmp.Or(e.ModTime, date), 0).UTC(),
	}
	for k, v := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+k] = v
	}
	return h
}

func compressor(tb testing.TB, name string) (ext string, pack func([]byte) []byte) {
	var open func(w io.Writer) (io.WriteCloser, error)
	switch name {
	case "", "gz":
		ext, open = ".gz", func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }
	case "xz":
		ext, open = ".xz", func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) }
	case "zst":
		ext, open = ".zst", func(w io.Writer) (io.WriteCloser, error) {
			return zstd.NewWriter(w, zstd.WithEncoderConcurrency(1))
		}
	case "none":
		return "", func(b []byte) []byte { return b }
	default:
		tb.Fatalf("debtest: unknown compression %q", name)
	}
	return ext, func(b []byte) []byte {
		var out bytes.Buffer
		w, err := open(&out)
		if err != nil {
			tb.Fatalf("debtest: %v", err)
		}
		if _, err := w.Write(b); err != nil {
			tb.Fatalf("debtest: %v", err)
		}
		if err := w.Close(); err != nil {
			tb.Fatalf("debtest: %v", err)
		}
		return out.Bytes()
	}
}
