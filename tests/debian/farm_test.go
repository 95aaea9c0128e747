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

func start(t *testing.T) *farm {
	t.Helper()
	dir := t.TempDir()
	f := &farm{program: filepath.Join(dir, "bakefarm"), dir: dir}
	kept := filepath.Join(dir, "farm")
	if *data != "" {
		kept = *data
	}
	build := exec.Command("go", "build", "-tags", "containers_image_openpgp", "-o", f.program, "bakefarm/cmd/bakefarm")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	cmd := exec.Command(f.program, "up", "--data", kept, "--listen", "127.0.0.1:0")
	cmd.Env = append(os.Environ(), "BAKEFARM_DEBIAN_MIRROR=", "BAKEFARM_DEBIAN_KEYRING=", "BAKEFARM_S3=", "BAKEFARM_NATS=")
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(os.Interrupt)
		cmd.Wait()
	})
	line := make([]byte, 1000)
	n, err := out.Read(line)
	ready := regexp.MustCompile(`ready at (http://\S+)`).FindSubmatch(line[:n])
	if ready == nil {
		t.Fatalf("the farm said %q, %v", line[:n], err)
	}
	go io.Copy(io.Discard, out)
	f.url = string(ready[1])
	return f
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

// bake bakes a system and returns its tree, and its packages by name and version.
func (f *farm) bake(t *testing.T, packages []string) (map[string]entry, []string) {
	t.Helper()
	recipe := fmt.Sprintf("apiVersion: bakefarm/v1\nname: test/system\nos: {debian: {suite: bookworm, packages: [%s]}}\n", strings.Join(packages, ", "))
	if err := os.WriteFile(filepath.Join(f.dir, "bakefarm.yaml"), []byte(recipe), 0o600); err != nil {
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
	decode(f.run(t, "bake", "bakefarm.yaml", "-o", "json"), &baked)
	t.Logf("bakefarm took %v", time.Since(began).Round(time.Second))
	var lock struct {
		OS struct {
			Debian struct {
				Platforms map[string][]struct{ Name, Version string }
			}
		}
	}
	decode(f.run(t, "lock", "bakefarm.yaml"), &lock)
	var locked []string
	for _, p := range lock.OS.Debian.Platforms["linux/amd64"] {
		locked = append(locked, p.Name+"="+p.Version)
	}

	layout := scratch(t, "oci")
	f.run(t, "images", "pull", baked.Images[0].Ref, "--oci", layout)
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
	tree := map[string]entry{}
	for _, l := range manifest.Layers {
		file, err := os.Open(filepath.Join(layout, blob(l.Digest)))
		if err != nil {
			t.Fatal(err)
		}
		z, err := gzip.NewReader(file)
		if err == nil {
			err = lay(tree, z)
		}
		if err := errors.Join(err, file.Close()); err != nil {
			t.Fatal(err)
		}
	}
	return tree, locked
}
