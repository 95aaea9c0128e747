package mirror_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/compose/apt"
	"bakefarm/worker/mirror"
	"bakefarm/worker/mirror/mirrortest"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

var (
	hello = mirrortest.Package{Control: mirrortest.Control("hello", "1.0-1", "amd64", "Depends: libc6"), Deb: bytes.Repeat([]byte("hello"), 40000)}
	libc  = mirrortest.Package{Control: mirrortest.Control("libc6", "2.36-9", "amd64"), Deb: []byte("libc")}
	newer = mirrortest.Package{Control: mirrortest.Control("libc6", "2.36-10", "amd64"), Deb: []byte("libc, safer")}
)

// newClient makes a client with short times and an empty machine.
func newClient(t *testing.T, opts mirror.Options) *mirror.Client {
	t.Helper()
	if opts.Root == "" {
		opts.Root = t.TempDir()
	}
	if opts.Backoff == 0 {
		opts.Backoff = time.Millisecond
	}
	c, err := mirror.New(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// solve is what a worker does with an observation.
func solve(t *testing.T, o *mirror.Observation, names ...string) []string {
	t.Helper()
	var indexes []*apt.Index
	for _, x := range o.Indexes {
		if digest.FromBytes(x.Data) != x.Packages || int64(len(x.Data)) != x.Size {
			t.Errorf("%s: the data is not what the index says", x.Name)
		}
		r, err := mirror.Decompress(x.Name, bytes.NewReader(x.Data))
		if err != nil {
			t.Fatal(err)
		}
		index, err := apt.ParsePackages(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		indexes = append(indexes, index)
	}
	req := apt.Request{Arch: mirrortest.Arch, Variant: apt.VariantNone, Packages: names}
	for _, x := range o.Indexes {
		req.Archives = append(req.Archives, mirror.Archive(x.Index))
	}
	for _, p := range o.Pins {
		req.Pins = append(req.Pins, apt.Pin(p))
	}
	s, err := apt.Solve(req, indexes)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, p := range s.Packages {
		got = append(got, p.Name+" "+p.Version+" "+mirror.PackageURL(o.Indexes[p.Index].Base, p.Filename))
	}
	return got
}

func TestObserveMirror(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	o, err := newClient(t, mirror.Options{}).Observe(t.Context(), "bookworm", "amd64", m.URL+"/", m.Keyring)
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Indexes) != 1 {
		t.Fatalf("%d indexes", len(o.Indexes))
	}
	x := o.Indexes[0]
	if x.Base != m.URL || x.Suite != "bookworm" || x.Codename != "bookworm" || x.Component != "main" ||
		x.Name != "main/binary-amd64/Packages.gz" || len(x.SignedBy) != 40 || x.Release.Validate() != nil {
		t.Errorf("index is %+v", x.Index)
	}
	if m.Requests("by-hash") != 1 {
		t.Error("by-hash was not used")
	}
	want := []string{"hello 1.0-1 " + m.URL + "/pool/main/hello/hello_1.0-1_amd64.deb", "libc6 2.36-9 " + m.URL + "/pool/main/libc6/libc6_2.36-9_amd64.deb"}
	if got := solve(t, o, "hello"); strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("got %q", got)
	}
}

func TestObserveMachineSources(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Publish("bookworm-security", "main", newer)
	m.Publish("bookworm-backports", "main", mirrortest.Package{Control: mirrortest.Control("libc6", "3", "amd64")})
	m.Resign("bookworm-backports", mirrortest.Release{Fields: "NotAutomatic: yes\nButAutomaticUpgrades: yes\n"})
	m.Publish("sid", "main", mirrortest.Package{Control: mirrortest.Control("libc6", "9", "amd64")})
	m.Publish("extras", "main", mirrortest.Package{Control: mirrortest.Control("tool", "1", "amd64", "Depends: libc6")})
	m.Resign("extras", mirrortest.Release{Origin: "Somebody"})
	root := m.AptRoot()
	o, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(solve(t, o, "hello"), " "); len(o.Indexes) != 4 || !strings.Contains(got, "libc6 2.36-10") {
		t.Errorf("%d indexes; got %s", len(o.Indexes), got)
	}
	if got := strings.Join(solve(t, o, "libc6=3", "tool"), " "); !strings.Contains(got, "libc6 3") || !strings.Contains(got, "tool 1") {
		t.Errorf("of backports and a repository beside the suite: %s", got)
	}
	if len(o.Notes) != 1 || !strings.Contains(o.Notes[0], "suite sid is another release's and left out") {
		t.Errorf("notes %q", o.Notes)
	}
	_, err = newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "trixie", "amd64", "", "")
	wantError(t, err, "no apt source for suite trixie on amd64", "fixture.sources", "bookworm-security", "BAKEFARM_DEBIAN_MIRROR")
	_, err = newClient(t, mirror.Options{}).Observe(t.Context(), "trixie", "amd64", "", "")
	wantError(t, err, "there are no apt sources on this machine")
}

