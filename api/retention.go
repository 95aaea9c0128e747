package api

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore/retention"
)

type retentionInput struct{ Body RetentionRequest }

func (a *API) routeRetention() {
	op := post("plan-retention", "/v1/retention/plan", "farm", "Say of each version whether a policy would keep it, and why", 422)
	op.MaxBodyBytes = 1 << 20
	route(a, op, a.planRetention)
}

func (a *API) planRetention(ctx context.Context, in *retentionInput) (*body[RetentionPlan], error) {
	policy := retention.Default
	if in.Body.Policy != "" {
		var err error
		if policy, err = retention.ParsePolicy(cmp.Or(in.Body.File, "policy"), []byte(in.Body.Policy)); err != nil {
			return nil, err
		}
	}
	records, err := a.Bus.Versions.List(ctx, "")
	if err != nil {
		return nil, err
	}
	channels, err := a.Bus.Channels.List(ctx, "")
	if err != nil {
		return nil, err
	}
	versions := make([]retention.Version, 0, len(records))
	for _, v := range records {
		versions = append(versions, retentionVersion(v))
	}
	plan := RetentionPlan{Verdicts: retention.Decide(policy, versions, slices.Collect(maps.Values(channels)), time.Now()).Verdicts}
	for _, v := range plan.Verdicts {
		if v.Keep {
			plan.Keep++
		} else {
			plan.Expire++
		}
	}
	return &body[RetentionPlan]{plan}, nil
}

func retentionVersion(v farm.Version) retention.Version {
	r := retention.Version{Name: v.Name, Version: v.Version, Sequence: v.Sequence, CreatedAt: v.CreatedAt}
	index := slices.ContainsFunc(v.Images, farm.Image.IsIndex)
	for _, i := range v.Images {
		if i.Kind == farm.ImageOCI && index != i.IsIndex() {
			continue // the index's size is that of its images, and counts what they share once
		}
		r.Size += i.Size
	}
	return r
}
