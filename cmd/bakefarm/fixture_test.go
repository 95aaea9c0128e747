package main

import (
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"bakefarm/compose/deb/debtest"
	"bakefarm/worker/mirror/mirrortest"
)

// The fixture is a Debian of a few packages with everything that makes Debian's own hard to lay: directories above
// merged-/usr that several packages share, links, conffiles, setuid files, dependencies through virtual packages and
// alternatives, four compressions. It is built once, and equal in every run: the scripts know the digests of its images.
var fixture = sync.OnceValue(func() []debtest.Package {
	required := map[string]string{"Priority": "required"}
	essential := map[string]string{"Priority": "required", "Essential": "yes"}
	packages := []debtest.Package{
		{Name: "base-files", Version: "12.4+deb12u1", Architecture: "amd64", Fields: essential, Compression: "xz", Entries: []debtest.Entry{
			{Name: "bin/"}, {Name: "etc/"}, {Name: "etc/debian_version", Content: "12.1\n"}, {Name: "root/", Mode: 0o700},
			{Name: "etc/os-release", Link: "../usr/lib/os-release"}, {Name: "tmp/", Mode: 0o1777}, {Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/lib/"},
			{Name: "usr/lib/os-release", Content: "ID=debian\nVERSION_ID=\"12\"\n"}, {Name: "var/"}, {Name: "var/lib/"},
		}, Control: map[string]string{"conffiles": "/etc/debian_version\n"}},
		{Name: "libc6", Version: "2.36-9", Architecture: "amd64", Fields: required, Compression: "xz", Entries: []debtest.Entry{
			{Name: "lib/"}, {Name: "lib/x86_64-linux-gnu/"}, {Name: "lib/x86_64-linux-gnu/libc.so.6", Content: text("libc", 300_000), Mode: 0o755},
			{Name: "lib64/"}, {Name: "lib64/ld-linux-x86-64.so.2", Link: "../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"},
			{Name: "lib/x86_64-linux-gnu/ld-linux-x86-64.so.2", Content: text("ld", 50_000), Mode: 0o755},
		}},
		{Name: "dash", Version: "0.5.12-2", Architecture: "amd64", Compression: "gz", Entries: []debtest.Entry{
			{Name: "bin/"}, {Name: "bin/dash", Content: text("dash", 20_000), Mode: 0o755}, {Name: "bin/sh", Link: "dash"},
		}, Fields: with(essential, "Pre-Depends", "libc6 (>= 2.36)", "Provides", "sh")},
		{Name: "login", Version: "1:4.13", Architecture: "amd64", Compression: "zst", Entries: []debtest.Entry{
			{Name: "bin/"}, {Name: "bin/su", Content: text("su", 5_000), Mode: 0o4755}, {Name: "etc/"}, {Name: "etc/login.defs", Content: "UMASK 022\n"},
		}, Fields: with(required, "Depends", "libc6, nobody-has-this | sh")},
		{Name: "apt", Version: "2.6.1", Architecture: "amd64", Compression: "none", Entries: []debtest.Entry{
			{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/apt", Content: text("apt", 9_000), Mode: 0o755},
		}, Fields: map[string]string{"Priority": "important", "Depends": "libc6"}},
		{Name: "ca-certificates", Version: "20230311", Fields: map[string]string{"Depends": "openssl"}, Compression: "xz", Entries: []debtest.Entry{
			{Name: "usr/"}, {Name: "usr/share/"}, {Name: "usr/share/ca-certificates/"}, {Name: "usr/share/ca-certificates/root.crt", Content: text("root", 1500)},
		}},
		{Name: "openssl", Version: "3.0.11-1", Architecture: "amd64", Fields: map[string]string{"Depends": "libc6"}, Compression: "xz", Entries: []debtest.Entry{
			{Name: "usr/"}, {Name: "usr/bin/"}, {Name: "usr/bin/openssl", Content: text("openssl", 100_000), Mode: 0o755},
		}},
		{Name: "tzdata", Version: "2024a-0", Compression: "gz", Entries: []debtest.Entry{
			{Name: "usr/"}, {Name: "usr/share/"}, {Name: "usr/share/zoneinfo/"}, {Name: "usr/share/zoneinfo/UTC", Content: "TZif2"},
			{Name: "usr/share/zoneinfo/Zulu", Link: "UTC"},
		}},
	}
	// What a disk has beside: it is put together, never started.
	kernel := debtest.Package{Name: "linux-image-cloud-amd64", Version: "6.1.1", Architecture: "amd64", Compression: "gz", Entries: []debtest.Entry{
		{Name: "boot/"}, {Name: "boot/vmlinuz-6.1.1", Content: text("kernel", 3_000_000)}, {Name: "lib/"}, {Name: "lib/modules/"}, {Name: "lib/modules/6.1.1/"},
		{Name: "lib/modules/6.1.1/modules.builtin", Content: "kernel/fs/ext4/ext4.ko\nkernel/drivers/block/virtio_blk.ko\n"},
	}}
	for _, p := range packages {
		if p.Architecture == "amd64" {
			packages = append(packages, forARM(p))
		}
	}
	packages = append(packages, kernel)
	for _, name := range []string{"systemd-sysv", "udev", "dbus", "systemd-resolved"} {
		packages = append(packages, debtest.Package{Name: name, Version: "252", Architecture: "amd64", Compression: "gz", Entries: []debtest.Entry{
			{Name: "usr/"}, {Name: "usr/share/"}, {Name: "usr/share/doc/"}, {Name: "usr/share/doc/" + name + "/"}, {Name: "usr/share/doc/" + name + "/copyright", Content: name},
		}})
	}
	return packages
})

// forARM makes of a package what arm64 has under its name: other programs, other directories, no /lib64.
func forARM(p debtest.Package) debtest.Package {
	elsewhere := strings.NewReplacer("x86_64-linux-gnu", "aarch64-linux-gnu", "lib64/", "lib/", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1")
	p.Architecture = "arm64"
	entries := p.Entries
	p.Entries = nil
	for _, e := range entries {
		if e.Name == "lib64/" {
			continue
		}
		e.Name, e.Link = elsewhere.Replace(e.Name), elsewhere.Replace(e.Link)
		if e.Mode&0o111 != 0 && e.Content != "" {
			e.Content = "for arm64 " + e.Content
		}
		p.Entries = append(p.Entries, e)
	}
	return p
}

func with(fields map[string]string, more ...string) map[string]string {
	all := map[string]string{}
	for k, v := range fields {
		all[k] = v
	}
	for i := 0; i < len(more); i += 2 {
		all[more[i]] = more[i+1]
	}
	return all
}

// text makes about n bytes that compress as programs do: not to nothing.
func text(word string, n int) string {
	var b strings.Builder
	for seed := uint32(len(word)); b.Len() < n; {
		for range 8 {
			seed = seed*1664525 + 1013904223
			b.WriteByte(byte(seed >> 24))
		}
		b.WriteString(word)
	}
	return b.String()
}

// newMirror serves the fixture on 127.0.0.1, signed with a key of its own.
func newMirror(tb testing.TB) *mirrortest.Mirror {
	var packages []mirrortest.Package
	for _, p := range fixture() {
		packages = append(packages, offered(tb, p))
	}
	return mirrortest.New(tb, packages...)
}

func offered(tb testing.TB, p debtest.Package) mirrortest.Package {
	return mirrortest.Package{Control: p.ControlText(), Deb: p.Build(tb)}
}

// door stands before the mirror, and keeps requests waiting on demand.
type door struct {
	next http.Handler

	mu    sync.Mutex
	held  []string      // parts of the paths whose requests wait
	open  chan struct{} // closed when they may go on
	asked []string      // all paths so far
}

func newDoor(tb testing.TB, next http.Handler) (*door, string) {
	d := &door{next: next, open: make(chan struct{})}
	server := httptest.NewServer(d)
	tb.Cleanup(server.Close)
	return d, server.URL
}

// hold keeps requests whose path contains part waiting from now on.
func (d *door) hold(part string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.held = append(d.held, part)
}

// release lets everything go on.
func (d *door) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	close(d.open)
	d.held, d.open = nil, make(chan struct{})
}

// requests counts the requests so far whose path contains part; those that wait too.
func (d *door) requests(part string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, path := range d.asked {
		if strings.Contains(path, part) {
			n++
		}
	}
	return n
}

func (d *door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	open := d.open
	d.asked = append(d.asked, r.URL.Path)
	holds := slices.ContainsFunc(d.held, func(part string) bool { return strings.Contains(r.URL.Path, part) })
	d.mu.Unlock()
	if holds {
		select {
		case <-open:
		case <-r.Context().Done():
			return
		}
	}
	d.next.ServeHTTP(w, r)
}