func TestObserveCachesWhatDidNotChange(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	c := newClient(t, mirror.Options{Cache: filepath.Join(t.TempDir(), "cache")})
	observe := func() string {
		t.Helper()
		o, err := c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(solve(t, o, "libc6"), "")
	}
	first := observe()
	if again := observe(); again != first || m.Requests("by-hash") != 1 {
		t.Errorf("Packages was fetched %d times", m.Requests("by-hash"))
	}
	m.Publish("bookworm", "main", hello, newer)
	if got := observe(); !strings.Contains(got, "2.36-10") {
		t.Errorf("after a change: %s", got)
	}
	m.Expire("bookworm")
	_, err := c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
	wantError(t, err, "has expired")
}

// TestObserveRefuses has one row per way in which a mirror can lie or fail.
func TestObserveRefuses(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*mirrortest.Mirror)
		want  []string
	}{
		"changed Packages":    {func(m *mirrortest.Mirror) { m.ChangePackages() }, []string{"/by-hash/SHA256/", "sha256 is ", "but the signed Release says "}},
		"truncated Packages":  {func(m *mirrortest.Mirror) { m.Serve("/binary-", mirrortest.Truncated(3)) }, []string{"bytes but the signed Release says"}},
		"no Packages":         {func(m *mirrortest.Mirror) { m.Serve("/binary-", mirrortest.Missing()) }, []string{"/by-hash/", "404 Not Found"}},
		"changed Release":     {func(m *mirrortest.Mirror) { m.BreakSignature() }, []string{"/dists/bookworm/InRelease: the signature by key ", "is not good"}},
		"unknown key":         {func(m *mirrortest.Mirror) { m.SignWithUnknownKey("bookworm") }, []string{"it is signed with key ", "none of these keys is in the keyring"}},
		"expired":             {func(m *mirrortest.Mirror) { m.Expire("bookworm") }, []string{"it has expired: it was valid until ", "(Valid-Until)"}},
		"other suite":         {func(m *mirrortest.Mirror) { m.Resign("bookworm", mirrortest.Release{Codename: "buster"}) }, []string{"it is the Release of suite buster", "not of bookworm"}},
		"unsigned":            {func(m *mirrortest.Mirror) { m.Resign("bookworm", mirrortest.Release{Unsigned: true}) }, []string{"404 Not Found"}},
		"no signature at all": {func(m *mirrortest.Mirror) { m.Serve("InRelease", mirrortest.Swapped([]byte("Suite: bookworm\n"))) }, []string{"it carries no OpenPGP signature"}},
		"truncated Release":   {func(m *mirrortest.Mirror) { m.Serve("InRelease", mirrortest.Truncated(100)) }, []string{"InRelease: "}},
		"always 503":          {func(m *mirrortest.Mirror) { m.Serve("InRelease", mirrortest.Unavailable(100)) }, []string{"InRelease: 503 Service Unavailable"}},
		"says nothing":        {func(m *mirrortest.Mirror) { m.Serve("InRelease", mirrortest.Slow(time.Minute, 100)) }, []string{"InRelease: ", "timeout"}},
		"no such suite":       {func(m *mirrortest.Mirror) { m.Serve("dists/", mirrortest.Missing()) }, []string{"no mirror has suite bookworm"}},
		"text outside signature": {func(m *mirrortest.Mirror) {
			m.Serve("InRelease", mirrortest.Replaced("-----BEGIN PGP SIGNATURE", "X: y\n-----BEGIN PGP SIGNATURE"))
		}, []string{"is not good"}},
	} {
		t.Run(name, func(t *testing.T) {
			m := mirrortest.New(t, hello, libc)
			test.spoil(m)
			cache := filepath.Join(t.TempDir(), "cache")
			c := newClient(t, mirror.Options{Cache: cache, Stall: 100 * time.Millisecond})
			o, err := c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
			if o != nil {
				t.Error("there is an observation beside the error")
			}
			wantError(t, err, test.want...)
			if left, _ := filepath.Glob(filepath.Join(cache, "*.packages")); len(left) > 0 {
				t.Errorf("left behind: %v", left)
			}
		})
	}
}

