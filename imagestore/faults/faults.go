// Package faults makes an HTTP client's requests go wrong on schedule. It stands
// between minio-go and its transport, so whatever keeps images in S3 meets the same
// trouble, whichever server is behind:
//
//	minio-go ─▶ faults.Transport ─▶ http.Transport or s3embed's in-process transport
//
// Faults are counted, never drawn by lot: the same requests in the same order meet
// the same faults. Requests that run at the same time are counted in the order in
// which they reach RoundTrip.
//
// # What minio-go does by itself
//
// minio-go (v7, MaxRetries 10 unless set) repeats a request after any network error
// and after the statuses 408, 429, 499, 500, 502, 503, 504 and 520, waiting about 0.2,
// 0.4, 0.8 … seconds; a PUT only if its body can be rewound. Each attempt is a request
// of its own here, therefore:
//
//   - one Fail, Lose or torn PUT is healed by minio-go and not seen above it. Set
//     MaxRetries: 1 or let the fault hit every request (Nth 0) to see the error;
//   - a response torn in its body (a GET) is an error of Read, which nobody repeats;
//   - "put:1:fail=503" and "put:2:fail=503" hit the first two attempts of one PUT.
package faults

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// ErrInjected is what every network error made here is (errors.Is).
var ErrInjected = errors.New("injected network error")

// maxDuplicate bounds the body that Duplicate keeps in memory, in bytes.
const maxDuplicate = 256 << 20

// Fault says which requests an action befalls.
type Fault struct {
	Op     string                // HTTP method; any if empty
	Prefix string                // of the key, that is, the path without the bucket
	Match  func(key string) bool // likewise, if a prefix does not say it; may be nil
	Nth    int                   // of the requests that match, counted from 1; 0: every one
	Action Action
}

// String is the fault as Parse reads it, Match left out.
func (f Fault) String() string {
	op, nth := strings.ToLower(f.Op), "*"
	if op == "" {
		op = "*"
	}
	if f.Prefix != "" {
		op += "@" + f.Prefix
	}
	if f.Nth > 0 {
		nth = fmt.Sprint(f.Nth)
	}
	return fmt.Sprintf("%s:%s:%v", op, nth, f.Action)
}

func (f Fault) matches(op, key string) bool {
	return (f.Op == "" || strings.EqualFold(f.Op, op)) && strings.HasPrefix(key, f.Prefix) && (f.Match == nil || f.Match(key))
}

// Event is one fault that happened.
type Event struct {
	Request int // number of the request among all, from 1
	Op, Key string
	Fault   string // Fault.String
}

func (e Event) String() string { return fmt.Sprintf("#%d %s %s: %s", e.Request, e.Op, e.Key, e.Fault) }

// Transport applies a schedule of faults to the requests that pass. It is safe for
// concurrent use.
type Transport struct {
	next http.RoundTripper

	mu       sync.Mutex
	schedule []scheduled
	requests int
	log      []Event
}

type scheduled struct {
	Fault
	seen, hit int
}

var _ http.RoundTripper = (*Transport)(nil)

// New puts the schedule before next. When several faults befall one request, the
// first of the schedule is the outermost.
func New(next http.RoundTripper, schedule ...Fault) *Transport {
	t := &Transport{next: next}
	t.Add(schedule...)
	return t
}

// Add extends the schedule; the new faults count requests from now on.
func (t *Transport) Add(schedule ...Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range schedule {
		t.schedule = append(t.schedule, scheduled{Fault: f})
	}
}

// Log lists the faults that happened, in the order of their requests.
func (t *Transport) Log() []Event {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.log)
}

// Pending lists the faults that have not happened yet: a test that meant to meet
// them all wants none.
func (t *Transport) Pending() (faults []Fault) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.schedule {
		if s.hit == 0 {
			faults = append(faults, s.Fault)
		}
	}
	return faults
}

// RoundTrip sends the request through the faults that are due.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	send := t.next.RoundTrip
	for _, action := range slices.Backward(t.due(req)) {
		inner := send
		send = func(req *http.Request) (*http.Response, error) { return action.do(req, inner) }
	}
	return send(req)
}

// due counts the request and returns what befalls it.
func (t *Transport) due(req *http.Request) (actions []Action) {
	_, key, _ := strings.Cut(strings.TrimLeft(req.URL.Path, "/"), "/")
	t.mu.Lock()
	defer t.mu.Unlock()
	t.requests++
	for i := range t.schedule {
		s := &t.schedule[i]
		if !s.matches(req.Method, key) {
			continue
		}
		s.seen++
		if s.Nth != 0 && s.Nth != s.seen {
			continue
		}
		s.hit++
		t.log = append(t.log, Event{Request: t.requests, Op: req.Method, Key: key, Fault: s.String()})
		actions = append(actions, s.Action)
	}
	return actions
}

type sender func(*http.Request) (*http.Response, error)

// Action is what goes wrong. Make one with Fail, Break, Lose, Tear, Delay, Duplicate
// or Corrupt.
type Action struct {
	name string // as Parse reads it
	do   func(req *http.Request, send sender) (*http.Response, error)
}

func (a Action) String() string { return a.name }

