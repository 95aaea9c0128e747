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
	s, err := apt.Solve(apt.Request{Arch: mirrortest.Arch, Variant: apt.VariantNone, Packages: names}, indexes)
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
	root := m.AptRoot()
	o, err := newClient(t, mirror.Options{Root: root}).Observe(t.Context(), "bookworm", "amd64", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(solve(t, o, "hello"), " "); len(o.Indexes) != 2 || !strings.Contains(got, "libc6 2.36-10") {
		t.Errorf("%d indexes; got %s", len(o.Indexes), got)
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
