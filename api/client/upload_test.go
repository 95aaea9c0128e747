package client_test

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"bakefarm/api"
	"bakefarm/api/client"
)

// A farm that is busy, or whose store is away for a moment, is asked again, as the same request.
func TestPostComesAgain(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	var keys []string
	farm := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		keys = append(keys, r.Header.Get("Idempotency-Key"))
		if len(keys) < 3 {
			w.Header().Set("Content-Type", "application/problem+json")
			w.WriteHeader(http.StatusServiceUnavailable)
			json.NewEncoder(w).Encode(api.Problem{Status: http.StatusServiceUnavailable, Detail: "20000 bakes are under way"})
			return
		}
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"bake":"B"}`))
	}))
	defer farm.Close()
	c, err := client.New(farm.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	b, err := c.Post(t.Context(), api.BakeRequest{Recipe: "x"}, nil, nil)
	if err != nil || b.ID != "B" || len(keys) != 3 || keys[0] == "" || keys[0] != keys[2] {
		t.Errorf("%+v, %v, keys %q", b, err, keys)
	}
}
