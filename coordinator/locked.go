package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// readLockFile reads the lock file that came with a bake's request into the flight, and refuses one that is not the
// recipe's.
func (c *Coordinator) readLockFile(ctx context.Context, f *flight, b farm.Bake) error {
	if b.LockFile == "" || f.pinned != nil {
		return nil
	}
	raw, err := imagestore.ReadAll(ctx, c.Store, b.LockFile, recipe.MaxLockFile)
	if err != nil {
		return notUploaded("lock file", b.LockFile, err)
	}
	pinned, err := recipe.DecodeLockFile(raw)
	if err != nil {
		return invalid("%s", err)
	}
	misfits := pinned.Misfits(f.recipe)
	if len(b.Update) > 0 {
		if misfits, err = updateMisfits(f.recipe, pinned, b.Update), nil; len(misfits) > 0 {
			return invalid("%s", strings.Join(misfits, "\n"))
		}
	}
	if len(misfits) > 0 {
		return invalid("the lock file is not of this recipe:\n %s\nbring it up to date with \"bakefarm lock RECIPE --update\", or --update and the names of packages to leave all others as they are",
			strings.Join(misfits, "\n "))
	}
	f.pinned = pinned
	return nil
}

// updateMisfits says what keeps the packages from being chosen anew while the rest of the lock file stays.
func updateMisfits(r *recipe.Recipe, l *recipe.LockFile, names []string) (misfits []string) {
	d, locked := r.OS.Debian, l.OS.Debian
	otherBase := (r.OS.Base == nil) != (l.OS.Base == nil) || l.Request != nil && l.Request.Base != r.OS.Base.String()
	if d == nil || locked == nil || d.Suite != locked.Suite && d.Suite != "" || otherBase {
		return []string{"update: the lock file is of another system than the recipe: update it as a whole, without naming packages"}
	}
	for _, name := range names {
		known := slices.ContainsFunc(d.Packages, func(text string) bool {
			asked, _, _ := strings.Cut(text, "=")
			return asked == name
		})
		for _, packages := range locked.Platforms {
			known = known || slices.ContainsFunc(packages, func(p recipe.LockedPackage) bool { return p.Name == name })
		}
		if !known {
			misfits = append(misfits, fmt.Sprintf("update: neither the lock file nor the recipe has a package %s", name))
		}
	}
	return misfits
}

// staying are the locked packages of a platform that are not to be chosen anew, each with what the farm knows of it in
// case that no mirror does any more.
func (c *Coordinator) staying(ctx context.Context, f *flight, platform string, update []string) ([]plan.Stay, error) {
	if f.pinned == nil {
		return nil, nil
	}
	var stay []plan.Stay
	var wants []want
	for _, p := range f.pinned.OS.Debian.Platforms[platform] {
		if p.Own || slices.Contains(update, p.Name) {
			continue
		}
		convert := plan.Convert(plan.ConvertSpec{Package: p})
		stay = append(stay, plan.Stay{LockedPackage: p})
		wants = append(wants, want{id: convert.Key.Encoded(), kind: convert.Kind, key: convert.Key.Encoded()})
	}
	found, err := c.find(ctx, wants)
	if err != nil {
		return nil, err
	}
	for i, found := range found {
		if found.output == nil {
			continue
		}
		var member plan.Member
		if err := json.Unmarshal(found.output, &member); err != nil {
			return nil, fmt.Errorf("%s %s: %w", stay[i].Name, stay[i].Version, err)
		}
		stay[i].Record = member.Inventory
	}
	return stay, nil
}

