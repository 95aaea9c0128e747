package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"bakefarm/api/usage"
	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/retention"

	"github.com/danielgtaylor/huma/v2"
)

// Times of deployments.
const (
	defaultLease   = 24 * time.Hour
	keepEnded      = 7 * 24 * time.Hour // a deployment whose lease has ended is shown for so long
	sweepEndedEach = 10 * time.Minute
)

type deploymentPath struct {
	ID string `path:"id" maxLength:"128" doc:"The instance's name, of your making: i-1"`
}

type deploymentInput struct {
	ID   string `path:"id" maxLength:"128" doc:"The instance's name, of your making: i-1"`
	Body DeploymentRequest
}

type deploymentsQuery struct {
	Name    string   `query:"name" maxLength:"256" doc:"An image's name; a glob"`
	Version string   `query:"version" maxLength:"64"`
	Package []string `query:"package,explode" maxItems:"20" doc:"Only what runs an image with this package: openssl<3.0.15. All of several"`
	Ended   bool     `query:"ended" doc:"Those whose lease has ended, in place of those that run"`
	Cursor  string   `query:"cursor" maxLength:"256" doc:"next of the page before"`
	Limit   int      `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (a *API) routeDeployments() {
	route(a, get("list-deployments", "/v1/deployments", "deployments", "List what runs where, by ID", 422), a.listDeployments)
	route(a, get("get-deployment", "/v1/deployments/{id}", "deployments", "Show a deployment", 404, 422), a.getDeployment)
	put := huma.Operation{
		OperationID: "put-deployment", Method: http.MethodPut, Path: "/v1/deployments/{id}", Tags: []string{"deployments"}, Errors: []int{404, 409, 422},
		Summary: "Report that an instance runs an image, until the lease ends: the image does not expire before. Say it again to go on",
	}
	route(a, put, a.putDeployment)
	remove := huma.Operation{
		OperationID: "delete-deployment", Method: http.MethodDelete, Path: "/v1/deployments/{id}", Tags: []string{"deployments"}, Errors: []int{404, 422},
		Summary: "Report that an instance has gone", DefaultStatus: http.StatusNoContent,
	}
	route(a, remove, a.deleteDeployment)
}

func (a *API) listDeployments(ctx context.Context, in *deploymentsQuery) (*body[Page[Deployment]], error) {
	packages, err := packageQueries(in.Package)
	if err != nil {
		return nil, err
	}
	a.refresh(ctx)
	rows, next, err := a.Catalog.Deployments(ctx, catalog.DeploymentFilter{
		Name: in.Name, Version: in.Version, Packages: packages, Ended: in.Ended, After: in.Cursor, Limit: in.Limit,
	})
	if err != nil {
		return nil, err
	}
	page := Page[Deployment]{Items: make([]Deployment, 0, len(rows)), Next: next}
	for _, r := range rows {
		page.Items = append(page.Items, Deployment{Deployment: r.Deployment, Running: !in.Ended, Packages: r.Packages})
	}
	return &body[Page[Deployment]]{page}, nil
}

func (a *API) getDeployment(ctx context.Context, in *deploymentPath) (*body[Deployment], error) {
	d, _, err := a.deployment(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	return &body[Deployment]{showDeployment(d)}, nil
}

func showDeployment(d farm.Deployment) Deployment {
	return Deployment{Deployment: d, Running: d.Live(time.Now())}
}

// deployment reads a record and its revision.
func (a *API) deployment(ctx context.Context, id string) (farm.Deployment, uint64, error) {
	if err := farm.ValidateDeployment(id); err != nil {
		return farm.Deployment{}, 0, at("path.id", err)
	}
	d, revision, err := a.Bus.Deployments.Get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) {
		err = refuse(http.StatusNotFound, "there is no deployment %s", id)
	}
	return d, revision, err
}

func (a *API) putDeployment(ctx context.Context, in *deploymentInput) (*body[Deployment], error) {
	now := time.Now().UTC()
	if err := farm.ValidateDeployment(in.ID); err != nil {
		return nil, at("path.id", err)
	}
	until, err := in.Body.until(now)
	if err != nil {
		return nil, err
	}
	a.refresh(ctx)
	row, err := a.resolve(ctx, in.Body.Image)
	if errors.Is(err, imagestore.ErrNotFound) {
		return nil, refuse(http.StatusNotFound, "there is no image %s", in.Body.Image)
	}
	if err != nil {
		return nil, err
	}
	for {
		was, revision, err := a.Bus.Deployments.Get(ctx, in.ID)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return nil, err
		}
		d := farm.Deployment{
			Schema: farm.Schema, ID: in.ID, Name: row.Name, Version: row.Version, Digest: row.Digest, Note: in.Body.Note,
			By: cmp.Or(in.Body.By, somebody), StartedAt: now, SeenAt: now, Until: until,
		}
		if err == nil && was.Name == d.Name && was.Version == d.Version && was.Live(now) {
			d.StartedAt = was.StartedAt
		}
		_, err = a.Bus.Deployments.Update(ctx, in.ID, d, revision)
		if errors.Is(err, bus.ErrConflict) && ctx.Err() == nil {
			continue // somebody reported for the same instance: the last one counts
		}
		if err != nil {
			return nil, err
		}
		a.Uses.Note(d.Name, d.Version, usage.Deployed)
		return &body[Deployment]{showDeployment(d)}, nil
	}
}

// until is the end of the lease that the request asks for.
func (r DeploymentRequest) until(now time.Time) (time.Time, error) {
	until := r.Until
	switch {
	case r.Lease != "" && !until.IsZero():
		return until, at("body.lease", errors.New("give lease or until, not both"))
	case r.Lease != "":
		lease, err := retention.ParseDuration(r.Lease)
		if err != nil {
			return until, at("body.lease", err)
		}
		until = now.Add(time.Duration(lease))
	case until.IsZero():
		until = now.Add(defaultLease)
	}
	switch {
	case !until.After(now):
		return until, at("body.until", fmt.Errorf("%s is over already", until.Format(time.RFC3339)))
	case until.Sub(now) > farm.MaxLease:
		return until, at("body.until", fmt.Errorf("%s is too far away: report again in time, a lease is at most %d days", until.Format(time.RFC3339), farm.MaxLease/(24*time.Hour)))
	}
	return until.UTC(), nil
}

func (a *API) deleteDeployment(ctx context.Context, in *deploymentPath) (*struct{}, error) {
	if _, _, err := a.deployment(ctx, in.ID); err != nil {
		return nil, err
	}
	return nil, a.Bus.Deployments.Delete(ctx, in.ID, 0)
}

// sweepDeployments deletes, until ctx ends, the records of deployments whose leases ended long ago. Any number of APIs may
// do so.
func (a *API) sweepDeployments(ctx context.Context) {
	tick := time.NewTicker(sweepEndedEach)
	defer tick.Stop()
	for {
		if err := a.sweepEnded(ctx, time.Now()); err != nil && ctx.Err() == nil {
			a.Log.Warn("deployments that have ended stay for now", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (a *API) sweepEnded(ctx context.Context, now time.Time) error {
	for after := ""; ; {
		rows, next, err := a.Catalog.Deployments(ctx, catalog.DeploymentFilter{Ended: true, After: after})
		if err != nil {
			return err
		}
		for _, r := range rows {
			if now.Sub(r.Until) < keepEnded {
				continue
			}
			d, revision, err := a.Bus.Deployments.Get(ctx, r.ID)
			if errors.Is(err, bus.ErrNotFound) || err == nil && now.Sub(d.Until) < keepEnded {
				continue
			}
			if err == nil {
				err = a.Bus.Deployments.Delete(ctx, r.ID, revision)
			}
			if err != nil && !errors.Is(err, bus.ErrConflict) {
				return err
			}
		}
		if after = next; next == "" {
			return nil
		}
	}
}
