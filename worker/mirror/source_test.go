package mirror

import (
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func writeRoot(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestReadSources(t *testing.T) {
	root := writeRoot(t, map[string]string{
		"etc/apt/sources.list": "# one\ndeb\t[ arch=amd64,arm64 signed-by=/a.gpg check-valid-until=no ]  http://u:p@h.example/debian/ bookworm main contrib # tail\n" +
			"deb-src http://h.example/debian bookworm main\n\ndeb http://h.example/debian bookworm-updates main\n",
		"etc/apt/sources.list.d/b.sources": "# comment\nTypes: deb deb-src\nURIs: https://one.example/d https://two.example/d/\nSuites: bookworm-security bookworm-backports\n" +
			"Components: main\n  contrib\n# inside\nSigned-By:\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n abc\n -----END PGP PUBLIC KEY BLOCK-----\n" +
			"\n\nEnabled: no\nTypes: deb\nURIs: http://off.example\nSuites: bookworm\nComponents: main\n" +
			"\nTypes: deb-src\nURIs: http://src.example\nSuites: bookworm\nComponents: main\n",
		"etc/apt/sources.list.d/c.list.disabled": "deb http://no.example bookworm main\n",
		"etc/apt/sources.list.d/d~.list":         "broken\n",
		"etc/apt/sources.list.d/flat.list":       "deb [trusted=yes] file:/srv/repo ./\n",
	})
	s, err := ReadSources(root)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Files) != 3 || len(s.All) != 5 {
		t.Fatalf("files %v, sources %+v", s.Files, s.All)
	}
	got, err := s.For("bookworm", "amd64")
	if err != nil || len(got) != 5 || got[3].Suite != "bookworm-backports" || got[3].Extra || !got[4].Extra {
		t.Fatalf("%+v, %v", got, err)
	}
	a := got[0]
	if a.URIs[0] != "http://h.example/debian" || a.Suite != "bookworm" || strings.Join(a.Components, " ") != "main contrib" ||
		a.SignedBy[0] != "/a.gpg" || *a.CheckValidUntil || !strings.HasSuffix(a.From, "sources.list:2") {
		t.Errorf("first: %+v", a)
	}
	c := got[2]
	if c.Suite != "bookworm-security" || len(c.URIs) != 2 || c.URIs[1] != "https://two.example/d" || strings.Join(c.Components, " ") != "main contrib" ||
		string(c.Keys) != "-----BEGIN PGP PUBLIC KEY BLOCK-----\n\nabc\n-----END PGP PUBLIC KEY BLOCK-----\n" {
		t.Errorf("third: %+v %q", c, c.Keys)
	}
	if len(s.logins) != 1 || s.logins[0].password != "p" {
		t.Errorf("logins %+v", s.logins)
	}
	if _, err := s.For("bookworm", "riscv64"); err == nil || !strings.Contains(err.Error(), "bookworm for amd64, arm64 only") {
		t.Error(err)
	}
}

func TestReadSourcesRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"bed http://h bookworm main":      "sources.list:1: the type \"bed\" is not known",
		"deb http://h":                    "sources.list:1: an entry is",
		"\ndeb [arch=amd64 http://h b m":  "sources.list:2: the options have no closing ]",
		"deb http://h bookworm":           "suite bookworm needs components",
		"deb http://h ./ main":            "./ ends in a slash, so it is a directory with one index, and has no components",
		"deb http://h ../../x/":           "suite \"../../x/\" has .. in it",
		"deb nothing bookworm main":       "is no URI",
		"deb ://u:secret@h bookworm main": "is no URI",
	} {
		_, err := ReadSources(writeRoot(t, map[string]string{"etc/apt/sources.list": text}))
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", text, err)
		}
	}
	for text, want := range map[string]string{
		"URIs: http://h\nSuites: b\nComponents: main": "x.sources:1: the entry has no Types",
		"Types: deb\nSuites: b\nComponents: main":     "needs URIs and Suites",
		"\n continued": "x.sources:2: a line that continues nothing",
		"no colon":     "x.sources:1: \"no colon\" is no field",
	} {
		_, err := ReadSources(writeRoot(t, map[string]string{"etc/apt/sources.list.d/x.sources": text}))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestLogins(t *testing.T) {
	c := &Client{machine: parseLogins("# c\nmachine h.example/debian login a password b\nmachine http://plain.example:8080\n  login c\n  password d\n")}
	for address, want := range map[string]string{
		"https://h.example/debian/dists/x": "a", "http://h.example/debian/x": "", "https://h.example/other": "",
		"http://plain.example:8080/x": "c", "http://plain.example/x": "", "https://plain.example:8080/x": "",
	} {
		u, err := url.Parse(address)
		if err != nil {
			t.Fatal(err)
		}
		if l, _ := c.loginFor(u); l.user != want {
			t.Errorf("%s: %q, want %q", address, l.user, want)
		}
	}
}

func TestOptions(t *testing.T) {
	o := parseOptions("Acquire \"\";\nAcquire::http::Proxy \"http://p.example:3128\";\nAcquire::http::Proxy::near.example \"DIRECT\";\n" +
		"Acquire::https::Proxy::sec.example \"http://q.example:1\";\nAcquire::Check-Valid-Until \"false\";\n")
	if o.checkValidUntil() || !(options{}).checkValidUntil() {
		t.Error("Check-Valid-Until")
	}
	for address, want := range map[string]string{
		"http://far.example/": "http://p.example:3128", "http://near.example/": "", "https://far.example/": "http://p.example:3128",
		"https://sec.example/": "http://q.example:1",
	} {
		req, err := http.NewRequest(http.MethodGet, address, nil)
		if err != nil {
			t.Fatal(err)
		}
		u, err := o.proxy(req)
		if err != nil {
			t.Error(err)
		}
		got := ""
		if u != nil {
			got = u.String()
		}
		if got != want {
			t.Errorf("%s goes through %q, want %q", address, got, want)
		}
	}
}
