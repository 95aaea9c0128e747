package api

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"bakefarm/api/usage"
	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/retention"
	"bakefarm/upkeep"
)

// ImageFilter are the parameters by which images are chosen. (The framework reads exported fields only.)
type ImageFilter struct {
	Name     string   `query:"name" maxLength:"256" doc:"Name, or glob over names: * is any text, ? any character, [a-z] one of some"`
	Kind     string   `query:"kind" enum:"oci,disk"`
	Platform string   `query:"platform" maxLength:"64" doc:"linux/amd64; index for the indexes over several platforms"`
	Format   string   `query:"format" maxLength:"64"`
	Version  string   `query:"version" maxLength:"64"`
	Channel  string   `query:"channel" maxLength:"128" doc:"A channel that points to it; a glob"`
	Label    []string `query:"label,explode" maxItems:"20" doc:"A label that it has, key or key=value; the value may be a glob. All of several"`
	Base     string   `query:"base" maxLength:"512" doc:"What it was built on, directly or not: debian:bookworm, an image's name, or a reference; a glob"`
	Parent   string   `query:"parent" maxLength:"512" doc:"What it was built on directly; a glob"`
	Package  []string `query:"package,explode" maxItems:"20" doc:"A package that it contains: openssl, openssl<3.0.15, libc6:arm64>=2.36-9. Versions are compared as dpkg does; the name may be a glob. All of several"`
	Text     string   `query:"q" maxLength:"256" doc:"Words that must all stand in its name, version, digest, bake, base, labels or channels"`
	Running  bool     `query:"running" doc:"Only what a deployment reports to run"`
	State    string   `query:"state" enum:"there,pinned,trash" doc:"pinned: only what is pinned or held; trash: what is to go, in place of what is there"`

	CreatedAfter   string `query:"createdAfter" maxLength:"40" doc:"A time (RFC 3339), a day (2026-01-31), or how long ago: 12h, 30d, 8w"`
	CreatedBefore  string `query:"createdBefore" maxLength:"40"`
	PulledAfter    string `query:"pulledAfter" maxLength:"40"`
	PulledBefore   string `query:"pulledBefore" maxLength:"40" doc:"What was never pulled is before every time"`
	ResolvedAfter  string `query:"resolvedAfter" maxLength:"40" doc:"When a channel last led to it"`
	ResolvedBefore string `query:"resolvedBefore" maxLength:"40"`
	DeployedAfter  string `query:"deployedAfter" maxLength:"40" doc:"When somebody last reported to run it"`
	DeployedBefore string `query:"deployedBefore" maxLength:"40"`
}

// filter reads the parameters.
func (q ImageFilter) filter(now time.Time) (catalog.Filter, error) {
	f := catalog.Filter{
		Name: q.Name, Kind: q.Kind, Platform: q.Platform, Format: q.Format, Version: q.Version, Channel: q.Channel, Labels: q.Label,
		Base: q.Base, Parent: q.Parent, Text: q.Text, Running: q.Running,
		Trashed: q.State == "trash", Pinned: q.State == "pinned",
	}
	var err error
	if f.Packages, err = packageQueries(q.Package); err != nil {
		return f, err
	}
	for _, limit := range []struct {
		to         *time.Time
		name, text string
	}{
		{&f.Created.After, "createdAfter", q.CreatedAfter}, {&f.Created.Before, "createdBefore", q.CreatedBefore},
		{&f.Pulled.After, "pulledAfter", q.PulledAfter}, {&f.Pulled.Before, "pulledBefore", q.PulledBefore},
		{&f.Resolved.After, "resolvedAfter", q.ResolvedAfter}, {&f.Resolved.Before, "resolvedBefore", q.ResolvedBefore},
		{&f.Deployed.After, "deployedAfter", q.DeployedAfter}, {&f.Deployed.Before, "deployedBefore", q.DeployedBefore},
	} {
		if *limit.to, err = parseTime(limit.text, now); err != nil {
			return f, at("query."+limit.name, err)
		}
	}
	return f, nil
}

func packageQueries(texts []string) (queries []catalog.PackageQuery, err error) {
	for _, text := range texts {
		q, err := catalog.ParsePackageQuery(text)
		if err != nil {
			return nil, at("query.package", err)
		}
		queries = append(queries, q)
	}
	return queries, nil
}

// parseTime reads a time, a day (UTC), or how long ago; the zero time when there is nothing to read.
func parseTime(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339Nano, time.DateOnly} {
		if t, err := time.Parse(layout, s); err == nil {
			return t, nil
		}
	}
	ago, err := retention.ParseDuration(s)
	if err != nil {
		return time.Time{}, fmt.Errorf("%q is no time: write one such as 2026-01-31T15:04:05Z, a day such as 2026-01-31, or how long ago: 12h, 30d, 8w", s)
	}
	return now.Add(-time.Duration(ago)), nil
}

