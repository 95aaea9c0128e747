package chaos

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"sync"
	"syscall"
	"testing"
	"time"
)

// part is one process of the farm, which can be started again with what it had.
type part struct {
	t    *testing.T
	name string
	dir  string // its data
	args []string
	env  []string
	log  string // file

	mu     sync.Mutex
	child  *exec.Cmd
	ended  chan struct{}
	starts int
}

// program is the binary that all parts run.
var program = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "chaos")
	if err != nil {
		return "", err
	}
	binary := filepath.Join(dir, "bakefarm")
	build := exec.Command("go", "build", "-tags", "containers_image_openpgp", "-o", binary, "bakefarm/cmd/bakefarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return binary, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if binary, err := program(); err == nil {
		os.RemoveAll(filepath.Dir(binary))
	}
	os.Exit(code)
}

// newPart makes a part whose data and log are in dir, and ends it with the test. What it said is shown when the test has failed.
func newPart(t *testing.T, dir, name string, env []string, args ...string) *part {
	t.Helper()
	p := &part{t: t, name: name, dir: filepath.Join(dir, name), env: env, log: filepath.Join(dir, name+".log")}
	p.args = append(args, "--data", p.dir)
	t.Cleanup(func() {
		p.kill()
		if said, _ := os.ReadFile(p.log); t.Failed() {
			t.Logf("%s said:\n%s", p.name, said[max(0, len(said)-6000):])
		}
	})
	return p
}

// start starts it, with more flags than it always has.
func (p *part) start(more ...string) {
	p.t.Helper()
	binary, err := program()
	if err != nil {
		p.t.Fatal(err)
	}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.starts++
	p.child = exec.Command(binary, append(p.args[:len(p.args):len(p.args)], more...)...)
	p.child.Env = append(os.Environ(), p.env...)
	p.child.Stdout, p.child.Stderr = log, log
	p.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.child.Start(); err != nil {
		p.t.Fatal(err)
	}
	ended := make(chan struct{})
	p.ended = ended
	go func(child *exec.Cmd) {
		_ = child.Wait() // it is killed
		close(ended)
	}(p.child)
}

func (p *part) signal(s syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.child != nil {
		_ = p.child.Process.Signal(s) // it may have ended
	}
}

// kill ends it at once, if it was started.
func (p *part) kill() {
	p.signal(syscall.SIGKILL)
	p.gone()
}

// gone waits for its end.
func (p *part) gone() {
	p.mu.Lock()
	ended := p.ended
	p.mu.Unlock()
	if ended != nil {
		<-ended
	}
}

// said waits until it has said what a pattern matches, and returns the first group.
func (p *part) said(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for until := time.Now().Add(90 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		said, _ := os.ReadFile(p.log)
		if match := re.FindSubmatch(said); match != nil {
			return string(match[len(match)-1])
		}
	}
	p.t.Fatalf("%s has not said %s", p.name, pattern)
	return ""
}
