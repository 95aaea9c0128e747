package api

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/retention"
	"bakefarm/recipe/strict"
	"bakefarm/upkeep"
)

type (
	retentionInput struct{ Body RetentionRequest }
	setInput       struct{ Body RetentionSet }
	applyInput     struct{ Body RetentionApply }
)

func (a *API) routeRetention() {
	route(a, get("get-retention", "/v1/retention", "farm", "Show the farm's retention policy"), a.getRetention)
	op := put("set-retention", "/v1/retention", "farm", "Set the farm's retention policy; refused when it would let much more expire than the one before, unless yes is set", 409, 422)
	op.MaxBodyBytes = 1 << 20
	route(a, op, a.setRetention)
	op = post("plan-retention", "/v1/retention/plan", "farm", "Say of each version whether a policy would keep it, why, and how many bytes would be freed", 422)
	op.MaxBodyBytes = 1 << 20
	route(a, op, a.planRetention)
	route(a, post("apply-retention", "/v1/retention/apply", "farm", "Move what the farm's policy lets expire to the trash"), a.applyRetention)
}

func (a *API) getRetention(ctx context.Context, _ *struct{}) (*body[RetentionPolicy], error) {
	_, record, revision, err := upkeep.Policy(ctx, a.Bus)
	if err != nil {
		return nil, err
	}
	return &body[RetentionPolicy]{showPolicy(record, revision)}, nil
}

func showPolicy(record farm.RetentionPolicy, revision uint64) RetentionPolicy {
	return RetentionPolicy{File: record.File, Policy: record.Text, Default: revision == 0, By: record.By, At: record.At}
}

func (a *API) planRetention(ctx context.Context, in *retentionInput) (*body[RetentionPlan], error) {
	var policy retention.Policy
	var err error
	if in.Body.Policy != "" {
		policy, err = retention.ParsePolicy(cmp.Or(in.Body.File, "policy"), []byte(in.Body.Policy))
	} else {
		policy, _, _, err = upkeep.Policy(ctx, a.Bus)
	}
	if err != nil {
		return nil, err
	}
	plan, _, err := a.plan(ctx, policy)
	return &body[RetentionPlan]{plan}, err
}

// plan says what a policy does now, and to what versions.
func (a *API) plan(ctx context.Context, policy retention.Policy) (RetentionPlan, upkeep.Facts, error) {
	now := time.Now()
	facts, err := upkeep.Gather(ctx, a.Bus, policy, now)
	if err != nil {
		return RetentionPlan{}, facts, err
	}
	d := retention.Decide(policy, facts.Versions, facts.Channels, now)
	plan := RetentionPlan{Verdicts: d.Verdicts, Trash: []TrashedVersion{}, Warnings: []string{}}
	for _, v := range d.Verdicts {
		if v.Keep {
			plan.Keep++
		} else {
			plan.Expire++
		}
	}
	for _, u := range d.Unmet {
		plan.Warnings = append(plan.Warnings, u.String())
	}
	for _, key := range slices.Sorted(maps.Keys(facts.Records)) {
		if v := facts.Records[key]; v.Trash != nil {
			plan.Trash = append(plan.Trash, TrashedVersion{Name: v.Name, Version: v.Version, Trash: *v.Trash})
		}
	}
	if a.Collector != nil {
		if plan.Frees, err = upkeep.Frees(ctx, a.Collector, facts, upkeep.Expired(d, facts.Versions)); err != nil {
			return plan, facts, err
		}
	}
	return plan, facts, nil
}