func TestObserveSurvives(t *testing.T) {
	for name, spoil := range map[string]func(*mirrortest.Mirror){
		"503 twice":       func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Unavailable(2)) },
		"cut twice":       func(m *mirrortest.Mirror) { m.Serve("/binary-", mirrortest.Cut(50, 2)) },
		"stalls once":     func(m *mirrortest.Mirror) { m.Serve("InRelease", mirrortest.Slow(time.Minute, 1)) },
		"by-hash missing": func(m *mirrortest.Mirror) { m.Serve("by-hash", mirrortest.Missing()) },
		"no by-hash":      func(m *mirrortest.Mirror) { m.Resign("bookworm", mirrortest.Release{NoByHash: true}) },
		"xz only":         func(m *mirrortest.Mirror) { m.Resign("bookworm", mirrortest.Release{Endings: []string{".xz"}}) },
		"plain only":      func(m *mirrortest.Mirror) { m.Resign("bookworm", mirrortest.Release{Endings: []string{""}}) },
		"text before the signature": func(m *mirrortest.Mirror) {
			m.Serve("InRelease", mirrortest.Replaced("-----BEGIN PGP SIGNED", "Suite: evil\nCodename: evil\n\n-----BEGIN PGP SIGNED"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			m := mirrortest.New(t, hello, libc)
			spoil(m)
			c := newClient(t, mirror.Options{Stall: 100 * time.Millisecond})
			o, err := c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
			if err != nil {
				t.Fatal(err)
			}
			if got := solve(t, o, "hello"); len(got) != 2 {
				t.Errorf("got %v", got)
			}
		})
	}
}

// TestObserveSeveralURIs: of the URIs of one stanza those that serve the same Release stand in for each other, and one
// that is down is left out.
func TestObserveSeveralURIs(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	other := mirrortest.New(t, mirrortest.Package{Control: mirrortest.Control("extra", "1", "amd64")})
	root := t.TempDir()
	alias := strings.Replace(m.URL, "127.0.0.1", "localhost", 1)
	write(t, filepath.Join(root, "etc/apt/sources.list.d/a.sources"), "Types: deb\nURIs: "+m.URL+" http://127.0.0.1:1/gone "+alias+" "+other.URL+
		"\nSuites: bookworm\nComponents: main\nSigned-By: /a.asc /b.asc\n")
	for name, keyring := range map[string]string{"a.asc": m.Keyring, "b.asc": other.Keyring} {
		raw, err := os.ReadFile(keyring)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, name), string(raw))
	}
	m.Serve("by-hash", mirrortest.Missing())
	m.Serve("Packages", mirrortest.Unavailable(4)) // as often as the first URI is tried
	o, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Indexes) != 2 || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], "127.0.0.1:1/gone") {
		t.Errorf("%d indexes, notes %q", len(o.Indexes), o.Notes)
	}
	if got := solve(t, o, "hello", "extra"); len(got) != 3 {
		t.Errorf("got %v", got)
	}
}

func TestObserveTrusted(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Resign("bookworm", mirrortest.Release{Unsigned: true})
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/apt/sources.list"), "deb [trusted=yes] "+m.URL+" bookworm main\n")
	o, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if o.Indexes[0].SignedBy != "" || len(o.Notes) != 1 || !strings.Contains(o.Notes[0], "sources.list:1 says Trusted: yes") {
		t.Errorf("notes %q", o.Notes)
	}
}

