package chaos

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// weather is what becomes of requests to S3.
type weather int

const (
	fine   weather = iota
	broken         // 500
	busy           // 503, as S3 asks to slow down
	slow           // answers come late
	reset          // the connection breaks before anything was done
	lost           // the connection breaks after all was done
	torn           // the connection breaks in the middle of what is sent, either way
	silent         // no answer, until the weather changes
)

var weathers = map[weather]string{
	fine: "fine", broken: "500", busy: "503", slow: "slow", reset: "reset", lost: "done, but not answered", torn: "torn", silent: "silent",
}

func (w weather) String() string { return weathers[w] }

// sky stands before an S3 service.
type sky struct {
	*httptest.Server
	next *httputil.ReverseProxy

	mu      sync.Mutex
	now     weather
	changed chan struct{}
	count   int
	after   int // requests that write and are still to be answered
	then    func()
}

// in has then called when n more requests were done that write, which a worker that starts does not, before anybody is answered about the last of them.
func (s *sky) in(n int, then func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.after, s.then = n, then
}

// newSky has fine weather, in front of the S3 service at an address.
func newSky(t *testing.T, to string) *sky {
	s := &sky{changed: make(chan struct{})}
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 64}
	s.next = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "http", Host: to})
			r.Out.Host = r.In.Host // it is signed
		},
		Transport:    transport,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) { snap(w) },
		ErrorLog:     nil,
	}
	s.Server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.become(fine)
		s.Close()
		transport.CloseIdleConnections()
	})
	return s
}

// become changes the weather.
func (s *sky) become(w weather) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.now = w
	close(s.changed)
	s.changed = make(chan struct{})
}

// ServeHTTP lets two of three requests feel the weather, so that some get further than others.
func (s *sky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	now, changed := s.now, s.changed
	s.count++
	if s.count%3 == 0 {
		now = fine
	}
	var then func()
	if r.Method != http.MethodGet {
		if s.after--; s.after == 0 {
			then = s.then
		}
	}
	s.mu.Unlock()
	if then != nil {
		s.next.ServeHTTP(forgetful{http.Header{}}, r)
		then()
		snap(w)
		return
	}
	switch now {
	case broken, busy:
		status, code := http.StatusInternalServerError, "InternalError"
		if now == busy {
			status, code = http.StatusServiceUnavailable, "SlowDown"
		}
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		fmt.Fprintf(w, "<?xml version=\"1.0\"?><Error><Code>%s</Code><Message>weather</Message></Error>", code)
		return
	case slow:
		time.Sleep(700 * time.Millisecond)
	case reset:
		snap(w)
		return
	case silent:
		select {
		case <-changed:
		case <-r.Context().Done():
		}
		snap(w)
		return
	case lost:
		s.next.ServeHTTP(forgetful{http.Header{}}, r)
		snap(w)
		return
	case torn:
		if r.ContentLength > 1 {
			r.Body = &half{r.Body, r.ContentLength / 2}
			break
		}
		w = &tearing{ResponseWriter: w}
		defer snap(w.(*tearing).ResponseWriter)
	}
	s.next.ServeHTTP(w, r)
}

// snap breaks the request's connection.
func snap(w http.ResponseWriter) {
	if t, is := w.(*tearing); is {
		w = t.ResponseWriter
	}
	h, ok := w.(http.Hijacker)
	if !ok {
		return
	}
	c, _, err := h.Hijack()
	if err != nil {
		return // it is broken already
	}
	if tcp, is := c.(*net.TCPConn); is {
		_ = tcp.SetLinger(0)
	}
	c.Close()
}

// forgetful is where answers go that nobody hears.
type forgetful struct{ header http.Header }

func (f forgetful) Header() http.Header         { return f.header }
func (f forgetful) Write(b []byte) (int, error) { return len(b), nil }
func (f forgetful) WriteHeader(int)             {}

// half is a body that breaks off.
type half struct {
	io.ReadCloser
	left int64
}

func (h *half) Read(b []byte) (int, error) {
	if h.left <= 0 {
		return 0, io.ErrUnexpectedEOF
	}
	n, err := h.ReadCloser.Read(b[:min(int64(len(b)), h.left)])
	h.left -= int64(n)
	return n, err
}

// tearing passes half of what each write has, and breaks off.
type tearing struct {
	http.ResponseWriter
	tore bool
}

func (t *tearing) Write(b []byte) (int, error) {
	if t.tore {
		return 0, io.ErrShortWrite
	}
	t.tore = true
	n, err := t.ResponseWriter.Write(b[:len(b)/2])
	if f, is := t.ResponseWriter.(http.Flusher); is {
		f.Flush()
	}
	if err == nil {
		err = io.ErrShortWrite
	}
	return n, err
}
