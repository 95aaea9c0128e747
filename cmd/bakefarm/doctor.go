package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"bakefarm/worker/mirror"
	"bakefarm/worker/sandbox"
	"bakefarm/worker/vm"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A finding is the result of one check of the doctor's: a contract with scripts, as is the check's name.
type finding struct {
	Check  string `json:"check"`
	Result string `json:"result"` // foundOK, foundMissing or foundLess
	Detail string `json:"detail"` // what is there, or what isn't and how to mend it
}

// The results of checks.
const (
	foundOK      = "ok"
	foundMissing = "missing" // a recipe without anything special needs it
	foundLess    = "less"    // works, but slower, or not for everything
)

func newDoctor(cli *cli) *cobra.Command {
	var data string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Say whether this machine has what a worker needs, and how to mend what it lacks",
		Long: "Looks at this machine, without a farm: where data would lie, where Debian packages come from, and whether code of\n" +
			"images (maintainer scripts) can run in sandboxes. Ends with 1 when something is missing that a plain recipe needs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := examine(cmd.Context(), data)
			err := cli.print(cmd, findings, func(w *tabwriter.Writer) {
				row(w, "CHECK", "RESULT", "DETAIL")
				for _, f := range findings {
					row(w, f.Check, f.Result, f.Detail)
				}
			})
			if err == nil && slices.ContainsFunc(findings, func(f finding) bool { return f.Result == foundMissing }) {
				return errSaid
			}
			return err
		},
	}
	cmd.Flags().StringVar(&data, "data", envOr("BAKEFARM_DATA", defaultDataDir()), "directory that a farm on this machine would keep its data in (BAKEFARM_DATA)")
	return cmd
}

// examine makes all checks, in the order in which a farm would meet them.
func examine(ctx context.Context, data string) []finding {
	place, findings := examineData(data)
	findings = append(findings, examineSources()...)
	if place == "" {
		return findings // there is nowhere to try anything
	}
	return append(append(findings, examineSandbox(ctx, place)...), examineMachines(ctx)...)
}

// examineMachines looks for what starts disks, to test them before they are published.
func examineMachines(ctx context.Context) (findings []finding) {
	run, lacks := vm.Arches(ctx)
	for _, arch := range run {
		findings = append(findings, finding{"virtual machines, " + arch, foundOK, "disks can be tested"})
	}
	for _, arch := range slices.Sorted(maps.Keys(lacks)) {
		findings = append(findings, finding{"virtual machines, " + arch, foundLess, lacks[arch] + "; needed for tests of disks only"})
	}
	return findings
}

// roomy is how much space a farm with a few systems takes, in bytes.
const roomy = 5 << 30

// examineData looks at the data directory, and returns where something can be tried out: it, or what it would be made in.
func examineData(data string) (place string, findings []finding) {
	missing := func(format string, args ...any) (string, []finding) {
		return "", []finding{{"data directory", foundMissing, fmt.Sprintf(format, args...) + "; name another with --data"}}
	}
	path, err := filepath.Abs(data)
	if err != nil {
		return missing("%v", err)
	}
	place = path
	for {
		info, err := os.Stat(place)
		if err == nil && !info.IsDir() {
			return missing("%s is no directory", place)
		}
		if err == nil {
			break
		}
		if !os.IsNotExist(err) {
			return missing("%v", err)
		}
		place = filepath.Dir(place)
	}
	if err := unix.Access(place, unix.W_OK|unix.X_OK); err != nil {
		return missing("%s: %s is not writable", path, place)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(place, &fs); err != nil {
		return missing("%s: %v", place, err)
	}
	free := int64(fs.Bavail) * fs.Bsize
	if free < roomy {
		return place, []finding{{"data directory", foundLess, fmt.Sprintf("%s has %s left; a few systems take %s: name another with --data", path, size(free), size(roomy))}}
	}
	return place, []finding{{"data directory", foundOK, fmt.Sprintf("%s, %s free", path, size(free))}}
}

// examineSources looks for the places that packages come from, without asking them.
func examineSources() []finding {
	const check = "debian packages"
	if url := os.Getenv("BAKEFARM_DEBIAN_MIRROR"); url != "" {
		keyring := os.Getenv("BAKEFARM_DEBIAN_KEYRING")
		if _, err := os.Stat(keyring); keyring != "" && err != nil {
			return []finding{{check, foundMissing, "BAKEFARM_DEBIAN_KEYRING: " + err.Error()}}
		}
		return []finding{{check, foundOK, "from BAKEFARM_DEBIAN_MIRROR"}}
	}
	sources, err := mirror.ReadSources("/")
	if err != nil {
		return []finding{{check, foundMissing, err.Error()}}
	}
	if len(sources.All) == 0 {
		return []finding{{check, foundMissing, "apt has no sources here: write /etc/apt/sources.list.d/debian.sources (sources.list(5)), " +
			"set BAKEFARM_DEBIAN_MIRROR and BAKEFARM_DEBIAN_KEYRING, or give recipes a mirror of their own"}}
	}
	var suites []string
	for _, s := range sources.All {
		if !slices.Contains(suites, s.Suite) {
			suites = append(suites, s.Suite)
		}
		for _, key := range s.SignedBy {
			if _, err := os.Stat(key); filepath.IsAbs(key) && err != nil {
				return []finding{{check, foundMissing, fmt.Sprintf("%s: Signed-By: %v: apt-get install debian-archive-keyring", s.From, err)}}
			}
		}
	}
	findings := []finding{{check, foundOK, "from apt's sources: " + strings.Join(suites, ", ")}}
	if _, err := exec.LookPath("xz"); err != nil {
		findings = append(findings, finding{"xz", foundLess, "packages unpack more slowly without it: apt-get install xz-utils"})
	} else {
		findings = append(findings, finding{"xz", foundOK, "unpacks packages"})
	}
	return findings
}

// examineSandbox runs a program in a sandbox, in a directory of its own.
func examineSandbox(ctx context.Context, place string) []finding {
	const check = "sandbox"
	dir, err := os.MkdirTemp(place, ".bakefarm-doctor-")
	if err != nil {
		return []finding{{check, foundMissing, err.Error()}}
	}
	defer os.RemoveAll(dir)
	rep := sandbox.Check(ctx, sandbox.Config{Dir: dir, Runtime: os.Getenv("BAKEFARM_RUNTIME")})
	if !rep.Works {
		return []finding{{check, foundMissing, "maintainer scripts can't run (recipes would need scripts: skip): " + rep.Problem}}
	}
	findings := []finding{{check, foundOK, fmt.Sprintf("%s, as %s; memory is bounded %s", rep.Runtime, rep.As, rep.Limits)}}
	for _, arch := range sandbox.Arches() {
		if slices.Contains(rep.Arches, arch) {
			findings = append(findings, finding{"programs of " + arch, foundOK, "run"})
		} else {
			findings = append(findings, finding{"programs of " + arch, foundLess, rep.Lacks[arch]})
		}
	}
	return findings
}
