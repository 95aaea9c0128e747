package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"reflect"
	"slices"

	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/danielgtaylor/huma/v2"
)

func (a *API) routeFarm() {
	route(a, get("list-workers", "/v1/workers", "farm", "List the workers that are present"), func(ctx context.Context, _ *struct{}) (*body[[]farm.Worker], error) {
		workers, err := a.Bus.Workers.List(ctx, "")
		if err != nil {
			return nil, err
		}
		list := make([]farm.Worker, 0, len(workers))
		for _, id := range slices.Sorted(maps.Keys(workers)) {
			list = append(list, workers[id])
		}
		return &body[[]farm.Worker]{list}, nil
	})
	route(a, post("drain-worker", "/v1/workers/{worker}/drain", "farm", "Have a worker take no more shards, or take some again", http.StatusNotFound), func(ctx context.Context, in *struct {
		Worker string `path:"worker" maxLength:"64"`
		Body   DrainRequest
	}) (*body[farm.Worker], error) {
		w, err := bus.Call[bus.DrainRequest, farm.Worker](ctx, a.Bus, bus.Drain(in.Worker), bus.DrainRequest{Resume: in.Body.Resume})
		if errors.Is(err, bus.ErrNoResponder) {
			return nil, refuse(http.StatusNotFound, "there is no worker %s: workers ls has those that are present", in.Worker)
		}
		return &body[farm.Worker]{w}, err
	})
	route(a, get("get-version", "/v1/version", "farm", "Say which bakefarm answers"), func(context.Context, *struct{}) (*body[Release], error) {
		return &body[Release]{a.Release}, nil
	})
}

// schemaOf is the schema of T in the OpenAPI document.
func schemaOf[T any](a *API) *huma.Schema {
	t := reflect.TypeFor[T]()
	return a.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}
