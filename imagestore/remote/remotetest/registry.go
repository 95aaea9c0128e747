// Package remotetest makes what tests of publishing stand on: Debian's docker-registry as a child process, and images of
// known bytes in a store.
package remotetest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"golang.org/x/crypto/bcrypt"
)

// Registry is a docker-registry on a loopback port, with its images in a directory of the test.
type Registry struct {
	Address string // host:port
	t       testing.TB
	dir     string
	auth    string // of the configuration
	child   *exec.Cmd
	logged  chan struct{} // closed when the child's log has ended
}

// StartRegistry runs a registry until the test ends. With a user, it wants that name and password.
func StartRegistry(t testing.TB, user, password string) *Registry {
	t.Helper()
	r := &Registry{Address: "127.0.0.1:0", t: t, dir: t.TempDir()}
	if user != "" {
		hash, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(r.dir, "htpasswd")
		if err := os.WriteFile(file, fmt.Appendf(nil, "%s:%s\n", user, hash), 0o600); err != nil {
			t.Fatal(err)
		}
		r.auth = fmt.Sprintf("auth: {htpasswd: {realm: test, path: %q}}\n", file)
	}
	r.Start()
	t.Cleanup(r.Stop)
	return r
}

// listening is the line with which docker-registry says where it listens.
var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// Start starts the registry, again at the same address and with the same images after Stop.
func (r *Registry) Start() {
	r.t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		r.t.Fatal("docker-registry is not here, and publishing is tested against it: apt-get install --no-install-recommends docker-registry")
	}
	config := filepath.Join(r.dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: %q}\n%s",
		filepath.Join(r.dir, "images"), r.Address, r.auth)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		r.t.Fatal(err)
	}
	child := exec.Command(program, "serve", config)
	child.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	log, err := child.StderrPipe()
	if err != nil {
		r.t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		r.t.Fatal(err)
	}
	r.child, r.logged = child, make(chan struct{})
	address := make(chan string, 1)
	go func() {
		defer close(r.logged)
		for lines := bufio.NewScanner(log); lines.Scan(); {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil {
				address <- m[1]
			}
		}
	}()
	select {
	case r.Address = <-address:
	case <-r.logged:
		r.Stop()
		r.t.Fatal("docker-registry ended before it listened")
	case <-time.After(30 * time.Second):
		r.Stop()
		r.t.Fatal("docker-registry does not listen after 30 s")
	}
	// It says so just before it does.
	for range 500 {
		if c, err := net.Dial("tcp", r.Address); err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	r.t.Fatalf("docker-registry said that it listens on %s, and does not", r.Address)
}

// Stop kills the registry.
func (r *Registry) Stop() {
	if r.child == nil {
		return
	}
	r.child.Process.Kill()
	<-r.logged
	r.child.Wait()
	r.child = nil
}
