package s3store_test

import (
	"io"
	"net/http"
	"sync"
	"testing"

	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"
)

// asked notes the headers of uploads about encryption, and says that they are done: the embedded server has no keys.
type asked struct {
	http.RoundTripper
	mu      sync.Mutex
	headers []string
}

func (a *asked) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == http.MethodPut && r.Header.Get("X-Amz-Checksum-Crc32c") != "" {
		a.mu.Lock()
		a.headers = append(a.headers, r.Header.Get("X-Amz-Server-Side-Encryption")+" "+r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id"))
		a.mu.Unlock()
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Etag": {`"0"`}}, Body: http.NoBody, Request: r}, nil
	}
	return a.RoundTripper.RoundTrip(r)
}

func TestEncryption(t *testing.T) {
	for query, want := range map[string]string{"": " ", "?sse=s3": "AES256 ", "?sse=kms:my-key": "aws:kms my-key"} {
		t.Run(query, func(t *testing.T) {
			f := newS3Farm(t, true)
			wire := &asked{RoundTripper: f.wire}
			client, bucket, prefix, err := s3store.Dial(f.url, wire)
			if err != nil {
				t.Fatal(err)
			}
			sse, err := s3store.Encryption(f.url + query)
			if err != nil {
				t.Fatal(err)
			}
			index, err := catalog.Open("", f.ledger, nil, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer index.Close()
			s, err := s3store.Open(t.Context(), s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: f.ledger, Locator: index, Encryption: sse})
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			storetest.Put(t, s, []byte("secret"))
			if len(wire.headers) != 1 || wire.headers[0] != want {
				t.Errorf("%q, want %q", wire.headers, want)
			}
		})
	}
	for _, bad := range []string{"http://k:s@h/b?sse=c", "http://k:s@h/b?sse=s3:key"} {
		if _, err := s3store.Encryption(bad); err == nil {
			t.Errorf("%s was taken", bad)
		}
	}
}
