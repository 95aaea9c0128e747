// Package debian holds what bakefarm makes of Debian's packages against what Debian's own tools make of them.
package debian

import (
	"flag"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

var (
	all      = flag.Bool("all", false, "compare all sets of packages, which takes some minutes each")
	packages = flag.String("packages", "", "compare this set of packages (\"cron vim\") and no other")
	debs     = flag.String("debs", "", "directory in which the packages that mmdebstrap fetches are kept between runs")
)

// sets are compared; without -all the first.
var sets = [][]string{
	{"cron", "netbase", "openssh-server", "vim"},
	{"nginx-light", "python3", "dbus", "systemd"},
	{"default-jre-headless", "man-db"},
	{"postgresql"},
	{},
}

// An exception is a difference that is meant, by a pattern of path.Match for a path or one above it.
type exception struct{ pattern, why string }

// Exceptions, with the reasons that docs/debian.md gives. What only mmdebstrap has:
var onlyTheirs = []exception{
	{"dev/*", "device nodes: what runs an image brings its own /dev"},
	{"etc/apt/sources.list.d/*", "the mirrors that it was told of: mmdebstrap's business"},
	{"etc/apt/sources.list", "the same"},
	{"etc/fstab", "written by mmdebstrap"},
	{"etc/hostname", "written by mmdebstrap"},
	{"etc/resolv.conf", "written by mmdebstrap"},
	{"var/lib/apt/extended_states", "written by apt, which installs"},
	{"var/lib/dpkg/arch", "written by mmdebstrap: dpkg and apt do without"},
	{"var/cache/apt/archives/lock", "a lock"},
	{"var/lib/apt/lists/lock", "a lock"},
	{"var/lib/dpkg/lock*", "a lock"},
	{"var/lib/dpkg/triggers/Lock", "a lock"},
	{"etc/.pwd.lock", "a lock"},
	{"etc/*-", "the state before the last script"},
	{"var/lib/dpkg/*-old", "the state before the last script"},
	{"var/cache/debconf/*-old", "the state before the last script"},
	{"var/cache/fontconfig/*", "of empty directories, which are newer than SOURCE_DATE_EPOCH"},
	{"usr/share/info/dir.old", "the state before the last script"},
	{"etc/ssh/ssh_host_*", "a secret"},
	{"etc/ssl/private/ssl-cert-snakeoil.key", "a secret"},
	{"etc/ssl/certs/ssl-cert-snakeoil.pem", "its certificate"},
	{"etc/ssl/certs/????????.0", "a link to the last one by hash"},
	{"run/*", "for the time of a boot"},
	{"var/log/*", "logs"},
	{"var/lib/dbus/machine-id", "names the machine"},
	{"var/cache/ldconfig/aux-cache", "has inode numbers"},
}

var onlyOurs = []exception{
	{"var/lib/dpkg/available", "empty: dpkg makes it when it is asked for"},
	{"var/lib/dpkg/statoverride", "empty: dpkg makes it when it is asked for"},
	{"etc/machine-id", "empty"},
	{"var/log/*", "empty logs with their owners"},
}

var different = []exception{
	{"etc/shadow", "days of change: SOURCE_DATE_EPOCH"},
	{"etc/shells", "the order of lines is that of configuration"},
	{"etc/machine-id", "empty against \"uninitialized\""},
	{"var/cache/apt/archives/partial", "apt-get has run, and taken it"},
	{"var/lib/apt/lists/partial", "apt-get has run, and taken it"},
	{"usr/share/python3/debpython/__pycache__/*", "compiled by whichever script came first: by time or by hash"},
	{"etc/ssl/certs/java/cacerts", "has times"},
	{"var/lib/postgresql/*", "a database that is made with random numbers"},
	{"var/lib/mysql/*", "a database that is made with random numbers and times"},
	{"var/log/*", "logs"},
	{"var/cache/man/*", "an index with times"},
	{"var/cache/fontconfig/*", "indexes with times of directories"},
	{"var/lib/ucf/*", "the order is that of configuration"},
	{"etc/passwd", "numbers of users: the order of configuration"},
	{"etc/group", "the same"},
	{"etc/gshadow", "the same"},
	{"var/lib/dpkg/triggers/File", "the order of lines is that of unpacking"},
	{"etc/postgresql/*", "names the locale of the maker"},
}

func excepted(p string, list []exception) bool {
	for ; p != "."; p = path.Dir(p) {
		for _, e := range list {
			if fits, _ := path.Match(e.pattern, p); fits {
				return true
			}
		}
	}
	return false
}

// TestSameAsMmdebstrap bakes systems with their maintainer scripts and compares them, file by file, with what mmdebstrap
// makes of the same packages in the same versions: names, types, modes, owners, links, attributes and contents.
func TestSameAsMmdebstrap(t *testing.T) {
	wantMmdebstrap(t)
	chosen := sets[:1]
	if *all {
		chosen = sets
	}
	if *packages != "" {
		chosen = [][]string{strings.Fields(*packages)}
	}
	f := start(t)
	for _, packages := range chosen {
		t.Run(strings.Join(packages, "+"), func(t *testing.T) {
			ours := f.bake(t, "{debian: {suite: bookworm, packages: ["+strings.Join(packages, ", ")+"]}}")
			compare(t, ours.tree(t), mmdebstrap(t, "minbase", ours.locked))
		})
	}
}

func wantMmdebstrap(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("downloads two systems, and makes them")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		t.Skip("mmdebstrap is not here: apt-get install mmdebstrap")
	}
	if os.Getuid() != 0 {
		t.Skip("mmdebstrap would make the system in another way than as root")
	}
}

