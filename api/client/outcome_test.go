package client_test

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"

	"bakefarm/api/client"
	"bakefarm/farm"
)

// The events of a bake have ended, and the record that the API reads first is an older one.
func TestOutcome(t *testing.T) {
	t.Parallel()
	asked := 0
	farmAPI := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		state := farm.BakeCommitting
		if asked == 3 {
			state = farm.BakeDone
		}
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintf(w, `{"id":"01J","state":%q}`, state)
	}))
	t.Cleanup(farmAPI.Close)
	c, err := client.New(farmAPI.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := c.Outcome(t.Context(), "01J"); err != nil || b.State != farm.BakeDone {
		t.Errorf("after %d answers: %+v, %v", asked, b, err)
	}
}
