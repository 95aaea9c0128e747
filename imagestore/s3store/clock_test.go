package s3store_test

import (
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/imagestore"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"

	"github.com/minio/minio-go/v7"
)

// refusals counts the answers that say that a request's time was wrong.
type refusals struct {
	next http.RoundTripper
	mu   sync.Mutex
	all  []string
}

func (c *refusals) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.next.RoundTrip(r)
	if err == nil && answer.StatusCode == http.StatusForbidden {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.all = append(c.all, r.Method+" "+r.URL.Path)
	}
	return answer, err
}

func (c *refusals) take() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	taken := c.all
	c.all = nil
	return taken
}

// A machine whose clock is wrong, by whatever, works with an S3 service that minds: the first request is refused, and no other
// one, until a clock changes again.
func TestWrongClock(t *testing.T) {
	for _, off := range []time.Duration{time.Hour, -time.Hour, 20 * time.Minute, -60 * time.Hour} {
		t.Run(off.String(), func(t *testing.T) {
			t.Parallel()
			var ahead atomic.Int64
			ahead.Store(int64(off))
			now := func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
			server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret/+ %", NoSync: true, Now: now})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { server.Close() })
			refused := &refusals{next: server.Transport()}
			f := &s3farm{ledger: storetest.NewLedger(), wire: refused, url: "http://key:secret%2F+%20%25@127.0.0.1:1/images/farm/one"}
			if f.client, f.bucket, f.prefix, err = s3store.Dial(f.url, f.wire); err != nil {
				t.Fatal(err)
			}
			s := f.open(t)
			use := func(seed uint64, most int) {
				t.Helper()
				if err := s.Claim(t.Context(), "farm", false); err != nil {
					t.Fatal(err)
				}
				content := storetest.Bytes(seed, 300_000)
				w := s.Begin()
				part, err := w.Put(t.Context(), content)
				if err == nil {
					err = w.Commit(t.Context())
				}
				if err != nil {
					t.Fatal(err)
				}
				for o := range f.client.ListObjects(t.Context(), f.bucket, minio.ListObjectsOptions{Prefix: f.prefix + "/a b+c?d", Recursive: true}) {
					t.Fatal(o.Key, o.Err)
				}
				if got, err := imagestore.ReadAll(t.Context(), s, part.Digest, 1<<20); err != nil || !slices.Equal(got, content) {
					t.Fatalf("%d bytes, %v", len(got), err)
				}
				if r := refused.take(); len(r) > most {
					t.Errorf("refused: %s", strings.Join(r, ", "))
				}
			}
			use(1, 2) // the store's first request, and that of the test's own client
			use(2, 0)
			ahead.Store(int64(-off / 2))
			use(3, 2)
			ahead.Store(0) // as when this machine is told the time
			use(4, 2)
			use(5, 0)
		})
	}
}

// A service that refuses for another reason is not asked twice.
func TestForbidden(t *testing.T) {
	f := newS3Farm(t, true)
	refused := &refusals{next: f.wire}
	client, bucket, _, err := s3store.Dial(strings.Replace(f.url, "secret", "wrong", 1), refused)
	if err != nil {
		t.Fatal(err)
	}
	_, err = client.StatObject(t.Context(), bucket, "any", minio.StatObjectOptions{})
	var response minio.ErrorResponse
	if !errors.As(err, &response) || response.StatusCode != http.StatusForbidden || len(refused.take()) != 1 {
		t.Errorf("%v", err)
	}
}
