package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/apitest"
	"bakefarm/api/client"
	"bakefarm/api/registry"
	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// recipeText is a recipe that bakes the whole context.
const recipeText = `apiVersion: bakefarm/v1
name: shop/checkout
os: {scratch: true}
app:
  - {copy: ., to: /srv/}
config: {entrypoint: [/srv/app]}
outputs: [{oci: {platforms: [linux/amd64]}}]
`

// service is an API of a farm that a stand-in coordinates.
type service struct {
	*apitest.Farm
	t      testing.TB
	server *httptest.Server
	client *client.Client

	mu       sync.Mutex
	requests []bus.SubmitRequest // that the stand-in has accepted
}

func serve(t testing.TB, change ...func(*api.Config)) *service {
	t.Helper()
	f := apitest.New(t)
	config := api.Config{
		Bus: f.Bus, Store: f.Store, Catalog: f.Catalog, Log: f.Log,
		Registry: registry.New(registry.OnBus(f.Bus, f.Store, f.Catalog, f.Log)),
		Release:  api.Release{Version: "test", Go: "go1"},
	}
	for _, c := range change {
		c(&config)
	}
	a, err := api.New(config)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	s := &service{Farm: f, t: t}
	s.server = httptest.NewServer(a.Handler())
	t.Cleanup(s.server.Close)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	if s.client, err = client.New(s.server.URL, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.client.Close)
	return s
}

// coordinate answers submissions and cancellations as a coordinator does, but bakes nothing.
func (s *service) coordinate() {
	s.t.Helper()
	handle(s.t, s.Bus, bus.SubmitBake, func(ctx context.Context, r bus.SubmitRequest) (farm.Bake, error) {
		if had, _, err := s.Bus.Bakes.Get(ctx, r.ID); err == nil {
			return had, nil
		}
		b := farm.Bake{
			ID: r.ID, Name: "shop/checkout", File: r.File, Recipe: r.Recipe, Context: r.Context, Set: r.Set, Rebake: r.Rebake,
			LockOnly: r.LockOnly, State: farm.BakeAccepted, AcceptedAt: time.Now().UTC(),
		}
		if _, err := s.Bus.Bakes.Create(ctx, b.ID, b); err != nil {
			return s.getBake(ctx, b.ID)
		}
		s.mu.Lock()
		s.requests = append(s.requests, r)
		s.mu.Unlock()
		return b, s.Bus.PublishEvent(ctx, farm.Event{Type: farm.EventBake, Bake: b.ID, State: b.State})
	})
	handle(s.t, s.Bus, bus.CancelBake, func(ctx context.Context, r bus.CancelRequest) (farm.Bake, error) {
		b, revision, err := s.Bus.Bakes.Get(ctx, r.ID)
		if err != nil {
			return b, err
		}
		if b.State.CanMove(farm.BakeCancelled) {
			b.State, b.DoneAt, b.Error = farm.BakeCancelled, time.Now().UTC(), "cancelled"
			_, err = s.Bus.Bakes.Update(ctx, b.ID, b, revision)
		}
		return b, err
	})
}

func (s *service) getBake(ctx context.Context, id string) (farm.Bake, error) {
	b, _, err := s.Bus.Bakes.Get(ctx, id)
	return b, err
}

