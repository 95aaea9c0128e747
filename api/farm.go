package api

import (
	"context"
	"maps"
	"reflect"
	"slices"

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
	route(a, get("get-version", "/v1/version", "farm", "Say which bakefarm answers"), func(context.Context, *struct{}) (*body[Release], error) {
		return &body[Release]{a.Release}, nil
	})
}

// schemaOf is the schema of T in the OpenAPI document.
func schemaOf[T any](a *API) *huma.Schema {
	t := reflect.TypeFor[T]()
	return a.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
}
