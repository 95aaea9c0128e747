package bench

import (
	"archive/tar"
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/crane"
	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// startRegistry starts Debian's docker-registry, with nothing in it, on a loopback port until the end of the test, and
// returns its address.
func startRegistry(t testing.TB) (string, error) {
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		return "", err
	}
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage: {filesystem: {rootdirectory: %q}}\nhttp: {addr: \"127.0.0.1:0\"}\n", filepath.Join(dir, "images"))
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return "", err
	}
	child := exec.Command(program, "serve", config)
	child.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	log, err := child.StderrPipe()
	if err != nil {
		return "", err
	}
	if err := child.Start(); err != nil {
		return "", err
	}
	ended := make(chan struct{})
	t.Cleanup(func() {
		_ = child.Process.Kill() // fails only when it has ended
		<-ended
		_ = child.Wait() // was killed
	})
	found := make(chan string, 1)
	go func() {
		defer close(ended)
		lines := bufio.NewScanner(log)
		for lines.Scan() {
			if m := listening.FindStringSubmatch(lines.Text()); m != nil && len(found) == 0 {
				found <- m[1]
			}
		}
		io.Copy(io.Discard, log) // a line too long for the scanner must not block the registry
	}()
	select {
	case address := <-found:
		return address, dial(address)
	case <-ended:
		return "", fmt.Errorf("%s has ended before it listened", program)
	case <-time.After(30 * time.Second):
		return "", fmt.Errorf("%s does not listen after 30 s", program)
	}
}

var listening = regexp.MustCompile(`listening on (127\.0\.0\.1:[0-9]+)`)

// dial waits until somebody answers at an address.
func dial(address string) (err error) {
	for range 500 {
		var c net.Conn
		if c, err = net.Dial("tcp", address); err == nil {
			return c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
	return err
}

// where is the directory of the image that the app goes to, without the slash before it.
const where = "opt/app"

// withCrane is what `tar -c | crane append` does: the app becomes a layer on base, and the image is pushed.
func withCrane(dir, base, target string) (time.Duration, error) {
	layer := filepath.Join(filepath.Dir(dir), "layer.tar")
	defer os.Remove(layer)
	started := time.Now()
	if err := writeTar(layer, dir); err != nil {
		return 0, err
	}
	image, err := crane.Pull(base, crane.Insecure)
	if err != nil {
		return 0, err
	}
	if image, err = crane.Append(image, layer); err != nil {
		return 0, err
	}
	err = crane.Push(image, target, crane.Insecure)
	return time.Since(started), err
}

// writeTar writes the files below dir, in order, to file.
func writeTar(file, dir string) error {
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	defer out.Close()
	buffered := bufio.NewWriterSize(out, 1<<20)
	w := tar.NewWriter(buffered)
	err = filepath.WalkDir(dir, func(name string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		header, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		header.Name = filepath.ToSlash(filepath.Join(where, relative))
		if entry.IsDir() {
			header.Name += "/"
			return w.WriteHeader(header)
		}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = io.Copy(w, f)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := buffered.Flush(); err != nil {
		return err
	}
	return out.Close()
}

// buildah builds and pushes with a storage of its own.
type buildah struct {
	storage []string // flags
	base    string
	file    string // the Containerfile
}

// newBuildah pulls base, once, into a storage below dir, which is emptied at the end of the test.
func newBuildah(t testing.TB, ctx context.Context, dir, base string) (*buildah, error) {
	if _, err := exec.LookPath("buildah"); err != nil {
		return nil, err
	}
	b := &buildah{storage: []string{"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run")}, base: base, file: filepath.Join(dir, "Containerfile")}
	text := fmt.Sprintf("FROM %s\nCOPY . /%s\n", base, where)
	if err := os.WriteFile(b.file, []byte(text), 0o644); err != nil {
		return nil, err
	}
	t.Cleanup(func() {
		// Its layers may hold what only buildah can remove.
		if _, err := run(context.Background(), "buildah", b.args("rmi", "--all", "--force")...); err != nil {
			t.Log(err)
		}
	})
	_, err := run(ctx, "buildah", b.args("pull", "--quiet", "--tls-verify=false", base)...)
	return b, err
}

func (b *buildah) args(args ...string) []string { return append(slices.Clone(b.storage), args...) }

// bake is `buildah bud` and `buildah push`. With --layers, buildah finds out for itself that nothing has changed.
func (b *buildah) bake(ctx context.Context, dir, target string) (time.Duration, error) {
	building, err := run(ctx, "buildah", b.args("bud", "--quiet", "--layers", "--isolation", "chroot", "--pull-never", "-t", target, "-f", b.file, dir)...)
	if err != nil {
		return 0, err
	}
	pushing, err := run(ctx, "buildah", b.args("push", "--quiet", "--tls-verify=false", target, "docker://"+target)...)
	return building + pushing, err
}

// mmdebstrap makes a system of packages, which it downloads, as the farm does.
type mmdebstrap struct {
	args []string
}

// newMmdebstrap prepares for a variant of a suite, with more packages, from the machine's apt sources, through a proxy unless
// that is empty.
func newMmdebstrap(dir, suite, proxy, variant string, packages []string) (*mmdebstrap, error) {
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		return nil, err
	}
	sources, err := aptSources("/etc/apt", dir, suite)
	if err != nil {
		return nil, err
	}
	m := &mmdebstrap{args: []string{"--quiet", "--variant=" + variant}}
	if len(packages) > 0 {
		m.args = append(m.args, "--include="+strings.Join(packages, ","))
	}
	// Its apt reads no configuration of the machine's, where a proxy may stand without which there is no mirror.
	proxies, err := exec.Command("apt-config", "dump", "--format", "%f \"%v\";%n", "Acquire::http::Proxy", "Acquire::https::Proxy").Output()
	if err != nil {
		return nil, fmt.Errorf("apt-config: %w", err)
	}
	for line := range strings.Lines(string(proxies)) {
		if option := strings.TrimSpace(line); !strings.HasSuffix(option, ` "";`) {
			m.args = append(m.args, "--aptopt="+option)
		}
	}
	if proxy != "" {
		m.args = append(m.args, fmt.Sprintf("--aptopt=Acquire::http::Proxy %q;", proxy))
	}
	m.args = append(m.args, suite, "TARGET")
	m.args = append(m.args, sources...)
	return m, nil
}

// bake writes a system to target, whose name says in which form.
func (m *mmdebstrap) bake(ctx context.Context, target string) (time.Duration, error) {
	args := slices.Clone(m.args)
	args[slices.Index(args, "TARGET")] = target
	return run(ctx, "mmdebstrap", args...)
}

// aptSources copies what the machine's apt sources, below etc, say about a suite to files in dir, and returns these.
func aptSources(etc, dir, suite string) ([]string, error) {
	ours := func(words []string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return w == suite || w == suite+"-updates" || w == suite+"-security" })
	}
	lists, err := filepath.Glob(filepath.Join(etc, "sources.list.d", "*"))
	if err != nil {
		return nil, err
	}
	found := map[string]string{} // by extension
	for _, file := range append(lists, filepath.Join(etc, "sources.list")) {
		raw, err := os.ReadFile(file)
		if err != nil {
			if os.IsNotExist(err) {
				continue
			}
			return nil, err
		}
		switch filepath.Ext(file) {
		case ".list":
			for line := range strings.Lines(string(raw)) {
				if words := strings.Fields(line); len(words) > 0 && words[0] == "deb" && ours(words) {
					found[".list"] += strings.TrimSpace(line) + "\n"
				}
			}
		case ".sources":
			for _, stanza := range strings.Split(string(raw), "\n\n") {
				if m := suites.FindStringSubmatch(stanza); m != nil && ours(strings.Fields(m[1])) {
					found[".sources"] += strings.Trim(stanza, "\n") + "\n\n"
				}
			}
		}
	}
	var files []string
	for extension, text := range found {
		file := filepath.Join(dir, "bench"+extension)
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return nil, err
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("%s names no source of %s", etc, suite)
	}
	return files, nil
}