// handle serves a subject until the end of the test.
func handle[Req, Resp any](t testing.TB, b *bus.Bus, s bus.Subject, fn func(context.Context, Req) (Resp, error)) {
	t.Helper()
	stop, err := bus.Handle(b, s, fn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
}

// bake records a bake.
func (s *service) bake(b farm.Bake) farm.Bake {
	s.t.Helper()
	if b.AcceptedAt.IsZero() {
		b.AcceptedAt = time.Now().UTC()
	}
	if _, err := s.Bus.Bakes.Create(s.t.Context(), b.ID, b); err != nil {
		s.t.Fatal(err)
	}
	return b
}

// update changes a bake's record.
func (s *service) update(id string, change func(*farm.Bake)) {
	s.t.Helper()
	b, revision, err := s.Bus.Bakes.Get(s.t.Context(), id)
	if err == nil {
		change(&b)
		_, err = s.Bus.Bakes.Update(s.t.Context(), id, b, revision)
	}
	if err != nil {
		s.t.Fatal(err)
	}
}

// event publishes an event of a bake.
func (s *service) event(e farm.Event) {
	s.t.Helper()
	e.At = time.Now().UTC()
	if err := s.Bus.PublishEvent(s.t.Context(), e); err != nil {
		s.t.Fatal(err)
	}
}

// answer is what a request got.
type answer struct {
	status int
	header http.Header
	raw    []byte
	api.Problem
}

// send sends a request and reads the answer. header is key, value, key, value.
func (s *service) send(method, path string, body []byte, header ...string) answer {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), method, s.server.URL+path, bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	a := answer{status: resp.StatusCode, header: resp.Header}
	if a.raw, err = io.ReadAll(resp.Body); err != nil {
		s.t.Fatal(err)
	}
	if a.status >= 400 {
		if got := a.header.Get("Content-Type"); got != "application/problem+json" {
			s.t.Errorf("%s %.100s: %d is a %s: %s", method, path, a.status, got, a.raw)
		}
		if err := json.Unmarshal(a.raw, &a.Problem); err != nil || a.Problem.Status != a.status || a.Title == "" {
			s.t.Errorf("%s %.100s: %d: no problem (%v): %s", method, path, a.status, err, a.raw)
		}
	}
	return a
}

func (s *service) sendJSON(method, path string, body any, header ...string) answer {
	s.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.send(method, path, raw, append([]string{"Content-Type", "application/json"}, header...)...)
}

// has reports whether the store has a piece.
func (s *service) has(d digest.Digest) bool {
	s.t.Helper()
	have, err := s.Store.Have(s.t.Context(), []digest.Digest{d})
	if err != nil {
		s.t.Fatal(err)
	}
	return have[0]
}

func TestNothingThere(t *testing.T) {
	s := serve(t)
	for _, test := range []struct {
		method, path string
		status       int
	}{
		{"GET", "/v1/nothing", 404},
		{"GET", "/", 404},
		{"DELETE", "/v1/bakes", 405},
		{"PUT", "/v1/bakes/1", 405},
		{"GET", "/v1/bakes/01NONE", 404},
		{"GET", "/v1/bakes/01NONE/lock", 404},
		{"GET", "/v1/bakes/01NONE/explain", 404},
		{"GET", "/v1/bakes/01NONE/events", 404},
		{"GET", "/v1/bakes/" + strings.Repeat("x", 65), 422},
		{"GET", "/v1/bakes?limit=0", 422},
		{"GET", "/v1/bakes?limit=1001", 422},
		{"GET", "/v1/bakes?limit=many", 422},
		{"GET", "/v1/bakes?state=baked", 422},
		{"GET", "/v1/images?cursor=nonsense", 422},
		{"GET", "/v1/images/no%2Fsuch", 404},
		{"GET", "/v1/images/no%2Fsuch:dev", 404},
		{"GET", "/v1/images/no%2Fsuch@" + string(digest.FromString("x")), 404},
		{"GET", "/v1/images/no%2Fsuch@sha256:short", 422},
		{"GET", "/v1/images/No%2FSuch", 422},
		{"GET", "/v1/images/..%2F..%2Fetc", 422},
		{"GET", "/v1/images/a%00b", 422},
		{"GET", "/v1/channels/no%2Fsuch", 404},
		{"GET", "/v1/channels/no%2Fsuch/dev", 404},
		{"GET", "/v1/channels/no%2Fsuch/latest", 422},
		{"GET", "/v1/channels/no%2Fsuch/a%2Fb", 422},
		{"GET", "/v1/channels?name=NO", 422},
	} {
		if a := s.send(test.method, test.path, nil); a.status != test.status || a.Detail == "" {
			t.Errorf("%s %.100s: %d %s, want %d", test.method, test.path, a.status, a.raw, test.status)
		}
	}
	if a := s.send("DELETE", "/v1/bakes", nil); a.header.Get("Allow") != "GET, HEAD, POST" {
		t.Errorf("Allow: %q", a.header.Get("Allow"))
	}
}

