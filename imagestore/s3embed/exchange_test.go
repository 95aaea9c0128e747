package s3embed

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
)

// exchangeWith makes one request to a handler as the in-process transport does.
func exchangeWith(t *testing.T, method string, h http.HandlerFunc) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, "http://s3.in-process/b/k", strings.NewReader("request"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return roundTrip(ctx, h, req)
}

func TestExchange(t *testing.T) {
	for _, test := range []struct {
		name    string
		handler http.HandlerFunc
		body    string
		err     error
	}{
		{"nothing", func(w http.ResponseWriter, r *http.Request) {}, "", nil},
		{"length", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "4")
			io.WriteString(w, "ab")
			io.WriteString(w, "cd")
		}, "abcd", nil},
		{"echo", func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }, "request", nil},
		{"too short", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "5")
			io.WriteString(w, "abcd")
		}, "abcd", io.ErrUnexpectedEOF},
		{"too long", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "3")
			io.WriteString(w, "abcd")
			io.WriteString(w, "ef")
		}, "abc", nil},
		{"zero length and yet a body", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "0")
			io.WriteString(w, "abcd")
		}, "", nil},
		{"no content", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(204); io.WriteString(w, "x") }, "", nil},
		{"panic in the body", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "abcd"); panic("oops") }, "abcd", errAny},
	} {
		resp, err := exchangeWith(t, "GET", test.handler)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		body, err := io.ReadAll(resp.Body)
		if string(body) != test.body || err != test.err && !(test.err == errAny && err != nil) {
			t.Errorf("%s: %q, %v", test.name, body, err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Errorf("%s: close: %v", test.name, err)
		}
	}
	if _, err := exchangeWith(t, "GET", func(http.ResponseWriter, *http.Request) { panic("oops") }); err == nil {
		t.Error("panic before the header is no error")
	}
	resp, err := exchangeWith(t, "HEAD", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", "4")
		io.WriteString(w, "abcd")
	})
	if err != nil || resp.ContentLength != 4 {
		t.Errorf("head: %+v, %v", resp, err)
	} else if b, err := io.ReadAll(resp.Body); len(b) != 0 || err != nil {
		t.Errorf("head: body %q, %v", b, err)
	}
	resp, err = exchangeWith(t, "GET", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		io.WriteString(w, "abcd")
		w.Header().Set("X-Sum", "1")
		w.Header().Set(http.TrailerPrefix+"X-More", "2")
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(resp.Body); err != nil || resp.Trailer.Get("X-Sum") != "1" || resp.Trailer.Get("X-More") != "2" {
		t.Errorf("trailer %v, %v", resp.Trailer, err)
	}
}

var errAny = io.ErrNoProgress // any error will do
