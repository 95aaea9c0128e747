package scripts

import (
	"archive/tar"
	"bytes"
	"crypto/sha1"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"bakefarm/compose"
	"bakefarm/compose/deb"
)

func TestTranscript(t *testing.T) {
	exit := errors.New("exit status 1")
	for name, test := range map[string]struct{ output, want string }{
		"postinst": {
			"Setting up good (1.0) ...\nfine\nSetting up cron (3.0pl1-162) ...\nadding\nno\x00 luck\xff\n" +
				"dpkg: error processing package cron (--configure):\n installed cron package post-installation script subprocess returned error exit status 10\n",
			"postinst of cron 3.0pl1-162 returned error exit status 10; its last lines:\n  adding\n  no\x00 luck\uFFFD\n" +
				"  dpkg: error processing package cron (--configure):\n   installed cron package post-installation script subprocess returned error exit status 10",
		},
		"killed": {"Setting up x (1) ...\nworking", "postinst of x 1: exit status 1; the last lines:\n  working"},
		"trigger": {
			"Processing triggers for libc-bin (2.36-9) ...\ndpkg: error processing package libc-bin (--configure):\n" +
				" installed libc-bin package post-installation script subprocess was killed by signal (Killed)\n",
			"triggers of libc-bin 2.36-9 was killed by signal (Killed); its last lines:\n",
		},
		"dependency": {
			"Setting up x (1) ...\ndpkg: dependency problems prevent configuration of y:\n y depends on z.\n\ndpkg: error processing package y (--configure):\n dependency problems - leaving unconfigured\n",
			"package y: exit status 1; the last lines:\n  dpkg: dependency problems prevent",
		},
		"triggers afterwards": {
			"Setting up x (1) ...\nno\ndpkg: error processing package x (--configure):\n installed x package post-installation script subprocess returned error exit status 75\n" +
				"dpkg: too many errors, stopping\nProcessing triggers for libc-bin (2.36-9) ...\nErrors were encountered while processing:\n x\n",
			"postinst of x 1 returned error exit status 75; its last lines:\n  no\n  dpkg: error processing package x (--configure):\n" +
				"   installed x package post-installation script subprocess returned error exit status 75\n  dpkg: too many errors, stopping",
		},
		"at once": {"", "before the first script: exit status 1; the last lines:"},
	} {
		for _, size := range []int{1, 7, 1 << 20} {
			var said []string
			tr := &Transcript{Say: func(line string) { said = append(said, line) }}
			for rest := []byte(test.output); len(rest) > 0; {
				n := min(size, len(rest))
				if m, err := tr.Write(rest[:n]); m != n || err != nil {
					t.Fatal(m, err)
				}
				rest = rest[n:]
			}
			tr.Close()
			err := tr.Failure(exit)
			if !strings.HasPrefix(err.Error(), test.want) || !errors.Is(err, exit) {
				t.Errorf("%s in pieces of %d:\n%s\nwant\n%s", name, size, err, test.want)
			}
			if want := strings.Count(test.output, "\n"); len(said) < want {
				t.Errorf("%s: %d lines, want %d", name, len(said), want)
			}
		}
	}
	tr := &Transcript{}
	io.WriteString(tr, "Setting up x (1) ...\n"+strings.Repeat("a", 3*maxLine)+"\n(Reading ... \r(Reading ... 5%\r(Reading ... done\r\n"+strings.Repeat("line\n", 2*lastLines))
	if len(tr.last) != lastLines || len(tr.Failure(exit).Error()) > maxLine {
		t.Errorf("keeps %d lines", len(tr.last))
	}
}

