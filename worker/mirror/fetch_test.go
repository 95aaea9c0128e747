package mirror_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"bakefarm/worker/mirror"
	"bakefarm/worker/mirror/mirrortest"

	"github.com/opencontainers/go-digest"
)

const helloPath = "/pool/main/hello/hello_1.0-1_amd64.deb"

// otherPath is where the mirror has the same file a second time.
const otherPath = "/copies/hello.deb"

func TestFetch(t *testing.T) {
	for name, test := range map[string]struct {
		spoil func(*mirrortest.Mirror)
		urls  []string // after the mirror's URL; default helloPath
		want  string   // part of the error; "" for success
	}{
		"plain":                {},
		"503 three times":      {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Unavailable(3)) }},
		"503 four times":       {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Unavailable(4)) }, want: "503 Service Unavailable"},
		"cut and resumed":      {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Cut(1000, 3)) }},
		"stalled once":         {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Slow(time.Minute, 1)) }},
		"missing":              {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Missing()) }, want: "hello_1.0-1_amd64.deb: 404 Not Found"},
		"truncated":            {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Truncated(7)) }, want: "it has 199993 bytes but the signed index says 200000"},
		"swapped":              {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Flipped()) }, want: "but the signed index says "},
		"second address":       {urls: []string{"/pool/nothing.deb", helloPath}},
		"right after swapped":  {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Flipped()) }, urls: []string{helloPath, otherPath}},
		"error says the worst": {spoil: func(m *mirrortest.Mirror) { m.Serve("pool/", mirrortest.Flipped()) }, urls: []string{"/none", helloPath}, want: "sha256 is"},
	} {
		t.Run(name, func(t *testing.T) {
			m := mirrortest.New(t, hello)
			m.File(strings.TrimPrefix(otherPath, "/"), hello.Deb)
			if test.spoil != nil {
				test.spoil(m)
			}
			urls := []string{m.URL + helloPath}
			if test.urls != nil {
				urls = nil
				for _, u := range test.urls {
					urls = append(urls, m.URL+u)
				}
			}
			c := newClient(t, mirror.Options{Stall: 100 * time.Millisecond})
			r, err := c.Fetch(t.Context(), urls, int64(len(hello.Deb)), digest.FromBytes(hello.Deb))
			var raw []byte
			if err == nil {
				raw, err = io.ReadAll(r)
				if closeErr := r.Close(); closeErr != nil {
					t.Error(closeErr)
				}
			}
			if test.want != "" {
				wantError(t, err, test.want)
				return
			}
			if err != nil || !bytes.Equal(raw, hello.Deb) {
				t.Errorf("%d bytes, %v", len(raw), err)
			}
		})
	}
}

// TestFetchResumes asks only for what is missing.
func TestFetchResumes(t *testing.T) {
	var ranges []string
	data := bytes.Repeat([]byte("0123456789"), 1000)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ranges = append(ranges, r.Header.Get("Range"))
		if len(ranges) == 1 {
			w.Header().Set("Content-Length", "10000")
			_, _ = w.Write(data[:4000])
			panic(http.ErrAbortHandler)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	defer server.Close()
	r, err := newClient(t, mirror.Options{}).Fetch(t.Context(), []string{server.URL}, 10000, digest.FromBytes(data))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if raw, err := io.ReadAll(r); err != nil || !bytes.Equal(raw, data) {
		t.Fatalf("%d bytes, %v", len(raw), err)
	}
	if len(ranges) != 2 || ranges[1] != "bytes=4000-" {
		t.Errorf("ranges %q", ranges)
	}
}

// TestFetchBounded: a body without length that is longer than it should be is cut off, not read on and on.
func TestFetchBounded(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 1<<16)); err != nil {
				return
			}
		}
	}))
	defer server.Close()
	r, err := newClient(t, mirror.Options{}).Fetch(t.Context(), []string{server.URL}, 1000, digest.FromString("x"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n, err := io.Copy(io.Discard, r)
	var mismatch *mirror.MismatchError
	if n > 1000 || !errors.As(err, &mismatch) {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// TestRedirects: a mirror cannot lead the client into the file system.
func TestRedirects(t *testing.T) {
	server := httptest.NewServer(http.RedirectHandler("file:///etc/hostname", http.StatusFound))
	defer server.Close()
	_, err := newClient(t, mirror.Options{}).Fetch(t.Context(), []string{server.URL}, 1, digest.FromString("x"))
	wantError(t, err, "refused to follow a redirect from http to file")
}
