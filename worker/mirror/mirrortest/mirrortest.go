// Package mirrortest makes Debian archives for tests: signed with a key of its own, served on 127.0.0.1, and spoiled on
// request.
//
//	m := mirrortest.New(t, mirrortest.Package{Control: control, Deb: deb})
//	client.Observe(ctx, "bookworm", "amd64", m.URL, m.Keyring)
//	m.Serve("pool/", mirrortest.Unavailable(2))   // the next two requests below pool/ get 503
package mirrortest

import (
	"bytes"
	"compress/gzip"
	"crypto"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp"
	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/clearsign"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	"github.com/ulikunitz/xz"
)

// Suite, Component and Arch are what New publishes, with an index for every other architecture that a package has.
const (
	Suite     = "bookworm"
	Component = "main"
	Arch      = "amd64"
)

// Package is one package of an archive.
type Package struct {
	Control string // its control paragraph: Package, Version, Architecture, Depends, …
	Deb     []byte // its file; may be nil when nobody fetches it
}

// Control writes a minimal control paragraph; fields are further lines, such as "Depends: libc6".
func Control(name, version, arch string, fields ...string) string {
	return fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\nMaintainer: Test <test@localhost>\nDescription: test package %s\n%s",
		name, version, arch, name, strings.Join(append(fields, ""), "\n"))
}

// Mirror is an archive over HTTP. Its methods may be called while it serves.
type Mirror struct {
	URL     string // base URI, without trailing slash
	Keyring string // path of the armored public key that signs it

	t      testing.TB
	key    *openpgp.Entity
	server *httptest.Server
	now    time.Time

	mu             sync.Mutex
	files          map[string][]byte // by path without leading slash
	faults         []*placed
	requests       []string
	suites         map[string]*published
	user, password string // that it asks for
}

type published struct {
	components map[string][]Package
	options    Release
}

// Release says how a suite's Release is written. The zero value is an ordinary one.
type Release struct {
	Codename   string          // default: the suite's name
	ValidUntil time.Time       // default: a week from now
	NoByHash   bool            // do not offer by-hash
	Endings    []string        // of the Packages files; default "", ".gz", ".xz"
	Key        *openpgp.Entity // that signs; default: the mirror's
	Unsigned   bool            // publish Release in place of InRelease
	Detached   bool            // publish Release and Release.gpg in place of InRelease
	Origin     string          // default: Fixture
	Fields     string          // more lines, each with its end: "NotAutomatic: yes\n"
}

// New serves an archive with one suite and stops it when the test ends.
func New(t testing.TB, packages ...Package) *Mirror {
	t.Helper()
	m := &Mirror{t: t, key: NewKey(t), now: time.Now(), files: map[string][]byte{}, suites: map[string]*published{}}
	m.Keyring = WriteKeyring(t, m.key)
	m.server = httptest.NewServer(m)
	t.Cleanup(m.server.Close)
	m.URL = m.server.URL
	m.Publish(Suite, Component, packages...)
	return m
}

// NewKey makes a signing key.
func NewKey(t testing.TB) *openpgp.Entity {
	t.Helper()
	key, err := openpgp.NewEntity("Fixture Archive", "", "archive@localhost", &packet.Config{
		Algorithm: packet.PubKeyAlgoEdDSA, DefaultHash: crypto.SHA256, Time: func() time.Time { return time.Now().Add(-time.Hour) }})
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// WriteKeyring writes the public halves of keys, armored, and returns the path.
func WriteKeyring(t testing.TB, keys ...*openpgp.Entity) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "archive-keyring.asc")
	if err := os.WriteFile(path, Armor(t, keys...), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// Armor encodes the public halves of keys.
func Armor(t testing.TB, keys ...*openpgp.Entity) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := armor.Encode(&b, openpgp.PublicKeyType, nil)
	for _, key := range keys {
		if err == nil {
			err = key.Serialize(w)
		}
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// Publish puts a component of a suite in place of what it was, and signs the suite anew.
func (m *Mirror) Publish(suite, component string, packages ...Package) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.suites[suite] == nil {
		m.suites[suite] = &published{components: map[string][]Package{}}
	}
	m.suites[suite].components[component] = packages
	m.sign(suite)
}

// Resign signs a suite's Release anew, written as the options say.
func (m *Mirror) Resign(suite string, options Release) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.suites[suite].options = options
	m.sign(suite)
}