func TestObserveFileURIAndFetch(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	root := m.Dump(t.TempDir())
	c := newClient(t, mirror.Options{})
	o, err := c.Observe(t.Context(), "bookworm", "amd64", "file:"+root, m.Keyring)
	if err != nil {
		t.Fatal(err)
	}
	r, err := c.Fetch(t.Context(), []string{mirror.PackageURL(o.Indexes[0].Base, "pool/main/libc6/libc6_2.36-9_amd64.deb")}, 4, digest.FromString("libc"))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(r); err != nil || string(raw) != "libc" {
		t.Errorf("%q, %v", raw, err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.Observe(t.Context(), "bookworm", "amd64", "cdrom:/x", m.Keyring); err == nil || !strings.Contains(err.Error(), "scheme cdrom is not supported") {
		t.Error(err)
	}
}

// TestCredentials: they come from the URI or auth.conf, and go nowhere but to the mirror.
func TestCredentials(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.RequireLogin("user", "s3cret")
	u, err := url.Parse(m.URL)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	write(t, filepath.Join(root, "etc/apt/sources.list"), "deb "+m.URL+" bookworm main\n")
	_, err = newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", m.Keyring)
	wantError(t, err, "401 Unauthorized")

	write(t, filepath.Join(root, "etc/apt/auth.conf.d/a.conf"), "machine http://"+u.Host+"\nlogin user\npassword s3cret\n")
	if _, err = newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", m.Keyring); err != nil {
		t.Error(err)
	}

	write(t, filepath.Join(root, "etc/apt/sources.list"), "deb http://user:s3cret@"+u.Host+" bookworm main\n")
	if err := os.Remove(filepath.Join(root, "etc/apt/auth.conf.d/a.conf")); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, mirror.Options{Root: root})
	o, err := c.Observe(t.Context(), "bookworm", "amd64", "", m.Keyring)
	if err != nil {
		t.Fatal(err)
	}
	if o.Indexes[0].Base != m.URL {
		t.Errorf("base is %s", o.Indexes[0].Base)
	}
	m.Serve("InRelease", mirrortest.Unavailable(100))
	if _, err = c.Observe(t.Context(), "bookworm", "amd64", "", m.Keyring); err == nil || strings.Contains(err.Error(), "s3cret") {
		t.Error(err)
	}
	_, err = c.Observe(t.Context(), "bookworm", "amd64", "http://user:s3cret@"+u.Host, m.Keyring)
	wantError(t, err, "mirror "+m.URL+": credentials in the URI", "auth.conf.d")
}

func TestObserveStopsWithContext(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Serve("", mirrortest.Slow(time.Minute, 100))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	start := time.Now()
	_, err := newClient(t, mirror.Options{}).Observe(ctx, "bookworm", "amd64", m.URL, m.Keyring)
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) > 5*time.Second {
		t.Errorf("after %v: %v", time.Since(start), err)
	}
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Error("no error")
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error %q does not say %q", err, part)
		}
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestObservePreferences: the machine's pins decide between what its sources have.
func TestObservePreferences(t *testing.T) {
	for name, test := range map[string]struct{ preferences, conf, want string }{
		"none":              {"", "", "libc6 2.36-10"},
		"one package":       {"# why\nPackage: libc6\nPin: version 2.36-9*\nPin-Priority: 1001\n", "", "libc6 2.36-9"},
		"a suite":           {"Package: *\nPin: release n=bookworm-security\nPin-Priority: -1\n", "", "libc6 2.36-9"},
		"an origin":         {"Explanation: x\nPackage: *\nPin: origin \"127.0.0.1\"\nPin-Priority: 700\n", "", "libc6 2.36-10"},
		"the default":       {"", "APT::Default-Release \"bookworm\";\n", "libc6 2.36-9"},
		"the first counts":  {"Package: hello libc*\nPin: release n=bookworm\nPin-Priority: 600\n\nPackage: *\nPin: release o=Fixture\nPin-Priority: 300\n", "", "libc6 2.36-9"},
		"no longer allowed": {"Package: libc6\nPin: version 2.36-10\nPin-Priority: never\n", "", "libc6 2.36-9"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mirrortest.New(t, hello, libc)
			m.Publish("bookworm-security", "main", newer)
			root := m.AptRoot()
			write(t, filepath.Join(root, "etc/apt/preferences.d/team.pref"), test.preferences)
			write(t, filepath.Join(root, "etc/apt/preferences.d/team.off"), "nonsense")
			write(t, filepath.Join(root, "etc/apt/apt.conf"), test.conf)
			o, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(solve(t, o, "hello"), " "); !strings.Contains(got, test.want+" ") {
				t.Errorf("want %s, got %s", test.want, got)
			}
		})
	}
	m := mirrortest.New(t, hello, libc)
	root := m.AptRoot()
	write(t, filepath.Join(root, "etc/apt/preferences"), "\n\nPackage: libc6\nPin: version 1\n")
	_, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
	wantError(t, err, "etc/apt/preferences:3: the record has no Pin-Priority")
	if o, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring); err != nil || o.Pins != nil {
		t.Errorf("preferences count for a recipe's own mirror: %v", err)
	}
}

