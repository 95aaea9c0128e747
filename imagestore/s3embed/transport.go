package s3embed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

// Transport is the way to the server for clients in the same process: no socket, no
// copy of the bodies. The server reads the request's body itself, and the response's
// body reads the object's file itself. Give it to minio-go as Options.Transport; with
// Options.Secure (or DisableContentSha256 on a PUT) the client leaves out the chunk
// signatures, which protect bytes on a wire that is not there. The requests are
// signed and verified all the same.
//
// After an error, and after the response's body was closed, the request's body is
// no longer read, so it may be rewound and sent again.
func (s *Server) Transport() http.RoundTripper { return inProcess{s} }

type inProcess struct{ s *Server }

func (t inProcess) RoundTrip(req *http.Request) (*http.Response, error) {
	return roundTrip(t.s.ctx, t.s.Handler(), req)
}

// roundTrip lets h answer req, until server ends.
func roundTrip(server context.Context, h http.Handler, req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	x := &exchange{
		req: req, ctx: ctx, cancel: cancel,
		header: http.Header{}, length: -1,
		started: make(chan struct{}), loans: make(chan *loan), finished: make(chan struct{}),
	}
	x.body.src = req.Body
	if server.Err() != nil {
		x.body.close()
		cancel(ErrClosed)
		return nil, ErrClosed
	}
	stop := context.AfterFunc(server, func() { cancel(ErrClosed) })
	go func() {
		defer stop()
		x.serve(h)
	}()
	select {
	case <-x.started:
		return x.response()
	case <-ctx.Done():
	}
	select {
	case <-x.started: // done is also how a finished exchange ends
		return x.response()
	default:
		x.body.revoke(context.Cause(ctx))
		return nil, context.Cause(ctx)
	}
}

// exchange is one request and its response, between the goroutine of the handler
// (an http.ResponseWriter) and the client (a response body).
type exchange struct {
	req    *http.Request
	ctx    context.Context // ends when the client has gone, or all is done
	cancel context.CancelCauseFunc
	body   requestBody

	// Of the handler's goroutine until started is closed:
	header  http.Header
	wrote   bool
	status  int
	sent    http.Header // the header as it was when it was written
	length  int64       // Content-Length; -1: not said
	written int64
	started chan struct{}

	loans    chan *loan
	finished chan struct{} // the handler has returned
	err      error         // why it did not finish well; set before finished is closed
	trailer  http.Header   // likewise

	resp *http.Response

	// Of the client's goroutine:
	mu   sync.Mutex // Read and Close
	cur  *loan
	read int64
	shut bool
}

// serve runs the handler to its end.
func (x *exchange) serve(h http.Handler) {
	defer func() {
		if p := recover(); p != nil {
			x.err = fmt.Errorf("s3 server: %v", p)
		}
		x.body.close()
		if !x.wrote && x.err == nil {
			x.WriteHeader(http.StatusOK)
		}
		x.trailer = x.trailers()
		close(x.finished)
		if !x.wrote {
			close(x.started)
		}
		x.cancel(errDone)
	}()
	h.ServeHTTP(x, x.serverRequest())
}

// serverRequest is the request as a server sees it.
func (x *exchange) serverRequest() *http.Request {
	r := x.req.Clone(x.ctx)
	r.Body = &x.body
	if x.req.Body == nil {
		r.Body, r.ContentLength = http.NoBody, 0
	} else if x.req.ContentLength == 0 && x.req.Body != http.NoBody {
		r.ContentLength = -1 // in a client's request that means: not known
	}
	if r.Host == "" {
		r.Host = r.URL.Host
	}
	if r.Method == "" {
		r.Method = http.MethodGet
	}
	r.Trailer = x.req.Trailer // filled in by the client while the body is read
	r.RemoteAddr, r.RequestURI = "in-process", r.URL.RequestURI()
	return r
}

func (x *exchange) Header() http.Header { return x.header }

func (x *exchange) WriteHeader(status int) {
	if x.wrote || status < 200 {
		return // informational responses have no meaning without a wire
	}
	x.wrote, x.status, x.sent = true, status, http.Header{}
	for name, values := range x.header { // a wire loses the spelling of names: so do we
		name = http.CanonicalHeaderKey(name)
		x.sent[name] = append(x.sent[name], values...)
	}
	if n, err := strconv.ParseInt(x.sent.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		x.length = n
	}
	close(x.started)
}

func (x *exchange) Write(p []byte) (int, error) {
	n, err := x.ReadFrom(bytes.NewReader(p))
	return int(n), err
}

// ReadFrom lends src to the client, who reads it. It returns when src is at its end.
func (x *exchange) ReadFrom(src io.Reader) (int64, error) {
	if !x.wrote {
		x.WriteHeader(http.StatusOK)
	}
	if x.bodyless() {
		return io.Copy(io.Discard, src)
	}
	if x.length >= 0 && x.written >= x.length {
		n, err := io.Copy(io.Discard, src)
		if n > 0 && err == nil {
			err = http.ErrContentLength
		}
		return 0, err
	}
	l := &loan{src: src, done: make(chan struct{})}
	select {
	case x.loans <- l:
	case <-x.ctx.Done():
		return 0, context.Cause(x.ctx)
	}
	select {
	case <-l.done:
	case <-x.ctx.Done():
		l.end(context.Cause(x.ctx))
	}
	x.written += l.n
	return l.n, l.err
}

