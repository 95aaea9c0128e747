package recipe

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/recipe/strict"
)

// Test is one thing that has to be true of an image before it is published. Exactly one of HTTP, TCP, Console and Boot is
// set. Tests are no part of the Lock: they act on every request, also on a cached one.
type Test struct {
	HTTP    *HTTPTest     `json:"http,omitempty"`
	TCP     *TCPTest      `json:"tcp,omitempty"`
	Console string        `json:"console,omitempty"` // text in a line of the console, or of the program's output
	Boot    bool          `json:"boot,omitempty"`    // a disk: the root was found and its init started
	Within  time.Duration `json:"within"`            // from the start of the root's init, or of the container
	On      []string      `json:"on,omitempty"`      // OnOCI, OnDisk and platforms; empty: everything that it can be asked of
}

// HTTPTest asks with GET until the answer is as wanted. Redirects are answers like any other.
type HTTPTest struct {
	Port     int    `json:"port"`
	Path     string `json:"path"`
	Status   int    `json:"status,omitempty"`   // 0: 200 to 399
	Contains string `json:"contains,omitempty"` // text in the first MiB of the answer's body
}

// TCPTest connects until somebody accepts.
type TCPTest struct {
	Port int `json:"port"`
}

// What a test may be restricted to, beside platforms.
const (
	OnOCI  = "oci"
	OnDisk = "disk"
)

// Bounds of tests.
const (
	maxTests      = 64
	maxTestText   = 1024 // bytes
	minWithin     = time.Second
	maxWithin     = 30 * time.Minute
	defaultWithin = time.Minute
)

// Asks reports whether the test is asked of an image: OnOCI or OnDisk, for a platform.
func (t Test) Asks(kind, platform string) bool {
	if t.Boot && kind != OnDisk {
		return false
	}
	kinds, platforms := t.restricted()
	return (len(kinds) == 0 || slices.Contains(kinds, kind)) && (len(platforms) == 0 || slices.Contains(platforms, platform))
}

func (t Test) restricted() (kinds, platforms []string) {
	for _, on := range t.On {
		if on == OnOCI || on == OnDisk {
			kinds = append(kinds, on)
		} else {
			platforms = append(platforms, on)
		}
	}
	return kinds, platforms
}

// String says what the test is, for people.
func (t Test) String() string {
	switch {
	case t.HTTP != nil:
		s := fmt.Sprintf("http port %d %s", t.HTTP.Port, t.HTTP.Path)
		if t.HTTP.Status != 0 {
			s += fmt.Sprintf(" status %d", t.HTTP.Status)
		}
		if t.HTTP.Contains != "" {
			s += fmt.Sprintf(" contains %q", t.HTTP.Contains)
		}
		return s
	case t.TCP != nil:
		return fmt.Sprintf("tcp port %d", t.TCP.Port)
	case t.Console != "":
		return fmt.Sprintf("console %q", t.Console)
	}
	return "boot"
}

const testExample = "{http: {port: 8080, path: /healthz}, within: 60s}"

