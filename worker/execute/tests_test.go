package execute_test

import (
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"bakefarm/compose/disk"
	"bakefarm/compose/oci"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/execute"
	"bakefarm/worker/vm"
	"bakefarm/worker/vm/vmtest"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// said are the lines that the executors said.
func (b *bench) said() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return strings.Join(b.lines, "\n")
}

// storeGuest stores a disk whose kernel starts the tests' guest.
func (b *bench) storeGuest(what string) plan.TestSpec {
	b.t.Helper()
	kernel, initrd := vmtest.Boot(b.t)
	config, err := oci.NewDiskConfig(oci.DiskConfig{
		OS: "linux", Architecture: "amd64", Size: 1 << 20, LayerSize: disk.LayerSize, Boot: disk.BootDirect, Filesystem: "ext4",
		Kernel: "6", Cmdline: vmtest.Cmdline(what),
	})
	if err != nil {
		b.t.Fatal(err)
	}
	w := b.store.Begin()
	var blobs []oci.Blob
	for _, put := range []struct {
		mediaType string
		content   []byte
	}{{v1.MediaTypeImageConfig, config}, {oci.MediaTypeDiskLayer, make([]byte, 1<<20)}, {oci.MediaTypeKernel, kernel}, {oci.MediaTypeInitrd, initrd}} {
		part, err := w.Put(b.t.Context(), put.content)
		if err != nil {
			b.t.Fatal(err)
		}
		blobs = append(blobs, oci.Blob{MediaType: put.mediaType, Digest: part.Digest, Size: part.Size})
	}
	manifest, err := oci.NewDiskManifest(config, blobs[1:])
	if err != nil {
		b.t.Fatal(err)
	}
	d, err := imagestore.PutManifest(b.t.Context(), b.store, w, v1.MediaTypeImageManifest, manifest)
	if err == nil {
		err = w.Commit(b.t.Context())
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return plan.TestSpec{Image: d, Platform: "linux/amd64"}
}

func (b *bench) withMachines() {
	b.t.Helper()
	h, err := vm.Open(filepath.Join(b.t.TempDir(), "machines"))
	if err != nil {
		b.t.Fatal(err)
	}
	b.env.Machines = h
}

func http(port int, within time.Duration) recipe.Test {
	return recipe.Test{HTTP: &recipe.HTTPTest{Port: port, Path: "/healthz", Contains: "ok"}, Within: within}
}

func TestBoot(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	b := newBench(t, newStore(t))
	var out plan.TestOutput
	spec := b.storeGuest("serve")
	spec.Tests = []recipe.Test{
		{Boot: true, Within: time.Second}, http(8080, time.Minute), {TCP: &recipe.TCPTest{Port: 8080}, Within: time.Minute},
		{Console: "guest: listening", Within: time.Minute},
	}
	if err := b.run(farm.KindBoot, spec, &out); err == nil || !strings.Contains(err.Error(), "starts no virtual machines") {
		t.Errorf("without machines: %v", err)
	}
	b.withMachines()
	b.must(farm.KindBoot, spec, &out)
	if len(out.Passed) != 4 || !strings.Contains(b.said(), "passed http port 8080 /healthz") || !strings.Contains(b.said(), "console: Linux version") &&
		!strings.Contains(b.said(), "Linux version") {
		t.Errorf("%+v\n%s", out, b.said())
	}
	none, err := os.ReadDir(filepath.Dir(must(t, b.env.Machines.NewDir)))
	if err != nil || len(none) != 1 {
		t.Errorf("left behind: %v, %v", none, err)
	}
}

func must(t *testing.T, fn func() (string, error)) string {
	t.Helper()
	s, err := fn()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What goes wrong says so, with the end of the console.
func TestBootTrouble(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	b := newBench(t, newStore(t))
	b.withMachines()
	var out plan.TestOutput
	for _, c := range []struct {
		guest string
		tests []recipe.Test
		want  []string
	}{
		{"silent", []recipe.Test{http(8080, time.Second)}, []string{"test http port 8080 /healthz", "not within 3s", "connection refused", "the end of the console:", "root on nothing"}},
		{"off", []recipe.Test{http(8080, time.Minute)}, []string{"switched itself off", "root on nothing"}},
		{"panic", []recipe.Test{http(8080, time.Minute)}, []string{"Kernel panic - not syncing: Attempted to kill init!"}},
	} {
		spec := b.storeGuest(c.guest)
		spec.Tests = c.tests
		err := b.run(farm.KindBoot, spec, &out)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %v: want %q", c.guest, err, want)
			}
		}
		if err != nil && execute.MayPass(err) {
			t.Errorf("%s: another attempt would be made", c.guest)
		}
	}
}

// killed are machines of which the first one's QEMU is killed as soon as it runs.
type killed struct {
	execute.Machines
	once sync.Once
}

