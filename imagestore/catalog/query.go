package catalog

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// ImageRow is an image, where it came from, and how it is used. (Image.Blobs is left out: RepoHasBlob answers for it.)
type ImageRow struct {
	farm.Image
	Version   string
	Sequence  uint64 // for display: the number of the version among those of its name
	Bake      string
	Key       digest.Digest
	Lock      digest.Digest
	CreatedAt time.Time

	Pins  []farm.Pin
	Trash *farm.Trash

	Base     farm.Base
	Labels   map[string]string // not to be changed
	Channels []string          // that point to its version, sorted; not to be changed

	// Usage of the version. PulledAt and the others are zero for what has never happened.
	PulledAt, ResolvedAt, DeployedAt time.Time
	Deployments                      int // that run the version: their leases have not ended

	Packages []Package // that Filter.Packages found in it
}

// Sort is an order of images.
type Sort string

// The orders, each in the direction that people want first. Equal ones are listed newest first.
const (
	SortCreated  Sort = "created"  // newest first
	SortName     Sort = "name"     // by letter
	SortSize     Sort = "size"     // largest first
	SortPulled   Sort = "pulled"   // last pulled first
	SortDeployed Sort = "deployed" // last deployed first
)

// MaxPage is how many rows a page has at most.
const MaxPage = 1000

// Errors about a question.
var (
	ErrBadCursor  = errors.New("bad cursor: give the one of the page before, with the same order, or none")
	ErrBadPattern = errors.New("bad pattern")
	ErrBadSort    = errors.New("no such order")
)

// position is a row's place in an order: what an opaque cursor holds. Rows that come and go don't move it.
type position struct {
	value   int64 // what is sorted by; 0 for created and name
	created int64
	name    string
	version string
	rank    int
}

// order is an order of positions.
type order struct {
	sort    Sort
	reverse bool
}

func (o order) of(i *image) position {
	return position{value: o.value(i), created: i.created, name: i.repo.name, version: i.of.version, rank: int(i.rank)}
}

// byValue reports whether the order is one by numbers.
func (o order) byValue() bool { return o.sort != SortCreated && o.sort != SortName }

// value is what an image is sorted by, if that is a number.
func (o order) value(i *image) int64 {
	switch {
	case o.sort == SortSize:
		return i.size
	case o.sort == SortPulled && i.of.facts != nil:
		return i.of.facts.pulled
	case o.sort == SortDeployed && i.of.facts != nil:
		return i.of.facts.deployed
	}
	return 0
}

func (o order) compare(a, b position) int {
	c := 0
	if o.sort == SortName {
		c = strings.Compare(a.name, b.name)
	} else {
		c = cmp.Compare(b.value, a.value)
	}
	// One after the other, and not cmp.Or: most are told apart by the first.
	if c == 0 {
		c = cmp.Compare(b.created, a.created)
	}
	if c == 0 {
		c = strings.Compare(a.name, b.name)
	}
	if c == 0 {
		c = strings.Compare(a.version, b.version)
	}
	if c == 0 {
		c = a.rank - b.rank
	}
	if o.reverse {
		return -c
	}
	return c
}

// behind reports whether an image is listed after a position, looking at no more of it than that takes.
func (o order) behind(i *image, p *position) bool {
	c := 0
	switch {
	case o.sort == SortName:
		c = strings.Compare(i.repo.name, p.name)
	case o.byValue():
		c = cmp.Compare(p.value, o.value(i))
	}
	if c == 0 {
		c = cmp.Compare(p.created, i.created)
	}
	if c == 0 {
		return o.compare(o.of(i), *p) > 0
	}
	return c > 0 != o.reverse
}

