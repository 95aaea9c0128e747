package client

import (
	"context"
	"net/url"
	"time"

	"bakefarm/api"
	"bakefarm/farm"
)

// Sweep begins a sweep of the store, or joins the one that runs, and waits until it is over. told is called with what its
// record says meanwhile.
func (c *Client) Sweep(ctx context.Context, kind farm.SweepKind, dry bool, by string, told func(farm.Sweep)) (farm.Sweep, error) {
	path := "/v1/sweeps/" + segment(string(kind))
	s, err := post[farm.Sweep](ctx, c, path, api.SweepRequest{DryRun: dry, By: by})
	if err != nil {
		return s, err
	}
	query := url.Values{}
	if dry {
		query.Set("dryRun", "true")
	}
	id := s.ID
	for wait := 50 * time.Millisecond; !s.State.Ended() && s.ID == id; wait = min(2*wait, time.Second) {
		told(s)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return s, ctx.Err()
		}
		if s, err = get[farm.Sweep](ctx, c, path, query); err != nil {
			return s, err
		}
	}
	return s, nil
}
