package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// Readiness is the body of /readyz. A part's text is "ok", or what is wrong with it.
type Readiness struct {
	Ready bool              `json:"ready"`
	Parts map[string]string `json:"parts"`
}

// ready says which part of the farm is not ready, and why.
func (a *API) ready(w http.ResponseWriter, r *http.Request) {
	ctx, cancel := context.WithTimeout(r.Context(), 5*time.Second)
	defer cancel()
	checks := map[string]func() error{
		"bus":         a.Bus.Ready,
		"catalog":     a.Catalog.Ready,
		"bakes":       func() error { return a.bakes.catchUp(ctx) },
		"coordinator": func() error { return a.probe.ask(ctx) },
	}
	if a.Ready != nil {
		checks["store"] = a.Ready
	}
	answer := Readiness{Ready: true, Parts: map[string]string{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	for part, check := range checks {
		all.Go(func() {
			err := check()
			mu.Lock()
			defer mu.Unlock()
			answer.Parts[part] = "ok"
			if err != nil {
				answer.Ready, answer.Parts[part] = false, err.Error()
			}
		})
	}
	all.Wait()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !answer.Ready {
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	json.NewEncoder(w).Encode(answer) // a client that does not read it can't be helped
}

// coordinatorProbe finds out whether a coordinator answers, at most once in probeEvery however often it is asked.
type coordinatorProbe struct {
	bus *bus.Bus

	mu  sync.Mutex
	at  time.Time
	err error
}

const probeEvery = 2 * time.Second

// noBake is an ID that no bake has.
const noBake = "0-readiness-probe"

func (p *coordinatorProbe) ask(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.at) < probeEvery {
		return p.err
	}
	_, err := bus.Call[bus.CancelRequest, farm.Bake](ctx, p.bus, bus.CancelBake, bus.CancelRequest{ID: noBake})
	var answer *bus.RemoteError
	if errors.As(err, &answer) && errors.Is(err, bus.ErrNotFound) {
		err = nil // that is an answer
	}
	if err != nil {
		err = fmt.Errorf("asked whether it is there: %w", err)
	}
	p.at, p.err = time.Now(), err
	return err
}
