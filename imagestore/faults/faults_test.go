package faults_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/imagestore/faults"
	"bakefarm/imagestore/s3embed"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const bucket = "images"

// client is minio-go over faults over a real S3 server, by TCP or in process.
type client struct {
	*minio.Client
	faults *faults.Transport
}

func each(t *testing.T, retries int, test func(t *testing.T, c *client)) {
	for _, way := range []string{"tcp", "in process"} {
		t.Run(way, func(t *testing.T) {
			server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "farm", SecretKey: "secret", NoSync: true, MinFree: -1})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := server.Close(); err != nil {
					t.Error(err)
				}
			})
			next, host := server.Transport(), "s3.in-process"
			if way == "tcp" {
				front := httptest.NewServer(server.Handler())
				tr := &http.Transport{}
				t.Cleanup(front.Close)
				t.Cleanup(tr.CloseIdleConnections)
				next, host = tr, strings.TrimPrefix(front.URL, "http://")
			}
			c := &client{faults: faults.New(next)}
			c.Client, err = minio.New(host, &minio.Options{
				Creds: credentials.NewStaticV4("farm", "secret", ""), Region: "us-east-1", Transport: c.faults, MaxRetries: retries,
			})
			if err != nil {
				t.Fatal(err)
			}
			if err := c.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
				t.Fatal(err)
			}
			test(t, c)
		})
	}
}

func (c *client) put(key string, data []byte) error {
	_, err := c.PutObject(context.Background(), bucket, key, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{})
	return err
}

func (c *client) get(key string) ([]byte, error) {
	o, err := c.GetObject(context.Background(), bucket, key, minio.GetObjectOptions{})
	if err != nil {
		return nil, err
	}
	defer o.Close()
	return io.ReadAll(o)
}

func (c *client) schedule(t *testing.T, s string) {
	t.Helper()
	f, err := faults.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	c.faults.Add(f...)
}

// wantHeld checks what the server really holds: want, or nothing if nil.
func (c *client) wantHeld(t *testing.T, key string, want []byte) {
	t.Helper()
	got, err := c.get(key)
	if want == nil {
		if minio.ToErrorResponse(err).Code != "NoSuchKey" {
			t.Errorf("%s: %d bytes, %v; want no object", key, len(got), err)
		}
		return
	}
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %d bytes, %v; want %d", key, len(got), err, len(want))
	}
}

