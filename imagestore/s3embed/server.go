package s3embed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/rclone/gofakes3"
)

const (
	// DefaultRegion is the region of a server that is not told another.
	DefaultRegion = "us-east-1"
	// DefaultUploadTTL is how long a multipart upload may rest.
	DefaultUploadTTL = 24 * time.Hour
	// DefaultMinFree is what is left free on the disk for those who share it.
	DefaultMinFree = 256 << 20

	maxHeaders = 32 << 10                // bytes of a request's header and URL
	maxBody    = gofakes3.MaxXMLBodySize // bytes of a request that is not an upload
	closeGrace = 5 * time.Second
	sweepEvery = 10 * time.Minute
)

// ErrClosed is the error of the in-process transport of a closed server.
var ErrClosed = errors.New("s3 server is closed")

// Config is what a server needs to know besides its directory.
type Config struct {
	AccessKey string // required
	SecretKey string // required
	Region    string // DefaultRegion if empty

	// UploadTTL is the time since its last part after which a multipart upload is
	// aborted. DefaultUploadTTL if 0.
	UploadTTL time.Duration
	// MinFree is the number of bytes that an upload must leave free on the disk; it is
	// refused with 507 otherwise. DefaultMinFree if 0, no limit if negative.
	MinFree int64
	// Now is the server's clock: requests that are signed more than 15 minutes before or after it are refused. time.Now if nil.
	Now func() time.Time
	// NoSync leaves out every fsync: for tests and throw-away farms.
	NoSync bool
	// Log receives the server's own faults. Nothing is logged if nil.
	Log *slog.Logger
}

// Server serves the S3 API over the objects of one directory.
type Server struct {
	store   *store
	keys    keys
	ttl     time.Duration
	log     *slog.Logger
	lock    *os.File
	objects http.Handler // gofakes3

	ctx    context.Context // ends with Close
	cancel context.CancelFunc

	mu       sync.Mutex
	closed   bool
	requests sync.WaitGroup
	janitor  sync.WaitGroup
}

// Open opens dir, making it if needed. It is an *InUseError, which is ErrInUse, if
// another server has it open. The caller closes the Server.
func Open(dir string, cfg Config) (*Server, error) {
	if cfg.AccessKey == "" || cfg.SecretKey == "" {
		return nil, errors.New("s3 server: AccessKey and SecretKey must be set")
	}
	if cfg.Region == "" {
		cfg.Region = DefaultRegion
	}
	if cfg.UploadTTL == 0 {
		cfg.UploadTTL = DefaultUploadTTL
	}
	if cfg.MinFree == 0 {
		cfg.MinFree = DefaultMinFree
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	lock, err := lockDir(dir)
	if err != nil {
		return nil, fmt.Errorf("s3 server: %w", err)
	}
	s := &Server{
		store: &store{dir: dir, noSync: cfg.NoSync, minFree: cfg.MinFree, now: cfg.Now, log: cfg.Log},
		keys:  keys{access: cfg.AccessKey, secret: cfg.SecretKey, region: cfg.Region},
		ttl:   cfg.UploadTTL,
		log:   cfg.Log,
		lock:  lock,
	}
	if err := s.store.open(); err != nil {
		lock.Close()
		return nil, fmt.Errorf("s3 server: open %s: %w", dir, err)
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.objects = gofakes3.New(backend{s.store},
		gofakes3.WithTimeSkewLimit(0), // verified with the signature
		gofakes3.WithLogger(faultLog{s.log}),
	).Server()
	s.janitor.Go(s.sweep)
	return s, nil
}

// Close refuses new requests, cuts those of the in-process transport short, waits a
// few seconds for the others, and gives up the directory. Close it after the
// http.Server in front has been shut down. Closing twice does nothing.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.janitor.Wait()

	done := make(chan struct{})
	go func() { s.requests.Wait(); close(done) }()
	var err error
	select {
	case <-done:
	case <-time.After(closeGrace):
		err = fmt.Errorf("s3 server: requests still run %v after Close", closeGrace)
	}
	return errors.Join(err, s.lock.Close())
}

// begin counts a request in; false after Close.
func (s *Server) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.requests.Add(1)
	return true
}

