package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
)

// gate answers HTTP from the moment the address is bound: while the farm's parts are still connecting, /healthz says
// that the process lives and everything else says what is being waited for. Opened, it hands every request on.
type gate struct {
	mu      sync.RWMutex
	waiting string
	next    http.Handler
}

// wait says what is being waited for.
func (g *gate) wait(format string, args ...any) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.waiting = fmt.Sprintf(format, args...)
}

// open hands requests to next from now on.
func (g *gate) open(next http.Handler) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.next = next
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.RLock()
	next, waiting := g.next, g.waiting
	g.mu.RUnlock()
	switch {
	case next != nil:
		next.ServeHTTP(w, r)
	case r.URL.Path == "/healthz":
		fmt.Fprintln(w, "ok")
	default:
		w.Header().Set("Content-Type", "application/problem+json")
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
		json.NewEncoder(w).Encode(map[string]any{ // the client that does not read it can't be helped
			"title": http.StatusText(http.StatusServiceUnavailable), "status": http.StatusServiceUnavailable, "detail": "not ready: " + waiting,
		})
	}
}