func (k *killed) Start(ctx context.Context, d vm.Disk, console func(string)) (*vm.Machine, error) {
	m, err := k.Machines.Start(ctx, d, console)
	if err == nil {
		k.once.Do(func() { err = m.Signal(syscall.SIGKILL) })
	}
	return m, err
}

func TestBootAgain(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts virtual machines")
	}
	b := newBench(t, newStore(t))
	b.withMachines()
	b.env.Machines = &killed{Machines: b.env.Machines}
	spec := b.storeGuest("silent")
	spec.Tests = []recipe.Test{{Boot: true, Within: time.Second}}
	var out plan.TestOutput
	b.must(farm.KindBoot, spec, &out)
	if !strings.Contains(b.said(), "trying once more: qemu-system-x86_64 ended: signal: killed") {
		t.Errorf("%s", b.said())
	}
}

// helloProgram is that of examples/hello.
var helloProgram = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "bakefarm-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	cmd := exec.Command("go", "build", "-o", dir+"/hello", "bakefarm/examples/hello")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, &exec.Error{Name: string(out), Err: err}
	}
	return os.ReadFile(dir + "/hello")
})

// storeHello stores an image over scratch with that.
func (b *bench) storeHello(config recipe.Config) plan.TestSpec {
	b.t.Helper()
	program, err := helloProgram()
	if err != nil {
		b.t.Fatal(err)
	}
	layer := b.storeLayer("hello", string(program), "etc/passwd", "app:x:1234:1234::/:/none\n")
	r, err := b.env.Store.Open(b.t.Context(), layer.Digest, 0, -1)
	if err != nil {
		b.t.Fatal(err)
	}
	defer r.Close()
	plain, err := gzip.NewReader(r)
	if err != nil {
		b.t.Fatal(err)
	}
	whole, err := io.ReadAll(plain)
	if err != nil {
		b.t.Fatal(err)
	}
	layer.DiffID = digest.FromBytes(whole)
	var out plan.ImageOutput
	b.must(farm.KindImage, plan.ImageSpec{Platform: "linux/amd64", Config: config, Roles: []string{plan.RoleApp}}, &out, layer)
	return plan.TestSpec{Image: out.Manifest, Platform: "linux/amd64"}
}

func TestRun(t *testing.T) {
	if testing.Short() {
		t.Skip("make test runs programs and waits for them")
	}
	t.Parallel()
	b := newBench(t, newStore(t))
	var out plan.TestOutput
	spec := b.storeHello(recipe.Config{Entrypoint: []string{"/hello"}, Env: map[string]string{"PORT": "9090"}, User: "app"})
	spec.Tests = []recipe.Test{http(9090, 10*time.Second), {TCP: &recipe.TCPTest{Port: 9090}, Within: 10 * time.Second}, {Console: "listening on :9090", Within: 10 * time.Second}}
	if err := b.run(farm.KindRun, spec, &out); err == nil || !strings.Contains(err.Error(), "no sandbox") {
		t.Errorf("without a sandbox: %v", err)
	}
	b.withSandbox()
	b.must(farm.KindRun, spec, &out)
	if len(out.Passed) != 3 || !strings.Contains(b.said(), "listening on :9090") {
		t.Errorf("%+v\n%s", out, b.said())
	}

	for _, c := range []struct {
		config recipe.Config
		tests  []recipe.Test
		want   []string
	}{
		{recipe.Config{Entrypoint: []string{"/hello"}}, []recipe.Test{http(9090, 4*time.Second)},
			[]string{"test http port 9090 /healthz", "not within 4s", "connection refused", "the end of its output:", "listening on :8080"}},
		{recipe.Config{Entrypoint: []string{"/hello"}}, []recipe.Test{{HTTP: &recipe.HTTPTest{Port: 8080, Path: "/nowhere"}, Within: 4 * time.Second}},
			[]string{"it answers 404 Not Found"}},
		{recipe.Config{Entrypoint: []string{"/hello"}, Env: map[string]string{"PORT": "no port"}}, []recipe.Test{http(8080, time.Minute)},
			[]string{"/hello: exit status 1", "listen tcp"}},
		{recipe.Config{Entrypoint: []string{"/nothing"}}, []recipe.Test{http(8080, time.Minute)}, []string{"/nothing"}},
		{recipe.Config{Entrypoint: []string{"/hello"}, User: "nobody"}, []recipe.Test{http(8080, time.Minute)},
			[]string{"user nobody: /etc/passwd of the image has none of that name"}},
		{recipe.Config{}, []recipe.Test{http(8080, time.Minute)}, []string{"the image has no entrypoint"}},
	} {
		spec := b.storeHello(c.config)
		spec.Tests = c.tests
		err := b.run(farm.KindRun, spec, &out)
		for _, want := range c.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%+v: %v: want %q", c.config, err, want)
			}
		}
		if err != nil && execute.MayPass(err) {
			t.Errorf("%+v: another attempt would be made: %v", c.config, err)
		}
	}
}
