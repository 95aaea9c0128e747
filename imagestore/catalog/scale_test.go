package catalog_test

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"runtime"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

var scale = flag.Int("scale", 600, "TestScale: how many images of 300 packages the catalog has; make bench says 100000")

// shop is a made-up farm: names that are baked again and again, on a Debian that moves. Between two bakes of a name most
// often only the app changes; from time to time some of 300 packages do.
type shop struct {
	versions []farm.Version
	locks    map[digest.Digest][]byte // zstd: plain they would be a gigabyte
	sets     int
}

// Of a farm's images, that many have a name, and one in so many bakes comes with other packages than the one before.
const (
	imagesPerName  = 200
	bakesPerChange = 5
	packagesEach   = 300
)

var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest)) // no options that could fail
	unpacker, _ = zstd.NewReader(nil)
)

// lock reads a Lock as the catalog does from the store.
func (s *shop) lock(d digest.Digest) (*recipe.Lock, error) {
	packed, ok := s.locks[d]
	if !ok {
		return nil, imagestore.ErrNotFound
	}
	raw, err := unpacker.DecodeAll(packed, nil)
	if err != nil {
		return nil, err
	}
	return recipe.DecodeLock(raw)
}

// cpu is the processor time that this process has taken.
func cpu(t *testing.T) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func newShop(images int) *shop {
	s := &shop{locks: map[digest.Digest][]byte{}}
	random := rand.New(rand.NewPCG(1, 2))
	names := max(1, images/imagesPerName)
	type line struct {
		packages []recipe.LockedPackage
		lock     digest.Digest
		contents *farm.Contents
	}
	lines := make([]line, names)
	for n := range lines {
		for p := range packagesEach {
			number := p // two thirds are in every image, as in a minbase; the rest are chosen
			if p > 2*packagesEach/3 {
				number = packagesEach + random.IntN(3000)
			}
			lines[n].packages = append(lines[n].packages, recipe.LockedPackage{
				Name: fmt.Sprintf("package-%04d", number), Version: debianVersion(0), Arch: "amd64", SHA256: digest.FromString("x"), Size: 100_000,
			})
		}
	}
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range images {
		n := i % names
		l := &lines[n]
		if l.lock == "" || random.IntN(bakesPerChange) == 0 {
			for range 5 {
				l.packages[random.IntN(packagesEach)].Version = debianVersion(i * 40 / images)
			}
			s.sets++
			lock := &recipe.Lock{
				APIVersion: recipe.LockVersion, Config: recipe.Config{Labels: map[string]string{"team": fmt.Sprint("team", n%20)}},
				OS: recipe.LockedOS{Debian: &recipe.LockedDebian{Suite: "bookworm", Platforms: map[string][]recipe.LockedPackage{"linux/amd64": slices.Clone(l.packages)}}},
			}
			l.lock, l.contents = lock.Key(), plan.Contents(lock, "")
			s.locks[l.lock] = bytes.Clone(packer.EncodeAll(lock.Encode(), nil)) // without the room that it made
		}
		name := fmt.Sprintf("team%d/app-%03d", n%20, n)
		sum := digest.FromString(fmt.Sprint(name, i))
		v := farm.Version{
			Schema: farm.Schema, Name: name, Version: sum.Encoded()[:16], Key: sum, Lock: l.lock, Bake: fmt.Sprintf("01BAKE%020d", i),
			Sequence: uint64(i/names + 1), Contents: l.contents, CreatedAt: begin.Add(time.Duration(i) * time.Minute),
			Images: []farm.Image{{Name: name, Digest: sum, MediaType: "application/vnd.oci.image.manifest.v1+json", Kind: "oci", Platform: "linux/amd64", Format: "oci", Size: random.Int64N(1 << 28)}},
		}
		for layer := range 4 {
			v.Images[0].Blobs = append(v.Images[0].Blobs, digest.FromString(fmt.Sprint(name, layer, layer == 3, i*(layer/3))))
		}
		s.versions = append(s.versions, v)
	}
	return s
}

// debianVersion is the nth version of a package.
func debianVersion(n int) string { return fmt.Sprintf("1:3.%d.%d-1+deb12u%d", n/10, n%10, n%4) }