func TestKeep(t *testing.T) {
	const date = 1714564800
	file := func(path string) compose.Entry {
		return compose.Entry{Path: path, Type: tar.TypeReg, Mode: 0o640, UID: 7, Size: 4, ModTime: 9}
	}
	for path, want := range map[string]string{
		"etc/hosts": "text", "etc/machine-id": "", "var/log/apt/term.log": "", "var/log/wtmp": "", "etc/ssh/sshd_config": "text",
		"etc/passwd": "text", "var/lib/dpkg/status": "text", "run/.wh.x": "text", "var/cache/debconf/config.dat": "text",
	} {
		e, content, keep, err := Keep(file(path), strings.NewReader("text"), date)
		if err != nil || !keep {
			t.Errorf("%s: %v, %v", path, keep, err)
			continue
		}
		got, _ := io.ReadAll(content)
		if string(got) != want || e.Size != int64(len(want)) || e.ModTime != date || e.Mode != 0o640 || e.UID != 7 {
			t.Errorf("%s: %q, %+v", path, got, e)
		}
	}
	for _, path := range []string{
		"run/lock/x/y", "run/utmp", "var/log/dpkg.log", "var/log/journal/0123/system.journal", "var/lib/dpkg/status-old", "etc/shadow-",
		"etc/.pwd.lock", "etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_rsa_key.pub", "var/lib/dbus/machine-id", "var/cache/apt/pkgcache.bin",
		"var/tmp/x/.wh..wh..opq",
	} {
		if _, _, keep, err := Keep(file(path), strings.NewReader("text"), date); keep || err != nil {
			t.Errorf("%s: %v, %v", path, keep, err)
		}
	}
	if e, _, keep, _ := Keep(compose.Entry{Path: "run/lock", Type: tar.TypeDir, Mode: 0o1777}, nil, date); !keep || e.Mode != 0o1777 {
		t.Error("/run/lock is not kept")
	}
	if _, _, keep, _ := Keep(compose.Entry{Path: "etc/ssl/certs/0a1b2c3d.0", Type: tar.TypeSymlink, Link: "ssl-cert-snakeoil.pem"}, nil, date); keep {
		t.Error("a link to a certificate that is not there")
	}
	for _, r := range dropping {
		if strings.HasPrefix(r.pattern, "/") {
			t.Errorf("pattern %s", r.pattern)
		}
	}
}

// jks makes a key store.
func jks(times ...uint64) []byte {
	var b bytes.Buffer
	put := func(v any) { binary.Write(&b, binary.BigEndian, v) }
	text := func(s string) { put(uint16(len(s))); b.WriteString(s) }
	put(uint32(jksMagic))
	put(uint32(jksVersion))
	put(uint32(len(times)))
	for i, when := range times {
		put(uint32(jksTrusted))
		text("debian:" + strings.Repeat("a", i))
		put(when)
		text("X.509")
		put(uint32(3))
		b.WriteString("DER")
	}
	return append(b.Bytes(), jksSum(b.Bytes())...)
}

func TestJavaStore(t *testing.T) {
	const date = 1714564800
	store := jks(1, 2, 3)
	want := jks(date*1000, date*1000, date*1000)
	if got := restamp(store, date); !bytes.Equal(got, want) {
		t.Errorf("got %x, want %x", got, want)
	}
	if !bytes.Equal(store, jks(1, 2, 3)) {
		t.Error("the input has changed")
	}
	for n := range len(store) { // damaged ones stay as they are
		if got := restamp(store[:n], date); !bytes.Equal(got, store[:n]) {
			t.Errorf("the first %d bytes became %x", n, got)
		}
	}
	body := append([]byte(nil), store[:len(store)-sha1.Size-1]...)
	cut := append(body, jksSum(body)...)
	if got := restamp(cut, date); !bytes.Equal(got, cut) {
		t.Error("a store that lacks its end was changed")
	}
	e, content, keep, err := Keep(compose.Entry{Path: javaStore, Type: tar.TypeReg, Size: int64(len(store))}, bytes.NewReader(store), date)
	if got, _ := io.ReadAll(content); err != nil || !keep || !bytes.Equal(got, want) || e.Size != int64(len(want)) {
		t.Errorf("%+v, %v, %v", e, keep, err)
	}
}

