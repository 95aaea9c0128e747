package client

import (
	"cmp"
	"context"
	"crypto/rand"
	"net/http"

	"bakefarm/api"
	"bakefarm/recipe"
)

// Post posts a bake. What the farm lacks of the context is proven to be here or sent, and the bake is posted again. A
// connection that breaks meanwhile costs what was on its way: the farm keeps what has come, and is asked what is still missing.
// sent counts the bytes that had to travel; it may be nil, as may scan when the request has no context.
func (c *Client) Post(ctx context.Context, r api.BakeRequest, scan *Scan, sent func(bytes int64)) (api.Bake, error) {
	header := http.Header{"Idempotency-Key": {rand.Text()}}
	d := delivery[api.Bake]{post: func() (bake api.Bake, err error) {
		err = c.call(ctx, http.MethodPost, "/v1/bakes", nil, header, r, &bake)
		return bake, err
	}}
	if scan != nil {
		r.Context = scan.Context
		d.send = func(missing *Error) error {
			parsed, err := recipe.Parse(cmp.Or(r.File, "recipe"), []byte(r.Recipe), r.Set...)
			if err != nil {
				return err
			}
			return c.upload(ctx, scan, parsed.Name, missing, sent)
		}
	}
	return deliver(ctx, d)
}
