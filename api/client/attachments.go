package client

import (
	"context"
	"net/http"

	"bakefarm/api"
	"bakefarm/farm"
)

// Attach attaches a file to an image, as an artifact about it.
func (c *Client) Attach(ctx context.Context, ref string, r api.AttachRequest) (farm.Attachment, error) {
	return post[farm.Attachment](ctx, c, "/v1/images/"+segment(ref)+"/attachments", r)
}

// Attachments lists what is attached to the images of a version.
func (c *Client) Attachments(ctx context.Context, ref string) ([]farm.Attachment, error) {
	return get[[]farm.Attachment](ctx, c, "/v1/images/"+segment(ref)+"/attachments", nil)
}

// Detach takes an artifact away from its image. artifact is its digest.
func (c *Client) Detach(ctx context.Context, ref, artifact string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images/"+segment(ref)+"/attachments/"+segment(artifact), nil, nil, nil, nil)
}
