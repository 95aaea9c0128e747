package ldcache

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"bakefarm/compose/ldcache/ldcachetest"
)

func object(abi ABI, soname string, padding int) []byte {
	return ldcachetest.Object(abi.Class, abi.Machine, soname, padding)
}

var (
	amd64 = ABI{elf64, 62}
	i386  = ABI{elf32, 3}
)

func TestInspect(t *testing.T) {
	for name, test := range map[string]struct {
		data []byte
		want Library
		ok   bool
	}{
		"64 bits":             {object(amd64, "libx.so.1", 0), Library{"libx.so.1", amd64}, true},
		"32 bits":             {object(i386, "libx.so.1", 1000), Library{"libx.so.1", i386}, true},
		"behind the window":   {object(amd64, "liblarge.so.3", maxWindow+10), Library{"liblarge.so.3", amd64}, true},
		"a linker script":     {[]byte("/* GNU ld script */ GROUP ( /lib/libc.so.6 )" + strings.Repeat(" ", 50)), Library{}, false},
		"nothing":             {nil, Library{}, false},
		"cut off":             {object(amd64, "libx.so.1", 0)[:100], Library{}, false},
		"cut off at the end":  {object(amd64, "libx.so.1", maxWindow)[:maxWindow+40], Library{}, false},
		"no program":          {append([]byte("\x7fELF\x02\x01"), make([]byte, 100)...), Library{}, false},
		"a path for a soname": {object(amd64, "../libx.so.1", 0), Library{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			got, ok, err := Inspect(bytes.NewReader(test.data), int64(len(test.data)))
			if got != test.want || ok != test.ok || err != nil {
				t.Errorf("%+v, %t, %v, want %+v, %t", got, ok, err, test.want, test.ok)
			}
		})
	}
	whole := object(amd64, "libx.so.1", 0)
	if _, _, err := Inspect(bytes.NewReader(whole[:90]), int64(len(whole))); err != io.ErrUnexpectedEOF {
		t.Errorf("a reader that breaks off: %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add(object(amd64, "libx.so.1", 0))
	f.Add(object(i386, "libx.so.1", 7))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, ok, err := Inspect(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatalf("reading memory failed: %v", err)
		}
		if ok && strings.ContainsAny(l.Soname, "/\n\x00") {
			t.Fatalf("soname %q", l.Soname)
		}
	})
}

func TestCompare(t *testing.T) {
	ordered := []string{"", "lib", "lib.so.", "lib.so.1", "lib.so.1.2", "lib.so.2", "lib.so.10", "libX", "liba", "liba.so", "lib1"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got, want := Compare(a, b), min(1, max(-1, i-j)); got != want {
				t.Errorf("Compare(%q, %q) = %d, want %d", a, b, got, want)
			}
		}
	}
}

func TestScan(t *testing.T) {
	lib := func(soname string) Library { return Library{soname, amd64} }
	entries, links := Scan([]Dir{
		{"/usr/lib", []File{
			{"libx.so", true, lib("libx.so.1")},             // the linker's: a name of its own
			{"libx.so.1", true, lib("libx.so.1")},           // the soname's
			{"libx.so.1.9", false, lib("libx.so.1")},        //
			{"libx.so.1.10", false, lib("libx.so.1")},       // newer
			{"liby.so.2.1", false, lib("liby.so.2")},        // has no link
			{"libz.so", false, lib("")},                     // has no soname
			{"libold.so.4", false, Library{"libold", i386}}, // another processor's, which this one runs
			{"libarm.so.1", false, Library{"libarm.so.1", ABI{elf64, 183}}},
		}},
		{"/opt/lib", []File{{"libx.so.1", false, lib("libx.so.1")}}},
	}, "amd64")
	got := map[string]uint32{}
	for _, e := range entries {
		got[e.Name+" "+e.Path] = e.Flags
	}
	want := map[string]uint32{
		"libx.so /usr/lib/libx.so": 0x303, "libx.so.1 /usr/lib/libx.so.1": 0x303, "liby.so.2 /usr/lib/liby.so.2": 0x303,
		"libz.so /usr/lib/libz.so": 0x303, "libold /usr/lib/libold": 3, "libx.so.1 /opt/lib/libx.so.1": 0x303,
	}
	if len(got) != len(want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for e, flags := range want {
		if got[e] != flags {
			t.Errorf("%s: flags %x, want %x", e, got[e], flags)
		}
	}
	if len(links) != 2 || links[0] != (Link{"/usr/lib", "libold", "libold.so.4"}) || links[1] != (Link{"/usr/lib", "liby.so.2", "liby.so.2.1"}) {
		t.Errorf("links %v", links)
	}
}
