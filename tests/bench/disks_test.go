package bench

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/farm"
)

// diskRecipe makes a disk of so many GiB of a Debian of about 390 MB with the app.
func diskRecipe(gib int) string {
	return recipeText("disk", true, "python3", "git", "perl", "curl") + fmt.Sprintf("outputs: [{disk: {size: %dGiB}}]\n", gib)
}

const (
	diskApp  = 5 << 20 // of the app on the disk, in bytes
	diskSize = 2       // GiB
	diskHuge = 1 << 10 // GiB
)

// TestBenchDisks measures disks, and what they take: `make bench` runs it with the rest, -run TestBenchDisks alone.
func TestBenchDisks(t *testing.T) {
	if !*benchTools {
		t.Skip("measures only with -bench-tools: make bench")
	}
	b := &bench{t: t, ctx: t.Context(), dir: roomy(t)}
	machine := machine()
	b.disks()
	fmt.Println()
	if err := render(os.Stdout, machine, b.measured, b.notes); err != nil {
		t.Fatal(err)
	}
}

// disks measures what another app costs on a disk whose OS the farm knows, and the first disk of an OS whose layers it
// has, beside what makes the filesystem alone, or the disk, out of a directory that has it all.
func (b *bench) disks() {
	farm := startFarm(b.t, strings.Fields(*farmFlags)...)
	defer farm.stop()
	app := func() string {
		b.apps++
		dir := filepath.Join(b.dir, fmt.Sprint("disk", b.apps), "app")
		if err := writeApp(dir, makeApp(b.apps, diskApp)); err != nil {
			b.t.Fatal(err)
		}
		return dir
	}
	start, took, err := farm.bake(b.ctx, job{diskRecipe(diskSize), app()}, false)
	if err != nil {
		b.t.Fatalf("bake the disk: %v\n%s", err, farm.said())
	}
	b.note("a disk on an empty farm, packages fetched and converted and all: %.1f s", took.Seconds())

	tree := filepath.Join(b.dir, "disk-tree")
	unpacked := b.unpackDisk(farm, start.Images[0].Ref, tree)
	rival := func(name, program string, make func(tree, file string) (time.Duration, error)) *contender {
		c := &contender{name: name, err: unpacked}
		if _, err := exec.LookPath(program); err != nil {
			c.err = err
		}
		c.run = func() (time.Duration, error) {
			if err := os.RemoveAll(filepath.Join(tree, where)); err != nil {
				return 0, err
			}
			if err := os.Rename(app(), filepath.Join(tree, where)); err != nil {
				return 0, err
			}
			file := filepath.Join(b.dir, program+".img")
			defer os.Remove(file)
			settle()
			return make(tree, file)
		}
		return c
	}
	byMke2fs := func() *contender {
		return rival("mke2fs -d, the filesystem alone", "mke2fs", func(tree, file string) (time.Duration, error) {
			return run(b.ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, file, "2000M")
		})
	}
	byGenimage := func() *contender { return rival("genimage: GPT, FAT and ext4, in a file", "genimage", b.genimage) }

	if err := farm.forgetPeak(); err != nil {
		b.note("peaks are since the farm's start: %v", err)
	}
	size := diskSize
	var own []time.Duration
	b.measure("the first disk of an OS from its layers", coldRounds, &contender{name: "bakefarm, from POST to pullable", run: func() (time.Duration, error) {
		size++ // a disk of its own, down to the system
		dir := app()
		settle()
		bake, took, err := farm.bake(b.ctx, job{diskRecipe(size), dir}, false)
		if err == nil {
			own = append(own, farm.worked(b.ctx, bake, "root", "disk"))
		}
		return took, err
	}}, byMke2fs(), byGenimage())
	b.note("of these first disks, the worker's own part (system and disk): %s", seconds(median(own)))
	b.peak(farm, "first disks of an OS")

	var stored []int64
	own = nil
	b.measure(fmt.Sprintf("a disk of %d GiB with a known OS and a 5 MB app, all of its bytes new", diskSize), warmRounds,
		&contender{name: "bakefarm, from POST to pullable", run: func() (time.Duration, error) {
			dir := app()
			settle()
			bake, took, err := farm.bake(b.ctx, job{diskRecipe(diskSize), dir}, false)
			if err == nil {
				own = append(own, farm.worked(b.ctx, bake, "disk"))
				stored = append(stored, farm.stored(b.ctx, bake))
			}
			return took, err
		}}, byMke2fs(), byGenimage())
	slices.Sort(stored)
	used := used(tree)
	b.note("of these disks, the worker's own part: %s; new bytes stored: %.1f MB, %.1f %% of the %.0f MB that are on the disk",
		seconds(median(own)), float64(stored[len(stored)/2])/1e6, 100*float64(stored[len(stored)/2])/float64(used), float64(used)/1e6)
	b.peak(farm, "disks with another app")

	for range 2 { // the second one is what another app costs
		if _, took, err = farm.bake(b.ctx, job{diskRecipe(diskHuge), app()}, false); err != nil {
			b.t.Fatal(err)
		}
	}
	b.note("another app on a disk of %d GiB: %s", diskHuge, seconds(took))
	b.peak(farm, fmt.Sprintf("disks of %d GiB", diskHuge))
}

