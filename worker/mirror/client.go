package mirror

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// Options say how a Client works. The zero value of a field chooses its default.
type Options struct {
	Root  string // of the file system whose apt configuration counts; default "/"
	Cache string // directory for what mirrors said last; default: nothing is kept

	Now      func() time.Time // default time.Now
	Log      *slog.Logger     // warnings; default: discarded
	Attempts int              // at each address; default 4
	Backoff  time.Duration    // before the second attempt, doubled before each further one; default 250 ms
	Stall    time.Duration    // a connection that says nothing for so long is given up; default 30 s
}

// Client talks to mirrors. It is safe for concurrent use and keeps connections open.
type Client struct {
	opts    Options
	conf    options
	cache   cache
	http    *http.Client
	machine []login                 // of auth.conf
	sources atomic.Pointer[[]login] // of the sources' URIs, as last read
}

// New reads the machine's apt settings and makes a client. A machine without apt is no error: it then has no sources.
func New(ctx context.Context, opts Options) (*Client, error) {
	if opts.Root == "" {
		opts.Root = "/"
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	if opts.Attempts == 0 {
		opts.Attempts = 4
	}
	if opts.Backoff == 0 {
		opts.Backoff = 250 * time.Millisecond
	}
	if opts.Stall == 0 {
		opts.Stall = 30 * time.Second
	}
	conf, err := readOptions(ctx, opts.Root)
	if err != nil {
		return nil, err
	}
	logins, err := readLogins(opts.Root)
	if err != nil {
		return nil, err
	}
	c := &Client{opts: opts, conf: conf, cache: cache{dir: opts.Cache}, machine: logins}
	hosts := &byHost{own: map[string]*http.Transport{}}
	if hosts.Transport, err = c.transport(""); err != nil {
		return nil, err
	}
	for _, host := range conf.tlsHosts() {
		if hosts.own[host], err = c.transport(host); err != nil {
			return nil, err
		}
	}
	c.http = &http.Client{Transport: hosts, CheckRedirect: checkRedirect}
	if sources, err := ReadSources(opts.Root); err == nil { // what is wrong with them is said by who needs them
		c.sources.Store(&sources.logins)
	}
	return c, nil
}

// transport makes the connections to a host, or to all that have no options of their own.
func (c *Client) transport(host string) (*http.Transport, error) {
	tlsConfig, err := c.conf.tlsConfig(host)
	if err != nil {
		return nil, err
	}
	t := &http.Transport{
		Proxy:                 c.conf.proxy,
		TLSClientConfig:       tlsConfig,
		DialContext:           (&net.Dialer{Timeout: c.opts.Stall, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   c.opts.Stall,
		ResponseHeaderTimeout: c.opts.Stall,
		MaxIdleConns:          64,
		MaxIdleConnsPerHost:   16,
		IdleConnTimeout:       90 * time.Second,
		DisableCompression:    true, // digests are of the bytes as they lie on the mirror
		ForceAttemptHTTP2:     true,
	}
	files := http.NewFileTransport(http.Dir("/"))
	t.RegisterProtocol("file", files)
	t.RegisterProtocol("copy", files)
	return t, nil
}

// byHost is a transport, and others for the hosts that have options of their own.
type byHost struct {
	*http.Transport
	own map[string]*http.Transport
}

// RoundTrip implements http.RoundTripper.
func (h *byHost) RoundTrip(req *http.Request) (*http.Response, error) {
	if own, ok := h.own[strings.ToLower(req.URL.Hostname())]; ok {
		return own.RoundTrip(req)
	}
	return h.Transport.RoundTrip(req)
}

// CloseIdleConnections is what http.Client.CloseIdleConnections asks for.
func (h *byHost) CloseIdleConnections() {
	h.Transport.CloseIdleConnections()
	for _, t := range h.own {
		t.CloseIdleConnections()
	}
}

// Close gives idle connections back.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// checkRedirect follows mirrors to other mirrors, never out of encryption and never into the file system.
func checkRedirect(req *http.Request, via []*http.Request) error {
	switch from := via[len(via)-1].URL.Scheme; {
	case len(via) >= 10:
		return errors.New("stopped after 10 redirects")
	case req.URL.Scheme != "https" && (req.URL.Scheme != "http" || from != "http"):
		return fmt.Errorf("refused to follow a redirect from %s to %s", from, req.URL.Scheme)
	}
	return nil
}

// Error is a failed exchange with a mirror.
type Error struct {
	URL       string // without credentials
	Status    int    // of the answer; 0: there was none, or it was not its status that was wrong
	Temporary bool   // may go away by itself
	Err       error

	retryAfter time.Duration
}

func (e *Error) Error() string { return "mirror " + e.URL + ": " + e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// notFound reports whether a mirror said that it has no such file.
func notFound(err error) bool {
	var e *Error
	return errors.As(err, &e) && (e.Status == http.StatusNotFound || e.Status == http.StatusGone)
}

var errStalled = errors.New("the mirror said nothing for too long")

// attempts are how often an address is tried that answers with err. One that keeps silent has taken its time each time.
func (c *Client) attempts(err error) int {
	var late net.Error
	if errors.Is(err, errStalled) || errors.As(err, &late) && late.Timeout() {
		return min(c.opts.Attempts, 2)
	}
	return c.opts.Attempts
}

type notesKey struct{}

// WithNotes makes Observe and Fetch say what they try again and why, while they wait: what people see who wait too. note is
// called from any goroutine.
func WithNotes(ctx context.Context, note func(string)) context.Context {
	return context.WithValue(ctx, notesKey{}, note)
}

// open makes one request. The answer has status 200, 206 or 304; its body fails when the mirror stalls. Other answers
// and no answer are an *Error.
func (c *Client) open(ctx context.Context, address string, header http.Header) (*http.Response, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, &Error{URL: redact(address), Err: errors.New("is no URL")}
	}
	fail := func(err error) *Error {
		return &Error{URL: u.Redacted(), Err: err}
	}
	switch u.Scheme {
	case "http", "https", "file", "copy":
	default:
		return nil, fail(fmt.Errorf("the scheme %s is not supported: use http, https or file", u.Scheme))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		cancel(nil)
		return nil, fail(errors.New("is no URL"))
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("User-Agent", "bakefarm")
	if l, ok := c.loginFor(u); ok {
		req.SetBasicAuth(l.user, l.password)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		defer cancel(nil)
		var wrapped *url.Error // repeats the address
		if errors.As(err, &wrapped) {
			err = wrapped.Err
		}
		var late net.Error
		if errors.As(err, &late) && late.Timeout() && strings.Contains(err.Error(), "headers") {
			err = fmt.Errorf("%w: timeout after %v", errStalled, c.opts.Stall)
		}
		e := fail(err)
		e.Temporary = ctx.Err() == nil && passes(err)
		return nil, e
	}
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified:
		resp.Body = &body{ReadCloser: resp.Body, ctx: ctx, cancel: cancel, stall: c.opts.Stall}
		return resp, nil
	}
	defer cancel(nil)
	// A short answer is read to its end so that the connection can be used again.
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 64<<10))
	_ = resp.Body.Close() // nothing of it is used
	e := fail(errors.New(resp.Status))
	e.Status = resp.StatusCode
	e.Temporary = resp.StatusCode >= 500 || resp.StatusCode == http.StatusTooManyRequests || resp.StatusCode == http.StatusRequestTimeout
	if seconds, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && seconds > 0 {
		e.retryAfter = min(time.Duration(seconds)*time.Second, 10*time.Second)
	}
	return nil, e
}

// passes reports whether a failure to get an answer may go away by itself.
func passes(err error) bool {
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	switch {
	case errors.As(err, &dns) && dns.IsNotFound, errors.As(err, &certificate), errors.Is(err, os.ErrNotExist),
		strings.Contains(err.Error(), "refused to follow"), strings.Contains(err.Error(), "redirects"):
		return false
	}
	return true
}

// loginFor finds the credentials for a URL: a source's own before auth.conf's.
func (c *Client) loginFor(u *url.URL) (login, bool) {
	if own := c.sources.Load(); own != nil {
		for _, l := range *own {
			if l.matches(u) {
				return l, true
			}
		}
	}
	for _, l := range c.machine {
		if l.matches(u) {
			return l, true
		}
	}
	return login{}, false
}

// pause waits before attempt n (the first is 1, without waiting), or until ctx ends.
func (c *Client) pause(ctx context.Context, n int, last error) error {
	if n <= 1 {
		return ctx.Err()
	}
	d := c.opts.Backoff << min(n-2, 6)
	var e *Error
	if errors.As(last, &e) {
		d = max(d, e.retryAfter)
	}
	if note, ok := ctx.Value(notesKey{}).(func(string)); ok && last != nil {
		note(fmt.Sprintf("%v; trying again", last))
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// body is the body of an answer. A Read that brings nothing for the stall time fails; the time between Reads is the
// reader's own.
type body struct {
	io.ReadCloser
	ctx    context.Context
	cancel context.CancelCauseFunc
	stall  time.Duration
}

func (b *body) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.stall, func() { b.cancel(errStalled) })
	n, err := b.ReadCloser.Read(p)
	timer.Stop()
	if err != nil && err != io.EOF && errors.Is(context.Cause(b.ctx), errStalled) {
		err = errStalled
	}
	return n, err
}

func (b *body) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}
