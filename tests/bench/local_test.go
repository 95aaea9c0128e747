package bench

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
)

// archive is a proxy in front of the machine's Debian mirrors that has each file from there once: what is measured then
// does not depend on a network, and is the same for everybody. Mirrors behind https are not seen by it.
type archive struct {
	dir    string
	server *httptest.Server
	client http.Client

	mu    sync.Mutex
	files map[string]*sync.Once
}

func newArchive(t testing.TB, dir string) (*archive, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	a := &archive{dir: dir, files: make(map[string]*sync.Once)}
	if proxy, err := aptProxy(); err != nil {
		return nil, err
	} else if proxy != "" { // which every apt on this machine takes first
		return nil, fmt.Errorf("apt's own configuration names the proxy %s", proxy)
	}
	a.client.Transport = &http.Transport{Proxy: http.ProxyFromEnvironment, DisableCompression: true}
	a.server = httptest.NewServer(a)
	t.Cleanup(a.server.Close)
	return a, nil
}

// aptProxy is the machine's own way to http mirrors; empty when apt knows none.
func aptProxy() (string, error) {
	out, err := exec.Command("apt-config", "dump", "--format", "%v", "Acquire::http::Proxy").Output()
	if err != nil {
		return "", fmt.Errorf("apt-config: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// ServeHTTP answers a request to a proxy out of the directory.
func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead || !r.URL.IsAbs() {
		http.Error(w, "only GET and HEAD of whole URLs", http.StatusMethodNotAllowed)
		return
	}
	file := filepath.Join(a.dir, digest.FromString(r.URL.String()).Encoded())
	a.mu.Lock()
	once := a.files[file]
	if once == nil {
		once = new(sync.Once)
		a.files[file] = once
	}
	a.mu.Unlock()
	var err error
	once.Do(func() {
		if err = a.fetch(r.URL.String(), file); err != nil {
			a.mu.Lock()
			delete(a.files, file)
			a.mu.Unlock()
		}
	})
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	f, err := os.Open(file)
	if err != nil { // the mirror has none
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, r, "", info.ModTime(), f)
}

// fetch writes what a mirror has to file, with the mirror's own date; nothing when it has no such thing.
func (a *archive) fetch(address, file string) error {
	answer, err := a.client.Get(address)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return nil
	default:
		return fmt.Errorf("%s: %s", address, answer.Status)
	}
	f, err := os.Create(file + ".part")
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, answer.Body); err != nil {
		f.Close()
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	if date, err := http.ParseTime(answer.Header.Get("Last-Modified")); err == nil {
		if err := os.Chtimes(f.Name(), date, date); err != nil {
			return err
		}
	}
	return os.Rename(f.Name(), file)
}
