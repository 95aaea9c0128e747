package deb_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/deb/debtest"
)

// What was converted and packed again is the same package to dpkg-deb, and to a second conversion.
func TestRepack(t *testing.T) {
	p := debtest.Package{Name: "sample", Version: "1:2-3", Architecture: "amd64", Fields: map[string]string{"Depends": "libc6"},
		Control: map[string]string{"preinst": "#!/bin/sh\ndpkg-divert --add /x\n", "conffiles": "/etc/sample.conf\n"},
		Entries: []debtest.Entry{
			{Name: "./bin/"}, {Name: "./bin/sample", Content: "program", Mode: 0o4755, UID: 5, GID: 6},
			{Name: "./bin/sample-2", Type: '1', Link: "./bin/sample"},
			{Name: "./etc/"}, {Name: "./etc/sample.conf", Content: "x=1\n"},
			{Name: "./usr/"}, {Name: "./usr/share/", Mode: 0o2775, GID: 50}, {Name: "./usr/share/s", Link: "../../bin/sample"},
			{Name: "./usr/share/" + strings.Repeat("long/", 60)}, {Name: "./usr/share/" + strings.Repeat("long/", 60) + "file", Content: "f"},
		}}
	convert := func(file []byte) (deb.Result, []byte) {
		t.Helper()
		var plain bytes.Buffer
		res, err := deb.Convert(bytes.NewReader(file), int64(len(file)), deb.Options{
			SHA256: debtest.Digest(file), Emit: func(compose.Piece, []byte) error { return nil }, Plain: &plain,
		})
		if err != nil {
			t.Fatal(err)
		}
		return res, plain.Bytes()
	}
	first, plain := convert(p.Build(t))
	member := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(plain)), nil }
	var packed bytes.Buffer
	if err := deb.Repack(&packed, first.Record, member); err != nil {
		t.Fatal(err)
	}
	second, again := convert(packed.Bytes())
	if !bytes.Equal(plain, again) {
		t.Error("the member has changed")
	}
	one, err1 := first.Record.Encode()
	two, err2 := second.Record.Encode()
	if err := errors.Join(err1, err2); err != nil || !bytes.Equal(one, two) {
		t.Errorf("the record has changed: %+v, %v, want %+v", second.Record, err, first.Record)
	}
	if tool, err := exec.LookPath("dpkg-deb"); err == nil {
		name := filepath.Join(t.TempDir(), "again.deb")
		if err := os.WriteFile(name, packed.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(tool, "--contents", name).CombinedOutput()
		if err != nil || !strings.Contains(string(out), " ./\n") || !strings.Contains(string(out), "-rwsr-xr-x 5/6 ") {
			t.Errorf("dpkg-deb: %v\n%s", err, out)
		}
	}

	if err := deb.Repack(io.Discard, first.Record, func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(plain[:600])), nil }); err == nil {
		t.Error("a member that breaks off: packed")
	}
	other := *first.Record
	other.List = other.List[:3]
	if err := deb.Repack(io.Discard, &other, member); err == nil || !strings.Contains(err.Error(), "is not in the package's list") {
		t.Errorf("a member of something else: %v", err)
	}
}
