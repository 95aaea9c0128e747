package compose

import (
	"archive/tar"
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
)

func TestCutFiles(t *testing.T) {
	entries := []Entry{
		{Path: "opt/a", Type: tar.TypeReg, Mode: 0o755, ModTime: ModTime, Size: 5},
		{Path: "opt/empty", Type: tar.TypeReg, Mode: 0o644, ModTime: ModTime},
		{Path: "opt/link", Type: tar.TypeSymlink, Mode: 0o777, ModTime: ModTime, Link: "a"},
	}
	open := func(i int) (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("hello")), nil }
	var buf bytes.Buffer
	inv, err := CutFiles(&buf, entries, open)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(inv.Paths, []string{"opt/a", "opt/empty", "opt/link"}) || len(inv.Dirs) != 0 {
		t.Errorf("inventory is %+v", inv)
	}
	for i, h := range readTar(t, buf.Bytes()) {
		sameEntry(t, entries[i], h)
	}
	entries[0].Size = 4
	if _, err := CutFiles(io.Discard, entries, open); err == nil {
		t.Error("content longer than the entry: accepted")
	}
	if _, err := CutFiles(io.Discard, []Entry{Dir("opt")}, open); err == nil {
		t.Error("a directory: accepted")
	}
}

func TestSegmentsAreTheWholeEntry(t *testing.T) {
	content := noise(2*SegmentSize + 100)
	e := Entry{Path: "opt/big", Type: tar.TypeReg, Mode: 0o644, ModTime: ModTime, Size: int64(len(content))}
	var whole, segmented bytes.Buffer
	if err := WriteEntry(&whole, e, bytes.NewReader(content)); err != nil {
		t.Fatal(err)
	}
	var paths []string
	for offset := int64(0); offset < e.Size; offset += SegmentSize {
		s := Segment{Offset: offset, Size: min(SegmentSize, e.Size-offset)}
		inv, err := CutSegment(&segmented, e, s, bytes.NewReader(content[offset:offset+s.Size]))
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, inv.Paths...)
	}
	if !bytes.Equal(whole.Bytes(), segmented.Bytes()) {
		t.Error("the segments one after another are not the entry")
	}
	if !slices.Equal(paths, []string{"opt/big"}) {
		t.Errorf("paths are %q", paths)
	}
	for _, s := range []Segment{{-1, 1}, {0, 0}, {0, e.Size + 1}, {e.Size, 1}, {1 << 62, 1 << 62}} {
		if _, err := CutSegment(io.Discard, e, s, strings.NewReader("")); err == nil {
			t.Errorf("%+v: accepted", s)
		}
	}
}