// TestObserveDetached: an archive without InRelease has Release and Release.gpg.
func TestObserveDetached(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Resign("bookworm", mirrortest.Release{Detached: true})
	c := newClient(t, mirror.Options{Cache: t.TempDir()})
	for range 2 {
		o, err := c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
		if err != nil {
			t.Fatal(err)
		}
		if got := solve(t, o, "hello"); len(got) != 2 || len(o.Indexes[0].SignedBy) != 40 {
			t.Errorf("got %v, signed by %s", got, o.Indexes[0].SignedBy)
		}
	}
	m.Serve("bookworm/Release", mirrortest.Replaced("Origin: Fixture", "Origin: Fixtura"))
	_, err := newClient(t, mirror.Options{}).Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
	wantError(t, err, "/dists/bookworm/Release: the signature by key ", "is not good")
	m.Heal()
	m.Resign("bookworm", mirrortest.Release{Detached: true, Key: mirrortest.NewKey(t)})
	_, err = c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
	wantError(t, err, "none of these keys is in the keyring")
}

// TestObserveFlat: a repository without dists beside the suite.
func TestObserveFlat(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.PublishFlat("team/repo", mirrortest.Package{Control: mirrortest.Control("tool", "1", "all", "Depends: hello"), Deb: []byte("tool")})
	root := m.AptRoot()
	write(t, filepath.Join(root, "etc/apt/sources.list.d/team.list"), "deb [signed-by=/keyring.asc] "+m.URL+"/team/repo ./\n")
	c := newClient(t, mirror.Options{Root: root})
	o, err := c.Observe(t.Context(), "bookworm", "amd64", "", "")
	if err != nil {
		t.Fatal(err)
	}
	got := solve(t, o, "tool")
	if len(got) != 3 || got[2] != "tool 1 "+m.URL+"/team/repo/tool.deb" {
		t.Fatalf("got %v", got)
	}
	r, err := c.Fetch(t.Context(), []string{m.URL + "/team/repo/tool.deb"}, 4, digest.FromString("tool"))
	if err != nil {
		t.Fatal(err)
	}
	if raw, err := io.ReadAll(r); err != nil || string(raw) != "tool" || r.Close() != nil {
		t.Errorf("%q, %v", raw, err)
	}
}

// TestObserveExtraThatFails: a repository beside the suite that cannot be read is no repository without packages.
func TestObserveExtraThatFails(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	root := m.AptRoot()
	write(t, filepath.Join(root, "etc/apt/sources.list.d/team.list"), "deb [signed-by=/keyring.asc] "+m.URL+"/gone team main\n")
	_, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
	wantError(t, err, "/gone/dists/team/Release: 404 Not Found", "team.list:1; write Enabled: no")
}

// TestObserveSnapshot: an archive as it was has expired, and is still what was asked for.
func TestObserveSnapshot(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Expire("bookworm")
	then := "20260102T030405Z"
	m.Alias(then)
	if _, err := newClient(t, mirror.Options{}).Observe(t.Context(), "bookworm", "amd64", m.URL+"/"+then+"/", m.Keyring); err != nil {
		t.Error(err)
	}
	_, err := newClient(t, mirror.Options{}).Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
	wantError(t, err, "has expired")
	for option, ok := range map[string]bool{"check-valid-until=no": true, "check-valid-until=yes": false, "": false} {
		root := m.AptRoot()
		write(t, filepath.Join(root, "etc/apt/sources.list.d/fixture.sources"), "")
		write(t, filepath.Join(root, "etc/apt/sources.list"), "deb [signed-by=/keyring.asc "+option+"] "+m.URL+"/"+then+" bookworm main\n")
		if _, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", ""); (err == nil) != ok {
			t.Errorf("%q: %v", option, err)
		}
	}
}