var suites = regexp.MustCompile(`(?m)^Suites:[ \t]*(.*)$`)

// pull reads all of an image's layers through a registry API, and says how long it took and how many bytes they are.
func pull(ref string) (time.Duration, int64, error) {
	started := time.Now()
	image, err := crane.Pull(ref, crane.Insecure)
	if err != nil {
		return 0, 0, err
	}
	layers, err := image.Layers()
	if err != nil {
		return 0, 0, err
	}
	var total int64
	for _, layer := range layers {
		n, err := drain(layer)
		if err != nil {
			return 0, 0, err
		}
		total += n
	}
	return time.Since(started), total, nil
}

// drain reads a layer as it is stored; the library verifies its digest.
func drain(layer v1.Layer) (int64, error) {
	r, err := layer.Compressed()
	if err != nil {
		return 0, err
	}
	n, err := io.Copy(io.Discard, r)
	if closed := r.Close(); err == nil {
		err = closed
	}
	return n, err
}

func TestAptSources(t *testing.T) {
	etc, dir := t.TempDir(), t.TempDir()
	for name, text := range map[string]string{
		"sources.list":              "# deb cdrom\ndeb [arch=amd64] file:/a bookworm main\ndeb-src file:/a bookworm main\n",
		"sources.list.d/other.list": "deb file:/b bookworm-tools main\ndeb file:/a bookworm-updates main\n",
		"sources.list.d/debian.sources": "Types: deb\nURIs: file:/c\nSuites: bookworm bookworm-updates\nComponents: main\n\n" +
			"Types: deb\nURIs: file:/d\nSuites: stable\nComponents: main\n\nTypes: deb\nURIs: file:/e\nSuites: bookworm-security\n",
		"sources.list.d/off.disabled": "deb file:/f bookworm main\n",
	} {
		file := filepath.Join(etc, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	files, err := aptSources(etc, dir, "bookworm")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range slices.Sorted(slices.Values(files)) {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(raw)
	}
	want := "deb file:/a bookworm-updates main\ndeb [arch=amd64] file:/a bookworm main\n" +
		"Types: deb\nURIs: file:/c\nSuites: bookworm bookworm-updates\nComponents: main\n\nTypes: deb\nURIs: file:/e\nSuites: bookworm-security\n\n"
	if all.String() != want {
		t.Errorf("found\n%s\nwant\n%s", all.String(), want)
	}
	if _, err := aptSources(etc, dir, "trixie"); err == nil {
		t.Error("a suite that no source has must be an error")
	}
}
