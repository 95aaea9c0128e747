package bus

import (
	"encoding/json"
	"fmt"

	"bakefarm/farm"
)

// schemaOf finds the schema number of a record or message; nil for a type that has none (Empty).
func schemaOf(v any) *int {
	switch v := v.(type) {
	case *farm.Bake:
		return &v.Schema
	case *farm.Shard:
		return &v.Schema
	case *farm.ActionEntry:
		return &v.Schema
	case *farm.Observation:
		return &v.Schema
	case *farm.Version:
		return &v.Schema
	case *farm.RetentionPolicy:
		return &v.Schema
	case *farm.Sweep:
		return &v.Schema
	case *farm.Channel:
		return &v.Schema
	case *farm.ChannelMove:
		return &v.Schema
	case *farm.Publication:
		return &v.Schema
	case *farm.RequestLock:
		return &v.Schema
	case *farm.Submission:
		return &v.Schema
	case *farm.Possession:
		return &v.Schema
	case *farm.Tag:
		return &v.Schema
	case *farm.Worker:
		return &v.Schema
	case *farm.Pack:
		return &v.Schema
	case *farm.Usage:
		return &v.Schema
	case *farm.Deployment:
		return &v.Schema
	case *farm.Event:
		return &v.Schema
	case message:
		return v.schema()
	}
	return nil
}

// message is implemented by pointers to this package's own messages.
type message interface{ schema() *int }

// encode stamps v with this release's schema number and marshals it. what names it in errors; limit is in bytes.
func encode[T any](what string, v T, limit int) ([]byte, error) {
	if n := schemaOf(&v); n != nil {
		*n = farm.Schema
	}
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", what, err)
	}
	if len(data) > limit {
		return nil, fmt.Errorf("%s is %d bytes of JSON: %w: %d is the limit; keep large parts as pieces in the image store and their digests here",
			what, len(data), ErrTooLarge, limit)
	}
	return data, nil
}

// decode unmarshals and checks the schema number.
func decode[T any](what string, data []byte) (T, error) {
	var v, zero T
	if err := json.Unmarshal(data, &v); err != nil {
		return zero, fmt.Errorf("decode %s: %w", what, err)
	}
	if n := schemaOf(&v); n != nil {
		if err := farm.CheckSchema(what, *n); err != nil {
			return zero, err
		}
	}
	return v, nil
}
