package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// maxAncestors bounds how far up a base's own bases are looked at. More layers than that no image has.
const maxAncestors = 2 * plan.MaxLayers

// maxBasePackages bounds a base's list of packages, in bytes.
const maxBasePackages = 16 << 20

// A standOn is what a recipe's base is: a name that people know, and the image for each platform.
type standOn struct {
	name, version string // of this farm
	images        map[string]digest.Digest
}

// based finds what the recipe's base is and has it imported: the flight knows it when there are no jobs. It may be called
// again and again.
func (c *Coordinator) based(ctx context.Context, f *flight, b farm.Bake) (jobs []job, err error) {
	if f.recipe.OS.Base == nil || f.bases != nil {
		return nil, nil
	}
	on, todo, err := c.standing(ctx, f, b)
	if err != nil || todo != nil {
		return jobsOf(todo), err
	}
	bases := map[string]*plan.Found{}
	for _, platform := range f.recipe.BasePlatforms() {
		image, ok := on.images[platform]
		if !ok {
			return nil, fatally("%s %s has no image for %s: it has %s; leave the platform out of outputs, or take another base",
				f.recipe.OS.Base.Field(), f.recipe.OS.Base.Ref, platform, listOr(slices.Sorted(maps.Keys(on.images)), "none that runs Linux"))
		}
		shard := plan.Import(plan.ImportSpec{Image: image, Platform: platform, Source: f.source})
		output, todo, err := c.early(ctx, f, shard)
		if err != nil {
			return nil, err
		}
		if todo != nil {
			jobs = append(jobs, *todo)
			continue
		}
		base := &plan.Found{Image: image}
		if err := json.Unmarshal(output, &base.Base); err != nil {
			return nil, fatally("%s: output: %w", shard.Label, err)
		}
		raw, err := imagestore.ReadAll(ctx, c.Store, base.Packages, maxBasePackages)
		if err == nil {
			err = json.Unmarshal(raw, &base.List)
		}
		if err != nil {
			return nil, fmt.Errorf("%s: packages: %w", shard.Label, err)
		}
		bases[platform] = base
	}
	if len(jobs) > 0 {
		return jobs, nil
	}
	if err := c.canAdd(f, bases); err != nil {
		return nil, err
	}
	f.bases = bases
	f.base = &recipe.LockedBase{Name: on.name, Version: on.version, Platforms: map[string]recipe.LockedBasePlatform{}}
	for platform, base := range bases {
		f.base.Platforms[platform] = recipe.LockedBasePlatform{Image: base.Image, Merged: base.Merged, Packages: base.List}
	}
	return nil, nil
}

func jobsOf(j *job) []job {
	if j == nil {
		return nil
	}
	return []job{*j}
}

// canAdd refuses packages over a base that is no Debian system.
func (c *Coordinator) canAdd(f *flight, bases map[string]*plan.Found) error {
	d := f.recipe.OS.Debian
	if d == nil {
		return nil
	}
	ref := f.recipe.OS.Base
	for _, platform := range slices.Sorted(maps.Keys(bases)) {
		base := bases[platform]
		switch {
		case base.Count == 0:
			return fatally("%s %s (%s) has no package database of dpkg's, so no Debian package can be added to it: it is %s; take a base that is made of Debian packages, or leave packages out and copy what is needed with app",
				ref.Field(), ref.Ref, platform, orUnknown(base.System))
		case d.Suite == "" && base.Codename == "":
			return fatally("%s %s (%s) does not say in /etc/os-release which suite it is of (it is %s): write %s: {…, suite: bookworm}",
				ref.Field(), ref.Ref, platform, orUnknown(base.System), ref.Field())
		}
	}
	return nil
}

func orUnknown(system string) string {
	if system == "" {
		return "an unknown system"
	}
	return system
}

func listOr(list []string, otherwise string) string {
	if len(list) == 0 {
		return otherwise
	}
	return strings.Join(list, ", ")
}

