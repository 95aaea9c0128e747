package api

import (
	"compress/gzip"
	"errors"
	"io"
	"mime"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

// streamed is the body of a request that its handler reads by itself, a piece at a time. As part of an operation's input it
// takes the body before huma would buffer it.
type streamed struct {
	contentType, encoding string
	body                  io.Reader
	control               *http.ResponseController
}

// Resolve implements huma.Resolver.
func (s *streamed) Resolve(ctx huma.Context) []error {
	r, w := humago.Unwrap(ctx)
	s.contentType, s.encoding, s.body = r.Header.Get("Content-Type"), r.Header.Get("Content-Encoding"), r.Body
	s.control = http.NewResponseController(w)
	return nil
}

// errTooLarge: a body goes on after the limit.
var errTooLarge = errors.New("too large")

// open checks the media type and undoes gzip. Reading more than max bytes, unpacked, is errTooLarge.
func (s *streamed) open(want string, max int64) (io.Reader, error) {
	if got, _, err := mime.ParseMediaType(s.contentType); err != nil || got != want {
		return nil, refuse(http.StatusUnsupportedMediaType, "Content-Type %q: want %s", s.contentType, want)
	}
	body := s.body
	switch s.encoding {
	case "", "identity":
	case "gzip":
		unpacked, err := gzip.NewReader(body)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "the body is no gzip, as Content-Encoding says: %v", err)
		}
		body = unpacked
	default:
		return nil, refuse(http.StatusUnsupportedMediaType, "Content-Encoding %q: want gzip or none", s.encoding)
	}
	return &limited{body, max}, nil
}

// patience gives the client so long for what it has to send next; 0: no limit. It must be 0 again when the handler has read
// what it wants: a deadline that passes later ends the request's context.
func (s *streamed) patience(d time.Duration) {
	var deadline time.Time
	if d > 0 {
		deadline = time.Now().Add(d)
	}
	s.control.SetReadDeadline(deadline) // not supported under httptest.NewRecorder, where nobody waits
}

// limited is io.LimitReader, but says when there is more.
type limited struct {
	r    io.Reader
	left int64
}

func (l *limited) Read(p []byte) (int, error) {
	if l.left < 0 {
		return 0, errTooLarge
	}
	if int64(len(p)) > l.left+1 {
		p = p[:l.left+1]
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		return 0, errTooLarge
	}
	return n, err
}

// asBodyError says what was wrong with reading a body.
func asBodyError(err error) error {
	var ready *problem
	switch {
	case errors.As(err, &ready):
		return err
	case errors.Is(err, errTooLarge):
		return refuse(http.StatusRequestEntityTooLarge, "the body is larger than is allowed here")
	default:
		return refuse(http.StatusBadRequest, "the body can't be read: %v", err)
	}
}

// describe puts a body that is read by hand, of type T if it is JSON, into the description of an operation that is
// registered already: one that huma knows before, it would read and validate by itself.
func describe[T any](a *API, op huma.Operation, contentType, description string) {
	schema := &huma.Schema{Type: huma.TypeString, Format: "binary"}
	if t := reflect.TypeFor[T](); t.Kind() == reflect.Struct && t.NumField() > 0 {
		schema = a.huma.OpenAPI().Components.Schemas.Schema(t, true, t.Name())
	}
	a.huma.OpenAPI().Paths[op.Path].Post.RequestBody = &huma.RequestBody{
		Required: true, Description: description,
		Content: map[string]*huma.MediaType{contentType: {Schema: schema}},
	}
}

// jsonResponse describes an answer of JSON that has a schema of its own.
func jsonResponse(description string) *huma.Response {
	return &huma.Response{Description: description, Content: map[string]*huma.MediaType{
		"application/json": {Schema: &huma.Schema{Type: huma.TypeObject, AdditionalProperties: true}},
	}}
}
