package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"bakefarm/api/possession"
	"bakefarm/api/usage"
	"bakefarm/bus"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/collect"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"
)

// Config says what the API works with. Bus, Store and Catalog must be set.
type Config struct {
	Bus       *bus.Bus
	Store     imagestore.Store
	Catalog   *catalog.Catalog
	Registry  http.Handler         // of /v2/; nil: there is none
	Uses      *usage.Recorder      // is told how versions are used; nil: nobody is
	Ready     func() error         // whether the S3 service answers, for /readyz; nil: not asked
	Metrics   *prometheus.Registry // what /metrics shows beside the API's own; nil: nothing
	Collector *collect.Collector   // tells how many bytes a retention plan frees; nil: it doesn't
	Release   Release              // what /v1/version shows; Farm is filled in
	Log       *slog.Logger         // default slog.Default()
}

// API serves the farm over HTTP. Run must run beside its Handler: lists of bakes depend on it.
type API struct {
	Config
	bakes   *index
	book    *possession.Book    // of what repositories have shown to have
	intake  *semaphore.Weighted // bytes of request bodies that are held in memory
	probe   coordinatorProbe
	huma    huma.API
	spec    []byte // the OpenAPI document
	metrics *metrics
	handler http.Handler
}

// intakeBytes is what requests with large bodies may hold in memory at a time.
const intakeBytes = 512 << 20

// New makes an API.
func New(c Config) (*API, error) {
	if c.Bus == nil || c.Store == nil || c.Catalog == nil {
		return nil, errors.New("api: bus, store and catalog must be given")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	c.Release.Farm = c.Bus.FarmID()
	a := &API{
		Config: c,
		bakes:  newIndex(c.Bus.Bakes, c.Log),
		book:   possession.New(c.Bus.Possessions, c.Store),
		intake: semaphore.NewWeighted(intakeBytes),
		probe:  coordinatorProbe{bus: c.Bus},
	}
	a.metrics = newMetrics(a)
	mux := http.NewServeMux()
	if err := a.routes(mux); err != nil {
		return nil, fmt.Errorf("api: %w", err)
	}
	protection := http.NewCrossOriginProtection() // another site's page may not act on a farm at the browser's own machine
	protection.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, Problem{Status: http.StatusForbidden, Detail: "a page of another origin may not change the farm"})
	}))
	a.handler = a.observe(mux, protection.Handler(unrouted(mux)))
	return a, nil
}

// Handler is the whole interface. It may be served by several servers. Event streams last until their bake or their request's
// context ends: a server that is to stop cancels its BaseContext.
func (a *API) Handler() http.Handler { return a.handler }

// Run follows the bakes until ctx ends, and returns nil then.
func (a *API) Run(ctx context.Context) error {
	var sweep sync.WaitGroup
	sweep.Go(func() { a.sweepDeployments(ctx) })
	a.bakes.run(ctx)
	sweep.Wait()
	return nil
}

// routes registers every operation.
func (a *API) routes(mux *http.ServeMux) error {
	config := huma.Config{
		OpenAPI: &huma.OpenAPI{
			OpenAPI: "3.1.0",
			Info: &huma.Info{
				Title: "bakefarm", Version: a.Release.Version,
				Description: "Bakes OS images and keeps them. Errors are problems as in RFC 9457. Names with slashes travel as one segment of the path, %2F-escaped.",
			},
			Tags: []*huma.Tag{
				{Name: "bakes", Description: "Requests and what became of them"},
				{Name: "images", Description: "What the farm has baked"},
				{Name: "channels", Description: "Named pointers to versions"},
				{Name: "deployments", Description: "What runs where, as users report it"},
				{Name: "farm", Description: "The farm itself"},
			},
		},
		Formats:       huma.DefaultFormats,
		DefaultFormat: "application/json",
	}
	a.huma = humago.New(mux, config)
	a.routeBakes()
	a.routeSubmit()
	a.routeChunks()
	a.routeEvents()
	a.routeImages()
	a.routeDisks()
	a.routeTransfer()
	a.routeChannels()
	a.routeDeployments()
	a.routeContents()
	a.routeRetention()
	a.routeKeep()
	a.routeAttachments()
	a.routeSweeps()
	a.routeFarm()

	var err error
	if a.spec, err = json.Marshal(a.huma.OpenAPI()); err != nil {
		return fmt.Errorf("OpenAPI document: %w", err)
	}
	mux.HandleFunc("GET /v1/openapi.json", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/vnd.oai.openapi+json;version=3.1")
		w.Write(a.spec)
	})
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", a.ready)
	mux.Handle("GET /metrics", a.metrics.handler())
	if a.Registry != nil {
		mux.Handle("/v2/", a.Registry)
	}
	return nil
}

// body is an answer that is nothing but its body.
type body[T any] struct{ Body T }

// rpcTime bounds the reading of a small request's body. It must be longer than the request takes to answer: once the body
// is read, net/http takes a read deadline that passes for a client that has gone, and ends the request's context.
const rpcTime = bus.CallTimeout + 15*time.Second

// route registers an operation. Errors of its handler become problems here and nowhere else.
func route[I, O any](a *API, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	if op.BodyReadTimeout == 0 {
		op.BodyReadTimeout = rpcTime
	}
	op.Errors = append(op.Errors, http.StatusServiceUnavailable)
	// huma reads and closes the body of an operation that has a description of one: those that stream get it afterwards.
	body := op.RequestBody
	op.RequestBody = nil
	defer func() {
		if body != nil {
			a.huma.OpenAPI().Paths[op.Path].Post.RequestBody = body
		}
	}()
	huma.Register(a.huma, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, a.problem(ctx, op.OperationID, err)
		}
		return out, nil
	})
}

// get describes an operation that reads.
func get(id, path, tag, summary string, errors ...int) huma.Operation {
	return huma.Operation{OperationID: id, Method: http.MethodGet, Path: path, Tags: []string{tag}, Summary: summary, Errors: errors}
}

// put describes an operation that replaces something.
func put(id, path, tag, summary string, errors ...int) huma.Operation {
	return huma.Operation{OperationID: id, Method: http.MethodPut, Path: path, Tags: []string{tag}, Summary: summary, Errors: errors}
}

// post describes an operation that changes something.
func post(id, path, tag, summary string, errors ...int) huma.Operation {
	return huma.Operation{OperationID: id, Method: http.MethodPost, Path: path, Tags: []string{tag}, Summary: summary, Errors: errors}
}
