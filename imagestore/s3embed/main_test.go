package s3embed_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"bakefarm/imagestore/s3embed"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"
)

const (
	access = "farm"
	secret = "a secret of the farm"
	bucket = "images"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashDir); dir != "" {
		serveUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

// way is a path from client to server: over TCP or in process, with signed chunks or
// an unsigned payload, with checksum trailers or without.
type way struct {
	name      string
	inProcess bool
	secure    bool // an unsigned payload; only in process, for there is no TLS here
	trailers  bool
	unsigned  bool // DisableContentSha256
}

var ways = []way{
	{name: "tcp"},
	{name: "tcp trailers unsigned", trailers: true, unsigned: true},
	{name: "tcp trailers", trailers: true},
	{name: "in process", inProcess: true},
	{name: "in process unsigned", inProcess: true, secure: true},
	{name: "in process trailers", inProcess: true, secure: true, trailers: true},
}

type farm struct {
	*minio.Client
	server *s3embed.Server
	url    string
	way    way
}

func config() s3embed.Config {
	return s3embed.Config{AccessKey: access, SecretKey: secret, NoSync: true, MinFree: -1}
}

// open starts a server on dir and a client for it.
func open(t testing.TB, dir string, cfg s3embed.Config, w way) *farm {
	t.Helper()
	server, err := s3embed.Open(dir, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	f := &farm{server: server, way: w, url: "s3.in-process"}
	opts := &minio.Options{Creds: credentials.NewStaticV4(access, secret, ""), Region: cfg.Region, Secure: w.secure, TrailingHeaders: w.trailers}
	if w.inProcess {
		opts.Transport = server.Transport()
	} else {
		front := httptest.NewServer(server.Handler())
		tr := &http.Transport{}
		t.Cleanup(front.Close)
		t.Cleanup(tr.CloseIdleConnections)
		opts.Transport = tr
		f.url = strings.TrimPrefix(front.URL, "http://")
	}
	if f.Client, err = minio.New(f.url, opts); err != nil {
		t.Fatal(err)
	}
	return f
}

// start opens a new server with the bucket in it.
func start(t testing.TB, w way) *farm {
	t.Helper()
	f := open(t, t.TempDir(), config(), w)
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	return f
}

// each runs a test over every way.
func each(t *testing.T, test func(t *testing.T, f *farm)) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) { test(t, start(t, w)) })
	}
}

func (f *farm) put(t testing.TB, key string, data []byte, opts minio.PutObjectOptions) minio.UploadInfo {
	t.Helper()
	opts.DisableContentSha256 = f.way.unsigned
	info, err := f.PutObject(t.Context(), bucket, key, bytes.NewReader(data), int64(len(data)), opts)
	if err != nil {
		t.Fatalf("put %q: %v", key, err)
	}
	return info
}

func (f *farm) get(ctx context.Context, key string, opts minio.GetObjectOptions) ([]byte, error) {
	o, err := f.GetObject(ctx, bucket, key, opts)
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o)
}

func (f *farm) mustGet(t testing.TB, key string) []byte {
	t.Helper()
	b, err := f.get(t.Context(), key, minio.GetObjectOptions{})
	if err != nil {
		t.Fatalf("get %q: %v", key, err)
	}
	return b
}

// keys lists through minio-go, which follows the pages.
func (f *farm) keys(t testing.TB, opts minio.ListObjectsOptions) (keys []string) {
	t.Helper()
	for o := range f.ListObjects(t.Context(), bucket, opts) {
		if o.Err != nil {
			t.Fatal(o.Err)
		}
		keys = append(keys, o.Key)
	}
	return keys
}

func code(err error) string { return minio.ToErrorResponse(err).Code }

func wantCode(t testing.TB, err error, status int, want string) {
	t.Helper()
	if r := minio.ToErrorResponse(err); err == nil || r.Code != want || r.StatusCode != status {
		t.Errorf("error %v (status %d, code %q), want status %d, code %q", err, r.StatusCode, r.Code, status, want)
	}
}

func noise(seed uint64, n int) []byte {
	var key [32]byte
	key[0], key[1], key[2] = byte(seed), byte(seed>>8), byte(seed>>16)
	b := make([]byte, n)
	rand.NewChaCha8(key).Read(b)
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}