// standing finds out which images the base is, for all of its platforms. A job is what stands in the way.
func (c *Coordinator) standing(ctx context.Context, f *flight, b farm.Bake) (on standOn, todo *job, err error) {
	base := f.recipe.OS.Base
	switch {
	case f.pinned != nil: // also when packages are chosen anew: the base stays
		on = standOn{name: f.pinned.OS.Base.Name, version: f.pinned.OS.Base.Version, images: map[string]digest.Digest{}}
		for platform, locked := range f.pinned.OS.Base.Platforms {
			on.images[platform] = locked.Image
		}
		return on, nil, c.checkPinned(ctx, f)
	case base.InContext():
		on.images = map[string]digest.Digest{}
		for _, platform := range f.recipe.BasePlatforms() {
			on.images[platform] = f.source.FilesDigest()
		}
		return on, nil, nil
	case base.From == recipe.FromRecipe:
		on, err = c.parent(ctx, base, f.recipe.Name)
		return on, nil, err
	}
	observe := plan.Observe(plan.ObserveSpec{Image: base.Name})
	id := observe.Key.Encoded()
	at := b
	if base.Pinned() != "" {
		at.AcceptedAt = time.Time{} // what a digest names never changes
	}
	seen, fresh, err := c.observed(ctx, observe, at)
	if err != nil {
		return on, nil, err
	}
	if !fresh {
		return on, &job{id: id, shard: observe, exists: func(ctx context.Context) (bool, error) {
			_, fresh, err := c.observed(ctx, observe, at)
			return fresh, err
		}}, nil
	}
	f.noteEarly(farm.ShardRef{
		ID: id, Kind: observe.Kind, Label: observe.Label, Source: farm.SourceHit, State: farm.ShardDone,
		Reason: "observed at " + seen.At.UTC().Format(time.DateTime),
	})
	var out plan.ObserveOutput
	if err := json.Unmarshal(seen.Output, &out); err != nil || out.Image == nil {
		return on, nil, fmt.Errorf("observation %s: %w", observe.Label, errors.Join(err, errors.New("no image")))
	}
	return standOn{images: out.Image.Platforms}, nil, nil
}

// parent finds the image of this farm that a recipe names. child is the recipe's own name, which must not be among the
// parent's ancestors.
func (c *Coordinator) parent(ctx context.Context, base *recipe.Base, child string) (standOn, error) {
	v, err := c.parentVersion(ctx, base)
	if err != nil {
		return standOn{}, err
	}
	if v.Trash != nil {
		return standOn{}, fatally("os.recipe %s: %s:%s is in the trash: take it out with \"bakefarm images restore %[2]s:%[3]s\", or name another",
			base.Ref, v.Name, v.Version)
	}
	if err := c.noCircle(ctx, v, child); err != nil {
		return standOn{}, err
	}
	on := standOn{name: v.Name, version: v.Version, images: map[string]digest.Digest{}}
	for _, i := range v.Images {
		if i.Kind == farm.ImageOCI && !i.IsIndex() {
			on.images[i.Platform] = i.Digest
		}
	}
	return on, nil
}

// checkPinned refuses a lock file whose parent is not what it says: a digest alone gives nobody another's image.
func (c *Coordinator) checkPinned(ctx context.Context, f *flight) error {
	locked, base := f.pinned.OS.Base, f.recipe.OS.Base
	if locked == nil || base.From != recipe.FromRecipe {
		return nil
	}
	if locked.Name != base.Name {
		return fatally("os.recipe is %s, the lock file has a version of %q: bring it up to date with \"bakefarm lock RECIPE --update\"", base.Ref, clip(locked.Name, 200))
	}
	v, _, err := c.Bus.Versions.Get(ctx, versionKey(locked.Name, locked.Version))
	if errors.Is(err, bus.ErrNotFound) {
		return fatally("os.recipe %s: the lock file has version %s, which is not in this farm any more: bring it up to date with \"bakefarm lock RECIPE --update\"",
			base.Ref, clip(locked.Version, 200))
	}
	if err != nil {
		return err
	}
	for platform, is := range locked.Platforms {
		if !slices.ContainsFunc(v.Images, func(i farm.Image) bool { return i.Platform == platform && i.Digest == is.Image }) {
			return fatally("os.recipe %s: the lock file has %s for %s, which is no image of version %s: bring it up to date with \"bakefarm lock RECIPE --update\"",
				base.Ref, is.Image, platform, locked.Version)
		}
	}
	return c.noCircle(ctx, v, f.recipe.Name)
}

