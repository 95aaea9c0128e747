package client

import (
	"context"
	"net/http"

	"bakefarm/api"
)

// Retention shows the farm's retention policy.
func (c *Client) Retention(ctx context.Context) (api.RetentionPolicy, error) {
	return get[api.RetentionPolicy](ctx, c, "/v1/retention", nil)
}

// SetRetention makes a policy the farm's own.
func (c *Client) SetRetention(ctx context.Context, r api.RetentionSet) (p api.RetentionPolicy, err error) {
	err = c.call(ctx, http.MethodPut, "/v1/retention", nil, nil, r, &p)
	return p, err
}

// RetentionPlan says what a policy would keep and expire now.
func (c *Client) RetentionPlan(ctx context.Context, r api.RetentionRequest) (api.RetentionPlan, error) {
	return post[api.RetentionPlan](ctx, c, "/v1/retention/plan", r)
}

// ApplyRetention moves what the farm's policy lets expire to the trash.
func (c *Client) ApplyRetention(ctx context.Context, r api.RetentionApply) (api.RetentionPlan, error) {
	return post[api.RetentionPlan](ctx, c, "/v1/retention/apply", r)
}

// Pin keeps a version whatever the policy says.
func (c *Client) Pin(ctx context.Context, ref string, r api.KeepRequest) (api.KeptVersion, error) {
	return c.keep(ctx, ref, "pin", r)
}

// Unpin takes a pin, or a legal hold, out again.
func (c *Client) Unpin(ctx context.Context, ref string, r api.KeepRequest) (api.KeptVersion, error) {
	return c.keep(ctx, ref, "unpin", r)
}

// Trash lets a version go; it can be restored for a while.
func (c *Client) Trash(ctx context.Context, ref string, r api.KeepRequest) (api.KeptVersion, error) {
	return c.keep(ctx, ref, "trash", r)
}

// Restore takes a version out of the trash.
func (c *Client) Restore(ctx context.Context, ref string, r api.KeepRequest) (api.KeptVersion, error) {
	return c.keep(ctx, ref, "restore", r)
}

func (c *Client) keep(ctx context.Context, ref, action string, r api.KeepRequest) (api.KeptVersion, error) {
	return post[api.KeptVersion](ctx, c, "/v1/images/"+segment(ref)+"/"+action, r)
}
