package execute

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"bakefarm/compose/disk"
	"bakefarm/compose/oci"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/probe"
	"bakefarm/worker/vm"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Machines start disks.
type Machines interface {
	NewDir() (string, error)
	Start(ctx context.Context, d vm.Disk, console func(line string)) (*vm.Machine, error)
}

const (
	// bootPatience is how long a machine has until the root's init starts; times emulationSlower where its processor is
	// emulated.
	bootPatience    = 2 * time.Minute
	emulationSlower = 3
	// bootTries: a QEMU that was killed, or a machine that did not come up, says little about the disk.
	bootTries = 2
)

// errNotUp: a machine did not come as far as its root.
var errNotUp = errors.New("the machine did not come up")

// boot starts a disk and asks its tests.
func boot(ctx context.Context, j *job, spec plan.TestSpec) (plan.TestOutput, error) {
	if j.Machines == nil {
		return plan.TestOutput{}, errors.New("this worker starts no virtual machines")
	}
	dir, err := j.Machines.NewDir()
	if err != nil {
		return plan.TestOutput{}, err
	}
	defer os.RemoveAll(dir)
	d, how, err := j.layDisk(ctx, spec, dir)
	if err != nil {
		return plan.TestOutput{}, err
	}
	if err := j.bootTests(ctx, d, spec.Tests); err != nil {
		return plan.TestOutput{}, err
	}
	if how == disk.BootHybrid {
		// What runs is the same: that it gets there by the other way is what is left to see.
		j.say("starting it once more, by BIOS")
		d.BIOS = true
		if err := j.bootTests(ctx, d, []recipe.Test{{Boot: true, Within: time.Minute}}); err != nil {
			return plan.TestOutput{}, fmt.Errorf("by BIOS: %w", err)
		}
	}
	return passed(spec.Tests), nil
}

// bootTests starts a disk and asks tests, once more when that says little about the disk.
func (j *job) bootTests(ctx context.Context, d vm.Disk, tests []recipe.Test) error {
	for try := 1; ; try++ {
		err := j.bootOnce(ctx, d, tests)
		var broken *vm.QEMUError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case try == bootTries, !errors.Is(err, errNotUp) && !errors.As(err, &broken):
			return err
		}
		line, _, _ := strings.Cut(err.Error(), "\n")
		j.say("trying once more: %s", line)
	}
}

// passed is the output of tests that have all passed.
func passed(tests []recipe.Test) plan.TestOutput {
	var out plan.TestOutput
	for _, t := range tests {
		out.Passed = append(out.Passed, t.String())
	}
	return out
}

