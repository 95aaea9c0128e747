package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/storetest"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a ledger, a versions feed, and the indexes of packs that lie in a store.
type world struct {
	ledger   *storetest.Ledger
	versions *storetest.Feed[farm.Version]

	mu      sync.Mutex
	indexes map[string][]imagestore.Entry
	reads   atomic.Int64
	fail    func(id string) error
}

func newWorld() *world {
	return &world{ledger: storetest.NewLedger(), versions: storetest.NewFeed[farm.Version](), indexes: map[string][]imagestore.Entry{}}
}

func (w *world) readIndex(_ context.Context, p farm.Pack) ([]imagestore.Entry, error) {
	w.reads.Add(1)
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.fail != nil {
		if err := w.fail(p.ID); err != nil {
			return nil, err
		}
	}
	e, ok := w.indexes[p.ID]
	if !ok {
		return nil, imagestore.ErrNotFound
	}
	return e, nil
}

// pack stores a pack of pieces with the texts given and registers it.
func (w *world) pack(t testing.TB, id string, texts ...string) {
	t.Helper()
	w.mu.Lock()
	w.indexes[id] = entries(texts...)
	w.mu.Unlock()
	if err := w.ledger.Register(t.Context(), farm.Pack{ID: id, State: farm.PackLive}); err != nil {
		t.Fatal(err)
	}
}

func entries(texts ...string) []imagestore.Entry {
	var es []imagestore.Entry
	var at int64
	for _, s := range texts {
		es = append(es, imagestore.Entry{Digest: digest.FromString(s), Offset: at, Length: int64(len(s))})
		at += int64(len(s))
	}
	return es
}