func TestRewritten(t *testing.T) {
	const date = 1714564800
	page := func(kind uint32, order binary.AppendByteOrder, id string) string {
		b := order.AppendUint32(make([]byte, 12), kind)
		b = order.AppendUint32(append(b, 0, 0, 0, 0), 512)
		b = append(b, make([]byte, 1024-len(b))...)
		copy(b[52:72], id)
		data := b[512:]
		copy(data[20:], order.AppendUint16(order.AppendUint16(nil, 2), 480))
		data[25] = 13
		copy(data[30:480], id)
		copy(data[480:], "\x01"+id[:10]+"\x01YP_LAST_MODIFIED")
		return string(b)
	}
	for path, pair := range map[string][2]string{
		"etc/aliases.db":           {page(0x061561, binary.LittleEndian, "1600000001 now"), page(0x061561, binary.LittleEndian, "1600000002 later")},
		"etc/postfix/virtual.db":   {page(0x053162, binary.BigEndian, "1600000001 here"), page(0x053162, binary.BigEndian, "1600000003 there")},
		"var/lib/texmf/ls-R":       {"% ls-R -- x\n\n./:\n.:\nb\na\n\n./z:\n\n./b:\nd\nc\n", "% ls-R -- x\n\n./b:\nc\nd\n\n./z:\n\n./:\n.:\na\nb\n"},
		"etc/hosts":                {"10.0.0.1 db\n127.0.1.1\tbakefarm.localdomain\tbakefarm\n", "10.0.0.1 db\n"},
		"etc/mdadm/mdadm.conf":     {"a\n# This configuration was auto-generated on Mon, 1 Jan by mkconf\n", "a\n# This configuration was auto-generated on Tue, 2 Jan by mkconf\n"},
		"var/lib/texmf/x/etex.log": {"1 JAN", "2 JAN 2020"},
	} {
		var got [2]string
		for i, text := range pair {
			e, content, keep, err := Keep(compose.Entry{Path: path, Type: tar.TypeReg, Size: int64(len(text))}, strings.NewReader(text), date)
			if err != nil || !keep {
				t.Fatalf("%s: %v, %v", path, keep, err)
			}
			data, _ := io.ReadAll(content)
			if got[i] = string(data); e.Size != int64(len(data)) {
				t.Errorf("%s: %d bytes of %d", path, len(data), e.Size)
			}
		}
		if got[0] != got[1] {
			t.Errorf("%s: %q and %q", path, got[0], got[1])
		}
	}
	for path, text := range map[string]string{
		"etc/aliases.db": page(1, binary.LittleEndian, "1600000001 no database"), "etc/short.db": "short", "var/lib/texmf/ls-R": "no listing\n\nb\na\n",
		"etc/mdadm/mdadm.conf": "# by hand on Monday\n", "etc/x.conf": page(0x061561, binary.LittleEndian, "1600000001 x"),
	} {
		_, content, keep, err := Keep(compose.Entry{Path: path, Type: tar.TypeReg, Size: int64(len(text))}, strings.NewReader(text), date)
		if data, _ := io.ReadAll(content); err != nil || !keep || string(data) != text {
			t.Errorf("%s is %q", path, data)
		}
	}
}

func TestDiverts(t *testing.T) {
	for script, want := range map[string]bool{
		"dpkg-divert --package vim-runtime --add --rename \\\n   --divert /a /b":   true,
		"  dpkg-divert --package postgresql-common --rename --divert /a --add /b":  true,
		"# dpkg-divert --package foo --add --rename /b":                            false,
		"dpkg-divert --package pkgconf --remove --rename /usr/bin/pkg-config":      false,
		"dpkg-divert --package pkgconf --rename \\\n --remove /usr/bin/pkg-config": false,
		"if dpkg-divert --list x >/dev/null; then echo; fi":                        false,
		"diverter=$(dpkg-divert --listpackage $dfile)":                             false,
		"echo my-dpkg-diverter": false,
		"if test x; then dpkg-divert --quiet --local --divert $x --rename --add /y; fi\n#": true,
	} {
		r := &deb.Record{Control: []byte("Package: x\nVersion: 1\n"), Files: []deb.ControlFile{{Name: "preinst", Exec: true, Data: []byte("#!/bin/sh\n" + script + "\n")}}}
		if got := Diverts(r); got != want {
			t.Errorf("%q: %v", script, got)
		}
		r.Control = append(r.Control, "Essential: yes\n"...)
		if Diverts(r) {
			t.Errorf("%q in an essential package", script)
		}
	}
	r := &deb.Record{Files: []deb.ControlFile{{Name: "postinst", Data: []byte("dpkg-divert --add /x")}}}
	if Diverts(r) || !Has(r) {
		t.Error("a postinst diverts when the files are there")
	}
}
