package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"bakefarm/api"
)

// DeploymentFilter says which deployments are asked for; empty fields do not restrict.
type DeploymentFilter struct {
	Name, Version string
	Packages      []string
	Ended         bool // those whose lease has ended, in place of those that run
}

// Deployments lists deployments, by ID.
func (c *Client) Deployments(ctx context.Context, f DeploymentFilter, cursor string, limit int) (api.Page[api.Deployment], error) {
	query := listQuery(cursor, limit, "name", f.Name, "version", f.Version)
	if len(f.Packages) > 0 {
		query["package"] = f.Packages
	}
	if f.Ended {
		query.Set("ended", strconv.FormatBool(true))
	}
	return get[api.Page[api.Deployment]](ctx, c, "/v1/deployments", query)
}

// PutDeployment reports that an instance runs an image.
func (c *Client) PutDeployment(ctx context.Context, id string, r api.DeploymentRequest) (d api.Deployment, err error) {
	err = c.call(ctx, http.MethodPut, "/v1/deployments/"+segment(id), nil, nil, r, &d)
	return d, err
}

// DeleteDeployment reports that an instance has gone.
func (c *Client) DeleteDeployment(ctx context.Context, id string) error {
	return c.call(ctx, http.MethodDelete, "/v1/deployments/"+segment(id), nil, nil, nil, nil)
}

// Packages lists the packages of the images that ref means.
func (c *Client) Packages(ctx context.Context, ref string) ([]api.ImagePackages, error) {
	return get[[]api.ImagePackages](ctx, c, "/v1/images/"+segment(ref)+"/packages", nil)
}

// Ancestry shows what a version was built on, and what was built on it.
func (c *Client) Ancestry(ctx context.Context, ref string) (api.Ancestry, error) {
	return get[api.Ancestry](ctx, c, "/v1/images/"+segment(ref)+"/ancestry", nil)
}

// Diff says what differs between two images. Without files their layers are not read.
func (c *Client) Diff(ctx context.Context, from, to, platform string, files bool) (api.ImageDiff, error) {
	query := url.Values{"from": {from}, "to": {to}, "files": {strconv.FormatBool(files)}}
	if platform != "" {
		query.Set("platform", platform)
	}
	return get[api.ImageDiff](ctx, c, "/v1/diff", query)
}

// Affected lists the channels that point to images with such packages, and what to bake anew.
func (c *Client) Affected(ctx context.Context, name string, packages []string) (api.Affected, error) {
	query := url.Values{"package": packages}
	if name != "" {
		query.Set("name", name)
	}
	return get[api.Affected](ctx, c, "/v1/affected", query)
}