// Fail answers with an HTTP status and an S3 error; the request is not sent.
func Fail(status int) Action {
	code := "InternalError"
	if status == http.StatusServiceUnavailable {
		code = "SlowDown"
	}
	return Action{fmt.Sprintf("fail=%d", status), func(req *http.Request, _ sender) (*http.Response, error) {
		closeBody(req)
		body := fmt.Sprintf("<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>injected status %d</Message></Error>", code, status)
		resp := &http.Response{
			Status: fmt.Sprintf("%d %s", status, http.StatusText(status)), StatusCode: status,
			Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: req,
			Header:        http.Header{"Content-Type": {"application/xml"}},
			ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body)),
		}
		if req.Method == http.MethodHead {
			resp.Body = http.NoBody
		}
		return resp, nil
	}}
}

// Break is a connection that cannot be made: a network error, the request is not sent.
func Break() Action {
	return Action{"break", func(req *http.Request, _ sender) (*http.Response, error) {
		closeBody(req)
		return nil, fmt.Errorf("%w: no connection", ErrInjected)
	}}
}

// Lose is a connection that breaks too late: the server does what it is asked, the
// client gets a network error instead of the answer.
func Lose() Action {
	return Action{"lose", func(req *http.Request, send sender) (*http.Response, error) {
		resp, err := send(req)
		if err != nil {
			return nil, err
		}
		if err := drain(resp); err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("%w: answer %s lost", ErrInjected, resp.Status)
	}}
}

// Tear breaks the connection after n bytes of the body: of the request if it is a
// PUT or POST, as it goes over the wire, else of the response. A body that is
// shorter comes through whole.
func Tear(n int64) Action {
	return Action{fmt.Sprintf("tear=%d", n), func(req *http.Request, send sender) (*http.Response, error) {
		if req.Method == http.MethodPut || req.Method == http.MethodPost {
			return tearRequest(req, send, n)
		}
		resp, err := send(req)
		if err == nil {
			resp.Body = &torn{ReadCloser: resp.Body, left: n, err: io.ErrUnexpectedEOF}
		}
		return resp, err
	}}
}

func tearRequest(req *http.Request, send sender, n int64) (*http.Response, error) {
	if req.Body == nil {
		return send(req)
	}
	cut := fmt.Errorf("%w: request torn after %d bytes", ErrInjected, n)
	body := &torn{ReadCloser: req.Body, left: n, err: cut}
	req = req.Clone(req.Context())
	req.Body = body
	resp, err := send(req)
	if !body.isTorn() {
		return resp, err
	}
	// An in-process server still answers the half request; a client on a broken
	// connection would never know.
	if err == nil {
		if err := drain(resp); err != nil {
			return nil, err
		}
	}
	return nil, cut
}

// Delay holds the request back, or until its context ends.
func Delay(d time.Duration) Action {
	return Action{"delay=" + d.String(), func(req *http.Request, send sender) (*http.Response, error) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
			return send(req)
		case <-req.Context().Done():
			closeBody(req)
			return nil, req.Context().Err()
		}
	}}
}

// Duplicate sends the request twice, one after the other, and returns the second
// answer. Bodies of more than 256 MiB are an error.
func Duplicate() Action {
	return Action{"dup", func(req *http.Request, send sender) (*http.Response, error) {
		if req.Body == nil || req.Body == http.NoBody {
			resp, err := send(req.Clone(req.Context()))
			if err != nil {
				return nil, err
			}
			if err := drain(resp); err != nil {
				return nil, err
			}
			return send(req)
		}
		body, err := io.ReadAll(io.LimitReader(req.Body, maxDuplicate+1))
		closeBody(req)
		if err != nil {
			return nil, err
		}
		if len(body) > maxDuplicate {
			return nil, fmt.Errorf("%w: body exceeds the %d bytes that can be duplicated", ErrInjected, maxDuplicate)
		}
		again := func() *http.Request {
			r := req.Clone(req.Context())
			r.Body = io.NopCloser(bytes.NewReader(body))
			return r
		}
		resp, err := send(again())
		if err != nil {
			return nil, err
		}
		if err := drain(resp); err != nil {
			return nil, err
		}
		return send(again())
	}}
}

// Corrupt inverts the byte at an offset of the response's body, if it has it.
func Corrupt(offset int64) Action {
	return Action{fmt.Sprintf("corrupt=%d", offset), func(req *http.Request, send sender) (*http.Response, error) {
		resp, err := send(req)
		if err == nil {
			resp.Body = &corrupted{ReadCloser: resp.Body, at: offset}
		}
		return resp, err
	}}
}

func closeBody(req *http.Request) {
	if req.Body != nil {
		req.Body.Close()
	}
}

func drain(resp *http.Response) error {
	_, err := io.Copy(io.Discard, resp.Body)
	if cerr := resp.Body.Close(); err == nil {
		err = cerr
	}
	return err
}

// torn ends with err after left bytes, if there are more.
type torn struct {
	io.ReadCloser
	left int64
	err  error

	mu   sync.Mutex
	torn bool
}

func (t *torn) Read(p []byte) (int, error) {
	if t.left == 0 {
		// One byte tells a body that ends here from one that is torn here.
		var b [1]byte
		if n, err := t.ReadCloser.Read(b[:]); n == 0 && err != nil {
			return 0, err
		}
		t.mu.Lock()
		defer t.mu.Unlock()
		t.torn = true
		return 0, t.err
	}
	n, err := t.ReadCloser.Read(p[:min(int64(len(p)), t.left)])
	t.left -= int64(n)
	return n, err
}

func (t *torn) isTorn() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.torn
}

type corrupted struct {
	io.ReadCloser
	at int64 // bytes until the victim; negative: past it
}

func (c *corrupted) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	if c.at >= 0 && c.at < int64(n) {
		p[c.at] ^= 0xff
	}
	c.at -= int64(n)
	return n, err
}
