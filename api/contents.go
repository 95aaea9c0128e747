package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"bakefarm/bus"
	"bakefarm/compose/apt"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/compare"
	"bakefarm/plan"
	"bakefarm/recipe"
)

type diffQuery struct {
	From     string `query:"from" required:"true" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
	To       string `query:"to" required:"true" maxLength:"512"`
	Platform string `query:"platform" maxLength:"64" doc:"Of several platforms that both have; the first by default"`
	Files    bool   `query:"files" default:"true" doc:"Read the layers that differ, to say which files do"`
}

type affectedQuery struct {
	Package []string `query:"package,explode" required:"true" minItems:"1" maxItems:"20" doc:"openssl<3.0.15; all of several"`
	Name    string   `query:"name" maxLength:"256" doc:"An image's name; a glob"`
}

func (a *API) routeContents() {
	route(a, get("image-packages", "/v1/images/{ref}/packages", "images", "List the packages of the images of a version, by platform", 404, 422), a.imagePackages)
	route(a, get("image-ancestry", "/v1/images/{ref}/ancestry", "images", "Show what a version was built on, and what was built on it", 404, 422), a.imageAncestry)
	route(a, get("diff-images", "/v1/diff", "images", "Say what differs between two images: packages, files, configuration, size", 404, 422), a.diffImages)
	route(a, get("list-affected", "/v1/affected", "channels", "List the channels that point to images with such packages, and what to bake anew", 422), a.listAffected)
}

// imagesOf finds the images of the version that a reference means.
func (a *API) imagesOf(ctx context.Context, ref string) ([]catalog.ImageRow, error) {
	row, err := a.resolve(ctx, ref)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "there is no image %s", ref)
	}
	if err != nil {
		return nil, err
	}
	rows, _, err := a.Catalog.Images(ctx, catalog.Filter{Name: row.Name, Version: row.Version, Trashed: row.Trash != nil})
	if err == nil && len(rows) == 0 {
		err = refuse(http.StatusNotFound, "there is no image %s any more", ref)
	}
	return rows, err
}

// lock reads a version's Lock.
func (a *API) lock(ctx context.Context, row catalog.ImageRow) (*recipe.Lock, error) {
	lock, err := catalog.ReadLocks(a.Store)(ctx, row.Lock)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "the Lock of %s, which knows its packages, is not in the store", row.Ref)
	}
	return lock, err
}

func (a *API) imagePackages(ctx context.Context, in *imageRef) (*body[[]ImagePackages], error) {
	a.refresh(ctx)
	rows, err := a.imagesOf(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	lock, err := a.lock(ctx, rows[0])
	if err != nil {
		return nil, err
	}
	list := []ImagePackages{}
	for _, row := range rows {
		if row.Platform != "" && !slices.ContainsFunc(list, func(p ImagePackages) bool { return p.Platform == row.Platform }) {
			list = append(list, ImagePackages{Ref: row.Ref, Platform: row.Platform, Packages: packagesOf(lock, row.Platform)})
		}
	}
	return &body[[]ImagePackages]{list}, nil
}

// packagesOf are a Lock's packages for a platform.
func packagesOf(l *recipe.Lock, platform string) []recipe.LockedPackage {
	if list := plan.Installed(l)[platform]; list != nil {
		return list
	}
	return []recipe.LockedPackage{}
}

func (a *API) imageAncestry(ctx context.Context, in *imageRef) (*body[Ancestry], error) {
	a.refresh(ctx)
	rows, err := a.imagesOf(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	family, err := a.Catalog.Family(ctx, rows[0].Name, rows[0].Version)
	if err != nil {
		return nil, err
	}
	shown := Ancestry{Ancestors: []Relative{}, Relative: showRelative(family.Self), Descendants: family.Size, More: family.More}
	begins := family.Self.Base
	for _, r := range family.Ancestors {
		shown.Ancestors, begins = append(shown.Ancestors, showRelative(r)), r.Base
	}
	shown.Origin = begins.Ref
	return &body[Ancestry]{shown}, nil
}

func showRelative(r catalog.Relative) Relative {
	shown := Relative{Ref: r.Name + ":" + r.Version, Name: r.Name, Version: r.Version, Channels: r.Channels, CreatedAt: r.CreatedAt, Base: r.Base.Ref}
	if shown.Channels == nil {
		shown.Channels = []string{}
	}
	for _, child := range r.Children {
		shown.Children = append(shown.Children, showRelative(child))
	}
	return shown
}

func (a *API) diffImages(ctx context.Context, in *diffQuery) (*body[ImageDiff], error) {
	a.refresh(ctx)
	from, err := a.imagesOf(ctx, in.From)
	if err != nil {
		return nil, err
	}
	to, err := a.imagesOf(ctx, in.To)
	if err != nil {
		return nil, err
	}
	x, y, err := pair(from, to, in)
	if err != nil {
		return nil, err
	}
	d := ImageDiff{From: showImages([]catalog.ImageRow{x})[0], To: showImages([]catalog.ImageRow{y})[0], Size: y.Size - x.Size}
	before, err := a.lock(ctx, x)
	if err != nil {
		return nil, err
	}
	after, err := a.lock(ctx, y)
	if err != nil {
		return nil, err
	}
	d.Packages = diffPackages(packagesOf(before, x.Platform), packagesOf(after, y.Platform))
	if x.Kind != farm.ImageOCI || y.Kind != farm.ImageOCI {
		d.Config = []compare.Setting{}
		return &body[ImageDiff]{d}, nil
	}
	fromImage, err := compare.Load(ctx, a.Store, x.Digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", x.Ref, err)
	}
	toImage, err := compare.Load(ctx, a.Store, y.Digest)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", y.Ref, err)
	}
	d.Config = compare.Config(fromImage, toImage)
	if in.Files {
		files, err := compare.FilesOf(ctx, a.Store, fromImage, toImage)
		if err != nil {
			return nil, err
		}
		d.Files = &files
	}
	return &body[ImageDiff]{d}, nil
}

// pair picks the images to compare: of the same kind and platform.
func pair(from, to []catalog.ImageRow, in *diffQuery) (x, y catalog.ImageRow, err error) {
	var have []string
	for _, x := range from {
		if x.Platform == "" || x.Kind != farm.ImageOCI && in.Platform == "" && len(from) > 1 {
			continue
		}
		for _, y := range to {
			if x.Kind == y.Kind && x.Platform == y.Platform && (in.Platform == "" || in.Platform == x.Platform) {
				return x, y, nil
			}
		}
		have = append(have, x.Kind+" "+x.Platform)
	}
	return x, y, refuse(http.StatusUnprocessableEntity, "%s and %s have no image of one kind and platform to compare: the first has %s",
		in.From, in.To, cmp.Or(strings.Join(have, ", "), "none"))
}

// diffPackages compares two lists, both sorted by name and architecture.
func diffPackages(from, to []recipe.LockedPackage) PackageDiff {
	type key struct{ name, arch string }
	before := map[key]recipe.LockedPackage{}
	for _, p := range from {
		before[key{p.Name, p.Arch}] = p
	}
	d := PackageDiff{Added: []catalog.Package{}, Removed: []catalog.Package{}, Changed: []ChangedPackage{}}
	for _, p := range to {
		k := key{p.Name, p.Arch}
		was, ok := before[k]
		delete(before, k)
		switch {
		case !ok:
			d.Added = append(d.Added, catalog.Package{Name: p.Name, Version: p.Version, Arch: p.Arch})
		case was.Version != p.Version || was.SHA256 != p.SHA256 && was.SHA256 != "" && p.SHA256 != "": // a base's are known by version alone
			d.Changed = append(d.Changed, ChangedPackage{
				Name: p.Name, Arch: p.Arch, From: was.Version, To: p.Version, Downgrade: apt.CompareVersions(p.Version, was.Version) < 0,
			})
		}
	}
	for _, p := range from {
		if _, left := before[key{p.Name, p.Arch}]; left {
			d.Removed = append(d.Removed, catalog.Package{Name: p.Name, Version: p.Version, Arch: p.Arch})
		}
	}
	return d
}

func (a *API) listAffected(ctx context.Context, in *affectedQuery) (*body[Affected], error) {
	questions, err := packageQueries(in.Package)
	if err != nil {
		return nil, err
	}
	a.refresh(ctx)
	rows, err := a.Catalog.Affected(ctx, in.Name, questions)
	if err != nil {
		return nil, err
	}
	shown := Affected{Channels: make([]AffectedChannel, 0, len(rows)), Rebake: []Rebake{}}
	for _, r := range rows {
		shown.Channels = append(shown.Channels, AffectedChannel{
			Name: r.Name, Channel: r.Channel.Channel, Version: r.Version, CreatedAt: r.CreatedAt, Base: r.Base.Ref, Bake: r.Bake,
			Deployments: r.Deployments, Packages: r.Packages,
		})
		if last := len(shown.Rebake) - 1; last >= 0 && shown.Rebake[last].Name == r.Name {
			shown.Rebake[last].Channels = append(shown.Rebake[last].Channels, r.Channel.Channel)
			continue
		}
		again := Rebake{Name: r.Name, Bake: r.Bake, Channels: []string{r.Channel.Channel}}
		bake, _, err := a.Bus.Bakes.Get(ctx, r.Bake)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return nil, err
		}
		again.File = bake.File
		shown.Rebake = append(shown.Rebake, again)
	}
	return &body[Affected]{shown}, nil
}