func (a *API) setRetention(ctx context.Context, in *setInput) (*body[RetentionPolicy], error) {
	file := cmp.Or(in.Body.File, "policy")
	policy, err := retention.ParsePolicy(file, []byte(in.Body.Policy))
	if err != nil {
		return nil, err
	}
	before, _, revision, err := upkeep.Policy(ctx, a.Bus)
	if err != nil {
		var unreadable strict.Errors
		if !errors.As(err, &unreadable) {
			return nil, err
		}
		before = retention.Policy{} // of another release: as if it kept everything
	}
	if revision == 0 {
		before = retention.Policy{} // none was set, so nothing has expired
	}
	if err := a.checkChange(ctx, file, before, policy, in.Body.Yes); err != nil {
		return nil, err
	}
	record, err := bus.Call[bus.SetPolicyRequest, farm.RetentionPolicy](ctx, a.Bus, bus.SetPolicy, bus.SetPolicyRequest{
		File: file, Text: in.Body.Policy, By: cmp.Or(in.Body.By, somebody), Revision: revision,
	})
	if err != nil {
		return nil, err
	}
	return &body[RetentionPolicy]{showPolicy(record, 1)}, nil
}

// checkChange refuses a policy that could be kept only by taking what channels point to, with the line that says so; and
// one that lets a large share of all versions expire that the one before keeps, unless that is confirmed.
func (a *API) checkChange(ctx context.Context, file string, before, policy retention.Policy, yes bool) error {
	now := time.Now()
	facts, err := upkeep.Gather(ctx, a.Bus, policy, now)
	if err != nil {
		return err
	}
	d := retention.Decide(policy, facts.Versions, facts.Channels, now)
	var mistakes strict.Errors
	for _, u := range d.Unmet {
		if u.Target != "" {
			mistakes = append(mistakes, &strict.Error{File: file, Line: max(u.Line, 1), Column: 1, Message: u.String() + "; give it more, or move the channel first"})
		}
	}
	if len(mistakes) > 0 {
		return mistakes
	}
	kept := make(map[retention.ID]bool, len(d.Verdicts))
	for _, v := range retention.Decide(before, facts.Versions, facts.Channels, now).Verdicts {
		kept[retention.ID{Name: v.Name, Version: v.Version}] = v.Keep
	}
	expires, first := 0, ""
	for _, v := range d.Verdicts {
		id := retention.ID{Name: v.Name, Version: v.Version}
		if !v.Keep && kept[id] {
			if expires++; first == "" {
				first = id.String()
			}
		}
	}
	if share := policy.Share(); !yes && expires*100 > share*len(d.Verdicts) {
		return refuse(http.StatusConflict, "this policy would let %d of %d versions expire that are kept now (%s, for one): more than %d %%. See retention plan, and set it with --yes if that is meant",
			expires, len(d.Verdicts), first, share)
	}
	return nil
}

func (a *API) applyRetention(ctx context.Context, in *applyInput) (*body[RetentionPlan], error) {
	policy, _, _, err := upkeep.Policy(ctx, a.Bus)
	if err != nil {
		return nil, err
	}
	plan, facts, err := a.plan(ctx, policy)
	if err != nil {
		return nil, err
	}
	plan.Applied = true
	items := upkeep.Expired(retention.Decision{Verdicts: plan.Verdicts}, facts.Versions)
	for chunk := range slices.Chunk(items, bus.MaxKeep) {
		reply, err := bus.Call[bus.KeepRequest, bus.KeepReply](ctx, a.Bus, bus.Keep, bus.KeepRequest{
			Action: bus.KeepTrash, Items: chunk, By: cmp.Or(in.Body.By, somebody), For: time.Duration(policy.TrashFor()),
		})
		if err != nil {
			return nil, fmt.Errorf("%d of %d are done; apply it again: %w", plan.Trashed, len(items), err)
		}
		for _, r := range reply.Results {
			if r.Error != "" {
				plan.Warnings = append(plan.Warnings, r.Error)
				continue
			}
			plan.Trashed++
			plan.Trash = append(plan.Trash, TrashedVersion{Name: r.Version.Name, Version: r.Version.Version, Trash: *r.Version.Trash})
		}
	}
	return &body[RetentionPlan]{plan}, nil
}
