package s3store_test

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path"
	"strings"
	"testing"

	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreTopFunction("github.com/opencontainers/go-digest.init"))
}

// s3farm is an S3 server and a ledger: what the stores of a farm share.
type s3farm struct {
	ledger *storetest.Ledger
	client *minio.Client // of the test itself
	url    string
	bucket string
	prefix string            // of its objects
	wire   http.RoundTripper // to the server

	// through wraps the wire of the stores that are opened.
	through func(http.RoundTripper) http.RoundTripper
}

// service is an S3 service to run the tests against, instead of the embedded server: a URL as `--s3` takes it, of a bucket (and
// prefix) that may be written to. Every test has a prefix of its own there, and removes what it made.
var service = os.Getenv("BAKEFARM_TEST_S3")

// newS3Farm is an empty farm. The embedded server is asked over http, or within the process.
func newS3Farm(t testing.TB, inProcess bool) *s3farm {
	t.Helper()
	f := &s3farm{ledger: storetest.NewLedger()}
	switch {
	case service != "":
		u, err := url.Parse(service)
		if err != nil {
			t.Fatal("BAKEFARM_TEST_S3: no URL") // it holds a secret
		}
		u.Path = path.Join(u.Path, rand.Text())
		f.url, f.wire = u.String(), transport(t, u.Query().Get("ca"))
	default:
		server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret/+ %", NoSync: true})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { server.Close() })
		host := "127.0.0.1:1"
		if inProcess {
			f.wire = server.Transport()
		} else {
			h := httptest.NewServer(server.Handler())
			t.Cleanup(h.Close)
			host, f.wire = strings.TrimPrefix(h.URL, "http://"), transport(t, "")
		}
		f.url = "http://key:secret%2F+%20%25@" + host + "/images/farm/one"
	}
	var err error
	if f.client, f.bucket, f.prefix, err = s3store.Dial(f.url, f.wire); err != nil {
		t.Fatal(err)
	}
	if service != "" {
		t.Cleanup(func() {
			for o := range f.client.ListObjects(context.Background(), f.bucket, minio.ListObjectsOptions{Prefix: f.prefix + "/", Recursive: true}) {
				if err := errors.Join(o.Err, f.client.RemoveObject(context.Background(), f.bucket, o.Key, minio.RemoveObjectOptions{})); err != nil {
					t.Log(err)
				}
			}
			f.wire.(*http.Transport).CloseIdleConnections()
		})
	}
	return f
}

func transport(t testing.TB, authorities string) *http.Transport {
	t.Helper()
	tr, err := s3store.Transport(authorities)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tr.CloseIdleConnections)
	return tr
}

// open opens a store with an index of its own, as another process would.
func (f *s3farm) open(t testing.TB) *s3store.Store {
	t.Helper()
	index, err := catalog.Open("", f.ledger, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := f.openWith(t, index)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- index.Run(ctx, s.ReadIndex, nil) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		index.Close()
	})
	return s
}

// settled waits until a store knows where pieces are.
func (f *s3farm) settled(t testing.TB, s *s3store.Store, parts []imagestore.Part) error {
	t.Helper()
	var ask []digest.Digest
	for _, p := range parts {
		ask = append(ask, p.Digest)
	}
	_, err := s.Have(t.Context(), ask)
	return err
}

// openWith opens a store with an index that somebody else keeps.
func (f *s3farm) openWith(t testing.TB, index imagestore.Locator) *s3store.Store {
	t.Helper()
	wire := f.wire
	if f.through != nil {
		wire = f.through(wire)
	}
	client, b, p, err := s3store.Dial(f.url, wire)
	if err != nil {
		t.Fatal(err)
	}
	s, err := s3store.Open(t.Context(), s3store.Config{Client: client, Bucket: b, Prefix: p, Ledger: f.ledger, Locator: index, Writer: t.Name()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// index is one that has followed the ledger until now, by way of an undisturbed store.
func (f *s3farm) index(t testing.TB) imagestore.Locator {
	t.Helper()
	index, err := catalog.Open("", f.ledger, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { index.Close() })
	s := f.openWith(t, index)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- index.Run(ctx, s.ReadIndex, nil) }()
	err = index.CatchUp(t.Context())
	cancel()
	if err := errors.Join(err, <-done); err != nil {
		t.Fatal(err)
	}
	return index
}

func (f *s3farm) host() string { return f.client.EndpointURL().Host }

func (f *s3farm) objects(t testing.TB) []string {
	t.Helper()
	var names []string
	for o := range f.client.ListObjects(t.Context(), f.bucket, minio.ListObjectsOptions{Prefix: f.prefix + "/", Recursive: true}) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		names = append(names, o.Key)
	}
	return names
}

// find returns the object that a piece lies in, by its index.
func (f *s3farm) find(t testing.TB, d digest.Digest) (name string, e imagestore.Entry) {
	t.Helper()
	s := f.openWith(t, nothing{})
	for _, id := range f.ledger.Keys() {
		p := *f.ledger.Get(id)
		name := f.prefix + "/packs/" + id[10:12] + "/" + id
		entries, err := s.ReadIndex(t.Context(), p)
		if err != nil {
			continue
		}
		for _, e := range entries {
			if e.Digest == d {
				return name, e
			}
		}
	}
	t.Fatalf("no pack has %s", d)
	return "", e
}

func (f *s3farm) storage() storetest.Storage {
	return storetest.Storage{
		Open:    func(t *testing.T) imagestore.Store { return f.open(t) },
		Objects: func(t *testing.T) int { return len(f.objects(t)) },
		Damage: func(t *testing.T, d digest.Digest) {
			name, e := f.find(t, d)
			data := f.object(t, name)
			data[e.Offset+e.Length-1] ^= 1
			f.replace(t, name, data)
		},
		Lose: func(t *testing.T, d digest.Digest) {
			name, _ := f.find(t, d)
			if err := f.client.RemoveObject(t.Context(), f.bucket, name, minio.RemoveObjectOptions{}); err != nil {
				t.Fatal(err)
			}
		},
	}
}