// sign writes all files of a suite.
func (m *Mirror) sign(suite string) {
	m.t.Helper()
	p, dists := m.suites[suite], "dists/"+suite+"/"
	for name := range m.files {
		if strings.HasPrefix(name, dists) {
			delete(m.files, name)
		}
	}
	endings := p.options.Endings
	if endings == nil {
		endings = []string{"", ".gz", ".xz"}
	}
	arches := map[string]bool{Arch: true}
	for _, packages := range p.components {
		for _, one := range packages {
			if arch := field(one.Control, "Architecture"); arch != "all" {
				arches[arch] = true
			}
		}
	}
	var components []string
	var sums strings.Builder
	for component, packages := range p.components {
		components = append(components, component)
		for arch := range arches {
			dir := component + "/binary-" + arch + "/"
			text := m.pool(component, arch, packages)
			for _, ending := range endings {
				raw := m.compress(ending, text)
				fmt.Fprintf(&sums, " %x %d %sPackages%s\n", sha256.Sum256(raw), len(raw), dir, ending)
				m.files[dists+dir+"Packages"+ending] = raw
				if !p.options.NoByHash {
					m.files[fmt.Sprintf("%s%sby-hash/SHA256/%x", dists, dir, sha256.Sum256(raw))] = raw
				}
			}
		}
	}
	slices.Sort(components)
	codename, until, key, byHash := p.options.Codename, p.options.ValidUntil, p.options.Key, "yes"
	if codename == "" {
		codename = suite
	}
	if until.IsZero() {
		until = m.now.Add(7 * 24 * time.Hour)
	}
	if key == nil {
		key = m.key
	}
	if p.options.NoByHash {
		byHash = "no"
	}
	origin := p.options.Origin
	if origin == "" {
		origin = "Fixture"
	}
	const date = "Mon, 02 Jan 2006 15:04:05 UTC"
	text := fmt.Sprintf("Origin: %s\nSuite: %s\nCodename: %s\nDate: %s\nValid-Until: %s\nAcquire-By-Hash: %s\n"+
		"Architectures: %s\nComponents: %s\n%sSHA256:\n%s", origin, codename, codename, m.now.UTC().Format(date), until.UTC().Format(date),
		byHash, strings.Join(slices.Sorted(maps.Keys(arches)), " "), strings.Join(components, " "), p.options.Fields, sums.String())
	if p.options.Unsigned || p.options.Detached {
		m.files[dists+"Release"] = []byte(text)
		if p.options.Detached {
			m.files[dists+"Release.gpg"] = DetachSign(m.t, key, []byte(text))
		}
		return
	}
	m.files[dists+"InRelease"] = ClearSign(m.t, key, []byte(text))
}

