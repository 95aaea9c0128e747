package execute

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"bakefarm/compose/apt"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
)

// locate finds where locked packages can be had. One that is gone is an error, which names what the indexes have instead.
func locate(spec plan.SolveSpec, indexes []*apt.Index) ([]plan.SolvedPackage, error) {
	list := make([]plan.SolvedPackage, len(spec.Locate))
	var gone, names []string
	for i, p := range spec.Locate {
		list[i].LockedPackage = p
		found, at := apt.Find(exact(p), indexes)
		if found == nil {
			gone, names = append(gone, isGone(p, spec.Arch, indexes)), append(names, p.Name)
			continue
		}
		setURL(&list[i], spec.Indexes[at], found.Filename)
	}
	if len(gone) == 0 {
		return list, nil
	}
	const most = 20
	more, update := "", strings.Join(names, " ")
	if n := len(gone) - most; n > 0 {
		gone, more, update = gone[:most], fmt.Sprintf("\n and %d more", n), ""
	}
	return nil, fmt.Errorf("the lock has packages that the mirror does not have any more, and no member of this farm has fetched:\n %s%s\n"+
		"choose them anew with \"bakefarm lock RECIPE --update %s\", or name a mirror that keeps old versions with os.debian.mirror",
		strings.Join(gone, "\n "), more, update)
}

// isGone says of a locked package that it has gone, and what has taken its place.
func isGone(p recipe.LockedPackage, arch string, indexes []*apt.Index) string {
	text := fmt.Sprintf("%s %s (%s): ", p.Name, p.Version, p.Arch)
	offers := apt.Offers(p.Name, arch, indexes)
	if len(offers) == 0 {
		return text + "the mirror has no version of it"
	}
	if i := slices.IndexFunc(offers, func(o *apt.Package) bool { return o.Version == p.Version && o.Arch == p.Arch }); i >= 0 {
		return text + fmt.Sprintf("the mirror has other bytes under this version, with sha256 %s and not %s", offers[i].SHA256, p.SHA256.Encoded())
	}
	return text + "the mirror has " + offers[0].Version
}

// exact is a locked package as the solver knows it.
func exact(p recipe.LockedPackage) apt.Exact {
	return apt.Exact{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256.Encoded()}
}

// unlisted makes an index of packages that the observed indexes do not have: the user's own, and those that are to stay
// and have left the mirror, out of the records of their conversions. It is nil when there are none.
func (j *job) unlisted(ctx context.Context, spec plan.SolveSpec, indexes []*apt.Index) (*apt.Index, error) {
	x := &apt.Index{Unlisted: true}
	for _, own := range spec.Own {
		control, err := imagestore.ReadAll(ctx, j.Store, own.Control, apt.MaxParagraph)
		if err != nil {
			return nil, fmt.Errorf("package %s %s: control file: %w", own.Name, own.Version, err)
		}
		p, err := offer(control, own.LockedPackage)
		if err != nil {
			return nil, fmt.Errorf("package %s %s: %w", own.Name, own.Version, err)
		}
		x.Packages = append(x.Packages, p)
	}
	for _, s := range spec.Stay {
		if found, _ := apt.Find(exact(s.LockedPackage), indexes); found != nil {
			continue
		}
		if s.Record == "" {
			j.say("%s %s has left the mirror: it is chosen anew", s.Name, s.Version)
			continue
		}
		r, err := j.record(ctx, s.Record)
		if err != nil {
			return nil, fmt.Errorf("package %s %s, which has left the mirror: record %s: %w", s.Name, s.Version, s.Record, err)
		}
		p, err := offer(r.Control, s.LockedPackage)
		if err != nil {
			return nil, fmt.Errorf("package %s %s, which has left the mirror: %w", s.Name, s.Version, err)
		}
		j.say("%s %s has left the mirror: the farm's own stays", s.Name, s.Version)
		x.Packages = append(x.Packages, p)
	}
	if len(x.Packages) == 0 {
		return nil, nil
	}
	return x, nil
}
