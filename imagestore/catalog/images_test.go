package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/storetest"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// shelf is everything that a catalog knows of images, in memory.
type shelf struct {
	*world
	channels    *storetest.Feed[farm.Channel]
	usage       *storetest.Feed[farm.Usage]
	deployments *storetest.Feed[farm.Deployment]
	locks       map[digest.Digest]*recipe.Lock
	lockReads   atomic.Int64
}

func newShelf() *shelf {
	return &shelf{
		world: newWorld(), channels: storetest.NewFeed[farm.Channel](), usage: storetest.NewFeed[farm.Usage](),
		deployments: storetest.NewFeed[farm.Deployment](), locks: map[digest.Digest]*recipe.Lock{},
	}
}

func (s *shelf) readLock(_ context.Context, d digest.Digest) (*recipe.Lock, error) {
	s.lockReads.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if lock, ok := s.locks[d]; ok {
		return lock, nil
	}
	return nil, imagestore.ErrNotFound
}

// open opens a catalog of it and runs it until the end of the test, or stop.
func (s *shelf) open(t testing.TB, path string) (*catalog.Catalog, func()) {
	t.Helper()
	c, err := catalog.Open(path, s.ledger, &catalog.Feeds{Versions: s.versions, Channels: s.channels, Usage: s.usage, Deployments: s.deployments}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return c, running(t, c, func(ctx context.Context) error { return c.Run(ctx, s.readIndex, s.readLock) })
}

// debian is a Lock over packages written as "name=version", for amd64.
func debian(suite string, labels map[string]string, packages ...string) *recipe.Lock {
	var list []recipe.LockedPackage
	for _, p := range packages {
		name, version, _ := strings.Cut(p, "=")
		list = append(list, recipe.LockedPackage{Name: name, Version: version, Arch: "amd64"})
	}
	return &recipe.Lock{
		APIVersion: recipe.LockVersion, Config: recipe.Config{Labels: labels},
		OS: recipe.LockedOS{Debian: &recipe.LockedDebian{Suite: suite, Platforms: map[string][]recipe.LockedPackage{"linux/amd64": list}}},
	}
}

// put commits a version of a Lock, so old; told says whether its record has the contents.
func (s *shelf) put(name, v string, age time.Duration, lock *recipe.Lock, told bool, more ...farm.Image) *farm.Version {
	record := version(name, v, age, append(more, image(name, v, name+v))...)
	record.Lock = lock.Key()
	if told {
		record.Contents = plan.Contents(lock, "")
	}
	s.mu.Lock()
	s.locks[record.Lock] = lock
	s.mu.Unlock()
	s.versions.Set(name+"@"+v, record)
	return record
}

// TestReferrers: what is attached to a version's image is known by its subject, and its repository gives it out.
func TestReferrers(t *testing.T) {
	s := newShelf()
	c, _ := s.open(t, "")
	v := s.put("n", "v1", 0, debian("bookworm", nil, "a=1"), true)
	s.put("m", "v1", 0, debian("bookworm", nil, "a=1"), true)
	a := farm.Attachment{Subject: v.Images[0].Digest, Digest: digest.FromString("signature"), Type: "a/b", Size: 1, Blobs: []digest.Digest{digest.FromString("blob")}}
	v.Attached = []farm.Attachment{a}
	s.versions.Set("n@v1", v)
	if err := c.CatchUpImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	for repo, n := range map[string]int{"n": 1, "m": 0, "nobody": 0} {
		list, err := c.Referrers(t.Context(), repo, a.Subject)
		if err != nil || len(list) != n || n > 0 && list[0].Digest != a.Digest {
			t.Errorf("%s: %+v, %v", repo, list, err)
		}
		for _, d := range []digest.Digest{a.Digest, a.Blobs[0]} {
			if has, err := c.RepoHasBlob(t.Context(), repo, d); err != nil || has != (n > 0) {
				t.Errorf("%s has %s: %v, %v", repo, d, has, err)
			}
		}
	}
}

// refs lists the references of the images that a filter finds, after catching up.
func refs(t *testing.T, c *catalog.Catalog, f catalog.Filter) []string {
	t.Helper()
	if err := c.CatchUpImages(t.Context()); err != nil {
		t.Fatal(err)
	}
	rows, _, err := c.Images(t.Context(), f)
	if err != nil {
		t.Fatal(err)
	}
	list := []string{}
	for _, r := range rows {
		list = append(list, r.Ref)
	}
	return list
}

func packages(t *testing.T, questions ...string) (list []catalog.PackageQuery) {
	t.Helper()
	for _, q := range questions {
		p, err := catalog.ParsePackageQuery(q)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
	return list
}

func TestFilters(t *testing.T) {
	bothPlaces(t, func(t *testing.T, path string) {
		s := newShelf()
		old := debian("bookworm", map[string]string{"team": "shop", "tier": "web"}, "libc6=2.36-9+deb12u4", "openssl=3.0.11-1~deb12u2")
		s.put("shop/cart", "c1", 3*time.Hour, old, true)
		s.put("shop/cart", "c2", 2*time.Hour, debian("bookworm", map[string]string{"team": "shop"}, "libc6=2.36-9+deb12u4", "openssl=3.0.15-1~deb12u1"), true)
		s.put("tools", "t1", time.Hour, debian("trixie", nil, "libc6=2.41-12"), false)
		base := s.put("base/jre", "b1", 4*time.Hour, debian("bookworm", nil, "libc6=2.36-9+deb12u4"), true)
		child := s.put("shop/api", "a1", 30*time.Minute, old, true)
		child.Contents.Base = farm.Base{Ref: "base/jre:b1", Name: base.Name, Version: base.Version}
		s.versions.Set("shop/api@a1", child)
		grandchild := s.put("shop/apix", "x1", 20*time.Minute, old, true)
		grandchild.Contents.Base = farm.Base{Ref: "shop/api:a1", Name: "shop/api", Version: "a1"}
		s.versions.Set("shop/apix@x1", grandchild)

		now := time.Now()
		s.channels.Set("shop/cart@prod", &farm.Channel{Name: "shop/cart", Channel: "prod", Version: "c1"})
		s.channels.Set("shop/cart@dev", &farm.Channel{Name: "shop/cart", Channel: "dev", Version: "c2"})
		s.usage.Set("shop/cart@c1", &farm.Usage{Name: "shop/cart", Version: "c1", PulledAt: now.Add(-time.Hour), DeployedAt: now.Add(-2 * time.Hour)})
		s.usage.Set("tools@t1", &farm.Usage{Name: "tools", Version: "t1", PulledAt: now.Add(-time.Minute)})
		s.deployments.Set("i-1", &farm.Deployment{ID: "i-1", Name: "shop/cart", Version: "c1", Until: now.Add(time.Hour)})
		s.deployments.Set("i-2", &farm.Deployment{ID: "i-2", Name: "tools", Version: "t1", Until: now.Add(-time.Hour)})
		c, stop := s.open(t, path)

		check := func(t *testing.T, c *catalog.Catalog) {
			t.Helper()
			for _, test := range []struct {
				name string
				f    catalog.Filter
				want string
			}{
				{"all, newest first", catalog.Filter{}, "shop/apix:x1 shop/api:a1 tools:t1 shop/cart:c2 shop/cart:c1 base/jre:b1"},
				{"reversed", catalog.Filter{Reverse: true}, "base/jre:b1 shop/cart:c1 shop/cart:c2 tools:t1 shop/api:a1 shop/apix:x1"},
				{"by name", catalog.Filter{Sort: catalog.SortName}, "base/jre:b1 shop/api:a1 shop/apix:x1 shop/cart:c2 shop/cart:c1 tools:t1"},
				{"by last pull", catalog.Filter{Sort: catalog.SortPulled, Limit: 2}, "tools:t1 shop/cart:c1"},
				{"name", catalog.Filter{Name: "shop/cart"}, "shop/cart:c2 shop/cart:c1"},
				{"glob", catalog.Filter{Name: "shop/*", Limit: 2}, "shop/apix:x1 shop/api:a1"},
				{"class", catalog.Filter{Name: "[bt]*"}, "tools:t1 base/jre:b1"},
				{"no class", catalog.Filter{Name: "[bt"}, ""},
				{"label", catalog.Filter{Labels: []string{"team=shop", "tier"}, Name: "shop/cart"}, "shop/cart:c1"},
				{"label glob", catalog.Filter{Labels: []string{"tier=w*"}, Name: "shop/cart"}, "shop/cart:c1"},
				{"channel", catalog.Filter{Channel: "prod"}, "shop/cart:c1"},
				{"any channel", catalog.Filter{Channel: "*"}, "shop/cart:c2 shop/cart:c1"},
				{"pulled lately", catalog.Filter{Pulled: catalog.Range{After: now.Add(-30 * time.Minute)}}, "tools:t1"},
				{"pulled long ago or never", catalog.Filter{Pulled: catalog.Range{Before: now.Add(-30 * time.Minute)}, Name: "shop/cart"}, "shop/cart:c2 shop/cart:c1"},
				{"deployed", catalog.Filter{Deployed: catalog.Range{After: now.Add(-24 * time.Hour)}}, "shop/cart:c1"},
				{"running", catalog.Filter{Running: true}, "shop/cart:c1"},
				{"baked", catalog.Filter{Created: catalog.Range{After: version("", "", 2*time.Hour).CreatedAt, Before: version("", "", 30*time.Minute).CreatedAt}}, "tools:t1 shop/cart:c2"},
				{"base", catalog.Filter{Base: "debian:trixie"}, "tools:t1"},
				{"any ancestor", catalog.Filter{Base: "base/jre"}, "shop/apix:x1 shop/api:a1"},
				{"the ancestor's ancestor", catalog.Filter{Base: "debian:bookworm", Name: "shop/ap*"}, "shop/apix:x1 shop/api:a1"},
				{"parent", catalog.Filter{Parent: "base/*"}, "shop/api:a1"},
				{"package", catalog.Filter{Packages: packages(t, "openssl<3.0.15")}, "shop/apix:x1 shop/api:a1 shop/cart:c1"},
				{"package in a channel", catalog.Filter{Packages: packages(t, "openssl<3.0.15"), Channel: "*"}, "shop/cart:c1"},
				{"two packages", catalog.Filter{Packages: packages(t, "openssl>=3.0.15-1~deb12u1", "libc6<2.41")}, "shop/cart:c2"},
				{"package glob", catalog.Filter{Packages: packages(t, "lib*:amd64>=2.41")}, "tools:t1"},
				{"package of another architecture", catalog.Filter{Packages: packages(t, "libc6:arm64")}, ""},
				{"no such package", catalog.Filter{Packages: packages(t, "nginx")}, ""},
				{"text", catalog.Filter{Text: "CART prod"}, "shop/cart:c1"},
				{"text in labels", catalog.Filter{Text: "tier", Name: "shop/cart"}, "shop/cart:c1"},
				{"digest", catalog.Filter{Text: string(digest.FromString("toolst1"))[:20]}, "tools:t1"},
				{"platform", catalog.Filter{Platform: "index"}, ""},
			} {
				if got := strings.Join(refs(t, c, test.f), " "); got != test.want {
					t.Errorf("%s: got %q, want %q", test.name, got, test.want)
				}
			}
			counts, err := c.Count(t.Context(), catalog.Filter{Name: "shop/*"}, "label:tier")
			if err != nil || counts.Images != 4 || counts.Versions != 4 || counts.Groups["web"] != 3 {
				t.Errorf("%+v, %v", counts, err)
			}
		}
		check(t, c)
		for _, f := range []catalog.Filter{{Sort: "colour"}, {Name: "[z-a]"}, {Labels: []string{"=x"}}, {Cursor: "x"}} {
			if _, _, err := c.Images(t.Context(), f); err == nil {
				t.Errorf("%+v: no error", f)
			}
		}
		if _, err := c.Count(t.Context(), catalog.Filter{}, "colour"); !errors.Is(err, catalog.ErrBadGrouping) {
			t.Error(err)
		}
		if path != "" { // the file says the same
			stop()
			s.lockReads.Store(0)
			c, _ := s.open(t, path)
			check(t, c)
			if n := s.lockReads.Load(); n != 0 {
				t.Errorf("%d Locks were read again after a restart", n)
			}
		}
	})
}

func TestPackageQueries(t *testing.T) {
	for text, want := range map[string]string{
		"openssl": "openssl", "openssl << 3.0.15": "openssl<3.0.15", "libc6:arm64>=1:2.36-9+deb12u4": "libc6:arm64>=1:2.36-9+deb12u4",
		"g++==12": "g++=12", "lib*=2~rc1": "lib*=2~rc1", " a>>1 ": "a>1",
	} {
		if q, err := catalog.ParsePackageQuery(text); err != nil || q.String() != want {
			t.Errorf("%q: %q, %v; want %q", text, q, err, want)
		}
	}
	for _, text := range []string{"", "<1", "a<", "a b", "Openssl", "a!=1", "a<1 b", "a:", strings.Repeat("a", 300)} {
		if q, err := catalog.ParsePackageQuery(text); err == nil {
			t.Errorf("%q is read as %q", text, q)
		}
	}
}

// TestSharedSetsComeAndGo: a set is read once, stays while any image has it, and comes back when it is needed again.
func TestSharedSetsComeAndGo(t *testing.T) {
	s := newShelf()
	path := filepath.Join(t.TempDir(), "catalog.db")
	one, two := debian("bookworm", nil, "a=1", "b=1"), debian("bookworm", nil, "a=1", "b=2")
	for i := range 50 {
		s.put("n", fmt.Sprintf("v%02d", i), time.Duration(i)*time.Minute, one, true)
	}
	s.put("m", "v0", 0, two, true)
	c, stop := s.open(t, path)
	b1, b2 := catalog.Filter{Packages: packages(t, "b=1")}, catalog.Filter{Packages: packages(t, "b=2")}
	if got := len(refs(t, c, b1)); got != 50 {
		t.Errorf("%d images have b=1", got)
	}
	expect(t, refs(t, c, b2), "m:v0")
	if n := s.lockReads.Load(); n > 10 {
		t.Errorf("%d Locks were read for 2 sets", n)
	}
	for i := range 50 {
		s.versions.Set(fmt.Sprintf("n@v%02d", i), nil)
	}
	expect(t, refs(t, c, b1))
	expect(t, refs(t, c, catalog.Filter{Packages: packages(t, "a")}), "m:v0")
	if sets := c.CountSets(t); sets != 1 {
		t.Errorf("%d sets are left", sets)
	}
	stop()

	s.put("n", "again", 0, one, true)
	s.put("m", "v0", 0, one, true) // in place of the other
	c, _ = s.open(t, path)
	expect(t, refs(t, c, b1), "m:v0", "n:again")
	expect(t, refs(t, c, b2))
}

// TestIndexHasWhatItsImagesHave: the question finds the index over several platforms too.
func TestIndexHasWhatItsImagesHave(t *testing.T) {
	s := newShelf()
	lock := debian("bookworm", nil, "a=1")
	lock.OS.Debian.Platforms["linux/arm64"] = []recipe.LockedPackage{{Name: "a", Version: "2", Arch: "arm64"}}
	index, arm := image("n", "v", "index"), image("n", "v", "arm")
	index.Platform, arm.Platform = "", "linux/arm64"
	s.put("n", "v", 0, lock, true, arm, index)
	c, _ := s.open(t, "")
	for question, want := range map[string][]string{"a=1": {"", "linux/amd64"}, "a=2": {"", "linux/arm64"}, "a:arm64": {"", "linux/arm64"}} {
		if err := c.CatchUpImages(t.Context()); err != nil {
			t.Fatal(err)
		}
		rows, _, err := c.Images(t.Context(), catalog.Filter{Packages: packages(t, question)})
		var platforms []string
		for _, r := range rows {
			platforms = append(platforms, r.Platform)
			if len(r.Packages) != 1 || r.Packages[0].Name != "a" {
				t.Errorf("%s: %+v", question, r.Packages)
			}
		}
		if err != nil || !slices.Equal(platforms, want) {
			t.Errorf("%s: %q, %v; want %q", question, platforms, err, want)
		}
	}
}

// TestLockThatIsLost: a version without its Lock is there, without packages.
func TestLockThatIsLost(t *testing.T) {
	s := newShelf()
	lost := s.put("n", "lost", time.Hour, debian("bookworm", nil, "a=1"), true)
	delete(s.locks, lost.Lock)
	s.put("n", "v", 0, debian("bookworm", nil, "a=1", "b=1"), true)
	c, _ := s.open(t, "")
	expect(t, refs(t, c, catalog.Filter{}), "n:v", "n:lost")
	expect(t, refs(t, c, catalog.Filter{Packages: packages(t, "a")}), "n:v")
	s.put("n", "same", 0, debian("bookworm", nil, "a=1"), true) // brings the set
	expect(t, refs(t, c, catalog.Filter{Packages: packages(t, "a")}), "n:same", "n:v")
}

// TestPagesAreStable: what comes and goes between two pages neither repeats nor hides what stays, in any order.
func TestPagesAreStable(t *testing.T) {
	for _, o := range []catalog.Filter{{}, {Reverse: true}, {Sort: catalog.SortName}, {Sort: catalog.SortSize}, {Sort: catalog.SortPulled, Reverse: true}, {Name: "name3"}} {
		t.Run(fmt.Sprintf("%s %v %s", o.Sort, o.Reverse, o.Name), func(t *testing.T) {
			s := newShelf()
			lock := debian("bookworm", nil)
			stays := map[string]bool{}
			for i := range 200 {
				name, v := fmt.Sprintf("name%d", i%7), fmt.Sprintf("v%03d", i)
				record := s.put(name, v, time.Duration(i%13)*time.Hour, lock, true)
				record.Images[0].Size = int64(i % 5)
				s.versions.Set(name+"@"+v, record)
				if i%2 == 0 && (o.Name == "" || o.Name == name) {
					stays[name+":"+v] = true
				}
			}
			c, _ := s.open(t, "")
			f := o
			f.Limit = 9
			for page := 0; ; page++ {
				if err := c.CatchUpImages(t.Context()); err != nil {
					t.Fatal(err)
				}
				rows, next, err := c.Images(t.Context(), f)
				if err != nil || page > 300 {
					t.Fatal(page, err)
				}
				for _, r := range rows {
					if r.Version[0] == 'v' && r.Version[3]%2 == 0 {
						if !stays[r.Ref] {
							t.Fatalf("%s came twice", r.Ref)
						}
						delete(stays, r.Ref)
					}
				}
				if next == "" {
					break
				}
				f.Cursor = next
				s.put(fmt.Sprintf("name%d", page%7), fmt.Sprintf("w%03d", page), time.Duration(page%13)*time.Hour, lock, true)
				gone := 2*page + 1
				s.versions.Set(fmt.Sprintf("name%d@v%03d", gone%7, gone), nil)
			}
			if len(stays) > 0 {
				t.Errorf("never seen: %v", stays)
			}
		})
	}
}
