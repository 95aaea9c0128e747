// Package apt_test compares what bakefarm resolves with what apt does, over the sources, keys and preferences of this
// machine's own apt: for each list of packages, apt-get -s install --no-install-recommends under a private Dir, with a
// minbase status, has to come to the same packages at the same versions.
//
// It needs the mirrors that the machine's sources name; one that cannot be reached fails the test and is named.
package apt_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"bakefarm/compose/apt"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
)

const arch = "amd64"

// machine is apt under a private Dir beside bakefarm's view of the same archives.
type machine struct {
	dir     string
	config  string
	indexes []*apt.Index
	request apt.Request // with archives and pins
	base    map[string]string
}

// theMachine is set up once: downloading and parsing take seconds.
var theMachine = sync.OnceValues(func() (*machine, error) {
	m := &machine{dir: scratch, config: filepath.Join(scratch, "apt.conf")}
	return m, m.setUp(context.Background())
})

var scratch string // set by TestMain

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "bakefarm-apt-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	scratch = dir
	code := m.Run()
	_ = os.RemoveAll(dir) // what stays is in the directory for temporary files
	os.Exit(code)
}

// setUp fetches the same archives for both, makes minbase with bakefarm, and gives it to apt as what is installed.
func (m *machine) setUp(ctx context.Context) error {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return err
	}
	suite := ""
	for line := range strings.Lines(string(release)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			suite = strings.Trim(name, `"`)
		}
	}
	for _, sub := range []string{"state/lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(m.dir, sub), 0o755); err != nil {
			return err
		}
	}
	// What the machine's configuration says about hooks and caches is undone; what it says about access stays.
	config := fmt.Sprintf(`#clear APT::Update; #clear DPkg::Post-Invoke; #clear DPkg::Pre-Install-Pkgs; #clear Acquire::IndexTargets::deb::DEP-11;
Dir::State "%[1]s/state"; Dir::State::status "%[1]s/status"; Dir::Cache "%[1]s/cache";
Dir::Cache::pkgcache "pkgcache.bin"; Dir::Cache::srcpkgcache "srcpkgcache.bin";
Acquire::GzipIndexes "false"; Acquire::Languages "none"; APT::Sandbox::User "";
APT::AutoRemove::RecommendsImportant "true"; APT::AutoRemove::SuggestsImportant "true";
#clear APT::Architectures; APT::Architecture "%[2]s"; APT::Architectures { "%[2]s"; };
`, m.dir, arch)
	config = strings.ReplaceAll(config, "; #clear", ";\n#clear")
	if err := os.WriteFile(m.config, []byte(config), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(m.dir, "status"), nil, 0o644); err != nil {
		return err
	}
	// The archive may change between the two questions: then both are asked again.
	for attempt := 1; ; attempt++ {
		if out, err := m.run("apt-get", "-q", "update", "--error-on=any"); err != nil {
			return fmt.Errorf("the mirrors of this machine's apt sources cannot be reached: apt-get update: %w\n%s", err, out)
		}
		same, err := m.observe(ctx, suite)
		if err != nil {
			return err
		}
		if same {
			break
		}
		if attempt == 3 {
			return errors.New("apt and bakefarm see different Release files")
		}
	}
	solution, err := apt.Solve(m.request, m.indexes)
	if err != nil {
		return fmt.Errorf("minbase: %w", err)
	}
	m.base = versions(solution)
	if err := m.writeStatus(); err != nil {
		return err
	}
	out, err := m.run("apt-cache", "gencaches")
	if err != nil {
		return fmt.Errorf("apt-cache gencaches: %w\n%s", err, out)
	}
	return nil
}

// observe asks the mirrors as a worker does, and reports whether they gave apt the same Release files.
func (m *machine) observe(ctx context.Context, suite string) (same bool, err error) {
	client, err := mirror.New(ctx, mirror.Options{})
	if err != nil {
		return false, err
	}
	defer client.Close()
	o, err := client.Observe(ctx, suite, arch, "", "")
	if err != nil {
		return false, fmt.Errorf("the mirrors of this machine's apt sources: %w", err)
	}
	seen := map[digest.Digest]bool{}
	files, err := filepath.Glob(filepath.Join(m.dir, "state/lists/*Release"))
	if err != nil {
		return false, err
	}
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return false, err
		}
		seen[digest.FromBytes(raw)] = true
	}
	m.indexes, m.request = nil, apt.Request{Arch: arch, Variant: apt.VariantMinbase}
	for _, p := range o.Pins {
		m.request.Pins = append(m.request.Pins, apt.Pin(p))
	}
	for _, x := range o.Indexes {
		m.request.Archives = append(m.request.Archives, mirror.Archive(x.Index))
		if !seen[x.Release] {
			return false, nil
		}
		r, err := mirror.Decompress(x.Name, bytes.NewReader(x.Data))
		if err != nil {
			return false, err
		}
		index, err := apt.ParsePackages(r)
		if err == nil {
			err = r.Close()
		}
		if err != nil {
			return false, err
		}
		m.indexes = append(m.indexes, index)
	}
	return true, nil
}