// open opens a catalog and runs it until the test ends, or stop.
func (w *world) open(t testing.TB, path string) (c *catalog.Catalog, stop func()) {
	t.Helper()
	c, err := catalog.Open(path, w.ledger, &catalog.Feeds{Versions: w.versions}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, running(t, c, func(ctx context.Context) error { return c.Run(ctx, w.readIndex, nil) })
}

// running runs a catalog until the test ends, or stop, which closes it.
func running(t testing.TB, c *catalog.Catalog, run func(context.Context) error) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("run: %v", err)
			}
			if err := c.Close(); err != nil {
				t.Errorf("close: %v", err)
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

// where returns the packs of texts, after catching up: "" for none, with ! when condemned.
func where(t *testing.T, c *catalog.Catalog, texts ...string) []string {
	t.Helper()
	if err := c.CatchUp(t.Context()); err != nil {
		t.Fatal(err)
	}
	return located(t, c, texts...)
}

func located(t *testing.T, c *catalog.Catalog, texts ...string) []string {
	t.Helper()
	var ds []digest.Digest
	for _, s := range texts {
		ds = append(ds, digest.FromString(s))
	}
	locs, err := c.Locate(t.Context(), ds)
	if err != nil {
		t.Fatal(err)
	}
	var packs []string
	for i, l := range locs {
		if l.Pack != "" && (l.Piece != ds[i] || l.Length != int64(len(texts[i]))) {
			t.Errorf("%q lies at %+v", texts[i], l)
		}
		if l.Condemned {
			l.Pack += "!"
		}
		packs = append(packs, l.Pack)
	}
	return packs
}

func expect(t *testing.T, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func bothPlaces(t *testing.T, f func(t *testing.T, path string)) {
	t.Run("memory", func(t *testing.T) { f(t, "") })
	t.Run("file", func(t *testing.T) { f(t, filepath.Join(t.TempDir(), "a ?#%b.db")) })
}

func TestFollowsTheLedger(t *testing.T) {
	bothPlaces(t, func(t *testing.T, path string) {
		w := newWorld()
		w.pack(t, "P1", "a", "b")
		c, _ := w.open(t, path)
		expect(t, where(t, c, "a", "x", "b", "a"), "P1", "", "P1", "P1")
		w.pack(t, "P2", "b", "c")
		expect(t, where(t, c, "c"), "P2")

		w.ledger.Condemn("P1")
		expect(t, where(t, c, "a", "b", "c"), "P1!", "P2", "P2")
		w.ledger.Set("P1", nil)
		expect(t, where(t, c, "a", "b", "c"), "", "P2", "P2")
		if err := c.Ready(); err != nil {
			t.Error(err)
		}
	})
}

func TestAnnouncedPackIsLocatedOnceRegistered(t *testing.T) {
	bothPlaces(t, func(t *testing.T, path string) {
		w := newWorld()
		c, stop := w.open(t, path)
		p := farm.Pack{ID: "MINE", State: farm.PackLive}
		for range 2 {
			if err := c.Add(t.Context(), p, entries("a")); err != nil {
				t.Fatal(err)
			}
		}
		expect(t, where(t, c, "a"), "")
		if err := w.ledger.Register(t.Context(), p); err != nil {
			t.Fatal(err)
		}
		if err := c.Registered(t.Context(), "MINE"); err != nil {
			t.Fatal(err)
		}
		expect(t, located(t, c, "a"), "MINE")
		expect(t, where(t, c, "a"), "MINE")
		if n := w.reads.Load(); n != 0 {
			t.Errorf("its own index was read back %d times", n)
		}

		// The ledger's change came first: it wins.
		w.ledger.Condemn("MINE")
		if err := c.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := c.Registered(t.Context(), "MINE"); err != nil {
			t.Fatal(err)
		}
		expect(t, located(t, c, "a"), "MINE!")

		// An announcement that came to nothing is forgotten by the next process.
		if err := c.Add(t.Context(), farm.Pack{ID: "LOST"}, entries("z")); err != nil {
			t.Fatal(err)
		}
		stop()
		if path == "" {
			return
		}
		c, _ = w.open(t, path)
		expect(t, where(t, c, "z", "a"), "", "MINE!")
	})
}

func TestCompositeAndPiece(t *testing.T) {
	w := newWorld()
	d, desc := digest.FromString("blob"), digest.FromString("descriptor")
	w.indexes["C"] = []imagestore.Entry{{Digest: d, Piece: desc, Offset: 5, Length: 10}}
	if err := w.ledger.Register(t.Context(), farm.Pack{ID: "C", State: farm.PackLive}); err != nil {
		t.Fatal(err)
	}
	c, _ := w.open(t, "")
	find := func() imagestore.Location {
		if err := c.CatchUp(t.Context()); err != nil {
			t.Fatal(err)
		}
		l, err := c.Locate(t.Context(), []digest.Digest{d})
		if err != nil {
			t.Fatal(err)
		}
		return l[0]
	}
	if got, want := find(), (imagestore.Location{Pack: "C", Offset: 5, Length: 10, Piece: desc, Composite: true}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	w.pack(t, "P", "blob")
	if got := find(); got.Pack != "P" || got.Composite {
		t.Errorf("the piece is to be preferred: got %+v", got)
	}
	w.ledger.Set("P", nil)
	if got := find(); got.Pack != "C" || !got.Composite {
		t.Errorf("the composite is left: got %+v", got)
	}
	if _, err := c.Locate(t.Context(), []digest.Digest{"sha256:short"}); err == nil {
		t.Error("a bad digest was located")
	}
}

func TestResumesAndIsMadeAnew(t *testing.T) {
	w := newWorld()
	path := filepath.Join(t.TempDir(), "catalog.db")
	for i := range 200 {
		w.pack(t, fmt.Sprintf("P%03d", i), fmt.Sprint("text", i))
	}
	c, stop := w.open(t, path)
	expect(t, where(t, c, "text0", "text199"), "P000", "P199")
	stop()
	w.reads.Store(0)
	w.pack(t, "LATER", "later")
	c, stop = w.open(t, path)
	expect(t, where(t, c, "text0", "text199", "later"), "P000", "P199", "LATER")
	if n := w.reads.Load(); n != 1 {
		t.Errorf("read %d indexes after a restart, want 1", n)
	}
	stop()

	// Another ledger: nothing of the old is left.
	other := newWorld()
	other.pack(t, "OTHER", "later")
	c, stop = other.open(t, path)
	expect(t, where(t, c, "text0", "later"), "", "OTHER")
	stop()

	// A file that is none.
	if err := os.WriteFile(path, []byte("this is not a database, but it is long enough to look at: "+string(make([]byte, 4096))), 0o600); err != nil {
		t.Fatal(err)
	}
	c, _ = other.open(t, path)
	expect(t, where(t, c, "later"), "OTHER")
}

// Damage within the file, which no look at its head shows: found at the start or, if it comes later, by whoever stumbles over it.
func TestDamageIsMadeAnew(t *testing.T) {
	w := newWorld()
	path := filepath.Join(t.TempDir(), "catalog.db")
	var texts []string
	for i := range 2000 {
		texts = append(texts, fmt.Sprint("text", i))
		w.pack(t, fmt.Sprintf("P%04d", i), texts[i])
	}
	c, stop := w.open(t, path)
	expect(t, where(t, c, "text0", "text1999"), "P0000", "P1999")
	stop()
	damage := func() {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info, err := f.Stat()
		if err != nil {
			t.Fatal(err)
		}
		for at := int64(2 * 4096); at < info.Size(); at += 4096 {
			if _, err := f.WriteAt([]byte(strings.Repeat("damage", 600)), at); err != nil {
				t.Fatal(err)
			}
		}
	}
	damage()
	c, stop = w.open(t, path)
	expect(t, where(t, c, "text0", "text1999"), "P0000", "P1999")
	stop()

	c, err := catalog.Open(path, w.ledger, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	damage() // after it has read what it reads at the start
	done := make(chan error, 1)
	go func() { done <- c.Run(t.Context(), w.readIndex, nil) }()
	for _, text := range texts {
		if _, err = c.Locate(t.Context(), []digest.Digest{digest.FromString(text)}); err != nil {
			break
		}
	}
	if err == nil {
		t.Error("the damage is overlooked")
	}
	if err := <-done; err == nil || !strings.Contains(err.Error(), "made anew") {
		t.Errorf("it goes on: %v", err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
	c.Close()
	c, _ = w.open(t, path)
	expect(t, where(t, c, "text0", "text1999"), "P0000", "P1999")
}

func TestTroubleWithIndexes(t *testing.T) {
	w := newWorld()
	var failures atomic.Int64
	w.fail = func(id string) error {
		switch {
		case id == "SLOW" && failures.Add(1) < 3:
			return errors.New("connection refused")
		case id == "BROKEN":
			return fmt.Errorf("pack index: %w", imagestore.ErrCorrupt)
		}
		return nil
	}
	w.pack(t, "SLOW", "a")
	w.pack(t, "BROKEN", "b")
	w.pack(t, "NEXT", "c")
	if err := w.ledger.Register(t.Context(), farm.Pack{ID: "GONE", State: farm.PackLive}); err != nil {
		t.Fatal(err)
	}
	c, _ := w.open(t, "")
	expect(t, where(t, c, "a", "b", "c"), "SLOW", "", "NEXT")

	// What keeps it is in the error of who waits.
	w.mu.Lock()
	w.fail = func(string) error { return errors.New("no route to host") }
	w.mu.Unlock()
	w.pack(t, "UNREAD", "d")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	err := c.CatchUp(ctx)
	if !errors.Is(err, context.DeadlineExceeded) || c.Ready() == nil {
		t.Fatalf("got %v, ready %v", err, c.Ready())
	}
	t.Log(err)
	expect(t, located(t, c, "c"), "NEXT")
	w.mu.Lock()
	w.fail = nil
	w.mu.Unlock()
	expect(t, where(t, c, "d"), "UNREAD")
}

func TestEntriesOfDeletedPacksAreSwept(t *testing.T) {
	t.Cleanup(catalog.SetSweepAt(4000)) // before what open cleans up: after it
	w := newWorld()
	path := filepath.Join(t.TempDir(), "catalog.db")
	c, _ := w.open(t, path)
	texts := make([]string, 3000)
	for i := range texts {
		texts[i] = fmt.Sprint("text", i)
	}
	for round := range 6 {
		id := fmt.Sprint("BIG", round)
		w.pack(t, id, texts...)
		expect(t, where(t, c, texts[7]), id)
		w.ledger.Set(id, nil)
		expect(t, where(t, c, texts[7]), "")
	}
	w.pack(t, "LAST", texts...)
	expect(t, where(t, c, texts[7], texts[2_999]), "LAST", "LAST")
	if n := c.CountEntries(t); n > 3*3000 {
		t.Errorf("%d entries in the file after 6 packs of 3000 came and went", n)
	}
}

func version(name, v string, age time.Duration, images ...farm.Image) *farm.Version {
	return &farm.Version{Schema: 1, Name: name, Version: v, Images: images, Bake: "bake-" + v, CreatedAt: time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC).Add(-age)}
}

func image(name, v, text string, blobs ...string) farm.Image {
	img := farm.Image{Name: name, Digest: digest.FromString(text), Kind: "oci", Platform: "linux/amd64", Ref: name + ":" + v}
	for _, b := range blobs {
		img.Blobs = append(img.Blobs, digest.FromString(b))
	}
	return img
}

func TestImages(t *testing.T) {
	bothPlaces(t, func(t *testing.T, path string) {
		w := newWorld()
		for i := range 25 {
			v := fmt.Sprintf("v%02d", i)
			w.versions.Set("shop/a@"+v, version("shop/a", v, time.Duration(i)*time.Hour, image("shop/a", v, "a"+v, "layer", "conf"+v)))
		}
		w.versions.Set("b@v1", version("b", "v1", 90*time.Minute, image("b", "v1", "b1", "blayer")))
		c, _ := w.open(t, path)
		if err := c.CatchUpVersions(t.Context()); err != nil {
			t.Fatal(err)
		}

		all, next, err := c.Images(t.Context(), catalog.Filter{})
		if err != nil || next != "" || len(all) != 26 {
			t.Fatalf("%d images, next %q, %v", len(all), next, err)
		}
		if all[0].Ref != "shop/a:v00" || all[2].Ref != "b:v1" || all[25].Ref != "shop/a:v24" || all[0].Bake != "bake-v00" || !all[0].CreatedAt.Equal(version("", "", 0).CreatedAt) {
			t.Errorf("order or rows: %+v", all)
		}
		var paged []string
		f := catalog.Filter{Limit: 7}
		for {
			rows, next, err := c.Images(t.Context(), f)
			if err != nil {
				t.Fatal(err)
			}
			for _, r := range rows {
				paged = append(paged, r.Ref)
			}
			if next == "" {
				break
			}
			f.Cursor = next
		}
		var refs []string
		for _, r := range all {
			refs = append(refs, r.Ref)
		}
		expect(t, paged, refs...)
		for name, want := range map[string]int{"shop/*": 25, "b": 1, "?": 1, "*": 26, "none": 0} {
			if rows, _, err := c.Images(t.Context(), catalog.Filter{Name: name}); err != nil || len(rows) != want {
				t.Errorf("%s: %d rows, %v; want %d", name, len(rows), err, want)
			}
		}
		if rows, _, _ := c.Images(t.Context(), catalog.Filter{Kind: "disk"}); len(rows) != 0 {
			t.Errorf("%d disks", len(rows))
		}
		if _, _, err := c.Images(t.Context(), catalog.Filter{Cursor: "x"}); !errors.Is(err, catalog.ErrBadCursor) {
			t.Errorf("bad cursor: %v", err)
		}

		for ref, want := range map[string]string{
			"shop/a": "shop/a:v00", "shop/a:v03": "shop/a:v03", "shop/a@" + string(digest.FromString("av04")): "shop/a:v04",
		} {
			if row, err := c.Image(t.Context(), ref); err != nil || row.Ref != want {
				t.Errorf("%s: got %q %v, want %q", ref, row.Ref, err, want)
			}
		}
		for _, ref := range []string{"none", "shop/a:v99", "b:v00", "b@" + string(digest.FromString("av04"))} {
			if _, err := c.Image(t.Context(), ref); !errors.Is(err, imagestore.ErrNotFound) {
				t.Errorf("%s: %v", ref, err)
			}
		}
		if row, err := c.Resolve(t.Context(), "b", string(digest.FromString("b1"))); err != nil || row.Version != "v1" {
			t.Errorf("resolve: %+v %v", row, err)
		}
		if row, err := c.Resolve(t.Context(), "shop/a", "v07"); err != nil || row.Version != "v07" {
			t.Errorf("resolve: %+v %v", row, err)
		}
		has := func(repo, text string) bool {
			t.Helper()
			ok, err := c.RepoHasBlob(t.Context(), repo, digest.FromString(text))
			if err != nil {
				t.Fatal(err)
			}
			return ok
		}
		if !has("shop/a", "layer") || !has("shop/a", "av01") || !has("b", "blayer") || has("b", "layer") || has("shop/a", "b1") {
			t.Error("blobs are not where they belong")
		}
		if repos, err := c.Repos(t.Context()); err != nil || !slices.Equal(repos, []string{"b", "shop/a"}) {
			t.Errorf("repos %q, %v", repos, err)
		}
		if tags, err := c.Tags(t.Context(), "shop/a"); err != nil || len(tags) != 25 || !slices.IsSorted(tags) {
			t.Errorf("tags %q, %v", tags, err)
		}

		// A version goes, and with it what only it had.
		w.versions.Set("b@v1", nil)
		w.versions.Set("shop/a@v00", nil)
		if err := c.CatchUpVersions(t.Context()); err != nil {
			t.Fatal(err)
		}
		if has("b", "blayer") || has("shop/a", "confv00") || !has("shop/a", "layer") {
			t.Error("blobs after deleting versions")
		}
		if row, err := c.Image(t.Context(), "shop/a"); err != nil || row.Version != "v01" {
			t.Errorf("newest is %q, %v", row.Version, err)
		}
	})
}

func TestGeneralImageFirst(t *testing.T) {
	w := newWorld()
	disk, arm, index := image("n", "v", "disk"), image("n", "v", "arm"), image("n", "v", "index")
	disk.Kind, arm.Platform, index.Platform = "disk", "linux/arm64", ""
	w.versions.Set("n@v", version("n", "v", 0, disk, arm, image("n", "v", "amd"), index))
	c, _ := w.open(t, "")
	if err := c.CatchUpVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if row, err := c.Image(t.Context(), "n:v"); err != nil || row.Digest != index.Digest {
		t.Errorf("got %+v, %v", row, err)
	}
	w.versions.Set("n@v", version("n", "v", 0, disk, arm, image("n", "v", "amd")))
	if err := c.CatchUpVersions(t.Context()); err != nil {
		t.Fatal(err)
	}
	if row, err := c.Image(t.Context(), "n:v"); err != nil || row.Digest != digest.FromString("amd") {
		t.Errorf("got %+v, %v", row, err)
	}
}

func TestConcurrentUse(t *testing.T) {
	bothPlaces(t, func(t *testing.T, path string) {
		w := newWorld()
		c, _ := w.open(t, path)
		var wg sync.WaitGroup
		for g := range 8 {
			wg.Go(func() {
				for i := range 30 {
					id, text := fmt.Sprintf("P-%d-%d", g, i), fmt.Sprintf("t-%d-%d", g, i)
					if i%2 == 0 {
						w.pack(t, id, text, "shared")
						expect(t, where(t, c, text), id)
						continue
					}
					p := farm.Pack{ID: id, State: farm.PackLive}
					w.mu.Lock()
					w.indexes[id] = entries(text)
					w.mu.Unlock()
					if err := errors.Join(c.Add(t.Context(), p, entries(text)), w.ledger.Register(t.Context(), p), c.Registered(t.Context(), id)); err != nil {
						t.Error(err)
					}
					expect(t, located(t, c, text), id)
				}
			})
		}
		wg.Wait()
	})
}

func BenchmarkLocate(b *testing.B) {
	w := newWorld()
	c, _ := w.open(b, filepath.Join(b.TempDir(), "c.db"))
	const packs, each = 20, 10_000
	var all []digest.Digest
	for i := range packs {
		texts := make([]string, each)
		for k := range texts {
			texts[k] = fmt.Sprint("text", i, "/", k)
		}
		id := fmt.Sprint("P", i)
		for _, e := range entries(texts...) {
			all = append(all, e.Digest)
		}
		w.pack(b, id, texts...)
	}
	if err := c.CatchUp(b.Context()); err != nil {
		b.Fatal(err)
	}
	for _, n := range []int{1, 100, 5000} {
		b.Run(fmt.Sprintf("cold/%d", n), func(b *testing.B) {
			at := 0
			for b.Loop() { // walks through more than recent holds
				at = (at + 13_337) % (len(all) - n)
				if _, err := c.Locate(b.Context(), all[at:at+n]); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprintf("recent/%d", n), func(b *testing.B) {
			for b.Loop() {
				if _, err := c.Locate(b.Context(), all[:n]); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
	missing := make([]digest.Digest, 100)
	for i := range missing {
		missing[i] = digest.FromString(fmt.Sprint("missing", i))
	}
	b.Run("missing/100", func(b *testing.B) {
		for b.Loop() {
			if _, err := c.Locate(b.Context(), missing); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkProject is what a commit costs the index: announced, registered, and seen in the ledger.
func BenchmarkProject(b *testing.B) {
	for _, path := range []string{"", filepath.Join(b.TempDir(), "c.db")} {
		b.Run(fmt.Sprintf("file=%v", path != ""), func(b *testing.B) {
			w := newWorld()
			c, _ := w.open(b, path)
			i := 0
			for b.Loop() {
				i++
				p := farm.Pack{ID: fmt.Sprint("P", i), State: farm.PackLive}
				if err := errors.Join(c.Add(b.Context(), p, entries(fmt.Sprint("x", i))), w.ledger.Register(b.Context(), p), c.CatchUp(b.Context())); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