func readTests(v strict.Value, outputs []Output) []Test {
	values, ok := v.Items("[" + testExample + "]")
	if ok && len(values) > maxTests {
		v.Refuse("has %d tests; write at most %d", len(values), maxTests)
		return nil
	}
	var tests []Test
	for _, v := range values {
		f, ok := v.Fields(testExample, "http", "tcp", "console", "boot", "within", "on")
		if !ok {
			continue
		}
		t := Test{Within: defaultWithin}
		var named []string
		for _, e := range f.Entries {
			if slices.Contains([]string{"http", "tcp", "console", "boot"}, e.Key) {
				named = append(named, e.Key)
			}
		}
		switch {
		case len(named) == 0:
			v.Refuse("asks for nothing; write one of http, tcp, console and boot, as in %s", testExample)
		case len(named) > 1:
			v.Refuse("asks for %s; make them items of the list of their own", strings.Join(named, " and "))
		}
		if v, ok := f.Get("http"); ok {
			t.HTTP = readHTTPTest(v)
		}
		if v, ok := f.Get("tcp"); ok {
			t.TCP = &TCPTest{}
			if f, ok := v.Fields("{port: 5432}", "port"); ok {
				t.TCP.Port = readTestPort(f)
			}
		}
		if v, ok := f.Get("console"); ok {
			t.Console = readTestText(v, "ready")
		}
		if v, ok := f.Get("boot"); ok {
			if t.Boot = v.IsTrue(); !t.Boot {
				v.Refuse("is %s; write boot: true, or leave it out", v.Describe())
			}
		}
		if v, ok := f.Get("within"); ok {
			t.Within = readWithin(v)
		}
		if v, ok := f.Get("on"); ok {
			t.On = readOn(v)
		}
		if !v.Refused() && !t.asked(outputs) {
			switch {
			case t.Boot:
				v.Refuse("is asked of disks, and the outputs have none that fits; write - disk: {size: 2GiB} in outputs, or leave it out")
			default:
				v.Refuse("is asked of none of the outputs; name them with on: oci or on: disk, or leave on out")
			}
		}
		tests = append(tests, t)
	}
	return tests
}

// asked reports whether any of the outputs is tested.
func (t Test) asked(outputs []Output) bool {
	for _, o := range outputs {
		if o.Disk != nil && t.Asks(OnDisk, o.Disk.Platform) {
			return true
		}
		if o.OCI != nil && slices.ContainsFunc(o.OCI.Platforms, func(p string) bool { return t.Asks(OnOCI, p) }) {
			return true
		}
	}
	return false
}

func readHTTPTest(v strict.Value) *HTTPTest {
	t := &HTTPTest{Path: "/"}
	f, ok := v.Fields("{port: 8080, path: /healthz}", "port", "path", "status", "contains")
	if !ok {
		return t
	}
	t.Port = readTestPort(f)
	if v, ok := f.Get("path"); ok {
		if s := readTestText(v, "/healthz"); s != "" {
			if s[0] != '/' || strings.ContainsAny(s, " #") {
				v.Refuse("%q is no path of a URL; write one that begins with /, such as /healthz", clip(s))
			}
			t.Path = s
		}
	}
	if v, ok := f.Get("status"); ok {
		if n, ok := v.Number("200", 100, 599); ok {
			t.Status = int(n)
		}
	}
	if v, ok := f.Get("contains"); ok {
		t.Contains = readTestText(v, "ok")
	}
	return t
}

func readTestPort(f strict.Fields) int {
	v, ok := f.Need("port", "port: 8080")
	if !ok {
		return 0
	}
	n, _ := v.Number("8080", 1, 65535)
	return int(n)
}

func readTestText(v strict.Value, example string) string {
	s, ok := v.Text(example)
	if ok && (s == "" || len(s) > maxTestText || hasControl(s)) {
		v.Refuse("want 1 to %d bytes on one line, such as %s", maxTestText, example)
		return ""
	}
	return s
}

func readWithin(v strict.Value) time.Duration {
	s, ok := v.Text("60s")
	if !ok {
		return defaultWithin
	}
	d, err := time.ParseDuration(s)
	switch {
	case err != nil:
		v.Refuse("%q is no duration; write a number with its unit, such as 60s or 5m", clip(s))
	case d < minWithin || d > maxWithin:
		v.Refuse("is %s; a test has from 1s to 30m", clip(s))
	}
	return d
}

func readOn(v strict.Value) []string {
	const example = "disk, or [oci, linux/amd64]"
	names, at := []string{}, []strict.Value{v}
	if v.IsText() {
		s, _ := v.Text(example)
		names = append(names, s)
	} else if names, at, _ = v.Texts(example); len(names) == 0 && !v.Refused() {
		v.Refuse("is empty; write %s, or leave it out for all outputs", example)
	}
	for i, name := range names {
		if name != OnOCI && name != OnDisk && !slices.Contains(Platforms, name) {
			at[i].Refuse("%q is no output; write oci, disk, or %s", clip(name), strings.Join(Platforms, " or "))
		}
	}
	return sortedSet(names)
}
