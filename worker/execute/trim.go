package execute

import (
	"archive/tar"
	"context"
	"fmt"
	"io"
	"path"
	"slices"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
)

// trim makes a package's member without the files that patterns exclude. A package that has none of them stays as it is.
func trim(ctx context.Context, j *job, spec plan.TrimSpec) (plan.Member, error) {
	converted, err := dependencies[plan.Member](j)
	if err == nil && len(converted) != 1 {
		err = fmt.Errorf("%d members: want the package's", len(converted))
	}
	if err != nil {
		return plan.Member{}, err
	}
	exclude, err := recipe.NewExcludes(spec.Exclude)
	if err != nil {
		return plan.Member{}, err
	}
	member, err := j.trim(ctx, converted[0], exclude)
	if err != nil {
		return plan.Member{}, fmt.Errorf("package %s %s (%s): %w", spec.Package.Name, spec.Package.Version, spec.Package.Arch, err)
	}
	return member, nil
}

func (j *job) trim(ctx context.Context, converted plan.Member, exclude *recipe.Excludes) (plan.Member, error) {
	r, err := j.record(ctx, converted.Inventory)
	if err != nil {
		return plan.Member{}, fmt.Errorf("record %s: %w", converted.Inventory, err)
	}
	if !touches(exclude, r.Inventory) {
		return converted, nil
	}
	w := j.Store.Begin()
	made, kept, err := j.makeTrimmed(ctx, w, composed(converted), r, exclude)
	if err != nil {
		return plan.Member{}, err
	}
	record, err := kept.Encode()
	if err != nil {
		return plan.Member{}, err
	}
	out, err := j.commitDescribed(ctx, w, made, record)
	if err != nil {
		return plan.Member{}, err
	}
	j.Records.put(out.Inventory, kept)
	j.say("%d of %d files left out, %s of %s", len(r.Inventory.Paths)-len(kept.Inventory.Paths), len(r.Inventory.Paths),
		size(converted.TarSize-out.TarSize), size(converted.TarSize))
	return out, nil
}

// touches reports whether any of a package's paths may be left out.
func touches(exclude *recipe.Excludes, inventory compose.Inventory) bool {
	return slices.ContainsFunc(inventory.Paths, func(p string) bool { return exclude.Excludes(p, false) }) ||
		slices.ContainsFunc(inventory.Dirs, func(d compose.Entry) bool { return exclude.Excludes(d.Path, true) })
}

// makeTrimmed makes the member and the record, and takes a turn for it.
func (j *job) makeTrimmed(ctx context.Context, w imagestore.Writer, m compose.Member, r *deb.Record, exclude *recipe.Excludes) (compose.Member, *deb.Record, error) {
	if err := j.Turns.take(ctx); err != nil {
		return compose.Member{}, nil, err
	}
	defer j.Turns.give()
	lost := map[string]bool{}
	err := j.entries(ctx, m, func(e compose.Entry, _ io.Reader) error {
		if exclude.Excludes(e.Path, e.Type == tar.TypeSymlink) {
			lost[e.Path] = true
		}
		return nil
	})
	if err != nil {
		return compose.Member{}, nil, err
	}
	if len(lost) > 0 {
		if m, err = j.without(ctx, w, m, lost); err != nil {
			return compose.Member{}, nil, err
		}
	}
	return m, trimmed(r, lost, exclude), nil
}

// trimmed returns a record without the files that were left out, and without the directories, but those that something
// stands in. As when dpkg leaves files out, its list has them all the same: "dpkg --verify" says that they are missing.
func trimmed(r *deb.Record, lost map[string]bool, exclude *recipe.Excludes) *deb.Record {
	kept := *r
	kept.Inventory.Paths = slices.DeleteFunc(slices.Clone(r.Inventory.Paths), func(p string) bool { return lost[p] })
	kept.Conffiles = slices.DeleteFunc(slices.Clone(r.Conffiles), func(c deb.Conffile) bool { return lost[deb.MergedPath(c.Path)] })
	needed := map[string]bool{}
	need := func(p string) {
		for p = path.Dir(p); p != "." && !needed[p]; p = path.Dir(p) {
			needed[p] = true
		}
	}
	for _, p := range kept.Inventory.Paths {
		need(p)
	}
	for _, d := range r.Inventory.Dirs {
		if !exclude.Excludes(d.Path, true) {
			need(d.Path)
		}
	}
	kept.Inventory.Dirs = slices.DeleteFunc(slices.Clone(r.Inventory.Dirs), func(d compose.Entry) bool {
		return !needed[d.Path] && exclude.Excludes(d.Path, true)
	})
	return &kept
}