// writeStatus gives apt the paragraphs of the base, as its lists have them, as installed.
func (m *machine) writeStatus() error {
	files, err := filepath.Glob(filepath.Join(m.dir, "state/lists/*_Packages"))
	if err != nil {
		return err
	}
	var status bytes.Buffer
	left := maps.Clone(m.base)
	for _, name := range files {
		raw, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		for paragraph := range strings.SplitSeq(string(raw), "\n\n") {
			first, _, _ := strings.Cut(paragraph, "\n")
			name := strings.TrimPrefix(first, "Package: ")
			version, ok := left[name]
			if !ok || !strings.Contains(paragraph, "\nVersion: "+version+"\n") {
				continue
			}
			delete(left, name)
			fmt.Fprintf(&status, "%s\nStatus: install ok installed\n%s\n\n", first, strings.TrimPrefix(paragraph, first+"\n"))
		}
	}
	if len(left) > 0 {
		return fmt.Errorf("apt's lists lack %v", slices.Sorted(maps.Keys(left)))
	}
	return os.WriteFile(filepath.Join(m.dir, "status"), status.Bytes(), 0o644)
}

func (m *machine) run(program string, args ...string) (string, error) {
	cmd := exec.Command(program, append([]string{"-c", m.config}, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// aptInstall is apt's answer: the system after the installation, or what it printed when there is none.
func (m *machine) aptInstall(names []string, options ...string) (system map[string]string, said string) {
	said, err := m.run("apt-get", append(append([]string{"-s", "--no-install-recommends"}, options...), append([]string{"install"}, names...)...)...)
	if err != nil {
		return nil, said
	}
	system = maps.Clone(m.base)
	for scan := bufio.NewScanner(strings.NewReader(said)); scan.Scan(); {
		fields := strings.Fields(scan.Text())
		switch {
		case len(fields) > 2 && fields[0] == "Inst":
			_, version, _ := strings.Cut(scan.Text(), "(")
			version, _, _ = strings.Cut(version, " ")
			system[fields[1]] = version
		case len(fields) > 1 && fields[0] == "Remv":
			delete(system, fields[1])
		}
	}
	return system, said
}

func (m *machine) solve(names []string) (map[string]string, error) {
	req := m.request
	req.Packages = names
	s, err := apt.Solve(req, m.indexes)
	if err != nil {
		return nil, err
	}
	return versions(s), nil
}

func versions(s *apt.Solution) map[string]string {
	all := map[string]string{}
	for _, p := range s.Packages {
		all[p.Name] = p.Version
	}
	return all
}

// difference writes what is not the same in two systems, one package per line.
func difference(apt, bakefarm map[string]string) string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(apt)) {
		if bakefarm[name] != apt[name] {
			fmt.Fprintf(&b, "  apt has %s %s, bakefarm %q\n", name, apt[name], bakefarm[name])
		}
	}
	for _, name := range slices.Sorted(maps.Keys(bakefarm)) {
		if _, ok := apt[name]; !ok {
			fmt.Fprintf(&b, "  only bakefarm has %s %s\n", name, bakefarm[name])
		}
	}
	return b.String()
}

func setUp(t *testing.T) *machine {
	t.Helper()
	if testing.Short() {
		t.Skip("asks the machine's mirrors and runs apt-get")
	}
	m, err := theMachine()
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestResolution compares system by system.
func TestResolution(t *testing.T) {
	m := setUp(t)
	for _, list := range lists {
		t.Run(list, func(t *testing.T) {
			t.Parallel()
			names := strings.Fields(list)
			theirs, said := m.aptInstall(names, "-qq") // saves a quarter of its time
			ours, err := m.solve(names)
			switch {
			case theirs == nil && err == nil:
				t.Errorf("bakefarm finds a system of %d packages where apt says\n%s", len(ours), said)
			case theirs != nil && err != nil:
				t.Errorf("apt finds a system of %d packages where bakefarm says\n%v", len(theirs), err)
			case theirs != nil:
				if d := difference(theirs, ours); d != "" {
					t.Errorf("of %d packages:\n%s", len(theirs), d)
				}
			}
		})
	}
}

// TestMessages: a request that cannot be is refused by both, and every line in which apt says why stands in bakefarm's
// message too, which may say more.
func TestMessages(t *testing.T) {
	m := setUp(t)
	for _, list := range impossible {
		t.Run(list, func(t *testing.T) {
			t.Parallel()
			names := strings.Fields(list)
			theirs, said := m.aptInstall(names, "-q")
			_, err := m.solve(names)
			if theirs != nil || err == nil {
				t.Fatalf("apt: %d packages; bakefarm: %v", len(theirs), err)
			}
			ours := strings.Split(err.Error(), "\n")
			for _, line := range unmet(said) {
				if !slices.ContainsFunc(ours, func(own string) bool { return strings.HasPrefix(own, line) }) {
					t.Errorf("bakefarm does not say %q:\n%v\napt:\n%s", line, err, said)
				}
			}
		})
	}
}

// unmet finds the lines in which apt says what is missing, each with the name of its package. apt writes it once for
// several lines.
func unmet(said string) []string {
	_, rest, found := strings.Cut(said, "The following packages have unmet dependencies:\n")
	var lines []string
	head := ""
	for line := range strings.Lines(rest) {
		line = strings.TrimRight(line, "\n")
		name, why, first := strings.Cut(line, " : ")
		switch {
		case !found || !strings.HasPrefix(line, " "):
			return lines
		case first:
			head = name + " : "
			lines = append(lines, head+why)
		default:
			lines = append(lines, head+strings.TrimSpace(line))
		}
	}
	return lines
}

// TestVersions: name=version, and pins, against apt with the same preferences. The package is one that the sources have in
// two versions, which any suite with security updates has.
func TestVersions(t *testing.T) {
	m := setUp(t)
	name, old, newest := m.twoVersions(t)
	for what, test := range map[string]struct {
		ask  string
		pins []apt.Pin
		want string
	}{
		"exact":   {name + "=" + old, nil, old},
		"pattern": {name + "=" + old + "*", nil, ""},
		"unknown": {name + "=0.0.0", nil, ""},
		"pinned":  {name, []apt.Pin{{Package: name, Pin: "version " + old, Priority: "1001"}}, old},
		"lowered": {name, []apt.Pin{{Package: name, Pin: "version " + newest, Priority: "100"}}, old},
		"never":   {name, []apt.Pin{{Package: "/^" + name + "$/", Pin: "version " + newest, Priority: "-1"}}, old},
		"release": {name, []apt.Pin{{Package: name, Pin: "release o=" + m.request.Archives[0].Origin, Priority: "600"}}, newest},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			preferences := filepath.Join(t.TempDir(), "preferences")
			var text strings.Builder
			for _, p := range test.pins {
				fmt.Fprintf(&text, "Package: %s\nPin: %s\nPin-Priority: %s\n\n", p.Package, p.Pin, p.Priority)
			}
			if err := os.WriteFile(preferences, []byte(text.String()), 0o644); err != nil {
				t.Fatal(err)
			}
			theirs, said := m.aptInstall([]string{test.ask}, "-qq", "-o", "Dir::Etc::preferences="+preferences)
			req := m.request
			req.Packages, req.Pins = []string{test.ask}, append(slices.Clone(test.pins), m.request.Pins...)
			s, err := apt.Solve(req, m.indexes)
			if (theirs == nil) != (err != nil) {
				t.Fatalf("apt:\n%s\nbakefarm: %v", said, err)
			}
			if err != nil {
				return
			}
			ours := versions(s)
			if d := difference(theirs, ours); d != "" || test.want != "" && ours[name] != test.want {
				t.Errorf("%s is %s, want %s\n%s", name, ours[name], test.want, d)
			}
		})
	}
}

// twoVersions finds a package outside of the base that the sources have in exactly two versions, and that can be had in the
// older one alone.
func (m *machine) twoVersions(t *testing.T) (name, old, newest string) {
	t.Helper()
	all := map[string][]*apt.Package{}
	for _, index := range m.indexes {
		for _, p := range index.Packages {
			all[p.Name] = append(all[p.Name], p)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(all)) {
		list := all[name]
		if len(list) != 2 || m.base[name] != "" || apt.CompareVersions(list[0].Version, list[1].Version) >= 0 {
			continue
		}
		req := m.request
		req.Packages = []string{name + "=" + list[0].Version}
		if _, err := apt.Solve(req, m.indexes); err == nil {
			return name, list[0].Version, list[1].Version
		}
	}
	t.Fatal("the sources have no package in two versions")
	return "", "", ""
}
