package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"

	"bakefarm/api"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// refName is the annotation by which OCI layouts name an image (image-spec, annotations).
const refName = "org.opencontainers.image.ref.name"

// PullOCI copies an image through the registry API into an OCI image layout at dir, which is made when it is not there.
// Blobs that the layout has already are not fetched again, every other one is verified, and the image stands in the
// index under its name and version, in place of what stood there under that: an index over platforms and the image of one
// of them have the same. received counts the bytes that travelled; it may be nil.
func (c *Client) PullOCI(ctx context.Context, image api.CatalogImage, dir string, received func(int64)) error {
	repository, err := name.NewRepository(c.base.Host+"/"+image.Name, c.nameOptions()...)
	if err != nil {
		return err
	}
	transport := &countingTransport{next: c.http.Transport, host: c.base.Host, token: c.token, received: received}
	descriptor, err := remote.Get(repository.Digest(image.Digest.String()), remote.WithContext(ctx), remote.WithTransport(transport))
	if err != nil {
		return fmt.Errorf("pull %s: %w", image.Ref, c.explain(err))
	}
	target, err := openLayout(dir)
	if err != nil {
		return fmt.Errorf("OCI layout %s: %w", dir, err)
	}
	hash, err := v1.NewHash(image.Digest.String())
	if err != nil {
		return err
	}
	byDigest, byName := match.Digests(hash), match.Name(image.Ref)
	same := func(d v1.Descriptor) bool { return byDigest(d) || byName(d) }
	options := []layout.Option{layout.WithAnnotations(map[string]string{refName: image.Ref})}
	if descriptor.MediaType.IsIndex() {
		index, err := descriptor.ImageIndex()
		if err != nil {
			return err
		}
		return wrapPull(image.Ref, target.ReplaceIndex(index, same, options...))
	}
	img, err := descriptor.Image()
	if err != nil {
		return err
	}
	return wrapPull(image.Ref, target.ReplaceImage(img, same, options...))
}

func wrapPull(ref string, err error) error {
	if err != nil {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	return nil
}

func (c *Client) nameOptions() []name.Option {
	if c.base.Scheme == "http" {
		return []name.Option{name.Insecure}
	}
	return nil
}

// openLayout opens an OCI layout or makes an empty one. A directory with other things in it is refused.
func openLayout(dir string) (layout.Path, error) {
	existing, err := layout.FromPath(dir)
	if err == nil {
		return existing, nil
	}
	entries, readErr := os.ReadDir(dir)
	switch {
	case readErr == nil && len(entries) > 0:
		return "", fmt.Errorf("is no OCI layout and not empty: %w", err)
	case readErr != nil && !errors.Is(readErr, fs.ErrNotExist):
		return "", readErr
	}
	return layout.Write(dir, empty.Index)
}

// countingTransport counts what comes in, and signs requests with the token.
type countingTransport struct {
	next     http.RoundTripper
	host     string // that may see the token
	token    string
	received func(int64)
}

func (t *countingTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if t.token != "" && r.URL.Host == t.host && r.Header.Get("Authorization") == "" {
		r = r.Clone(r.Context())
		r.Header.Set("Authorization", "Bearer "+t.token)
	}
	resp, err := t.next.RoundTrip(r)
	if err == nil && t.received != nil {
		resp.Body = &countingBody{resp.Body, t.received}
	}
	return resp, err
}

type countingBody struct {
	io.ReadCloser
	received func(int64)
}

func (b *countingBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.received(int64(n))
	return n, err
}
