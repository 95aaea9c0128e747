package bench

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/upkeep"
)

// How often each thing is baked again to see what that stores, and how much of it is other bytes each time.
const (
	imageRebakes = 100
	diskRebakes  = 30
	changeBytes  = 5 << 20
)

// impatience makes a farm let go at once of everything that no image needs.
var impatience = []string{"--gc-min-age", "1ms", "--gc-grace", "1ms", "--keep-cache", "1ms", "--keep-bakes", "1ms", "--keep-contexts", "1ms"}

// TestBenchStorage measures what re-bakes add to the store, once what the bakes have left behind is collected: the images, and
// nothing else.
func TestBenchStorage(t *testing.T) {
	if !*benchTools {
		t.Skip("measures only with -bench-tools: make bench")
	}
	fmt.Println()
	t.Run("images", func(t *testing.T) {
		stored(t, "OCI images of an app of 100 MB", imageRebakes, "apiVersion: bakefarm/v1\nname: bench/stored\nos: {scratch: true}\napp:\n  - {copy: ., to: /srv}\n", 20)
	})
	t.Run("disks", func(t *testing.T) {
		stored(t, "disks of 2 GiB with a Debian and an app of 5 MB", diskRebakes, diskRecipe(diskSize), 1)
	})
}

// stored bakes an app of so many files of changeBytes each, one of which is other bytes each time, and prints what the bakes after
// the first have added to the bucket.
func stored(t *testing.T, what string, rebakes int, recipe string, files int) {
	t.Log(what)
	b := &bench{t: t, ctx: t.Context(), dir: roomy(t)}
	f := startFarm(t, impatience...)
	defer f.stop()
	dir := b.t.TempDir()
	random := rand.NewChaCha8([32]byte{byte(files)})
	change := func(n int) {
		data := make([]byte, changeBytes)
		random.Read(data)
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%02d", n%files)), data, 0o644); err != nil {
			b.t.Fatal(err)
		}
	}
	bake := func() (whole int64) {
		made, _, err := f.bake(b.ctx, job{recipe, dir}, false)
		if err != nil {
			b.t.Fatalf("%v\n%s", err, f.said())
		}
		for _, i := range made.Images {
			whole += i.Size
		}
		return whole
	}
	for n := range files {
		change(n)
	}
	whole := bake()
	before := b.kept(f)
	began := time.Now()
	var each int64
	for n := range rebakes {
		change(n)
		each += bake()
	}
	took := time.Since(began)
	added := b.kept(f) - before
	fmt.Printf("%s: %d re-bakes with %d MB of other bytes each, in %.0f s, have added %.1f MB:\n"+
		"  %.3f times the sum of the changes, %.2f %% of storing each whole (%.0f MB, the first %.0f MB)\n",
		what, rebakes, changeBytes>>20, took.Seconds(), float64(added)/1e6,
		float64(added)/float64(rebakes*changeBytes), 100*float64(added)/float64(each), float64(each)/1e6, float64(whole)/1e6)
}

// kept is how many bytes the bucket's objects have when garbage collection finds nothing more to do.
func (b *bench) kept(f *aFarm) (size int64) {
	b.t.Helper()
	for quiet := 0; quiet < 2; quiet++ {
		s, err := f.client.Sweep(b.ctx, farm.SweepCollect, false, "bench", func(farm.Sweep) {})
		var r upkeep.Collected
		if err == nil && s.State == farm.SweepFailed {
			err = errors.New(s.Error)
		}
		if err == nil {
			err = json.Unmarshal(s.Result, &r)
		}
		if err != nil {
			b.t.Fatalf("gc: %v\n%s", err, f.said())
		}
		did := r.Condemned + r.Deleted + r.Waiting + r.Orphans
		for _, n := range r.Records {
			did += n
		}
		if did > 0 {
			quiet = -1
		}
	}
	err := filepath.WalkDir(filepath.Join(filepath.Dir(f.log), "farm", "s3"), func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return size
}