// ClearSign signs a text as an InRelease is.
func ClearSign(t testing.TB, key *openpgp.Entity, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := clearsign.Encode(&b, key.PrivateKey, &packet.Config{DefaultHash: crypto.SHA256})
	if err == nil {
		_, err = w.Write(text)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// DetachSign signs a text as a Release.gpg does.
func DetachSign(t testing.TB, key *openpgp.Entity, text []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := openpgp.ArmoredDetachSign(&b, key, bytes.NewReader(text), &packet.Config{DefaultHash: crypto.SHA256}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// PublishFlat puts packages into a directory as a flat repository: one index beside the packages' files.
func (m *Mirror) PublishFlat(dir string, packages ...Package) {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	var text bytes.Buffer
	for _, p := range packages {
		file := field(p.Control, "Package") + ".deb"
		m.files[dir+"/"+file] = p.Deb
		fmt.Fprintf(&text, "%s\nFilename: ./%s\nSize: %d\nSHA256: %x\n\n", strings.TrimRight(p.Control, "\n"), file, len(p.Deb), sha256.Sum256(p.Deb))
	}
	raw := m.compress(".gz", text.Bytes())
	m.files[dir+"/Packages.gz"] = raw
	m.files[dir+"/InRelease"] = ClearSign(m.t, m.key, fmt.Appendf(nil, "Origin: Flat\nSHA256:\n %x %d Packages.gz\n", sha256.Sum256(raw), len(raw)))
}

// pool stores the packages of an architecture, and those for all, and returns the text of their Packages file.
func (m *Mirror) pool(component, arch string, packages []Package) []byte {
	var text bytes.Buffer
	for _, p := range packages {
		name, version, its := field(p.Control, "Package"), field(p.Control, "Version"), field(p.Control, "Architecture")
		if its != arch && its != "all" {
			continue
		}
		file := fmt.Sprintf("pool/%s/%s/%s_%s_%s.deb", component, name, name, version, its)
		m.files[file] = p.Deb
		fmt.Fprintf(&text, "%s\nFilename: %s\nSize: %d\nSHA256: %x\n\n", strings.TrimRight(p.Control, "\n"), file, len(p.Deb), sha256.Sum256(p.Deb))
	}
	return text.Bytes()
}

func field(control, name string) string {
	for line := range strings.Lines(control) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

func (m *Mirror) compress(ending string, text []byte) []byte {
	m.t.Helper()
	var b bytes.Buffer
	var err error
	switch ending {
	case "":
		return text
	case ".gz":
		w := gzip.NewWriter(&b)
		if _, err = w.Write(text); err == nil {
			err = w.Close()
		}
	case ".xz":
		var w *xz.Writer
		if w, err = xz.NewWriter(&b); err == nil {
			if _, err = w.Write(text); err == nil {
				err = w.Close()
			}
		}
	default:
		err = fmt.Errorf("mirrortest: ending %q", ending)
	}
	if err != nil {
		m.t.Fatal(err)
	}
	return b.Bytes()
}

// AptRoot makes the root of a machine whose apt sources are this mirror's suites, and returns its path.
func (m *Mirror) AptRoot() string {
	m.t.Helper()
	root := m.t.TempDir()
	m.mu.Lock()
	defer m.mu.Unlock()
	var text strings.Builder
	for suite, p := range m.suites {
		for component := range p.components {
			fmt.Fprintf(&text, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By: /keyring.asc\n\n", m.URL, suite, component)
		}
	}
	for name, data := range map[string]string{"etc/apt/sources.list.d/fixture.sources": text.String(), "keyring.asc": string(Armor(m.t, m.key))} {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	return root
}

// File serves one more file, or other bytes in place of one.
func (m *Mirror) File(path string, data []byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.files[path] = data
}

// Dump writes all files below a directory, as for a file: URI, and returns it.
func (m *Mirror) Dump(dir string) string {
	m.t.Helper()
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, data := range m.files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			m.t.Fatal(err)
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			m.t.Fatal(err)
		}
	}
	return dir
}

// Alias serves all that there is now also below a directory.
func (m *Mirror) Alias(dir string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, data := range maps.Clone(m.files) {
		m.files[dir+"/"+name] = data
	}
}

// RequireLogin makes the mirror ask for credentials (HTTP basic).
func (m *Mirror) RequireLogin(user, password string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.user, m.password = user, password
}

// Requests counts the requests so far whose path contains part.
func (m *Mirror) Requests(part string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, r := range m.requests {
		if strings.Contains(r, part) {
			n++
		}
	}
	return n
}

// Twin serves the same archive at another address, which it returns, without faults.
func (m *Mirror) Twin() string {
	m.t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { m.serve(w, r, false) }))
	m.t.Cleanup(server.Close)
	return server.URL
}

// ServeHTTP serves the archive with its faults.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) { m.serve(w, r, true) }

func (m *Mirror) serve(w http.ResponseWriter, r *http.Request, faulty bool) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	m.mu.Lock()
	m.requests = append(m.requests, name)
	if user, password, _ := r.BasicAuth(); user != m.user || password != m.password {
		m.mu.Unlock()
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	data, ok := m.files[name]
	var fault Fault
	if ok && faulty {
		for _, p := range m.faults {
			if strings.Contains(name, p.part) && (p.fault.times == 0 || p.used < p.fault.times) {
				p.used++
				fault = p.fault
				break
			}
		}
	}
	m.mu.Unlock()
	if fault.change != nil {
		data = fault.change(data)
	}
	switch {
	case !ok || fault.status == http.StatusNotFound:
		http.NotFound(w, r)
		return
	case fault.status != 0:
		http.Error(w, http.StatusText(fault.status), fault.status)
		return
	case fault.after > 0:
		w = &cutWriter{ResponseWriter: w, left: fault.after}
	}
	if fault.delay > 0 {
		select {
		case <-time.After(fault.delay):
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
	http.ServeContent(w, r, "", m.now, bytes.NewReader(data))
}

// cutWriter breaks the connection after some bytes of the body.
type cutWriter struct {
	http.ResponseWriter
	left int
}

func (c *cutWriter) Write(p []byte) (int, error) {
	if len(p) >= c.left {
		_, _ = c.ResponseWriter.Write(p[:c.left]) // the connection ends in any case
		if f, ok := c.ResponseWriter.(http.Flusher); ok {
			f.Flush()
		}
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}