// TestKeybox: what gpg keeps for itself is no keyring.
func TestKeybox(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	name := filepath.Join(t.TempDir(), "pubring.kbx")
	write(t, name, "\x00\x00\x00\x20\x01\x01\x00\x02KBXf\x00\x00\x00\x00")
	_, err := newClient(t, mirror.Options{}).Observe(t.Context(), "bookworm", "amd64", m.URL, name)
	wantError(t, err, "pubring.kbx: it is a GnuPG keybox", "--export")
}

// TestStandIns: mirrors with the same path stand in for each other, whatever is wrong with one of them; what has another
// path is another archive, and has to be there.
func TestStandIns(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*mirrortest.Mirror)
		first string // instead of the mirror's URL
		want  string // error
		notes string
		also  int
	}{
		"both well":        {also: 1},
		"no connection":    {first: "http://127.0.0.1:1", notes: "127.0.0.1:1"},
		"always 503":       {spoil: func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Unavailable(1000)) }, notes: "503"},
		"silent":           {spoil: func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Slow(time.Minute, 0)) }, notes: "said nothing"},
		"bad signature":    {spoil: func(m *mirrortest.Mirror) { m.Serve("InRelease", mirrortest.Flipped()) }, notes: "InRelease"},
		"no such suite":    {spoil: func(m *mirrortest.Mirror) { m.Serve("dists", mirrortest.Missing()) }},
		"changed Packages": {spoil: func(m *mirrortest.Mirror) { m.ChangePackages() }, also: 1},
		"no Packages":      {spoil: func(m *mirrortest.Mirror) { m.Serve("/binary-", mirrortest.Missing()) }, also: 1},
		"another archive":  {first: "http://127.0.0.1:1/debian-security", want: "127.0.0.1:1/debian-security/dists/bookworm/Release"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mirrortest.New(t, hello, libc)
			first := m.URL
			if test.first != "" {
				first = test.first
			}
			if test.spoil != nil {
				test.spoil(m)
			}
			c := newClient(t, mirror.Options{Stall: 50 * time.Millisecond, Backoff: time.Millisecond})
			o, err := c.Observe(t.Context(), "bookworm", "amd64", first+" "+m.Twin(), m.Keyring)
			if test.want != "" {
				wantError(t, err, "127.0.0.1:1/debian-security")
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := solve(t, o, "hello"); len(got) != 2 || len(o.Indexes) != 1 || len(o.Indexes[0].Also) != test.also {
				t.Errorf("got %v, %d indexes, also %q", got, len(o.Indexes), o.Indexes[0].Also)
			}
			if notes := strings.Join(o.Notes, "\n"); !strings.Contains(notes, test.notes) {
				t.Errorf("notes %q", notes)
			}
		})
	}
}

// TestNamedMirrorIsHeldToItsDates: what the machine lets pass for its own sources does not hold for others.
func TestNamedMirrorIsHeldToItsDates(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Expire("bookworm")
	root := m.AptRoot()
	write(t, filepath.Join(root, "etc/apt/apt.conf.d/90lax"), "Acquire::Check-Valid-Until \"false\";\n")
	c := newClient(t, mirror.Options{Root: root})
	if _, err := c.Observe(t.Context(), "bookworm", "amd64", "", ""); err != nil {
		t.Errorf("the machine's own: %v", err)
	}
	_, err := c.Observe(t.Context(), "bookworm", "amd64", m.URL, m.Keyring)
	wantError(t, err, "has expired")
	if _, err := c.Observe(t.Context(), "bookworm", "amd64", "[check-valid-until=no] "+m.URL, m.Keyring); err != nil {
		t.Errorf("with the option: %v", err)
	}
}

// TestNotes: who waits is told what is tried again.
func TestNotes(t *testing.T) {
	m := mirrortest.New(t, hello, libc)
	m.Serve("InRelease", mirrortest.Unavailable(1))
	var mu sync.Mutex
	var notes []string
	ctx := mirror.WithNotes(t.Context(), func(note string) {
		mu.Lock()
		defer mu.Unlock()
		notes = append(notes, note)
	})
	if _, err := newClient(t, mirror.Options{}).Observe(ctx, "bookworm", "amd64", m.URL, m.Keyring); err != nil {
		t.Fatal(err)
	}
	if len(notes) != 1 || !strings.HasSuffix(notes[0], "dists/bookworm/InRelease: 503 Service Unavailable; trying again") {
		t.Errorf("notes %q", notes)
	}
}
