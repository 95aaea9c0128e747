package bench

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// diskRecipe makes a disk of a Debian of about 390 MB with the app.
func diskRecipe() string {
	return recipeText("disk", true, "python3", "git", "perl", "curl") + "outputs: [{disk: {size: 2GiB}}]\n"
}

// diskApp is how large the app on the disk is, in bytes.
const diskApp = 5 << 20

// disks measures what another app costs on a disk whose OS the farm knows, beside mke2fs, which makes the filesystem alone
// out of a directory that has it all.
func (b *bench) disks() {
	farm := startFarm(b.t)
	defer farm.stop()
	app := func() string {
		b.apps++
		dir := filepath.Join(b.dir, fmt.Sprint("disk", b.apps), "app")
		if err := writeApp(dir, makeApp(b.apps, diskApp)); err != nil {
			b.t.Fatal(err)
		}
		return dir
	}
	first, took, err := farm.bake(b.ctx, job{diskRecipe(), app()}, false)
	if err != nil {
		b.t.Fatalf("bake the disk: %v\n%s", err, farm.said())
	}
	b.note("the first disk of its OS, packages fetched and all: %.1f s", took.Seconds())
	ours := &contender{name: "bakefarm, from POST to pullable", run: func() (time.Duration, error) {
		dir := app()
		settle()
		_, took, err := farm.bake(b.ctx, job{diskRecipe(), dir}, false)
		return took, err
	}}
	tree := filepath.Join(b.dir, "disk-tree")
	mke2fs := &contender{name: "mke2fs -d, the filesystem alone"}
	mke2fs.err = b.unpackDisk(farm, first.Images[0].Ref, tree)
	mke2fs.run = func() (time.Duration, error) {
		if err := os.RemoveAll(filepath.Join(tree, where)); err != nil {
			return 0, err
		}
		if err := os.Rename(app(), filepath.Join(tree, where)); err != nil {
			return 0, err
		}
		file := filepath.Join(b.dir, "mke2fs.img")
		defer os.Remove(file)
		settle()
		return run(b.ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, file, "2000M")
	}
	b.measure("a disk of 2 GiB with a known OS and a 5 MB app, all of its bytes new", warmRounds, ours, mke2fs)
	if peak, err := farm.peak(); err == nil {
		b.note("peak memory of the farm's process after the disks: %.0f MB resident", float64(peak)/1e6)
	}
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