// beside are what a system without scripts has beside the files of its packages, as docs/debian.md lists it, or has
// otherwise than they do.
var beside = []exception{
	{"var/lib/dpkg", "dpkg's database: mmdebstrap only extracts"},
	{"etc/alternatives", "alternatives"},
	{"etc/passwd", "accounts"},
	{"etc/group", "accounts"},
	{"etc/shadow", "accounts"},
	{"etc/gshadow", "accounts"},
	{"etc/subuid", "accounts"},
	{"etc/subgid", "accounts"},
	{"etc/ld.so.cache", "the loader's index"},
	{"etc/ssl/certs/*", "certificates"},
	{"etc/ca-certificates.conf", "certificates"},
	{"etc/pam.d/common-*", "PAM"},
	{"root/.*", "base-files"},
	{"var/run", "base-files"},
	{"var/lock", "base-files"},
}

// TestSameAsExtracted: without scripts, the packages' files are those that mmdebstrap extracts of the same packages.
func TestSameAsExtracted(t *testing.T) {
	wantMmdebstrap(t)
	ours := start(t).bake(t, "{debian: {suite: bookworm, scripts: skip, packages: ["+inhabited+"]}}")
	tree, theirs := ours.tree(t), mmdebstrap(t, "extract", ours.locked)
	same := 0
	for _, p := range slices.Sorted(maps.Keys(theirs)) {
		switch a, b := tree[p], theirs[p]; {
		case a == b:
			same++
		case excepted(p, onlyTheirs) || excepted(p, beside) || excepted(p, different):
		default:
			t.Errorf("%s differs:\n  ours   %+v\n  theirs %+v", p, a, b)
		}
	}
	var made []string
	for _, p := range slices.Sorted(maps.Keys(tree)) {
		if (theirs[p] == entry{}) && !excepted(p, beside) {
			made = append(made, p)
		}
	}
	t.Logf("%d of %d paths are the same; made beside the packages' own: %q", same, len(theirs), made)
	if same < 3000 || len(made) > 200 {
		t.Errorf("%d paths are the same, and %d made: were the right files compared?", same, len(made))
	}
}

func compare(t *testing.T, ours, theirs map[string]entry) {
	t.Helper()
	same := 0
	for _, p := range slices.Sorted(maps.Keys(ours)) {
		a, b := ours[p], theirs[p]
		switch {
		case b == entry{}:
			if !excepted(p, onlyOurs) {
				t.Errorf("only ours: %s %+v", p, a)
			}
		case a == b:
			same++
		case !excepted(p, different):
			t.Errorf("%s differs:\n  ours   %+v\n  theirs %+v", p, a, b)
		}
	}
	for _, p := range slices.Sorted(maps.Keys(theirs)) {
		if (ours[p] == entry{}) && !excepted(p, onlyTheirs) {
			t.Errorf("only mmdebstrap's: %s %+v", p, theirs[p])
		}
	}
	t.Logf("%d of %d paths are the same", same, len(ours))
	if same < 3000 {
		t.Errorf("only %d paths are the same: were the right files compared?", same)
	}
}

// mmdebstrap makes a system of exactly these packages ("name=version") and returns its tree.
func mmdebstrap(t *testing.T, variant string, packages []string) map[string]entry {
	t.Helper()
	file := scratch(t, "mmdebstrap.tar")
	began := time.Now()
	args := []string{"--quiet"}
	if *debs != "" {
		args = append(args, "--skip=download/empty,essential/unlink",
			"--setup-hook=mkdir -p \"$1\"/var/cache/apt/archives; cp -l "+*debs+"/*.deb \"$1\"/var/cache/apt/archives/ 2>/dev/null || cp "+*debs+"/*.deb \"$1\"/var/cache/apt/archives/ || true",
			"--customize-hook=cp -n \"$1\"/var/cache/apt/archives/*.deb "+*debs+"/; rm -f \"$1\"/var/cache/apt/archives/*.deb")
	}
	args = append(args, "--variant="+variant, "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr",
		"--include="+strings.Join(packages, ","), "bookworm", file)
	sources, err := filepath.Glob("/etc/apt/sources.list.d/*")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/etc/apt/sources.list"); err == nil {
		sources = append(sources, "/etc/apt/sources.list")
	}
	if out, err := exec.CommandContext(t.Context(), "mmdebstrap", append(args, sources...)...).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	t.Logf("mmdebstrap took %v", time.Since(began).Round(time.Second))
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	tree := map[string]entry{}
	owners := owners()
	if err := lay(tree, f, owners); err != nil {
		t.Fatal(err)
	}
	named(tree, owners)
	return tree
}
