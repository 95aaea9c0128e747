package catalog

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
)

// DeploymentFilter says which deployments are asked for. Empty fields do not restrict.
type DeploymentFilter struct {
	Name     string // of the image; a glob
	Version  string
	Packages []PackageQuery
	Ended    bool   // those whose lease has ended; else those that run
	After    string // the ID before the page
	Limit    int    // 0: MaxPage
}

// DeploymentRow is a deployment, and the packages that the filter found in its image.
type DeploymentRow struct {
	farm.Deployment
	Packages []Package
}

// Deployments lists deployments by ID, and the last ID of the page if there are more.
func (c *Catalog) Deployments(ctx context.Context, f DeploymentFilter) ([]DeploymentRow, string, error) {
	match, err := glob(f.Name)
	if err != nil {
		return nil, "", err
	}
	questions, err := c.findAll(ctx, f.Packages)
	if err != nil {
		return nil, "", err
	}
	limit := cmp.Or(f.Limit, MaxPage)
	now := time.Now()
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	var rows []DeploymentRow
	sets := map[string][]uint32{} // by ID
	for id, d := range c.index.deployments {
		if id <= f.After && f.After != "" || d.Live(now) == f.Ended || f.Name != "" && !match(d.Name) || f.Version != "" && d.Version != f.Version {
			continue
		}
		if in, ok := c.index.versions[versionKey(d.Name, d.Version)].contains(questions); ok {
			rows, sets[id] = append(rows, DeploymentRow{Deployment: d}), in
		}
	}
	slices.SortFunc(rows, func(a, b DeploymentRow) int { return strings.Compare(a.ID, b.ID) })
	next := ""
	if len(rows) > limit {
		rows, next = rows[:limit], rows[limit-1].ID
	}
	lists := make([][]uint32, len(rows))
	for n, r := range rows {
		lists[n] = sets[r.ID]
	}
	for n, packages := range packagesIn(lists, questions) {
		rows[n].Packages = packages
	}
	return rows, next, nil
}

// findAll looks up which sets answer each of the questions.
func (c *Catalog) findAll(ctx context.Context, questions []PackageQuery) (all []*found, err error) {
	for _, q := range questions {
		f, err := c.find(ctx, q)
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
	return all, nil
}

// contains lists a version's sets of packages; ok is false when they do not answer all of the questions, or v is nil and there are
// any.
func (v *version) contains(questions []*found) (sets []uint32, ok bool) {
	if v == nil {
		return nil, len(questions) == 0
	}
	for n := range v.images {
		sets = append(sets, v.images[n].sets()...)
	}
	for _, q := range questions {
		if !q.any.hasAny(sets) {
			return nil, false
		}
	}
	return sets, true
}

// Affected is a channel that points to a version which contains what was asked for.
type Affected struct {
	farm.Channel
	Packages    []Package
	Bake        string // that committed the version
	CreatedAt   time.Time
	Base        farm.Base
	Depth       int // how many of its ancestors are images of this farm
	Deployments int // that run the version
}

// Affected lists the channels that point to a version with packages that answer all of the questions. What others are
// built on comes first: that is the order in which to bake anew.
func (c *Catalog) Affected(ctx context.Context, name string, questions []PackageQuery) ([]Affected, error) {
	match, err := glob(cmp.Or(name, "*"))
	if err != nil {
		return nil, err
	}
	all, err := c.findAll(ctx, questions)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	c.index.mu.RLock()
	defer c.index.mu.RUnlock()
	var rows []Affected
	var sets [][]uint32
	for _, ch := range c.index.channels {
		v := c.index.versions[versionKey(ch.Name, ch.Version)]
		if v == nil || !match(ch.Name) {
			continue
		}
		if in, ok := v.contains(all); ok {
			sets = append(sets, in)
			rows = append(rows, Affected{
				Channel: ch, Bake: v.bake, CreatedAt: instant(v.created), Base: *v.base,
				Depth: len(c.index.ancestors(v)), Deployments: c.index.live(v, now),
			})
		}
	}
	for n, packages := range packagesIn(sets, all) {
		rows[n].Packages = packages
	}
	slices.SortFunc(rows, func(a, b Affected) int {
		return cmp.Or(a.Depth-b.Depth, strings.Compare(a.Name, b.Name), strings.Compare(a.Channel.Channel, b.Channel.Channel))
	})
	return rows, nil
}

// ancestors are the versions of this farm that v was built on, the nearest first.
func (x *index) ancestors(v *version) (list []*version) {
	for len(list) < maxAncestors {
		if v = x.versions[v.parent()]; v == nil {
			break
		}
		list = append(list, v)
	}
	return list
}

// Relative is a version in a family, with what was built on it.
type Relative struct {
	Name      string
	Version   string
	Channels  []string
	CreatedAt time.Time
	Base      farm.Base
	Children  []Relative
}

// Family is a version, what it was built on, and what was built on it.
type Family struct {
	Ancestors []Relative // the nearest first; Base of the last one says where the line begins
	Self      Relative   // with its descendants
	Size      int        // number of its descendants
	More      bool       // it has more descendants than MaxDescendants, which are left out
}

// MaxDescendants bounds a Family.
const MaxDescendants = 10_000

// Family finds the family of a version; imagestore.ErrNotFound.
func (c *Catalog) Family(_ context.Context, name, version string) (Family, error) {
	x := c.index
	x.mu.RLock()
	defer x.mu.RUnlock()
	v := x.versions[versionKey(name, version)]
	if v == nil {
		return Family{}, fmt.Errorf("version %s of %s: %w", version, name, imagestore.ErrNotFound)
	}
	var f Family
	for _, a := range x.ancestors(v) {
		f.Ancestors = append(f.Ancestors, relative(a))
	}
	f.Self = x.descendants(v, &f, 0)
	return f, nil
}

func relative(v *version) Relative {
	r := Relative{Name: v.name, Version: v.version, CreatedAt: instant(v.created), Base: *v.base}
	if v.facts != nil {
		r.Channels = v.facts.channels
	}
	return r
}

// descendants is v with everything below it, by name and then newest first. Content addresses can't be circular, but
// records could say anything: depth ends it.
func (x *index) descendants(v *version, f *Family, depth int) Relative {
	r := relative(v)
	children := make([]*version, 0, len(x.children[v.key]))
	for child := range x.children[v.key] {
		children = append(children, child)
	}
	slices.SortFunc(children, func(a, b *version) int {
		return cmp.Or(strings.Compare(a.name, b.name), cmp.Compare(b.created, a.created), strings.Compare(a.version, b.version))
	})
	for _, child := range children {
		if f.Size >= MaxDescendants || depth >= maxAncestors {
			f.More = true
			break
		}
		f.Size++
		r.Children = append(r.Children, x.descendants(child, f, depth+1))
	}
	return r
}
