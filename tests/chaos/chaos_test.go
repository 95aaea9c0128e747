// Package chaos bakes on a farm of real processes whose parts are killed, paused and cut off meanwhile, and then checks that
// every accepted bake is finished exactly once, with the bytes that a re-bake in peace makes too.
//
//	go test ./tests/chaos -chaos 5m -seed 42       as long as that, with the faults in the order of that seed
package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"
	"bakefarm/recipe"
)

var (
	length = flag.Duration("chaos", 0, "how long faults happen; 0: the test is left out")
	seed   = flag.Uint64("seed", 1, "of the order of the faults")
)

// part is one process of the farm, which can be started again with what it had.
type part struct {
	t     *testing.T
	name  string
	args  []string
	env   []string
	log   string
	child *exec.Cmd
	ended chan struct{}
}

func (p *part) start() {
	p.t.Helper()
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		p.t.Fatal(err)
	}
	defer log.Close()
	p.child = exec.Command(program, p.args...)
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

func (p *part) signal(s syscall.Signal) { _ = p.child.Process.Signal(s) } // it may have ended

func (p *part) kill() {
	p.signal(syscall.SIGKILL)
	<-p.ended
}

func (p *part) waitFor(pattern string) string {
	p.t.Helper()
	re := regexp.MustCompile(pattern)
	for until := time.Now().Add(60 * time.Second); time.Now().Before(until); time.Sleep(20 * time.Millisecond) {
		said, _ := os.ReadFile(p.log)
		if match := re.FindStringSubmatch(string(said)); match != nil {
			return match[len(match)-1]
		}
	}
	said, _ := os.ReadFile(p.log)
	p.t.Fatalf("%s does not say %s:\n%s", p.name, pattern, said)
	return ""
}

// wire is a TCP proxy that can be cut.
type wire struct {
	listener net.Listener
	to       string
	mu       sync.Mutex
	cut      bool
	open     map[net.Conn]bool
}

func newWire(t *testing.T, to string) *wire {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &wire{listener: l, to: to, open: map[net.Conn]bool{}}
	t.Cleanup(func() { l.Close(); w.set(true) })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go w.carry(c)
		}
	}()
	return w
}

func (w *wire) carry(c net.Conn) {
	defer c.Close()
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return
	}
	other, err := net.Dial("tcp", w.to)
	if err != nil {
		return
	}
	defer other.Close()
	w.mu.Lock()
	w.open[c], w.open[other] = true, true
	w.mu.Unlock()
	done := make(chan struct{}, 2)
	for _, pair := range [][2]net.Conn{{c, other}, {other, c}} {
		go func() {
			io.Copy(pair[0], pair[1])
			done <- struct{}{}
		}()
	}
	<-done
	w.mu.Lock()
	delete(w.open, c)
	delete(w.open, other)
	w.mu.Unlock()
}

// set cuts every connection and refuses new ones, or mends.
func (w *wire) set(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.open {
			c.Close()
		}
	}
}

func address(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var program string

func TestChaos(t *testing.T) {
	if *length == 0 {
		t.Skip("-chaos says for how long")
	}
	dir := t.TempDir()
	program = filepath.Join(dir, "bakefarm")
	build := exec.Command("go", "build", "-tags", "containers_image_openpgp", "-o", program, "bakefarm/cmd/bakefarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("seed %d, for %s", *seed, *length)
	var parts []*part
	add := func(name string, env []string, args ...string) *part {
		p := &part{t: t, name: name, args: append(args, "--data", filepath.Join(dir, name)), env: env, log: filepath.Join(dir, name+".log")}
		p.start()
		parts = append(parts, p)
		return p
	}
	t.Cleanup(func() {
		for _, p := range parts {
			p.kill()
			if said, _ := os.ReadFile(p.log); t.Failed() {
				t.Logf("%s said:\n%s", p.name, said[max(0, len(said)-6000):])
			}
		}
	})

	s3Address := address(t)
	add("s3", []string{"BAKEFARM_S3_ACCESS_KEY=chaos", "BAKEFARM_S3_SECRET_KEY=chaos-secret"}, "s3", "--listen", s3Address)
	toS3 := newWire(t, s3Address)
	s3 := "http://chaos:chaos-secret@" + toS3.listener.Addr().String() + "/images"
	var routes, servers []string
	for range 3 {
		routes, servers = append(routes, address(t)), append(servers, address(t))
	}
	var coordinators, workers []*part
	for i := range 3 {
		coordinators = append(coordinators, add(fmt.Sprint("coordinator", i), nil, "coordinator", "--s3", s3, "--lease", "2s",
			"--nats-listen", servers[i], "--cluster-listen", routes[i], "--routes", strings.Join(routes, ",")))
	}
	for _, c := range coordinators {
		c.waitFor(`coordinator \S+ is ready`)
	}
	nats := "nats://" + strings.Join(servers, ",nats://")
	web := add("api", nil, "api", "--s3", s3, "--nats", nats, "--listen", "127.0.0.1:0")
	for i := range 3 {
		workers = append(workers, add(fmt.Sprint("worker", i), nil, "worker", "--s3", s3, "--nats", nats, "--drain-timeout", "200ms"))
	}
	farmAPI, err := client.New(web.waitFor(`ready at (http://\S+)`), "")
	if err != nil {
		t.Fatal(err)
	}
	defer farmAPI.Close()

	// Bakes come in all the time; what was accepted is remembered.
	ctx := t.Context()
	var mu sync.Mutex
	accepted := map[string]string{} // bake → recipe
	stop := make(chan struct{})
	var clients sync.WaitGroup
	for i := range 3 {
		clients.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(100 * time.Millisecond):
				}
				name := fmt.Sprintf("team%d/app%d", i, n)
				text := "apiVersion: bakefarm/v1\nname: " + name + "\nos: {scratch: true}\napp:\n  - {copy: ., to: /app}\n"
				ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
				b, err := post(ctx, farmAPI, dir, name, text)
				cancel()
				if err == nil {
					mu.Lock()
					accepted[b.ID] = text
					mu.Unlock()
				} // else the farm did not promise anything
			}
		})
	}

	faults := rand.New(rand.NewPCG(*seed, 0))
	for until := time.Now().Add(*length); time.Now().Before(until); {
		time.Sleep(time.Duration(200+faults.IntN(600)) * time.Millisecond)
		victim := faults.IntN(3)
		switch kind := faults.IntN(6); kind {
		case 0, 1:
			t.Logf("worker %d is killed", victim)
			workers[victim].kill()
			workers[victim].start()
		case 2:
			t.Logf("worker %d is paused for longer than its lease", victim)
			workers[victim].signal(syscall.SIGSTOP)
			time.Sleep(2500 * time.Millisecond)
			workers[victim].signal(syscall.SIGCONT)
		case 3:
			t.Logf("worker %d is stopped in order", victim)
			workers[victim].signal(syscall.SIGTERM)
			<-workers[victim].ended
			workers[victim].start()
		case 4:
			t.Logf("coordinator %d is killed, with its NATS server", victim)
			coordinators[victim].kill()
			time.Sleep(time.Duration(faults.IntN(1500)) * time.Millisecond)
			coordinators[victim].start()
			time.Sleep(2 * time.Second) // a majority must be whole before the next one goes
		case 5:
			t.Log("S3 is cut off")
			toS3.set(true)
			time.Sleep(time.Duration(500+faults.IntN(1500)) * time.Millisecond)
			toS3.set(false)
		}
	}
	close(stop)
	clients.Wait()
	t.Logf("%d bakes were accepted", len(accepted))
	if len(accepted) < 5 {
		t.Errorf("only %d bakes were accepted in all this time", len(accepted))
	}
	check(t, farmAPI, accepted, dir)
}

