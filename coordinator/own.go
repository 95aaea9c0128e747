package coordinator

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"bakefarm/plan"
	"bakefarm/recipe"
)

// own are the user's packages of a bake, by their place among the app's.
type own []plan.Own

// inspected returns what the user's packages are. Jobs are what stands in the way.
func (c *Coordinator) inspected(ctx context.Context, f *flight) (found own, jobs []job, err error) {
	for _, file := range f.debs {
		shard := plan.Inspect(plan.InspectSpec{File: file.Path, Size: file.Size, Chunks: file.Chunks})
		output, todo, err := c.early(ctx, f, shard)
		if err != nil {
			return nil, nil, err
		}
		if todo != nil {
			jobs = append(jobs, *todo)
			continue
		}
		var is plan.Own
		if err := json.Unmarshal(output, &is); err != nil {
			return nil, nil, fatally("%s: output: %w", shard.Label, err)
		}
		found = append(found, is)
	}
	return found, jobs, found.check()
}

// check refuses two packages of one name for one architecture.
func (o own) check() error {
	for i, p := range o {
		for _, q := range o[:i] {
			if p.Name == q.Name && (p.Arch == q.Arch || p.Arch == "all" || q.Arch == "all") {
				return fatally("app has package %s twice: %s (%s) and %s (%s)", p.Name, q.Version, q.Arch, p.Version, p.Arch)
			}
		}
	}
	return nil
}

// of returns those that the system of a question gets: one of each name.
func (o own) of(q plan.Question) ([]plan.Own, error) {
	var fit []plan.Own
	names := map[string]bool{}
	for _, p := range o {
		if p.Arch == "all" || p.Arch == q.Observe.Arch {
			fit = append(fit, p)
			names[p.Name] = true
		}
	}
	for _, p := range o {
		if !names[p.Name] {
			return nil, fatally("app has package %s %s for %s only, and an image for %s is asked for: add the package for %s, or leave the platform out of outputs",
				p.Name, p.Version, p.Arch, q.Platform, q.Observe.Arch)
		}
	}
	return fit, nil
}

// hasLocked reports whether the user's packages are those of the lock file, for every platform.
func (f *flight) hasLocked(o own) bool {
	questions, err := plan.Resolve(f.recipe, nil)
	if err != nil {
		return true // said when it is resolved
	}
	for _, q := range questions {
		fit, err := o.of(q)
		if err != nil {
			return false
		}
		var locked []recipe.LockedPackage
		for _, p := range f.pinned.OS.Debian.Platforms[q.Platform] {
			if p.Own {
				locked = append(locked, p)
			}
		}
		if len(locked) != len(fit) || slices.ContainsFunc(fit, func(p plan.Own) bool {
			return !slices.ContainsFunc(locked, func(l recipe.LockedPackage) bool { return l.SHA256 == p.SHA256 })
		}) {
			return false
		}
	}
	return true
}

// pinnedHas refuses a system that differs from the lock file's in more than the user's own packages: these need what
// it does not have, or not any more what it has.
func (f *flight) pinnedHas(packages map[string][]recipe.LockedPackage) error {
	var differ []string
	for platform, list := range packages {
		locked := f.pinned.OS.Debian.Platforms[platform]
		for _, p := range list {
			if !p.Own && !slices.ContainsFunc(locked, func(l recipe.LockedPackage) bool { return l.SHA256 == p.SHA256 }) {
				differ = append(differ, fmt.Sprintf("%s %s is needed, and the lock does not have it", p.Name, p.Version))
			}
		}
		for _, l := range locked {
			if !l.Own && !slices.ContainsFunc(list, func(p recipe.LockedPackage) bool { return l.Name == p.Name }) {
				differ = append(differ, fmt.Sprintf("%s %s of the lock is not needed any more", l.Name, l.Version))
			}
		}
	}
	if len(differ) == 0 {
		return nil
	}
	slices.Sort(differ)
	return fatally("the packages of app need another system than that of the lock file:\n %s\nbring it up to date with \"bakefarm lock RECIPE --update\"",
		strings.Join(slices.Compact(differ), "\n "))
}
