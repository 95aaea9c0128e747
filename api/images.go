package api

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
)

type imagesQuery struct {
	Name   string `query:"name" maxLength:"256" doc:"Glob over names: * is any text, ? any character"`
	Cursor string `query:"cursor" maxLength:"1024" doc:"next of the page before"`
	Limit  int    `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

type imageRef struct {
	Ref string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
}

func (a *API) routeImages() {
	route(a, get("list-images", "/v1/images", "images", "List images, newest first", 422), a.listImages)
	route(a, get("get-image", "/v1/images/{ref}", "images", "Show the images of the version that a reference means: an index over several platforms first", 404, 422), a.getImage)
}

func (a *API) listImages(ctx context.Context, in *imagesQuery) (*body[Page[CatalogImage]], error) {
	a.refresh(ctx)
	rows, next, err := a.Catalog.Images(ctx, catalog.Filter{Name: in.Name, Limit: in.Limit, Cursor: in.Cursor})
	if err != nil {
		return nil, err
	}
	images, err := a.showImages(ctx, rows)
	return &body[Page[CatalogImage]]{Page[CatalogImage]{Items: images, Next: next}}, err
}

// refresh lets the catalog see what has been committed by now. When it can't, old answers are better than none: the
// catalog is right about everything that it knows.
func (a *API) refresh(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	if err := a.Catalog.CatchUpVersions(ctx); err != nil {
		a.Log.Warn("the catalog lags behind", "err", err)
	}
}

func (a *API) getImage(ctx context.Context, in *imageRef) (*body[[]CatalogImage], error) {
	a.refresh(ctx)
	row, err := a.resolve(ctx, in.Ref)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "there is no image %s", in.Ref)
	}
	if err != nil {
		return nil, err
	}
	rows, _, err := a.Catalog.Images(ctx, catalog.Filter{Name: row.Name, Version: row.Version})
	if err != nil {
		return nil, err
	}
	images, err := a.showImages(ctx, rows)
	return &body[[]CatalogImage]{images}, err
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
	return a.Catalog.Image(ctx, name+":"+channel.Version)
}

// showImages adds to each image the channels that point to it. Those of one version, which stand together, come in the
// version's order.
func (a *API) showImages(ctx context.Context, rows []catalog.ImageRow) ([]CatalogImage, error) {
	images := make([]CatalogImage, 0, len(rows))
	if len(rows) == 0 {
		return images, nil
	}
	for start := 0; start < len(rows); {
		end := start + 1
		for end < len(rows) && rows[end].Name == rows[start].Name && rows[end].Version == rows[start].Version {
			end++
		}
		slices.SortFunc(rows[start:end], func(a, b catalog.ImageRow) int { return farm.CompareImages(a.Image, b.Image) })
		start = end
	}
	of := rows[0].Name + "@" // of one name, or of all
	for _, r := range rows {
		if r.Name+"@" != of {
			of = ""
		}
	}
	channels, err := a.Bus.Channels.List(ctx, of)
	if err != nil {
		return nil, err
	}
	pointing := map[string][]string{}
	for _, c := range channels {
		key := c.Name + ":" + c.Version
		pointing[key] = append(pointing[key], c.Channel)
	}
	for _, r := range rows {
		names := slices.Sorted(slices.Values(pointing[r.Name+":"+r.Version]))
		if names == nil {
			names = []string{}
		}
		images = append(images, CatalogImage{
			Image: showImage(r.Image), Version: r.Version, Sequence: r.Sequence, Key: r.Key, Lock: r.Lock, Bake: r.Bake,
			Channels: names, CreatedAt: r.CreatedAt,
		})
	}
	return images, nil
}