func noise(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func TestActionsWithoutRetry(t *testing.T) {
	data := noise(300_000)
	each(t, 1, func(t *testing.T, c *client) {
		for _, test := range []struct {
			fault    string
			held     bool // does the server have the object afterwards?
			injected bool // is it a network error?
			status   int
		}{
			{"put:1:fail=500", false, false, 500},
			{"put:1:fail=503", false, false, 503},
			{"put:1:break", false, true, 0},
			{"put:1:lose", true, true, 0},
			{"put:1:tear=0", false, true, 0},
			{"put:1:tear=1000", false, true, 0},
			{"put:1:tear=299999", false, true, 0},
		} {
			key := strings.NewReplacer(":", "-", "=", "-").Replace(test.fault)
			c.schedule(t, strings.Replace(test.fault, "put", "put@"+key, 1))
			err := c.put(key, data)
			if errors.Is(err, faults.ErrInjected) != test.injected || err == nil {
				t.Errorf("%s: %v", test.fault, err)
			}
			if got := minio.ToErrorResponse(err).StatusCode; !test.injected && got != test.status {
				t.Errorf("%s: status %d", test.fault, got)
			}
			if test.held {
				c.wantHeld(t, key, data)
			} else {
				c.wantHeld(t, key, nil)
			}
		}
		if p := c.faults.Pending(); len(p) != 0 {
			t.Errorf("did not happen: %v", p)
		}
	})
}

func TestTornAndCorruptResponses(t *testing.T) {
	data := noise(300_000)
	each(t, 1, func(t *testing.T, c *client) {
		if err := c.put("key", data); err != nil {
			t.Fatal(err)
		}
		c.schedule(t, "get:1:tear=12345,get:2:corrupt=299999,get:3:corrupt=300000,get:4:tear=300000")
		got, err := c.get("key")
		if !errors.Is(err, io.ErrUnexpectedEOF) || !bytes.Equal(got, data[:12345]) {
			t.Errorf("torn: %d bytes, %v", len(got), err)
		}
		got, err = c.get("key")
		if err != nil || len(got) != len(data) || !bytes.Equal(got[:299_999], data[:299_999]) || got[299_999] != ^data[299_999] {
			t.Errorf("corrupt: %d bytes, %v", len(got), err)
		}
		for range 2 { // beyond the end: nothing happens
			if got, err = c.get("key"); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		}
	})
}

func TestDuplicateAndDelay(t *testing.T) {
	data := noise(300_000)
	each(t, 1, func(t *testing.T, c *client) {
		c.schedule(t, "put:1:dup,get:1:dup,delete:1:dup,*:*:delay=1ms")
		if err := c.put("key", data); err != nil {
			t.Fatal(err)
		}
		c.wantHeld(t, "key", data)
		if err := c.RemoveObject(t.Context(), bucket, "key", minio.RemoveObjectOptions{}); err != nil {
			t.Error(err)
		}
		c.wantHeld(t, "key", nil)

		c.schedule(t, "put@slow:1:delay=1h")
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		defer cancel()
		_, err := c.PutObject(ctx, bucket, "slow", bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("delayed beyond the deadline: %v", err)
		}
	})
}

// minio-go heals what it can by itself.
func TestRetriesOfMinio(t *testing.T) {
	data := noise(300_000)
	each(t, 0, func(t *testing.T, c *client) {
		for _, fault := range []string{"fail=503", "break", "lose", "tear=70000"} {
			key := "healed/" + fault
			c.schedule(t, "put@"+key+":1:"+fault+",get@"+key+":1:fail=503")
			if err := c.put(key, data); err != nil {
				t.Errorf("%s: %v", fault, err)
			}
			c.wantHeld(t, key, data)
		}
		if p := c.faults.Pending(); len(p) != 0 {
			t.Errorf("did not happen: %v", p)
		}
	})
}

func TestLogIsDeterministic(t *testing.T) {
	answer := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
	})
	tr := faults.New(answer,
		faults.Fault{Op: "PUT", Nth: 2, Action: faults.Break()},
		faults.Fault{Match: func(k string) bool { return strings.HasSuffix(k, "x") }, Action: faults.Fail(500)},
	)
	for _, r := range []string{"PUT a", "GET a", "PUT bx", "HEAD x", "PUT c"} {
		op, key, _ := strings.Cut(r, " ")
		req := httptest.NewRequest(op, "http://host/bucket/"+key, nil)
		if resp, err := tr.RoundTrip(req); err == nil {
			resp.Body.Close()
		}
	}
	var got []string
	for _, e := range tr.Log() {
		got = append(got, e.String())
	}
	want := []string{"#3 PUT bx: put:2:break", "#3 PUT bx: *:*:fail=500", "#4 HEAD x: *:*:fail=500"}
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

// However many run at once, the nth is one of them.
func TestConcurrent(t *testing.T) {
	answer := roundTripper(func(req *http.Request) (*http.Response, error) {
		return &http.Response{StatusCode: 200, Body: http.NoBody, Request: req}, nil
	})
	tr := faults.New(answer, faults.Fault{Nth: 50, Action: faults.Break()})
	var wg sync.WaitGroup
	errs := make(chan error, 100)
	for range 100 {
		wg.Go(func() {
			resp, err := tr.RoundTrip(httptest.NewRequest("GET", "http://host/bucket/k", nil))
			if err != nil {
				errs <- err
				return
			}
			resp.Body.Close()
		})
	}
	wg.Wait()
	if len(errs) != 1 || len(tr.Log()) != 1 {
		t.Errorf("%d errors, log %v", len(errs), tr.Log())
	}
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestParse(t *testing.T) {
	for _, s := range []string{
		"put:3:tear=1000,get:1:fail=503", "*:*:delay=20ms", "get@packs/:2:corrupt=0", "delete@a:b:1:lose", "post:*:dup", "head:9:break",
	} {
		f, err := faults.Parse(s)
		if err != nil {
			t.Errorf("%s: %v", s, err)
			continue
		}
		var back []string
		for _, f := range f {
			back = append(back, fmt.Sprint(f))
		}
		if got := strings.Join(back, ","); got != s {
			t.Errorf("%s became %s", s, got)
		}
	}
	if f, err := faults.Parse(" "); f != nil || err != nil {
		t.Errorf("empty: %v, %v", f, err)
	}
	for _, s := range []string{
		"put", "put:1", "fetch:1:dup", "put:0:dup", "put:-1:dup", "put:x:dup", "put:1:", "put:1:explode", "put:1:dup=2",
		"put:1:fail=200", "put:1:fail=x", "put:1:tear=-1", "put:1:delay=fast", "put:1:dup,", "put:1:corrupt",
	} {
		if f, err := faults.Parse(s); err == nil {
			t.Errorf("%s: parsed as %v", s, f)
		}
	}
}