// A page of another site, open in the browser on the farm's machine, may read nothing and change nothing.
func TestOtherOrigin(t *testing.T) {
	s := serve(t)
	s.coordinate()
	s.bake(farm.Bake{ID: "01B", State: farm.BakeBaking})
	if a := s.send("POST", "/v1/bakes/01B/cancel", nil, "Sec-Fetch-Site", "cross-site"); a.status != 403 {
		t.Errorf("cross-site: %d %s", a.status, a.raw)
	}
	if a := s.send("POST", "/v1/bakes/01B/cancel", nil, "Origin", "http://evil.example"); a.status != 403 {
		t.Errorf("other origin: %d %s", a.status, a.raw)
	}
	if b, _ := s.getBake(t.Context(), "01B"); b.State != farm.BakeBaking {
		t.Errorf("the bake is %s", b.State)
	}
}

func TestFarm(t *testing.T) {
	s := serve(t)
	release, err := s.client.Release(t.Context())
	if err != nil || release != (api.Release{Version: "test", Go: "go1", Farm: s.Bus.FarmID()}) {
		t.Errorf("%+v %v", release, err)
	}
	workers, err := s.client.Workers(t.Context())
	if err != nil || workers == nil || len(workers) != 0 {
		t.Errorf("%+v %v", workers, err)
	}
	want := farm.Worker{ID: "w1", Host: "here", Classes: []string{"any"}, Slots: 2, Running: []string{"convert libc6"}}
	if _, err := s.Bus.Workers.Put(t.Context(), want.ID, want); err != nil {
		t.Fatal(err)
	}
	if workers, err = s.client.Workers(t.Context()); err != nil || len(workers) != 1 || workers[0].ID != "w1" || workers[0].Running[0] != "convert libc6" {
		t.Errorf("%+v %v", workers, err)
	}
}

func TestReady(t *testing.T) {
	var store error
	s := serve(t, func(c *api.Config) { c.Ready = func() error { return store } })
	get := func() (int, api.Readiness) {
		resp, err := http.Get(s.server.URL + "/readyz")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var r api.Readiness
		if err := json.NewDecoder(resp.Body).Decode(&r); err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, r
	}
	status, r := get()
	if status != 503 || r.Ready || !strings.Contains(r.Parts["coordinator"], "no coordinator answers") {
		t.Errorf("without a coordinator: %d %+v", status, r)
	}
	for _, part := range []string{"bus", "catalog", "bakes", "store"} {
		if r.Parts[part] != "ok" {
			t.Errorf("%s: %s", part, r.Parts[part])
		}
	}
	s.coordinate()
	time.Sleep(2100 * time.Millisecond) // the answer before is remembered for two seconds
	if status, r = get(); status != 200 || !r.Ready {
		t.Errorf("with a coordinator: %d %+v", status, r)
	}
	store = errors.New("S3 is on fire")
	if status, r = get(); status != 503 || r.Parts["store"] != "S3 is on fire" {
		t.Errorf("without a store: %d %+v", status, r)
	}
	if resp, err := http.Get(s.server.URL + "/healthz"); err != nil || resp.StatusCode != 200 {
		t.Errorf("healthz: %v %v", resp, err)
	} else {
		resp.Body.Close()
	}
}

