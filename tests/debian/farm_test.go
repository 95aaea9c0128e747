package debian

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var (
	data = flag.String("data", "", "directory in which the farm of these tests is kept between runs, with all that it has made")
	keep = flag.String("keep", "", "directory in which the systems that are compared are kept, each in one that is named for its test")
)

// scratch is a path of a test's own, with nothing there yet.
func scratch(t *testing.T, name string) string {
	t.Helper()
	if *keep == "" {
		return filepath.Join(t.TempDir(), name)
	}
	file := filepath.Join(*keep, filepath.Base(t.Name()), name)
	if err := errors.Join(os.RemoveAll(file), os.MkdirAll(filepath.Dir(file), 0o755)); err != nil {
		t.Fatal(err)
	}
	return file
}

// A farm of this machine's own apt sources.
type farm struct{ program, dir, url string }

// theFarm is what all tests bake on, so that each package is fetched and converted once.
var theFarm = sync.OnceValues(func() (*farm, error) {
	f := &farm{dir: directory}
	return f, f.start()
})

var (
	directory string // the farm's, set by TestMain
	process   *exec.Cmd
)

func TestMain(m *testing.M) {
	flag.Parse()
	dir, err := os.MkdirTemp("", "bakefarm-debian-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	directory = dir
	code := m.Run()
	if process != nil {
		_ = process.Process.Signal(os.Interrupt) // fails only when it has ended
		_ = process.Wait()                       // interrupted
	}
	_ = os.RemoveAll(dir) // what stays is in the directory for temporary files
	os.Exit(code)
}

func start(t *testing.T) *farm {
	t.Helper()
	f, err := theFarm()
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *farm) start() error {
	kept := *data
	if kept == "" {
		kept = filepath.Join(f.dir, "farm")
	}
	f.program = filepath.Join(f.dir, "bakefarm")
	build := exec.Command("go", "build", "-tags", "containers_image_openpgp", "-o", f.program, "bakefarm/cmd/bakefarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("go build: %w\n%s", err, out)
	}
	cmd := exec.Command(f.program, "up", "--data", kept, "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "BAKEFARM_DEBIAN_MIRROR=", "BAKEFARM_DEBIAN_KEYRING=", "BAKEFARM_S3=", "BAKEFARM_NATS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return err
	}
	process = cmd
	line := make([]byte, 1000)
	n, err := out.Read(line)
	ready := regexp.MustCompile(`ready at (http://\S+)`).FindSubmatch(line[:n])
	if ready == nil {
		return fmt.Errorf("the farm said %q, %w", line[:n], err)
	}
	go io.Copy(io.Discard, out)
	f.url = string(ready[1])
	return nil
}

// run runs a client command and returns what it prints.
func (f *farm) run(t *testing.T, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(f.program, args...)
	var said strings.Builder
	cmd.Dir, cmd.Env, cmd.Stderr = f.dir, append(os.Environ(), "BAKEFARM_SERVER="+f.url), &said
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("bakefarm %s: %v\n%s", strings.Join(args, " "), err, said.String())
	}
	return out
}

// image is a baked image, pulled.
type image struct {
	ref    string
	layers []string // files, the lowest first
	locked []string // packages, "name=version"
}

// bake bakes a recipe's system and pulls it.
func (f *farm) bake(t *testing.T, system string) image {
	t.Helper()
	recipe := "apiVersion: bakefarm/v1\nname: test/system\nos: " + system + "\n"
	name := filepath.Join(t.TempDir(), "bakefarm.yaml")
	if err := os.WriteFile(name, []byte(recipe), 0o600); err != nil {
		t.Fatal(err)
	}
	decode := func(raw []byte, into any) {
		t.Helper()
		if err := json.Unmarshal(raw, into); err != nil {
			t.Fatalf("%v: %s", err, raw)
		}
	}
	began := time.Now()
	var baked struct{ Images []struct{ Ref string } }
	decode(f.run(t, "bake", name, "-o", "json"), &baked)
	t.Logf("bakefarm took %v", time.Since(began).Round(time.Second))
	i := image{ref: baked.Images[0].Ref}
	var lock struct {
		OS struct {
			Debian struct {
				Platforms map[string][]struct{ Name, Version string }
			}
		}
	}
	decode(f.run(t, "lock", name), &lock)
	for _, p := range lock.OS.Debian.Platforms["linux/amd64"] {
		i.locked = append(i.locked, p.Name+"="+p.Version)
	}

	layout := scratch(t, "oci")
	f.run(t, "images", "pull", i.ref, "--oci", layout)
	read := func(name string, into any) {
		t.Helper()
		raw, err := os.ReadFile(filepath.Join(layout, name))
		if err != nil {
			t.Fatal(err)
		}
		decode(raw, into)
	}
	blob := func(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
	var index struct{ Manifests []struct{ Digest string } }
	read("index.json", &index)
	var manifest struct{ Layers []struct{ Digest string } }
	read(blob(index.Manifests[0].Digest), &manifest)
	for _, l := range manifest.Layers {
		i.layers = append(i.layers, filepath.Join(layout, blob(l.Digest)))
	}
	return i
}

// tree is what the layers hold together.
func (i image) tree(t *testing.T) map[string]entry {
	t.Helper()
	tree := map[string]entry{}
	owners := owners()
	for _, l := range i.layers {
		file, err := os.Open(l)
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(file)
		if err == nil {
			err = lay(tree, z, owners)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	named(tree, owners)
	return tree
}