func (o order) cursor(p position) string {
	b, err := json.Marshal([]any{o.sort, o.reverse, p.value, p.created, p.name, p.version, p.rank})
	if err != nil {
		panic("catalog: a position always encodes: " + err.Error())
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func (o order) parse(s string) (p position, err error) {
	b, err := base64.RawURLEncoding.DecodeString(s)
	if err != nil || len(s) > 1024 {
		return p, ErrBadCursor
	}
	var of order
	fields := []any{&of.sort, &of.reverse, &p.value, &p.created, &p.name, &p.version, &p.rank}
	if json.Unmarshal(b, &fields) != nil || len(fields) != 7 || of != o {
		return p, ErrBadCursor
	}
	return p, nil
}

// Images lists images, and the cursor of the next page, which is empty after the last. A row that keeps its place in
// the order is listed once over all pages, whatever else comes and goes; one that is pulled or deployed between two pages
// of an order by that may be listed twice, or not.
func (c *Catalog) Images(ctx context.Context, f Filter) ([]ImageRow, string, error) {
	if f.Limit < 0 || f.Limit > MaxPage {
		return nil, "", fmt.Errorf("limit %d: want 1 to %d", f.Limit, MaxPage)
	}
	limit := cmp.Or(f.Limit, MaxPage)
	o := order{cmp.Or(f.Sort, SortCreated), f.Reverse}
	if !slices.Contains([]Sort{SortCreated, SortName, SortSize, SortPulled, SortDeployed}, o.sort) {
		return nil, "", fmt.Errorf("%w as %q: want created, name, size, pulled or deployed", ErrBadSort, clip(string(o.sort)))
	}
	var after *position
	if f.Cursor != "" {
		p, err := o.parse(f.Cursor)
		if err != nil {
			return nil, "", err
		}
		after = &p
	}
	q, err := c.compile(ctx, f)
	if err != nil {
		return nil, "", err
	}
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	best := c.index.first(f, q.match, o, after, limit+1)
	next := ""
	if len(best) > limit {
		best = best[:limit]
		next = o.cursor(o.of(best[limit-1]))
	}
	now := time.Now()
	rows, sets := make([]ImageRow, len(best)), make([][]uint32, len(best))
	for n, i := range best {
		rows[n], sets[n] = c.index.row(i, now), i.sets()
	}
	for n, packages := range packagesIn(sets, q.packages) {
		rows[n].Packages = packages
	}
	return rows, next, nil
}

// first finds the first n images that match, in order, after a position. What can't be among them by its place is not matched.
func (x *index) first(f Filter, match func(*image) bool, o order, after *position, n int) []*image {
	type placed struct {
		*image
		position
	}
	compare := func(a, b placed) int { return o.compare(a.position, b.position) }
	var best []placed
	var last *position // of the first n so far: what is behind it does not come in
	full := 2*n + 100
	inOrder := o.sort == SortCreated && !f.oneName() // they come in this order
	x.each(f, inOrder && o.reverse, func(i *image) bool {
		if last != nil && o.behind(i, last) || after != nil && !o.behind(i, after) || !match(i) {
			return true
		}
		best = append(best, placed{i, o.of(i)})
		if inOrder {
			return len(best) < n
		}
		if len(best) == full {
			slices.SortFunc(best, compare)
			best = best[:n]
			last = &position{}
			*last = best[n-1].position
		}
		return true
	})
	slices.SortFunc(best, compare)
	images := make([]*image, min(n, len(best)))
	for n := range images {
		images[n] = best[n].image
	}
	return images
}

// oneName reports whether the filter asks for one name alone.
func (f Filter) oneName() bool { return f.Name != "" && !strings.ContainsAny(f.Name, wildcards) }

// each calls fn for the images of the filter's name, or all in the order of SortCreated or its reverse, until it returns false.
func (x *index) each(f Filter, reverse bool, fn func(*image) bool) {
	if f.oneName() {
		if r := x.repos[f.Name]; r != nil {
			for _, v := range r.versions {
				for n := range v.images {
					if !fn(&v.images[n]) {
						return
					}
				}
			}
		}
		return
	}
	for n := range x.images {
		if !reverse {
			n = len(x.images) - 1 - n
		}
		if !fn(&x.images[n]) {
			return
		}
	}
}

// row makes the answer's form of an image.
func (x *index) row(i *image, now time.Time) ImageRow {
	v := i.of
	r := ImageRow{
		Image: farm.Image{
			Name: v.name, Digest: i.sum.Digest(), MediaType: i.kind.mediaType, Kind: i.kind.kind, Platform: i.kind.platform, Format: i.kind.format,
			Size: i.size, Ref: v.name + ":" + v.version,
		},
		Version: v.version, Sequence: v.sequence, Bake: v.bake, Key: v.bakeKey, Lock: v.lock, CreatedAt: instant(v.created),
		Pins: v.pins, Trash: v.trash, Base: *v.base, Labels: v.labels,
	}
	if f := v.facts; f != nil {
		r.Channels = f.channels
		r.PulledAt, r.ResolvedAt, r.DeployedAt = instant(f.pulled), instant(f.resolved), instant(f.deployed)
		r.Deployments = x.live(v, now)
	}
	return r
}

// Image finds the image of a reference: name@digest, name:version, or a name alone for its newest version. Of several
// images of a version it is the index, else the first by kind and platform. What is in the trash is found by digest only.
// imagestore.ErrNotFound when there is none.
func (c *Catalog) Image(ctx context.Context, ref string) (ImageRow, error) {
	if name, d, ok := strings.Cut(ref, "@"); ok {
		return c.Manifest(ctx, name, digest.Digest(d))
	}
	name, wanted, _ := strings.Cut(ref, ":")
	return c.one(ref, name, func(v *version) *image {
		if v.trash == nil && (wanted == "" || v.version == wanted) {
			return v.general()
		}
		return nil
	})
}

// Resolve finds the manifest that a registry's client asks for within a repository: by digest, which must belong to it,
// or by version. imagestore.ErrNotFound when there is none.
func (c *Catalog) Resolve(ctx context.Context, repo, reference string) (ImageRow, error) {
	if strings.Contains(reference, ":") {
		return c.Manifest(ctx, repo, digest.Digest(reference))
	}
	return c.Image(ctx, repo+":"+reference)
}

// Manifest finds the image of that digest in a repository; imagestore.ErrNotFound when the repository has none.
func (c *Catalog) Manifest(_ context.Context, repo string, d digest.Digest) (ImageRow, error) {
	sum, err := imagestore.ParseDigest(d)
	if err != nil {
		return ImageRow{}, err
	}
	ref := repo + "@" + string(d)
	for _, trashed := range []bool{false, true} {
		row, err := c.one(ref, repo, func(v *version) *image {
			if at := slices.IndexFunc(v.images, func(i image) bool { return i.sum == sum }); at >= 0 && (v.trash != nil) == trashed {
				return &v.images[at]
			}
			return nil
		})
		if err == nil {
			return row, nil
		}
	}
	return ImageRow{}, fmt.Errorf("image %s: %w", ref, imagestore.ErrNotFound)
}

// general is the image that stands for the version: the index, else an OCI image, else any.
func (v *version) general() *image {
	for n := range v.images {
		if v.images[n].kind.kind == farm.ImageOCI {
			return &v.images[n]
		}
	}
	return &v.images[0]
}

// one picks an image of the newest version of a name that has one to pick.
func (c *Catalog) one(ref, name string, pick func(*version) *image) (ImageRow, error) {
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	if r := c.index.repos[name]; r != nil {
		for _, v := range slices.Backward(r.versions) {
			if i := pick(v); i != nil {
				return c.index.row(i, time.Now()), nil
			}
		}
	}
	return ImageRow{}, fmt.Errorf("image %s: %w", ref, imagestore.ErrNotFound)
}

// RepoHasBlob reports whether an image of the repository has, or is, the blob: only then may a reader of the repository
// read it.
func (c *Catalog) RepoHasBlob(ctx context.Context, repo string, d digest.Digest) (bool, error) {
	sum, err := imagestore.ParseDigest(d)
	if err != nil {
		return false, err
	}
	c.index.mu.RLock()
	r := c.index.repos[repo]
	c.index.mu.RUnlock()
	if r == nil {
		return false, nil
	}
	var has bool
	if err := c.db.read.QueryRowContext(ctx, "SELECT EXISTS (SELECT 1 FROM repo_blobs WHERE repo = ? AND digest = ?)", r.num, sum[:]).Scan(&has); err != nil {
		return false, fmt.Errorf("blob %s in %s: %w", d, repo, c.noticed(err))
	}
	return has, nil
}

// Referrers lists the artifacts of a repository that are about a manifest, as the farm got them.
func (c *Catalog) Referrers(_ context.Context, repo string, subject digest.Digest) ([]farm.Attachment, error) {
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	var list []farm.Attachment
	if r := c.index.repos[repo]; r != nil {
		seen := map[digest.Digest]bool{}
		for _, v := range r.versions {
			for _, a := range v.attached {
				if a.Subject == subject && !seen[a.Digest] {
					seen[a.Digest] = true
					list = append(list, a)
				}
			}
		}
	}
	return list, nil
}

// Tags lists the versions of a repository, sorted by their text.
func (c *Catalog) Tags(_ context.Context, repo string) ([]string, error) {
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	var tags []string
	if r := c.index.repos[repo]; r != nil {
		for _, v := range r.versions {
			if v.trash == nil {
				tags = append(tags, v.version)
			}
		}
	}
	slices.Sort(tags)
	return tags, nil
}

// Repos lists the repositories that have an image, sorted.
func (c *Catalog) Repos(context.Context) ([]string, error) {
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	var names []string
	for name, r := range c.index.repos {
		if slices.ContainsFunc(r.versions, func(v *version) bool { return v.trash == nil }) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Groupings of Count: the groups that an image is in.
var groupings = map[string]func(i *image, in func(group string)){
	"name":     func(i *image, in func(string)) { in(i.repo.name) },
	"kind":     func(i *image, in func(string)) { in(i.kind.kind) },
	"platform": func(i *image, in func(string)) { in(cmp.Or(i.kind.platform, "index")) },
	"format":   func(i *image, in func(string)) { in(i.kind.format) },
	"base":     func(i *image, in func(string)) { in(i.base.Ref) },
	"channel": func(i *image, in func(string)) {
		if i.of.facts != nil {
			for _, channel := range i.of.facts.channels {
				in(channel)
			}
		}
	},
}

// ErrBadGrouping says that images can't be counted so.
var ErrBadGrouping = errors.New("no such grouping")

// Counts are numbers of images.
type Counts struct {
	Images   int
	Versions int
	Groups   map[string]int // images by group; one in several groups counts in each
}

// Count counts the images of a filter, whose order and page don't matter; by name, kind, platform, format, base, channel or
// label:KEY, or only all of them when by is empty.
func (c *Catalog) Count(ctx context.Context, f Filter, by string) (Counts, error) {
	group := groupings[by]
	if key, ok := strings.CutPrefix(by, "label:"); ok {
		group = func(i *image, in func(string)) {
			if value, ok := i.labels[key]; ok {
				in(value)
			}
		}
	}
	if group == nil && by != "" {
		return Counts{}, fmt.Errorf("%w as %q: want label:KEY or %s", ErrBadGrouping, clip(by), strings.Join(slices.Sorted(maps.Keys(groupings)), ", "))
	}
	q, err := c.compile(ctx, f)
	if err != nil {
		return Counts{}, err
	}
	counts := Counts{}
	if group != nil {
		counts.Groups = map[string]int{}
	}
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	var last *version // the images of a version come one after the other
	in := func(g string) { counts.Groups[g]++ }
	c.index.each(f, false, func(i *image) bool {
		if q.match(i) {
			counts.Images++
			if i.of != last {
				last = i.of
				counts.Versions++
			}
			if group != nil {
				group(i, in)
			}
		}
		return true
	})
	return counts, nil
}
