package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"
	"bakefarm/recipe"
)

// binary is what `make build` makes, seen from this directory.
const binary = "../../bin/bakefarm"

// aFarm is a `bakefarm up` of its own.
type aFarm struct {
	t      testing.TB
	server string
	client *client.Client
	child  *exec.Cmd
	ended  chan struct{} // closed when its output has ended
	log    string        // file
	posted int           // bakes, by queue
}

var ready = regexp.MustCompile(`ready at (http://\S+)`)

// startFarm starts a farm with nothing in it, which stops at the end of the test at the latest.
func startFarm(t testing.TB, flags ...string) *aFarm {
	t.Helper()
	return startFarmIn(t, nil, flags...)
}

// startFarmIn starts a farm with more in its environment.
func startFarmIn(t testing.TB, environment []string, flags ...string) *aFarm {
	t.Helper()
	program, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := &aFarm{t: t, ended: make(chan struct{}), log: filepath.Join(dir, "log")}
	log, err := os.Create(f.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	f.child = exec.Command(program, append([]string{"up", "--data", filepath.Join(dir, "farm"), "--listen", "127.0.0.1:0", "--log-level", "warn"}, flags...)...)
	// The machine's own apt sources, as mmdebstrap gets them.
	f.child.Env = append(os.Environ(), "BAKEFARM_DEBIAN_MIRROR=", "BAKEFARM_DEBIAN_KEYRING=", "BAKEFARM_S3=", "BAKEFARM_NATS=")
	f.child.Env = append(f.child.Env, environment...)
	f.child.Stderr = log
	f.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := f.child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := f.child.Start(); err != nil {
		t.Fatalf("%v: make build first", err)
	}
	t.Cleanup(f.stop)
	found := make(chan string, 1)
	go func() {
		defer close(f.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if m := ready.FindStringSubmatch(lines.Text()); m != nil {
				found <- m[1]
			}
		}
	}()
	select {
	case f.server = <-found:
	case <-f.ended:
		t.Fatalf("the farm has ended before it was ready:\n%s", f.said())
	case <-time.After(time.Minute):
		t.Fatalf("the farm is not ready after a minute:\n%s", f.said())
	}
	if f.client, err = client.New(f.server, ""); err != nil {
		t.Fatal(err)
	}
	return f
}

// said is what the farm has logged.
func (f *aFarm) said() string {
	raw, err := os.ReadFile(f.log)
	if err != nil {
		return err.Error()
	}
	return string(raw[max(0, len(raw)-4096):])
}

// stop ends the farm.
func (f *aFarm) stop() {
	if f.child == nil {
		return
	}
	_ = f.child.Process.Signal(os.Interrupt) // fails only when it has ended
	<-f.ended
	_ = f.child.Wait() // how it ends is other tests' matter
	f.child = nil
	if f.client != nil {
		f.client.Close()
	}
}

// job is a recipe with the directory that its app comes from; without one the recipe has no app.
type job struct {
	recipe string
	dir    string
}

// bake posts a job and waits until its image can be pulled. The time is from the beginning of POST, after the app's files
// were read and hashed, until the registry has answered with the manifest. cached says which way it must have gone.
func (f *aFarm) bake(ctx context.Context, j job, cached bool) (api.Bake, time.Duration, error) {
	request := api.BakeRequest{File: "bench.yaml", Recipe: j.recipe}
	var scan *client.Scan
	if j.dir != "" {
		r, err := recipe.Parse(request.File, []byte(j.recipe))
		if err != nil {
			return api.Bake{}, 0, err
		}
		if scan, err = client.ScanContext(ctx, j.dir, r.App, r.OS.Base); err != nil {
			return api.Bake{}, 0, err
		}
		defer scan.Close()
	}
	started := time.Now()
	bake, err := f.client.Post(ctx, request, scan, nil)
	if err != nil {
		return bake, 0, err
	}
	if !bake.State.Finished() {
		if err := f.client.Follow(ctx, bake.ID, func(farm.Event) error { return nil }); err != nil {
			return bake, 0, err
		}
		if bake, err = f.client.Bake(ctx, bake.ID); err != nil {
			return bake, 0, err
		}
	}
	if bake.State != farm.BakeDone {
		return bake, 0, fmt.Errorf("bake %s is %s: %s", bake.ID, bake.State, bake.Error)
	}
	err = f.pullable(ctx, bake.Images[0].Name, bake.Version)
	took := time.Since(started)
	if err == nil && bake.Cached != cached {
		err = fmt.Errorf("bake %s: cached is %t, so that the wrong thing was measured", bake.ID, bake.Cached)
	}
	return bake, took, err
}

// pullable asks the registry for a manifest by its tag.
func (f *aFarm) pullable(ctx context.Context, name, tag string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, f.server+"/v2/"+name+"/manifests/"+tag, nil)
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", request.URL, answer.Status)
	}
	return nil
}

// command bakes a job by the command line, and times the whole process.
func (f *aFarm) command(ctx context.Context, j job) (time.Duration, error) {
	file := filepath.Join(f.t.TempDir(), "bench.yaml")
	if err := os.WriteFile(file, []byte(j.recipe), 0o644); err != nil {
		return 0, err
	}
	return run(ctx, binary, "--server", f.server, "bake", file, "--context", j.dir, "-o", "json")
}

// run runs a program and says how long it took. What it said is in the error.
func run(ctx context.Context, program string, args ...string) (time.Duration, error) {
	child := exec.CommandContext(ctx, program, args...)
	var said bytes.Buffer
	child.Stdout, child.Stderr = &said, &said
	started := time.Now()
	err := child.Run()
	took := time.Since(started)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return 0, fmt.Errorf("%s: %w: %s", filepath.Base(program), err, lines[len(lines)-1])
	}
	return took, nil
}

// peak is the most memory that the farm's process has had resident, in bytes (proc(5), VmHWM).
func (f *aFarm) peak() (int64, error) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", f.child.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(string(raw), "VmHWM:")
	var kib int64
	if _, err := fmt.Sscanf(rest, "%d kB", &kib); !found || err != nil {
		return 0, errors.Join(errors.New("no VmHWM in the process's status"), err)
	}
	return kib << 10, nil
}
