package s3store_test

import (
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"

	"github.com/minio/minio-go/v7"
)

// answer is what a service says instead.
func answer(r *http.Request, status int, code string) (*http.Response, error) {
	if r.Body != nil {
		_, _ = io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/xml"}},
		Body:   io.NopCloser(strings.NewReader("<Error><Code>" + code + "</Code><Message>said by the test</Message></Error>")),
	}, nil
}

// What a service does not do is said before any bake finds it out, with what may help; what passes is waited for.
func TestProbe(t *testing.T) {
	t.Parallel()
	probing := func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/probes/") }
	slow := 0
	for name, c := range map[string]struct {
		service func(r *http.Request, next http.RoundTripper) (*http.Response, error)
		want    []string // in the error; empty: none
	}{
		"all it needs": {},
		"no checksums": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Header.Get("X-Amz-Checksum-Crc32c") != "" {
				return answer(r, http.StatusNotImplemented, "NotImplemented")
			}
			return next.RoundTrip(r)
		}, []string{"does not store an object", "?checksum=md5"}},
		"read only": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodPut && probing(r) {
				return answer(r, http.StatusForbidden, "AccessDenied")
			}
			return next.RoundTrip(r)
		}, []string{"does not store an object", "s3:PutObject"}},
		"write only": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodGet && probing(r) {
				return answer(r, http.StatusForbidden, "AccessDenied")
			}
			return next.RoundTrip(r)
		}, []string{"does not send a part", "s3:GetObject"}},
		"no ranges": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodGet && probing(r) {
				const whole = "bakefarm asks what this service can do"
				return &http.Response{
					StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, ContentLength: int64(len(whole)),
					Header: http.Header{"Content-Length": {fmt.Sprint(len(whole))}, "Last-Modified": {time.Now().UTC().Format(http.TimeFormat)}, "Etag": {`"1"`}},
					Body:   io.NopCloser(strings.NewReader(whole)),
				}, nil
			}
			return next.RoundTrip(r)
		}, []string{"does not send a part", "not what was asked for", "Range"}},
		"no listing": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.URL.Query().Has("list-type") {
				return answer(r, http.StatusForbidden, "AccessDenied")
			}
			return next.RoundTrip(r)
		}, []string{"does not list objects", "s3:ListBucket"}},
		"locked": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if r.Method == http.MethodDelete {
				return answer(r, http.StatusForbidden, "AccessDenied")
			}
			return next.RoundTrip(r)
		}, []string{"does not delete an object", "s3:DeleteObject"}},
		"busy": {func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
			if slow++; probing(r) && slow < 4 {
				return answer(r, http.StatusServiceUnavailable, "SlowDown")
			}
			return next.RoundTrip(r)
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			f := newS3Farm(t, true)
			s := f.open(t)
			if c.service != nil {
				f.through = func(next http.RoundTripper) http.RoundTripper {
					return roundTrip(func(r *http.Request) (*http.Response, error) { return c.service(r, next) })
				}
				s = f.open(t)
			}
			err := s.Probe(t.Context())
			for _, want := range c.want {
				if !errors.Is(err, s3store.ErrRefused) || !strings.Contains(err.Error(), want) {
					t.Errorf("want %q in %v", want, err)
				}
			}
			if len(c.want) == 0 && err != nil {
				t.Error(err)
			}
			if name == "locked" { // by this test's service, which does not keep it for ever
				return
			}
			for o := range f.client.ListObjects(t.Context(), f.bucket, minio.ListObjectsOptions{Prefix: f.prefix + "/", Recursive: true}) {
				t.Errorf("%s was left behind (%v)", o.Key, o.Err)
			}
		})
	}
}

// Who has the certificate of the authority reaches a service by https; every other way to name it is refused, not waited for.
func TestTLS(t *testing.T) {
	if service != "" {
		t.Skip("it has a server of its own")
	}
	t.Parallel()
	server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret", NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	secure, plain := httptest.NewTLSServer(server.Handler()), httptest.NewServer(server.Handler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(secure.Close)
	t.Cleanup(plain.Close)
	authority := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ url, ca, want string }{
		"as it should be":     {secure.URL, authority, ""},
		"without authority":   {secure.URL, "", "?ca=FILE"},
		"by http":             {"http" + strings.TrimPrefix(secure.URL, "https"), "", "https"},
		"https to plain http": {"https" + strings.TrimPrefix(plain.URL, "http"), "", "want http://"},
		"by another name":     {strings.Replace(secure.URL, "127.0.0.1", "localhost", 1), authority, "as its certificate does"},
	} {
		t.Run(name, func(t *testing.T) {
			u, err := url.Parse(c.url)
			if err != nil {
				t.Fatal(err)
			}
			u.User, u.Path = url.UserPassword("key", "secret"), "/images/farm"
			f := newS3Farm(t, true)
			client, bucket, prefix, err := s3store.Dial(u.String(), transport(t, c.ca))
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			s, err := s3store.Open(ctx, s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: f.ledger, Locator: nothing{}})
			if err == nil {
				err = s.Probe(ctx)
				s.Close()
			}
			if c.want == "" && err != nil {
				t.Error(err)
			}
			if c.want != "" && (!errors.Is(err, s3store.ErrRefused) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("want %q: %v", c.want, err)
			}
		})
	}
}