// peak notes the most memory that a farm's process has had since the last time.
func (b *bench) peak(farm *aFarm, doing string) {
	peak, err := farm.peak()
	if err == nil {
		err = farm.forgetPeak()
	}
	if err != nil {
		b.note("left out: peak memory: %v", err)
		return
	}
	b.note("peak memory of the farm's process, %s: %.0f MB resident", doing, float64(peak)/1e6)
}

// forgetPeak begins to count the peak anew (proc(5), clear_refs).
func (f *aFarm) forgetPeak() error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/clear_refs", f.child.Process.Pid), []byte("5"), 0)
}

// worked is how long workers were busy with a bake's shards of some kinds.
func (f *aFarm) worked(ctx context.Context, bake api.Bake, kinds ...farm.Kind) (sum time.Duration) {
	shards, err := f.client.Explain(ctx, bake.ID)
	if err != nil {
		f.t.Fatal(err)
	}
	for _, s := range shards {
		if slices.Contains(kinds, s.Kind) {
			sum += s.Took
		}
	}
	return sum
}

// stored is how many bytes a bake's version has that no other one has.
func (f *aFarm) stored(ctx context.Context, bake api.Bake) int64 {
	rows, err := f.client.StoredImage(ctx, bake.Images[0].Ref)
	if err != nil || len(rows) == 0 || rows[0].Stored == nil {
		f.t.Fatalf("what %s takes in the store: %+v, %v", bake.Images[0].Ref, rows, err)
	}
	return rows[0].Stored.Own
}

// used is how many bytes the files below a directory have; what can't be read counts nothing.
func used(dir string) (sum int64) {
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			if info, err := d.Info(); err == nil {
				sum += info.Size()
			}
		}
		return nil
	})
	return sum
}

// genimage has genimage (Debian's package of that name) make a disk like ours out of a directory.
func (b *bench) genimage(tree, file string) (time.Duration, error) {
	dir := filepath.Join(b.dir, "genimage")
	defer os.RemoveAll(dir)
	for _, name := range []string{"in", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return 0, err
		}
	}
	kernels, err := filepath.Glob(filepath.Join(tree, "boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return 0, fmt.Errorf("kernels in the tree: %v", kernels)
	}
	kernel, err := os.ReadFile(kernels[0])
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "in", "BOOTX64.EFI"), kernel, 0o644)
	}
	if err != nil {
		return 0, err
	}
	config := filepath.Join(dir, "config")
	const text = `image esp.vfat { vfat { files = { "BOOTX64.EFI" } } size = 63M }
image root.ext4 { ext4 { use-mke2fs = true } size = 1900M mountpoint = "" }
image disk.img {
  hdimage { partition-table-type = "gpt" }
  partition esp { image = "esp.vfat" }
  partition root { image = "root.ext4" }
}
`
	if err := os.WriteFile(config, []byte(text), 0o644); err != nil {
		return 0, err
	}
	return run(b.ctx, "genimage", "--config", config, "--rootpath", tree, "--tmppath", filepath.Join(dir, "tmp"),
		"--inputpath", filepath.Join(dir, "in"), "--outputpath", filepath.Join(dir, "out"))
}

// unpackDisk unpacks the root filesystem of a disk into a directory.
func (b *bench) unpackDisk(farm *aFarm, ref, tree string) error {
	raw, root := filepath.Join(b.dir, "bench.raw"), filepath.Join(b.dir, "bench.ext4")
	defer os.Remove(raw)
	defer os.Remove(root)
	if _, err := run(b.ctx, binary, "--server", farm.server, "images", "pull", ref, "--disk", "raw", "-f", raw); err != nil {
		return err
	}
	in, err := os.Open(raw)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(root)
	if err != nil {
		return err
	}
	defer out.Close()
	const rootStart = 64 << 20 // docs/disks.md
	if _, err := in.Seek(rootStart, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	// debugfs complains of owners that an ordinary user can't give.
	said, err := exec.CommandContext(b.ctx, "debugfs", "-R", "rdump / "+tree, root).CombinedOutput()
	if err != nil {
		return fmt.Errorf("debugfs: %w: %.200s", err, said)
	}
	if _, err := os.Stat(filepath.Join(tree, where)); err != nil {
		return fmt.Errorf("debugfs has not unpacked the app: %w", err)
	}
	return nil
}