// ports are those that tests connect to, each once.
func ports(tests []recipe.Test) []int {
	var all []int
	for _, t := range tests {
		switch {
		case t.HTTP != nil:
			all = append(all, t.HTTP.Port)
		case t.TCP != nil:
			all = append(all, t.TCP.Port)
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// chunksAhead is how many chunks of a disk are read at a time for QEMU's file.
const chunksAhead = 6

// layDisk writes a disk to a file, and beside it what starts it. how is what the recipe says of that.
func (j *job) layDisk(ctx context.Context, spec plan.TestSpec, dir string) (_ vm.Disk, how string, _ error) {
	arch, err := plan.DebArch(spec.Platform)
	if err != nil {
		return vm.Disk{}, "", err
	}
	d := vm.Disk{Arch: arch, Dir: dir, File: "disk", Ports: ports(spec.Tests)}
	var m v1.Manifest
	if err := j.loadJSON(ctx, spec, &m); err != nil {
		return d, "", err
	}
	if m.ArtifactType != oci.MediaTypeDisk {
		return d, "", fmt.Errorf("%s is a %s, and no disk", spec.Image, m.ArtifactType)
	}
	raw, err := imagestore.ReadAll(ctx, j.Store, m.Config.Digest, imagestore.MaxManifest)
	if err != nil {
		return d, "", err
	}
	var c oci.DiskConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return d, "", fmt.Errorf("disk configuration: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, d.File), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return d, "", err
	}
	defer f.Close()
	if err := f.Truncate(c.Size); err != nil {
		return d, "", err
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(chunksAhead)
	at := int64(0)
	for _, l := range m.Layers {
		switch l.MediaType {
		case oci.MediaTypeDiskLayer:
			blob, err := j.Store.Stat(ctx, l.Digest)
			if err != nil {
				return d, "", errors.Join(fmt.Errorf("layer %s: %w", l.Digest, err), g.Wait())
			}
			for _, p := range blob.Parts {
				start := at
				at += p.Size
				if p.Digest == "" {
					continue
				}
				g.Go(func() error {
					data, err := imagestore.ReadAll(gctx, j.Store, p.Digest, p.Size)
					if err == nil {
						_, err = f.WriteAt(data, start)
					}
					return err
				})
			}
		case oci.MediaTypeKernel, oci.MediaTypeInitrd:
			name := map[string]string{oci.MediaTypeKernel: "kernel", oci.MediaTypeInitrd: "initrd"}[l.MediaType]
			data, err := imagestore.ReadAll(ctx, j.Store, l.Digest, l.Size)
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, name), data, 0o600)
			}
			if err != nil {
				return d, "", errors.Join(err, g.Wait())
			}
		}
	}
	if err := g.Wait(); err != nil {
		return d, "", err
	}
	if c.Boot == disk.BootDirect {
		d.Kernel, d.Initrd, d.Cmdline = "kernel", "initrd", c.Cmdline
	}
	return d, c.Boot, f.Close()
}

// loadJSON reads the manifest that a test is about.
func (j *job) loadJSON(ctx context.Context, spec plan.TestSpec, m *v1.Manifest) error {
	raw, err := imagestore.ReadAll(ctx, j.Store, spec.Image, imagestore.MaxManifest)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, m); err != nil {
		return fmt.Errorf("manifest %s: %w", spec.Image, err)
	}
	return nil
}

// Lines of the console that decide.
const (
	stuckLine  = "bakefarm-init: can't go on: "
	panicLine  = "Kernel panic - not syncing: "
	consoleTag = "console: "
)

// upLine is what says that the root is found and its init starts: our own initrd, or systemd where the initrd is the
// distribution's.
var upLine = regexp.MustCompile(`bakefarm-init: root on |systemd\[1\]: Detected |^Welcome to |INIT: version `)

// bootOnce starts the disk and asks the tests. An error of the disk's own has the end of the console in it.
func (j *job) bootOnce(ctx context.Context, d vm.Disk, tests []recipe.Test) (err error) {
	output := probe.NewOutput(tests)
	up, stuck := make(chan struct{}, 1), make(chan string, 1)
	m, err := j.Machines.Start(ctx, d, func(line string) {
		j.say(consoleTag+"%s", line)
		output.Line(line)
		switch {
		case upLine.MatchString(line):
			select {
			case up <- struct{}{}:
			default:
			}
		case strings.Contains(line, stuckLine), strings.Contains(line, panicLine):
			select {
			case stuck <- line:
			default:
			}
		}
	})
	if err != nil {
		return err
	}
	defer m.Close()
	failed := func(err error) error { return fmt.Errorf("%w\nthe end of the console:\n%s", err, output.Tail()) }
	slow := 1
	if m.Emulated {
		slow = emulationSlower
		j.say("starting it under emulation, without KVM: the tests have %d times their time", slow)
	}
	select {
	case <-up:
	case line := <-stuck:
		time.Sleep(200 * time.Millisecond) // what follows says more
		return failed(errors.New(line))
	case <-m.Done():
		return failed(m.Err())
	case <-time.After(bootPatience * time.Duration(slow)):
		return failed(fmt.Errorf("%w: no root in %s", errNotUp, bootPatience*time.Duration(slow)))
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	asking, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	go func() {
		select {
		case line := <-stuck:
			stop(errors.New(line))
		case <-m.Done():
			stop(m.Err())
		case <-asking.Done():
		}
	}()
	err = probe.All(asking, tests, probe.Target{
		Dial: m.Dial, Output: output, Slow: slow,
		Passed: func(t recipe.Test, after time.Duration) {
			j.say("passed %s, %s after the root's init began", t, after.Round(100*time.Millisecond))
		},
	})
	if err != nil {
		return failed(err)
	}
	return nil
}