// post posts a recipe with a context of its own.
func post(ctx context.Context, farmAPI *client.Client, dir, name, text string) (api.Bake, error) {
	place := filepath.Join(dir, "contexts", name)
	if err := os.MkdirAll(place, 0o755); err != nil {
		return api.Bake{}, err
	}
	if err := os.WriteFile(filepath.Join(place, "file"), []byte("what "+name+" holds"), 0o644); err != nil {
		return api.Bake{}, err
	}
	return send(ctx, farmAPI, place, text, false)
}

// check waits for the bakes, and holds them to what they must be.
func check(t *testing.T, farmAPI *client.Client, accepted map[string]string, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	done := map[string]api.Bake{}
	for len(done) < len(accepted) {
		for id := range accepted {
			if _, is := done[id]; is {
				continue
			}
			b, err := farmAPI.Bake(ctx, id)
			switch {
			case ctx.Err() != nil:
				t.Fatalf("%d of %d bakes are not done: %s is %s (%v)", len(accepted)-len(done), len(accepted), id, b.State, err)
			case err != nil || !b.State.Finished():
			case b.State != farm.BakeDone:
				t.Errorf("bake %s of %s: %s: %s", id, b.Name, b.State, b.Error)
				done[id] = b
			default:
				done[id] = b
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	ids := make([]string, 0, len(done))
	for id := range done {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	again := 0
	for _, id := range ids {
		b := done[id]
		if b.State != farm.BakeDone {
			continue
		}
		images, err := farmAPI.Image(ctx, b.Name+":"+b.Version)
		if err != nil || len(images) != 1 || images[0].Digest != b.Images[0].Digest {
			t.Errorf("%s:%s is %v in the catalog (%v), and %s in its bake", b.Name, b.Version, images, err, b.Images[0].Digest)
		}
		if again++; again > 10 { // a sample
			continue
		}
		r, err := send(ctx, farmAPI, filepath.Join(dir, "contexts", b.Name), accepted[id], true)
		for err == nil && !r.State.Finished() {
			time.Sleep(20 * time.Millisecond)
			r, err = farmAPI.Bake(ctx, r.ID)
		}
		if err != nil || r.State != farm.BakeDone || r.Images[0].Digest != b.Images[0].Digest {
			t.Errorf("%s baked again in peace: %+v, %v", b.Name, r, err)
		}
	}
}

func send(ctx context.Context, farmAPI *client.Client, place, text string, rebake bool) (api.Bake, error) {
	items, err := appItems(text)
	if err != nil {
		return api.Bake{}, err
	}
	scan, err := client.ScanContext(ctx, place, items, nil)
	if err != nil {
		return api.Bake{}, err
	}
	b, err := farmAPI.Post(ctx, api.BakeRequest{File: "chaos.yaml", Recipe: text, Rebake: rebake}, scan, nil)
	return b, errors.Join(err, scan.Close())
}

// appItems are what a recipe copies from its context.
func appItems(text string) ([]recipe.AppItem, error) {
	r, err := recipe.Parse("chaos.yaml", []byte(text))
	if err != nil {
		return nil, err
	}
	return r.App, nil
}
