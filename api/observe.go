package api

import (
	"cmp"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strconv"
	"time"
)

// recorder remembers what was answered.
type recorder struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 && status >= 200 {
		r.status = status
	}
	r.ResponseWriter.WriteHeader(status)
}

func (r *recorder) Write(p []byte) (int, error) {
	r.status = cmp.Or(r.status, http.StatusOK)
	n, err := r.ResponseWriter.Write(p)
	r.bytes += int64(n)
	return n, err
}

// observe logs and measures requests, and makes a panic an answer.
func (a *API) observe(mux *http.ServeMux, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		rec := &recorder{ResponseWriter: w}
		start := time.Now()
		defer func() {
			if p := recover(); p != nil {
				a.measure(r, rec, start)
				// Meant: the client must see that the answer is broken off. Or the client has gone, which huma panics about.
				if p == http.ErrAbortHandler || r.Context().Err() != nil {
					panic(http.ErrAbortHandler)
				}
				a.Log.Error("handler panicked", "method", r.Method, "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
				if rec.status != 0 {
					panic(http.ErrAbortHandler)
				}
				writeProblem(rec, Problem{Status: http.StatusInternalServerError, Detail: "the farm has made a mistake: its log says more"})
				return
			}
			a.measure(r, rec, start)
		}()
		next.ServeHTTP(rec, r)
	})
}

// measure records a request that has been answered.
func (a *API) measure(r *http.Request, rec *recorder, start time.Time) {
	took := time.Since(start)
	status := cmp.Or(rec.status, http.StatusOK)
	route := cmp.Or(r.Pattern, "none") // of the mux: names of the request itself would be without bound
	a.metrics.requests.WithLabelValues(route, strconv.Itoa(status)).Observe(took.Seconds())
	a.Log.LogAttrs(r.Context(), slog.LevelDebug, "request", slog.String("method", r.Method), slog.String("path", r.URL.EscapedPath()),
		slog.Int("status", status), slog.Int64("bytes", rec.bytes), slog.Duration("took", took), slog.String("from", r.RemoteAddr))
}

// unrouted answers requests that mux has no handler for with a problem instead of plain text.
func unrouted(mux *http.ServeMux) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handler, pattern := mux.Handler(r)
		if pattern != "" {
			mux.ServeHTTP(w, r)
			return
		}
		answer := &headOnly{header: w.Header()}
		handler.ServeHTTP(answer, r)
		detail := r.Method + " " + r.URL.EscapedPath() + ": there is nothing; /v1/openapi.json lists what is"
		if answer.status == http.StatusMethodNotAllowed {
			detail = r.URL.EscapedPath() + " takes " + w.Header().Get("Allow") + ", not " + r.Method
		}
		w.Header().Del("X-Content-Type-Options")
		writeProblem(w, Problem{Status: answer.status, Detail: detail})
	})
}

// headOnly keeps an answer's status and headers and forgets its body.
type headOnly struct {
	header http.Header
	status int
}

func (h *headOnly) Header() http.Header         { return h.header }
func (h *headOnly) WriteHeader(status int)      { h.status = status }
func (h *headOnly) Write(p []byte) (int, error) { return len(p), nil }
