package client

import (
	"context"
	"net/url"

	"bakefarm/api"
)

// ImageFilter says which images are asked for; empty fields do not restrict. Times are RFC 3339, a day, or how long ago
// (30d). The API's description of GET /v1/images says what each means.
type ImageFilter struct {
	Name, Kind, Platform, Format, Version, Channel string
	Labels                                         []string
	Base, Parent                                   string
	Packages                                       []string
	Text                                           string
	Running                                        bool
	State                                          string // pinned or trash

	CreatedAfter, CreatedBefore   string
	PulledAfter, PulledBefore     string
	ResolvedAfter, ResolvedBefore string
	DeployedAfter, DeployedBefore string
}

func (f ImageFilter) values() url.Values {
	query := url.Values{}
	for key, value := range map[string]string{
		"name": f.Name, "kind": f.Kind, "platform": f.Platform, "format": f.Format, "version": f.Version, "channel": f.Channel,
		"base": f.Base, "parent": f.Parent, "q": f.Text, "state": f.State,
		"createdAfter": f.CreatedAfter, "createdBefore": f.CreatedBefore, "pulledAfter": f.PulledAfter, "pulledBefore": f.PulledBefore,
		"resolvedAfter": f.ResolvedAfter, "resolvedBefore": f.ResolvedBefore, "deployedAfter": f.DeployedAfter, "deployedBefore": f.DeployedBefore,
	} {
		if value != "" {
			query.Set(key, value)
		}
	}
	if len(f.Labels) > 0 {
		query["label"] = f.Labels
	}
	if len(f.Packages) > 0 {
		query["package"] = f.Packages
	}
	if f.Running {
		query.Set("running", "true")
	}
	return query
}

// Order is an order of images: created (which is meant by ""), name, size, pulled or deployed.
type Order struct {
	By      string
	Reverse bool
}

// Images lists images.
func (c *Client) Images(ctx context.Context, f ImageFilter, o Order, cursor string, limit int) (api.Page[api.CatalogImage], error) {
	query := f.values()
	for key, value := range listQuery(cursor, limit, "sort", o.By) {
		query[key] = value
	}
	if o.Reverse {
		query.Set("reverse", "true")
	}
	return get[api.Page[api.CatalogImage]](ctx, c, "/v1/images", query)
}

// CountImages counts images: by name, kind, platform, format, base, channel or label:KEY, or only all of them.
func (c *Client) CountImages(ctx context.Context, f ImageFilter, by string) (api.Counts, error) {
	query := f.values()
	if by != "" {
		query.Set("by", by)
	}
	return get[api.Counts](ctx, c, "/v1/counts/images", query)
}

// Image shows the images of the version that ref resolves to: name, name:version, name:channel or name@digest.
func (c *Client) Image(ctx context.Context, ref string) ([]api.CatalogImage, error) {
	return get[[]api.CatalogImage](ctx, c, "/v1/images/"+segment(ref), nil)
}

// StoredImage is Image, and says what the version takes in the store. The farm looks at every version for that.
func (c *Client) StoredImage(ctx context.Context, ref string) ([]api.CatalogImage, error) {
	return get[[]api.CatalogImage](ctx, c, "/v1/images/"+segment(ref), url.Values{"stored": {"true"}})
}
