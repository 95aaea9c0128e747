package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"bakefarm/api"
)

func TestGate(t *testing.T) {
	g := &gate{waiting: "the farm is starting"}
	ask := func(path string) (int, string, http.Header) {
		w := httptest.NewRecorder()
		g.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		return w.Code, w.Body.String(), w.Header()
	}
	if status, body, _ := ask("/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("/healthz before it is open: %d %q", status, body)
	}
	g.wait("S3 at %s is not reached yet", "127.0.0.1:9000")
	for _, path := range []string{"/readyz", "/v1/bakes", "/v2/"} {
		status, body, header := ask(path)
		var p api.Problem
		if err := json.Unmarshal([]byte(body), &p); err != nil {
			t.Fatalf("%s: %v in %q", path, err, body)
		}
		if status != http.StatusServiceUnavailable || p.Status != status || p.Title != "Service Unavailable" || p.Detail != "not ready: S3 at 127.0.0.1:9000 is not reached yet" {
			t.Errorf("%s: %d %+v", path, status, p)
		}
		if header.Get("Retry-After") == "" || header.Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: header %v", path, header)
		}
	}
	g.open(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "farm: "+r.URL.Path) }))
	for _, path := range []string{"/healthz", "/readyz", "/v1/bakes"} {
		if status, body, _ := ask(path); status != http.StatusOK || body != "farm: "+path {
			t.Errorf("%s once it is open: %d %q", path, status, body)
		}
	}
}