// Follow, Last and Identity make it a feed of versions.
func (s *shop) Follow(ctx context.Context, after uint64, fn func(uint64, string, *farm.Version) error) error {
	for i := int(after); i < len(s.versions); i++ {
		v := s.versions[i]
		if err := fn(uint64(i)+1, v.Name+"@"+v.Version, &v); err != nil {
			return err
		}
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (s *shop) Last(context.Context) (uint64, error)     { return uint64(len(s.versions)), nil }
func (s *shop) Identity(context.Context) (string, error) { return "shop", nil }

// TestScale builds a large catalog and asks it everything: with -scale 100000 it is what make bench shows.
func TestScale(t *testing.T) {
	t.Parallel()
	s := newShop(*scale)
	w := newWorld()
	var reads atomic.Int64
	path := filepath.Join(t.TempDir(), "catalog.db")
	open := func() (*catalog.Catalog, func()) {
		c, err := catalog.Open(path, w.ledger, &catalog.Feeds{Versions: s}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return c, running(t, c, func(ctx context.Context) error {
			return c.Run(ctx, w.readIndex, func(_ context.Context, d digest.Digest) (*recipe.Lock, error) {
				reads.Add(1)
				return s.lock(d)
			})
		})
	}
	begin, used := time.Now(), cpu(t)
	c, stop := open()
	if err := c.CatchUpVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d images of %d packages, %d different sets of them", len(s.versions), packagesEach, s.sets)
	t.Logf("%-60s %v, %v of processor time, %d Locks read", "projection built from nothing", time.Since(begin).Round(time.Millisecond), (cpu(t) - used).Round(time.Millisecond), reads.Load())
	stop()
	begin = time.Now()
	c, _ = open()
	t.Logf("%-60s %v", "opened again", time.Since(begin).Round(time.Millisecond))
	if err := c.CatchUpVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	var memory runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&memory)
	t.Logf("%-60s %d MB, the made-up farm included", "live heap", memory.HeapAlloc>>20)

	middle := s.versions[len(s.versions)/2].CreatedAt
	for _, question := range []struct {
		name string
		f    catalog.Filter
	}{
		{"newest 100", catalog.Filter{}},
		{"one name", catalog.Filter{Name: "team7/app-007"}},
		{"names by glob, and a label", catalog.Filter{Name: "team7/*", Labels: []string{"team=team7"}}},
		{"no such platform: every row is looked at", catalog.Filter{Platform: "linux/riscv64"}},
		{"by size", catalog.Filter{Sort: catalog.SortSize}},
		{"oldest by name, of a range of time", catalog.Filter{Created: catalog.Range{Before: middle}, Sort: catalog.SortName, Reverse: true}},
		{"oldest first", catalog.Filter{Reverse: true}},
		{"text", catalog.Filter{Text: "team19 app-119"}},
		{"text that stands nowhere", catalog.Filter{Text: "nowhere"}},
		{"built on what nobody was", catalog.Filter{Base: "debian:sid"}},
		{"a label that nobody has", catalog.Filter{Labels: []string{"team=nobody"}}},
		{"built on debian:bookworm, never pulled", catalog.Filter{Base: "debian:*", Pulled: catalog.Range{Before: middle}}},
		{"package below a version, newest 100", catalog.Filter{Packages: packages(t, "package-0100<1:3.2.0")}},
		{"package below a version, that few have", catalog.Filter{Packages: packages(t, "package-0100<1:3.0.0")}},
		{"rare package, any version", catalog.Filter{Packages: packages(t, "package-1234")}},
		{"package and everything else", catalog.Filter{Packages: packages(t, "package-0100>=1:3.1.0"), Name: "team1*", Labels: []string{"team"}, Sort: catalog.SortSize}},
	} {
		question.f.Limit = 100
		took := make([]time.Duration, 0, 200)
		var rows int
		used := cpu(t)
		for range cap(took) {
			begin := time.Now()
			found, _, err := c.Images(t.Context(), question.f)
			if err != nil {
				t.Fatal(err)
			}
			took, rows = append(took, time.Since(begin)), len(found)
		}
		slices.Sort(took)
		t.Logf("%-60s p50 %8v  p99 %8v  processor time %8v  %d rows", question.name, took[100].Round(10*time.Microsecond), took[197].Round(10*time.Microsecond),
			((cpu(t) - used) / 200).Round(10*time.Microsecond), rows)
	}
	begin = time.Now()
	counts, err := c.Count(t.Context(), catalog.Filter{Packages: packages(t, "package-0100<1:3.2.0")}, "label:team")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%-60s %v: %d images", "count of a package's images by team", time.Since(begin).Round(10*time.Microsecond), counts.Images)
	have := 0
	if *scale > 10_000 {
		return // counted by hand once, at small scale
	}
	for _, v := range s.versions {
		lock, err := s.lock(v.Lock)
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range lock.OS.Debian.Platforms["linux/amd64"] {
			if p.Name == "package-0100" && p.Version < "1:3.2.0" { // these versions compare as texts do
				have++
				break
			}
		}
	}
	if counts.Images != have {
		t.Errorf("%d images have the package, not %d", have, counts.Images)
	}
}