func (c *Coordinator) parentVersion(ctx context.Context, base *recipe.Base) (farm.Version, error) {
	at := base.At
	if strings.HasPrefix(at, "sha256:") {
		return c.versionWith(ctx, base, digest.Digest(at))
	}
	if !farm.IsVersion(at) {
		channel, _, err := c.Bus.Channels.Get(ctx, versionKey(base.Name, at))
		if errors.Is(err, bus.ErrNotFound) {
			return farm.Version{}, c.unknownParent(ctx, base)
		}
		if err != nil {
			return farm.Version{}, err
		}
		at = channel.Version
	}
	v, _, err := c.Bus.Versions.Get(ctx, versionKey(base.Name, at))
	if errors.Is(err, bus.ErrNotFound) {
		return v, fatally("os.recipe %s: there is no version %s of %s in this farm: see \"bakefarm images ls --name %[3]s\"", base.Ref, at, base.Name)
	}
	return v, err
}

// versionWith finds the version of a name that has an image, or an index, with a digest.
func (c *Coordinator) versionWith(ctx context.Context, base *recipe.Base, d digest.Digest) (farm.Version, error) {
	all, err := c.Bus.Versions.List(ctx, versionKey(base.Name, ""))
	if err != nil {
		return farm.Version{}, err
	}
	for _, v := range all {
		if v.Name == base.Name && slices.ContainsFunc(v.Images, func(i farm.Image) bool { return i.Digest == d }) {
			return v, nil
		}
	}
	return farm.Version{}, fatally("os.recipe %s: no version of %s in this farm has that image", base.Ref, base.Name)
}

// unknownParent says which channels there are.
func (c *Coordinator) unknownParent(ctx context.Context, base *recipe.Base) error {
	all, err := c.Bus.Channels.List(ctx, versionKey(base.Name, ""))
	if err != nil {
		return err
	}
	var names []string
	for _, channel := range all {
		if channel.Name == base.Name {
			names = append(names, channel.Channel)
		}
	}
	slices.Sort(names)
	if len(names) == 0 {
		return fatally("os.recipe %s: %s has no channel in this farm: bake it first, with publish: {channel: %s}", base.Ref, base.Name, base.At)
	}
	return fatally("os.recipe %s: %s has no channel %s: it has %s", base.Ref, base.Name, base.At, strings.Join(names, ", "))
}

// noCircle refuses a parent that stands on the child itself: each bake of one would ask for another of the other, for ever.
func (c *Coordinator) noCircle(ctx context.Context, v farm.Version, child string) error {
	chain := []string{v.Name + ":" + v.Version}
	for range maxAncestors {
		if v.Contents == nil || v.Contents.Base.Name == "" {
			return nil
		}
		above := v.Contents.Base
		chain = append(chain, above.Name+":"+above.Version)
		if above.Name == child {
			return fatally("os.recipe: a circle: %s stands on %s", child, strings.Join(chain, ", which stands on "))
		}
		var err error
		if v, _, err = c.Bus.Versions.Get(ctx, versionKey(above.Name, above.Version)); errors.Is(err, bus.ErrNotFound) {
			return nil
		} else if err != nil {
			return err
		}
	}
	return fatally("os.recipe: %s has more than %d ancestors", chain[0], maxAncestors)
}

// suiteOf is the suite of packages over the bases, which must be of one.
func suiteOf(bases map[string]*plan.Found) (string, error) {
	suite := ""
	for _, platform := range slices.Sorted(maps.Keys(bases)) {
		switch is := bases[platform].Codename; {
		case suite == "":
			suite = is
		case is != suite:
			return "", fatally("the base is of the suite %s for one platform and of %s for %s: bake the platforms apart", suite, is, platform)
		}
	}
	return suite, nil
}

// refOf is the reference of a recipe's base, for people.
func refOf(r *recipe.Recipe) string {
	if r == nil || r.OS.Base == nil {
		return ""
	}
	switch b := r.OS.Base; b.From {
	case recipe.FromTar:
		return "tar:" + b.Path
	default:
		return b.Ref
	}
}
