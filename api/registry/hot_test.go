package registry_test

import (
	"context"
	"errors"
	"io"
	"net/http"
	"testing"
	"time"

	"bakefarm/api/apitest"
	"bakefarm/api/registry"

	"github.com/opencontainers/go-digest"
)

// wholes is a store that makes objects when it is let.
type wholes struct {
	made chan digest.Digest
	fail error
}

func (w *wholes) Materialise(_ context.Context, d digest.Digest) error { w.made <- d; return w.fail }
func (w *wholes) Materialised(context.Context, digest.Digest) (bool, error) {
	return false, nil
}
func (w *wholes) Presign(_ context.Context, d digest.Digest, _ time.Duration) (string, error) {
	return "http://s3.example/" + d.Encoded(), nil
}

func TestHot(t *testing.T) {
	for name, fail := range map[string]error{"made": nil, "not made": errors.New("no room")} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := apitest.New(t)
			w := &wholes{made: make(chan digest.Digest, 10), fail: fail}
			hot := registry.NewHot(w, 3, f.Log)
			config := registry.OnBus(f.Bus, f.Store, f.Catalog, f.Log)
			config.Hot = hot
			s := serveHandler(t, registry.New(config)).URL
			large := apitest.Layer{Compressed: apitest.Noise(1, 2<<20), DiffID: digest.FromString("large")}
			small := apitest.Layer{Compressed: apitest.Noise(2, 1<<10), DiffID: digest.FromString("small")}
			f.Image(t, "shop/checkout", large, small)
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- hot.Run(ctx) }()
			get := func(l apitest.Layer) (int, string) {
				r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s+"/v2/shop/checkout/blobs/"+digest.FromBytes(l.Compressed).String(), nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := http.DefaultTransport.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				defer resp.Body.Close()
				io.Copy(io.Discard, resp.Body)
				return resp.StatusCode, resp.Header.Get("Location")
			}
			for range 5 {
				if status, _ := get(small); status != 200 {
					t.Errorf("small: %d", status)
				}
			}
			for range 3 {
				if status, _ := get(large); status != 200 {
					t.Errorf("not yet: %d", status)
				}
			}
			if d := <-w.made; d != digest.FromBytes(large.Compressed) {
				t.Errorf("made %s", d)
			}
			stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			status, at := get(large)
			if fail == nil && (status != 307 || at != "http://s3.example/"+digest.FromBytes(large.Compressed).Encoded()) || fail != nil && status != 200 {
				t.Errorf("%d %s", status, at)
			}
		})
	}
}
