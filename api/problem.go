package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"bakefarm/bus"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/recipe"
)

// problem is an error on its way out. It is a huma.StatusError, huma.HeadersError and huma.ContentTypeFilter.
type problem struct {
	Problem
	header http.Header
}

func (p *problem) Error() string             { return p.Detail }
func (p *problem) GetStatus() int            { return p.Status }
func (p *problem) GetHeaders() http.Header   { return p.header }
func (p *problem) ContentType(string) string { return problemType }

const problemType = "application/problem+json"

// refuse makes an error that says so with the given status.
func refuse(status int, format string, args ...any) error {
	return &problem{Problem: Problem{Status: status, Detail: fmt.Sprintf(format, args...)}}
}

// at makes an error about one part of the request: "body.version", "query.cursor".
func at(location string, err error) error {
	return &problem{Problem: Problem{
		Status: http.StatusUnprocessableEntity, Detail: err.Error(),
		Errors: []ProblemDetail{{Message: err.Error(), Location: location}},
	}}
}

// busy is the code of a coordinator that has enough to do.
const busy = "busy"

// statuses are the conditions that have a status of their own.
var statuses = []struct {
	condition error
	status    int
}{
	{bus.ErrNotFound, http.StatusNotFound},
	{imagestore.ErrNotFound, http.StatusNotFound},
	{bus.ErrInvalid, http.StatusUnprocessableEntity},
	{catalog.ErrBadCursor, http.StatusUnprocessableEntity},
	{catalog.ErrBadPattern, http.StatusUnprocessableEntity},
	{catalog.ErrBadSort, http.StatusUnprocessableEntity},
	{catalog.ErrBadGrouping, http.StatusUnprocessableEntity},
	{bus.ErrConflict, http.StatusConflict},
	{bus.ErrExists, http.StatusConflict},
	{imagestore.ErrConflict, http.StatusConflict},
	{bus.ErrTooLarge, http.StatusRequestEntityTooLarge},
	{bus.ErrNoResponder, http.StatusServiceUnavailable},
	{imagestore.ErrAway, http.StatusServiceUnavailable},
	{context.DeadlineExceeded, http.StatusGatewayTimeout},
	{context.Canceled, http.StatusServiceUnavailable}, // of the farm: a client that has gone reads nothing
}

// problem turns any error into a problem. What is the farm's own trouble is logged.
func (a *API) problem(ctx context.Context, operation string, err error) error {
	var ready *problem
	if !errors.As(err, &ready) {
		ready = &problem{Problem: asProblem(err)}
	}
	p := *ready
	if p.Status == http.StatusInternalServerError && a.Bus.Ready() != nil {
		p.Status = http.StatusServiceUnavailable // whatever it was, it will pass
	}
	p.Title = http.StatusText(p.Status)
	switch {
	case p.Status == http.StatusServiceUnavailable && p.header == nil:
		p.header = http.Header{"Retry-After": {strconv.Itoa(1)}}
	case p.Status == http.StatusInternalServerError && ctx.Err() == nil:
		a.Log.Error("request failed", "operation", operation, "err", err)
	}
	return &p
}

func asProblem(err error) Problem {
	p := Problem{Status: http.StatusInternalServerError, Detail: err.Error()}
	var mistakes recipe.Errors
	var remote *bus.RemoteError
	switch {
	case errors.As(err, &mistakes):
		p.Status = http.StatusUnprocessableEntity
		p.Detail = "one thing is wrong"
		if len(mistakes) > 1 {
			p.Detail = fmt.Sprintf("%d things are wrong", len(mistakes))
		}
		for _, m := range mistakes {
			location := m.File
			if m.Line > 0 {
				location = fmt.Sprintf("%s:%d:%d", m.File, m.Line, m.Column)
			}
			p.Errors = append(p.Errors, ProblemDetail{Message: strings.TrimPrefix(m.Error(), location+": "), Location: location, Value: m})
		}
		return p
	case errors.As(err, &remote) && remote.Code == busy:
		p.Status = http.StatusServiceUnavailable
		return p
	}
	for _, s := range statuses {
		if errors.Is(err, s.condition) {
			p.Status = s.status
			return p
		}
	}
	return p
}

// writeProblem answers with a problem outside of huma.
func writeProblem(w http.ResponseWriter, p Problem) {
	p.Title = http.StatusText(p.Status)
	w.Header().Set("Content-Type", problemType)
	w.WriteHeader(p.Status)
	json.NewEncoder(w).Encode(p) // a client that does not read it can't be helped
}