type imagesQuery struct {
	ImageFilter
	Sort    string `query:"sort" enum:"created,name,size,pulled,deployed" default:"created" doc:"created: newest first; name: by letter; size: largest first; pulled, deployed: last used first"`
	Reverse bool   `query:"reverse" doc:"The other way round"`
	Cursor  string `query:"cursor" maxLength:"1024" doc:"next of the page before"`
	Limit   int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type countQuery struct {
	ImageFilter
	By string `query:"by" maxLength:"256" doc:"Count by name, kind, platform, format, base, channel or label:KEY"`
}

type imageQuery struct {
	Ref    string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
	Stored bool   `query:"stored" doc:"Also say what its version takes in the store, its own and what it shares. Every version is looked at for that"`
}

type imageRef struct {
	Ref string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
}

func (a *API) routeImages() {
	route(a, get("list-images", "/v1/images", "images", "List images, newest first or in another order", 422), a.listImages)
	route(a, get("count-images", "/v1/counts/images", "images", "Count images, all or by what they have in common", 422), a.countImages)
	route(a, get("get-image", "/v1/images/{ref}", "images", "Show the images of the version that a reference means: an index over several platforms first", 404, 422), a.getImage)
}

func (a *API) listImages(ctx context.Context, in *imagesQuery) (*body[Page[CatalogImage]], error) {
	f, err := in.filter(time.Now())
	if err != nil {
		return nil, err
	}
	f.Sort, f.Reverse, f.Limit, f.Cursor = catalog.Sort(in.Sort), in.Reverse, in.Limit, in.Cursor
	a.refresh(ctx)
	rows, next, err := a.Catalog.Images(ctx, f)
	if err != nil {
		return nil, err
	}
	return &body[Page[CatalogImage]]{Page[CatalogImage]{Items: showImages(rows), Next: next}}, nil
}

func (a *API) countImages(ctx context.Context, in *countQuery) (*body[Counts], error) {
	f, err := in.filter(time.Now())
	if err != nil {
		return nil, err
	}
	a.refresh(ctx)
	counts, err := a.Catalog.Count(ctx, f, in.By)
	if err != nil {
		return nil, err
	}
	return &body[Counts]{Counts(counts)}, nil
}

// refresh lets the catalog see what has been committed by now. When it can't, old answers are better than none: the
// catalog is right about everything that it knows.
func (a *API) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := a.Catalog.CatchUpImages(ctx); err != nil {
		a.Log.Warn("the catalog lags behind", "err", err)
	}
}

func (a *API) getImage(ctx context.Context, in *imageQuery) (*body[[]CatalogImage], error) {
	a.refresh(ctx)
	rows, err := a.imagesOf(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	images := showImages(rows)
	if in.Stored && a.Collector != nil && len(rows) > 0 {
		versions, err := a.Bus.Versions.List(ctx, "")
		if err != nil {
			return nil, err
		}
		var stored Stored
		if stored.Own, stored.Shared, err = upkeep.Weigh(ctx, a.Collector, versions, rows[0].Name, rows[0].Version); err != nil {
			return nil, err
		}
		for i := range images {
			images[i].Stored = &stored
		}
	}
	return &body[[]CatalogImage]{images}, nil
}

// resolve finds an image of the version that a reference means.
func (a *API) resolve(ctx context.Context, ref string) (catalog.ImageRow, error) {
	name, _, byDigest := strings.Cut(ref, "@")
	tag := ""
	if !byDigest {
		name, tag, _ = strings.Cut(ref, ":")
	}
	if err := farm.ValidateName(name); err != nil {
		return catalog.ImageRow{}, at("path.ref", err)
	}
	if byDigest {
		row, err := a.Catalog.Image(ctx, ref)
		if err != nil && !errors.Is(err, imagestore.ErrNotFound) {
			err = at("path.ref", err)
		}
		return row, err
	}
	row, err := a.Catalog.Image(ctx, ref)
	if tag == "" || !errors.Is(err, imagestore.ErrNotFound) || farm.ValidateChannel(tag) != nil {
		return row, err
	}
	channel, _, chErr := a.Bus.Channels.Get(ctx, name+"@"+tag)
	if errors.Is(chErr, bus.ErrNotFound) {
		return row, err
	}
	if chErr != nil {
		return row, chErr
	}
	if row, err = a.Catalog.Image(ctx, name+":"+channel.Version); err == nil {
		a.Uses.Note(row.Name, row.Version, usage.Resolved)
	}
	return row, err
}

func showImages(rows []catalog.ImageRow) []CatalogImage {
	images := make([]CatalogImage, 0, len(rows))
	for _, r := range rows {
		shown := CatalogImage{
			Image: showImage(r.Image), Version: r.Version, Sequence: r.Sequence, Key: r.Key, Lock: r.Lock, Bake: r.Bake,
			Channels: r.Channels, CreatedAt: r.CreatedAt, Base: r.Base, Labels: r.Labels,
			Usage:    Usage{PulledAt: r.PulledAt, ResolvedAt: r.ResolvedAt, DeployedAt: r.DeployedAt, Deployments: r.Deployments},
			Packages: r.Packages, Pins: r.Pins, Trash: r.Trash,
		}
		if shown.Channels == nil {
			shown.Channels = []string{}
		}
		images = append(images, shown)
	}
	return images
}