// The farm's own trouble is no mistake of the client's, and passes.
func TestBusAway(t *testing.T) {
	s := serve(t)
	if err := s.Bus.Close(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/v1/bakes", "/v1/bakes/01A", "/v1/bakes/01A/events", "/v1/channels", "/v1/workers"} {
		if a := s.send("GET", path, nil); a.status != 503 || a.header.Get("Retry-After") == "" {
			t.Errorf("%s: %d %v %s", path, a.status, a.header, a.raw)
		}
	}
	a := s.sendJSON("POST", "/v1/bakes", api.BakeRequest{Recipe: recipeText})
	if a.status != 503 {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestMetrics(t *testing.T) {
	s := serve(t)
	s.bake(farm.Bake{ID: "01A", State: farm.BakeDone})
	s.bake(farm.Bake{ID: "01B", State: farm.BakeBaking})
	s.update("01B", func(b *farm.Bake) { b.State = farm.BakeDone })
	if _, err := s.client.Bakes(t.Context(), "", "", "", 0); err != nil {
		t.Fatal(err)
	}
	a := s.send("GET", "/metrics", nil)
	for _, line := range []string{
		`bakefarm_bakes{state="done"} 2`, `bakefarm_bakes{state="baking"} 0`,
		`bakefarm_http_request_duration_seconds_count{route="GET /v1/bakes",status="200"} 1`, "go_goroutines ", "process_open_fds ",
	} {
		if !bytes.Contains(a.raw, []byte(line)) {
			t.Errorf("no %q in\n%s", line, a.raw)
		}
	}
}

func TestPanicIsAnswered(t *testing.T) {
	s := serve(t, func(c *api.Config) {
		c.Registry = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v2/late" {
				w.Write([]byte("begun"))
			}
			panic("on purpose")
		})
	})
	if a := s.send("GET", "/v2/", nil); a.status != 500 || strings.Contains(a.Detail, "on purpose") {
		t.Errorf("%d %s", a.status, a.raw)
	}
	if resp, err := http.Get(s.server.URL + "/v2/late"); err == nil {
		defer resp.Body.Close()
		if _, err := io.ReadAll(resp.Body); err == nil {
			t.Error("an answer that broke off looks whole")
		}
	}
}

// The document is OpenAPI 3.1, every operation has a name and says how it fails, and every reference leads somewhere.
func TestOpenAPI(t *testing.T) {
	s := serve(t)
	var doc struct {
		OpenAPI    string
		Info       struct{ Title, Version string }
		Components struct{ Schemas map[string]any }
		Paths      map[string]map[string]struct {
			OperationID string
			Summary     string
			Tags        []string
			RequestBody map[string]any
			Responses   map[string]struct{ Content map[string]any }
		}
	}
	a := s.send("GET", "/v1/openapi.json", nil)
	if err := json.Unmarshal(a.raw, &doc); err != nil {
		t.Fatal(err)
	}
	if doc.OpenAPI != "3.1.0" || doc.Info.Title != "bakefarm" || doc.Info.Version != "test" {
		t.Errorf("%s %+v", doc.OpenAPI, doc.Info)
	}
	ids := map[string]string{}
	for path, operations := range doc.Paths {
		for method, o := range operations {
			where := strings.ToUpper(method) + " " + path
			if other := ids[o.OperationID]; o.OperationID == "" || other != "" {
				t.Errorf("%s: operation ID %q, also of %q", where, o.OperationID, other)
			}
			ids[o.OperationID] = where
			if o.Summary == "" || len(o.Tags) != 1 {
				t.Errorf("%s: summary %q, tags %v", where, o.Summary, o.Tags)
			}
			good, bad := 0, 0
			for status, r := range o.Responses {
				if status[0] == '2' {
					good++
					continue
				}
				bad++
				if r.Content["application/problem+json"] == nil {
					t.Errorf("%s: %s is no problem: %v", where, status, r.Content)
				}
			}
			if good == 0 || bad == 0 {
				t.Errorf("%s: %d good and %d bad responses", where, good, bad)
			}
			if method == "post" && o.RequestBody == nil && !strings.HasSuffix(path, "/cancel") && !strings.HasSuffix(path, "/retry") {
				t.Errorf("%s has no body", where)
			}
		}
	}
	if len(ids) < 18 {
		t.Errorf("%d operations: %v", len(ids), ids)
	}
	var tree any
	if err := json.Unmarshal(a.raw, &tree); err != nil {
		t.Fatal(err)
	}
	var walk func(v any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if ref, ok := v["$ref"].(string); ok && doc.Components.Schemas[strings.TrimPrefix(ref, "#/components/schemas/")] == nil {
				t.Errorf("%s leads nowhere", ref)
			}
			for _, e := range v {
				walk(e)
			}
		case []any:
			for _, e := range v {
				walk(e)
			}
		}
	}
	walk(tree)
}