// Flush has nothing to do: what is written is already being read.
func (x *exchange) Flush() {
	if !x.wrote {
		x.WriteHeader(http.StatusOK)
	}
}

func (x *exchange) bodyless() bool {
	return x.req.Method == http.MethodHead || x.status == http.StatusNoContent || x.status == http.StatusNotModified
}

// response makes the response once its header is known.
func (x *exchange) response() (*http.Response, error) {
	if !x.wrote {
		return nil, x.err
	}
	x.resp = &http.Response{
		Status: strconv.Itoa(x.status) + " " + http.StatusText(x.status), StatusCode: x.status,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: x.sent, ContentLength: x.length, Body: (*responseBody)(x), Request: x.req,
	}
	if x.bodyless() || x.length == 0 {
		x.resp.Body = http.NoBody
		<-x.ctx.Done() // nothing more to come but the end of the handler
	}
	return x.resp, nil
}

// trailers are what the handler set with http.TrailerPrefix, or announced in the
// Trailer header and set later.
func (x *exchange) trailers() http.Header {
	trailer := http.Header{}
	for name, v := range x.header {
		if after, ok := strings.CutPrefix(name, http.TrailerPrefix); ok {
			trailer[http.CanonicalHeaderKey(after)] = v
		}
	}
	for _, list := range x.sent.Values("Trailer") {
		for name := range strings.SplitSeq(list, ",") {
			name = http.CanonicalHeaderKey(strings.TrimSpace(name))
			if v, ok := x.header[name]; ok {
				trailer[name] = v
			}
		}
	}
	return trailer
}

// responseBody is the client's side of an exchange.
type responseBody exchange

// errDone is the cause of the end of an exchange that ran to its end.
var errDone = errors.New("done")

var errBodyClosed = errors.New("http: read on closed response body")

func (b *responseBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.shut:
			return 0, errBodyClosed
		case b.length >= 0 && b.read >= b.length:
			return 0, b.atEnd(nil)
		case len(p) == 0:
			return 0, nil
		}
		if b.cur == nil {
			if err := b.nextLoan(); err != nil {
				return 0, err
			}
		}
		if b.length >= 0 {
			p = p[:min(int64(len(p)), b.length-b.read)]
		}
		n, done, err := b.cur.readFrom(p)
		b.read += int64(n)
		if done {
			b.cur = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// nextLoan waits for more of the body; its error is io.EOF after the last.
func (b *responseBody) nextLoan() error {
	select {
	case b.cur = <-b.loans:
		return nil
	case <-b.finished:
		return b.atEnd(b.err)
	case <-b.ctx.Done():
	}
	select {
	case <-b.finished: // done is also how a finished exchange ends
		return b.atEnd(b.err)
	default:
		return context.Cause(b.ctx)
	}
}

// atEnd ends the body: well, if all announced bytes were read, or if none were
// announced and the handler came to its end.
func (b *responseBody) atEnd(err error) error {
	if b.cur != nil {
		b.cur.end(nil)
		b.cur = nil
	}
	<-b.ctx.Done()
	whole := b.length >= 0 && b.read >= b.length
	switch cause := context.Cause(b.ctx); {
	case whole && cause != errDone:
		return io.EOF // cancelled, but too late to matter
	case whole:
	case err != nil:
		return err
	case cause != errDone:
		return cause
	case b.length >= 0:
		return io.ErrUnexpectedEOF
	}
	b.resp.Trailer = b.trailer
	return io.EOF
}

// Close ends the handler's writes. It must not run at the same time as Read.
func (b *responseBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut {
		return nil
	}
	b.shut = true
	b.cancel(errBodyClosed)
	(*exchange)(b).body.revoke(errBodyClosed)
	return nil
}

// loan is a reader of the handler while the client may read it.
type loan struct {
	src io.Reader

	mu    sync.Mutex
	ended bool
	n     int64
	err   error
	done  chan struct{}
}

func (l *loan) readFrom(p []byte) (n int, done bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		return 0, true, l.err
	}
	n, err = l.src.Read(p)
	l.n += int64(n)
	if err == nil {
		return n, false, nil
	}
	l.endLocked(err)
	// What the handler does about its failed source shows in how it ends.
	return n, true, nil
}

// end takes the reader back. It waits for a Read in progress.
func (l *loan) end(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endLocked(err)
}

func (l *loan) endLocked(err error) {
	if l.ended {
		return
	}
	l.ended = true
	if err != io.EOF {
		l.err = err
	}
	close(l.done)
}

// requestBody lends the client's body to the handler.
type requestBody struct {
	mu     sync.Mutex
	src    io.ReadCloser
	err    error // set when it may no longer be read
	closed bool
}

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.err != nil:
		return 0, b.err
	case b.src == nil:
		return 0, io.EOF
	}
	return b.src.Read(p)
}

// revoke ends the handler's reading. It waits for a Read in progress: closing a body
// under its reader is not safe for every body.
func (b *requestBody) revoke(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
	}
}

// Close is the handler's; the body itself is closed when the handler returns.
func (b *requestBody) Close() error { return nil }

func (b *requestBody) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = http.ErrBodyReadAfterClose
	}
	if b.src != nil && !b.closed {
		b.closed = true
		b.src.Close()
	}
}
