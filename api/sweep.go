package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"

	"bakefarm/bus"
	"bakefarm/farm"
)

type sweepPath struct {
	Kind   string `path:"kind" enum:"gc,scrub" doc:"gc: garbage collection; scrub: read and verify what is stored"`
	DryRun bool   `query:"dryRun" doc:"The latest trial run"`
}

type sweepInput struct {
	Kind string `path:"kind" enum:"gc,scrub"`
	Body SweepRequest
}

func (a *API) routeSweeps() {
	route(a, post("start-sweep", "/v1/sweeps/{kind}", "farm", "Begin a garbage collection or a scrub; the one that runs already is the answer then", 422),
		func(ctx context.Context, in *sweepInput) (*body[farm.Sweep], error) {
			s, err := bus.Call[bus.SweepRequest, farm.Sweep](ctx, a.Bus, bus.StartSweep, bus.SweepRequest{
				Kind: farm.SweepKind(in.Kind), DryRun: in.Body.DryRun, By: cmp.Or(in.Body.By, somebody),
			})
			return &body[farm.Sweep]{s}, err
		})
	route(a, get("get-sweep", "/v1/sweeps/{kind}", "farm", "Show the latest garbage collection or scrub: how far it is, or what it did", 404, 422),
		func(ctx context.Context, in *sweepPath) (*body[farm.Sweep], error) {
			s, _, err := a.Bus.Sweeps.Get(ctx, farm.SweepKey(farm.SweepKind(in.Kind), in.DryRun))
			if errors.Is(err, bus.ErrNotFound) {
				return nil, refuse(http.StatusNotFound, "there was no %s yet", in.Kind)
			}
			return &body[farm.Sweep]{s}, err
		})
}
