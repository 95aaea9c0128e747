package compose

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"maps"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
)

func TestEntriesReadBack(t *testing.T) {
	long := strings.Repeat("long-directory-name/", 20) + "file"
	entries := []Entry{
		{Path: "a", Type: tar.TypeReg, Mode: 0o644, Size: 3, ModTime: ModTime},
		{Path: "usr/bin/su", Type: tar.TypeReg, Mode: 0o4755, ModTime: 1},
		{Path: "usr/bin/ping", Type: tar.TypeReg, Mode: 0o755, Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00", "user.b": "x"}},
		{Path: "dir", Type: tar.TypeDir, Mode: 0o1777, UID: 5, GID: 1000},
		{Path: "link", Type: tar.TypeSymlink, Mode: 0o777, Link: "../../etc/passwd"},
		{Path: "hard", Type: tar.TypeLink, Mode: 0o644, Link: "a"},
		{Path: "fifo", Type: tar.TypeFifo, Mode: 0o600},
		{Path: "null", Type: tar.TypeChar, Mode: 0o666, Major: 1, Minor: 3},
		{Path: long, Type: tar.TypeReg, Mode: 0o644, UID: 1 << 30},
		{Path: "etc/Główny.crt", Type: tar.TypeReg, Mode: 0o644, ModTime: 1 << 40},
		{Path: "far", Type: tar.TypeSymlink, Link: long},
	}
	var buf bytes.Buffer
	for _, e := range entries {
		var content io.Reader
		if e.Size > 0 {
			content = strings.NewReader("abc")
		}
		if err := WriteEntry(&buf, e, content); err != nil {
			t.Fatal(err)
		}
		if buf.Len()%512 != 0 {
			t.Fatalf("%s: not padded", e.Path)
		}
	}
	if got, want := digest.FromBytes(buf.Bytes()).Encoded()[:16], "24929f0317103221"; got != want {
		t.Errorf("golden digest is %s, want %s", got, want)
	}
	tr := tar.NewReader(&buf)
	for _, e := range entries {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		sameEntry(t, e, h)
	}
	if _, err := tr.Next(); err != io.EOF {
		t.Errorf("after the last: %v", err)
	}
}

func sameEntry(t *testing.T, e Entry, h *tar.Header) {
	t.Helper()
	var xattrs map[string]string
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, xattrPrefix); ok {
			if xattrs == nil {
				xattrs = map[string]string{}
			}
			xattrs[name] = v
		}
	}
	if strings.TrimSuffix(h.Name, "/") != e.Path || h.Typeflag != e.Type || h.Mode != e.Mode || h.Uid != e.UID || h.Gid != e.GID ||
		h.ModTime.Unix() != e.ModTime || h.Size != e.Size || h.Linkname != e.Link || h.Devmajor != e.Major || h.Devminor != e.Minor ||
		!maps.Equal(xattrs, e.Xattrs) || h.Uname != "" || h.Gname != "" || !h.AccessTime.IsZero() || !h.ChangeTime.IsZero() {
		t.Errorf("wrote %+v, read %+v", e, h)
	}
}

func TestWriteEntryWantsExactContent(t *testing.T) {
	e := Entry{Path: "a", Type: tar.TypeReg, Size: 3}
	if err := WriteEntry(io.Discard, e, strings.NewReader("ab")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short content: %v", err)
	}
	if err := WriteEntry(io.Discard, e, strings.NewReader("abcd")); err == nil {
		t.Error("long content: accepted")
	}
	if err := WriteEntry(io.Discard, e, nil); err == nil {
		t.Error("no content: accepted")
	}
}

func TestEntryValidate(t *testing.T) {
	for name, e := range map[string]Entry{
		"no path":         {Type: tar.TypeReg},
		"dot":             {Path: ".", Type: tar.TypeDir},
		"absolute":        {Path: "/a", Type: tar.TypeReg},
		"dot dot":         {Path: "a/../../b", Type: tar.TypeReg},
		"trailing slash":  {Path: "a/", Type: tar.TypeDir},
		"double slash":    {Path: "a//b", Type: tar.TypeReg},
		"dot component":   {Path: "a/./b", Type: tar.TypeReg},
		"NUL":             {Path: "a\x00b", Type: tar.TypeReg},
		"line feed":       {Path: "a\nb", Type: tar.TypeReg},
		"Latin-1":         {Path: "a\xe4", Type: tar.TypeReg},
		"long component":  {Path: strings.Repeat("a", 256), Type: tar.TypeReg},
		"long path":       {Path: strings.Repeat("a/", 2048) + "a", Type: tar.TypeReg},
		"unknown type":    {Path: "a", Type: 'S'},
		"no target":       {Path: "a", Type: tar.TypeSymlink},
		"target, no link": {Path: "a", Type: tar.TypeReg, Link: "b"},
		"hard link out":   {Path: "a", Type: tar.TypeLink, Link: "../b"},
		"link with size":  {Path: "a", Type: tar.TypeLink, Link: "b", Size: 1},
		"negative size":   {Path: "a", Type: tar.TypeReg, Size: -1},
		"mode with type":  {Path: "a", Type: tar.TypeReg, Mode: 0o100644},
		"negative owner":  {Path: "a", Type: tar.TypeReg, UID: -1},
		"negative device": {Path: "a", Type: tar.TypeChar, Major: -1},
	} {
		if _, err := e.Header(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzTar checks that whatever entry is accepted reads back as the same, so that nothing hides in a member.
func FuzzTar(f *testing.F) {
	f.Add("usr/bin/a", "", byte(tar.TypeReg), int64(0o755), 0, int64(1), "", "")
	f.Add("a", "b", byte(tar.TypeSymlink), int64(0o777), 1<<30, int64(-1), "user.a", "x\x00y")
	f.Fuzz(func(t *testing.T, path, link string, typ byte, mode int64, id int, mtime int64, xattr, value string) {
		e := Entry{Path: path, Type: typ, Mode: mode, UID: id, GID: id, ModTime: mtime, Link: link}
		if xattr != "" {
			e.Xattrs = map[string]string{xattr: value}
		}
		h, err := e.Header()
		if err != nil {
			return
		}
		tr := tar.NewReader(bytes.NewReader(h))
		got, err := tr.Next()
		if err != nil {
			t.Fatalf("%+v: %v", e, err)
		}
		sameEntry(t, e, got)
		if _, err := tr.Next(); err != io.EOF {
			t.Fatalf("%+v: more than one entry (%v)", e, err)
		}
	})
}