// answerLocked gives the flight the Lock that its lock file and its recipe make. The world is only asked where to have
// the packages that this farm lacks: when it has what the bake needs, no mirror has to be there.
func (c *Coordinator) answerLocked(ctx context.Context, f *flight, b farm.Bake) (jobs []job, err error) {
	var packages map[string][]recipe.LockedPackage
	if d := f.pinned.OS.Debian; d != nil {
		packages = map[string][]recipe.LockedPackage{}
		for _, platform := range f.recipe.Systems() {
			packages[platform] = d.Platforms[platform]
		}
	}
	if d := f.recipe.OS.Debian; d != nil && d.Suite == "" {
		d.Suite = f.pinned.OS.Debian.Suite
	}
	base, err := f.pinnedBase()
	if err == nil {
		err = c.checkPinned(ctx, f)
	}
	if err != nil {
		return nil, err
	}
	lock := plan.Lock(f.recipe, base, packages, f.trees)
	urls := map[digest.Digest][]string{}
	evidence := &plan.Evidence{Platforms: map[string]plan.Answer{}}
	lacking, err := c.lacking(ctx, f, b, lock)
	if err != nil {
		return nil, err
	}
	questions, err := plan.Resolve(f.recipe, nil)
	if err != nil {
		return nil, fatal{err}
	}
	for _, q := range questions {
		missing := slices.DeleteFunc(slices.Clone(packages[q.Platform]), func(p recipe.LockedPackage) bool { return !lacking[p.SHA256] })
		if len(missing) == 0 {
			continue
		}
		a, todo, err := c.answerOne(ctx, q, b, func(at plan.ObserveOutput) plan.Shard { return q.Locate(at, missing) })
		if err != nil {
			return nil, err
		}
		for _, ref := range a.refs {
			f.noteEarly(ref)
		}
		if todo != nil && !slices.ContainsFunc(jobs, func(j job) bool { return j.id == todo.id }) {
			jobs = append(jobs, *todo)
		}
		evidence.Platforms[q.Platform] = a.Answer
		for _, p := range a.packages {
			addURL(urls, p)
		}
	}
	if len(jobs) == 0 {
		f.lock, f.evidence, f.urls = lock, evidence, urls
	}
	return jobs, nil
}

// pinnedBase is the lock file's base for the platforms that the recipe is for; nil without one. Whoever gives a base of
// the context another content wants another Lock.
func (f *flight) pinnedBase() (*recipe.LockedBase, error) {
	locked := f.pinned.OS.Base
	if locked == nil {
		return nil, nil
	}
	base := &recipe.LockedBase{Name: locked.Name, Version: locked.Version, Platforms: map[string]recipe.LockedBasePlatform{}}
	for _, platform := range f.recipe.BasePlatforms() {
		base.Platforms[platform] = locked.Platforms[platform]
		if is := locked.Platforms[platform].Image; f.recipe.OS.Base.InContext() && is != f.source.FilesDigest() {
			return nil, fatally("the lock file is of another %s than the context has now (%s, not %s)\nbring it up to date with \"bakefarm lock RECIPE --update\"",
				f.recipe.OS.Base.Ref, f.source.FilesDigest(), is)
		}
	}
	return base, nil
}

// lacking are the packages, by sha256, that have to be fetched for the Lock to be baked.
func (c *Coordinator) lacking(ctx context.Context, f *flight, b farm.Bake, lock *recipe.Lock) (map[digest.Digest]bool, error) {
	if lock.OS.Debian == nil || b.LockOnly {
		return nil, nil
	}
	if _, ok, err := c.committed(ctx, f.recipe.Name, lock.Key(), b); ok || err != nil {
		return nil, err
	}
	p, err := plan.New(lock, f.trees, func(recipe.LockedPackage) []string { return nil }, f.source)
	if err != nil {
		return nil, fatal{err}
	}
	look := newFlight(f.id)
	look.graph = newGraph(p, b.Rebake, b.ID)
	if _, err := c.lookUp(ctx, look); err != nil {
		return nil, err
	}
	lacking := map[digest.Digest]bool{}
	for i, s := range p.Shards {
		if spec, ok := s.Spec.(plan.ConvertSpec); ok && !spec.Package.Own && look.graph.standings[i] == missing {
			lacking[spec.Package.SHA256] = true
		}
	}
	return lacking, nil
}