// sweep aborts multipart uploads that rest for longer than the TTL.
func (s *Server) sweep() {
	tick := time.NewTicker(min(sweepEvery, s.ttl))
	defer tick.Stop()
	for {
		for _, id := range s.store.staleUploads(s.store.now().Add(-s.ttl)) {
			s.log.Info("s3 multipart upload expired", "upload", id, "ttl", s.ttl)
			if err := s.store.removeUpload(id); err != nil {
				s.log.Error("s3 multipart upload not removed", "upload", id, "error", err)
			}
		}
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

// Handler answers S3 requests, path style. Mount it at the root of a host: keys may
// contain "//" and "..", which a ServeMux would clean away. Header and URL are
// bounded here too, but set http.Server's MaxHeaderBytes.
func (s *Server) Handler() http.Handler { return http.HandlerFunc(s.serve) }

func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Amz-Request-Id", newName()[:16])
	if !s.begin() {
		s.writeError(w, r, apiErrorf(http.StatusServiceUnavailable, "ServiceUnavailable", "the server is closing"))
		return
	}
	defer s.requests.Done()
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(s.ctx, cancel)()
	r = r.WithContext(ctx)

	if err := s.handle(w, r); err != nil {
		s.writeError(w, r, err)
	}
}

// handle verifies a request and gives it to who answers it. Errors are answered by
// the caller, so nothing may have been written then.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) error {
	w.Header().Set("Date", s.store.now().UTC().Format(http.TimeFormat)) // what clients whose clock is wrong go by
	if n := headerBytes(r); n > maxHeaders {
		return apiErrorf(http.StatusBadRequest, "RequestHeaderSectionTooLarge", "header and URL of %d bytes, at most %d", n, maxHeaders)
	}
	sig, err := s.keys.verify(r, s.store.now())
	if err != nil {
		return err
	}
	body, err := newPayload(r, sig)
	if err != nil {
		return err
	}
	bucket, key, _ := strings.Cut(strings.TrimLeft(r.URL.Path, "/"), "/")
	if err := checkKey(key); err != nil {
		return err
	}
	query := r.URL.Query()
	switch {
	case key != "" && query.Has("uploadId") || query.Has("uploads"):
		return s.multipart(w, r, bucket, key, query, body)
	case r.Method == http.MethodPut && key != "" && isPlainPut(r):
		return s.putObject(w, r, bucket, key, body)
	case r.Method == http.MethodPost && key == "" && !query.Has("delete"):
		return apiErrorf(http.StatusNotImplemented, "NotImplemented", "uploads by HTML form are not supported")
	}
	return s.delegate(w, r, body)
}

// isPlainPut: not a copy, and of the object itself (x-id is the SDKs' label of the operation).
func isPlainPut(r *http.Request) bool {
	if r.Header.Get("X-Amz-Copy-Source") != "" {
		return false
	}
	for name := range r.URL.Query() {
		if name != "x-id" && !strings.HasPrefix(strings.ToLower(name), "x-amz-") {
			return false
		}
	}
	return true
}

// delegate lets gofakes3 answer. The request's body is small and verified before.
func (s *Server) delegate(w http.ResponseWriter, r *http.Request, body *payload) error {
	b, err := readSmall(body)
	if err != nil {
		return err
	}
	r.Header = r.Header.Clone()
	for _, name := range []string{"X-Amz-Content-Sha256", "X-Amz-Decoded-Content-Length", "Content-Md5"} {
		r.Header.Del(name)
	}
	for name := range r.Header {
		if strings.HasPrefix(name, checksumPrefix) && name != checksumPrefix+"Mode" {
			r.Header.Del(name)
		}
	}
	r.Body = io.NopCloser(bytes.NewReader(b))
	r.ContentLength = int64(len(b))
	s.objects.ServeHTTP(w, r)
	return nil
}

func readSmall(body *payload) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(body, maxBody+1))
	if err == nil && len(b) > maxBody {
		err = apiErrorf(http.StatusBadRequest, "MaxMessageLengthExceeded", "the body exceeds %d bytes", maxBody)
	}
	return b, err
}

func headerBytes(r *http.Request) int {
	n := len(r.URL.Path) + len(r.URL.RawQuery) + len(r.Host)
	for name, values := range r.Header {
		for _, v := range values {
			n += len(name) + len(v)
		}
	}
	return n
}

// faultLog passes on gofakes3's errors; the rest of what it prints is per request.
type faultLog struct{ log *slog.Logger }

func (l faultLog) Print(level gofakes3.LogLevel, v ...any) {
	if level == gofakes3.LogErr {
		l.log.Error("s3 request failed", "error", strings.TrimSpace(fmt.Sprintln(v...)))
	}
}
