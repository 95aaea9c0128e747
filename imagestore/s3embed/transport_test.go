package s3embed_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"bakefarm/imagestore/s3embed"

	"github.com/minio/minio-go/v7"
)

// stuck is a body that stops half-way, says so, and goes on when told to.
type stuck struct {
	data   io.Reader
	at     chan struct{} // closed when the body stops
	resume chan struct{}
	once   sync.Once
}

func (s *stuck) Read(p []byte) (int, error) {
	n, err := s.data.Read(p)
	if err == io.EOF {
		s.once.Do(func() { close(s.at) })
		<-s.resume
	}
	return n, err
}

func TestCancelPut(t *testing.T) {
	each(t, func(t *testing.T, f *farm) {
		ctx, cancel := context.WithCancel(t.Context())
		body := &stuck{data: bytes.NewReader(noise(1, 500_000)), at: make(chan struct{}), resume: make(chan struct{})}
		go func() {
			<-body.at
			cancel()
			time.Sleep(10 * time.Millisecond)
			close(body.resume)
		}()
		opts := minio.PutObjectOptions{DisableMultipart: true, DisableContentSha256: f.way.unsigned}
		_, err := f.PutObject(ctx, bucket, "key", body, 1_000_000, opts)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled put: %v", err)
		}
		if got := f.keys(t, minio.ListObjectsOptions{}); len(got) != 0 {
			t.Errorf("listed %q", got)
		}
	})
}

func TestCancelAndCloseGet(t *testing.T) {
	each(t, func(t *testing.T, f *farm) {
		data := noise(1, 8<<20)
		f.put(t, "key", data, minio.PutObjectOptions{DisableMultipart: true})
		core := minio.Core{Client: f.Client}
		ctx, cancel := context.WithCancel(t.Context())
		body, _, _, err := core.GetObject(ctx, bucket, "key", minio.GetObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(body, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		cancel()
		for piece := make([]byte, 64<<10); err == nil; time.Sleep(time.Millisecond) { // what ends it runs beside this
			_, err = io.ReadFull(body, piece)
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("read after cancel: %v", err)
		}
		body.Close()

		// A reader may stop anywhere, or not begin.
		for _, n := range []int{0, 1, 1000} {
			body, _, _, err := core.GetObject(t.Context(), bucket, "key", minio.GetObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(body, make([]byte, n)); err != nil {
				t.Fatal(err)
			}
			if err := body.Close(); err != nil {
				t.Error(err)
			}
		}
		if !bytes.Equal(f.mustGet(t, "key"), data) {
			t.Error("other bytes")
		}
	})
}

// Close does not wait for a client in the same process that holds an answer and
// does not read it.
func TestCloseUnderReader(t *testing.T) {
	f := start(t, ways[3])
	f.put(t, "key", noise(1, 1<<20), minio.PutObjectOptions{})
	core := minio.Core{Client: f.Client}
	body, _, _, err := core.GetObject(t.Context(), bucket, "key", minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := f.server.Close(); err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, body); !errors.Is(err, s3embed.ErrClosed) {
		t.Errorf("read %d bytes after Close: %v", n, err)
	}
	body.Close()
	opts := minio.PutObjectOptions{}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := f.PutObject(ctx, bucket, "key", bytes.NewReader(nil), 0, opts); err == nil {
		t.Error("put after Close")
	}
}

// What was begun and not finished leaves no file behind.
func TestFailedPutLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, config(), ways[4])
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	broken := io.MultiReader(bytes.NewReader(noise(1, 300_000)), errReader{})
	_, err := f.PutObject(t.Context(), bucket, "key", broken, 1_000_000, minio.PutObjectOptions{DisableMultipart: true})
	if err == nil {
		t.Error("a broken body was accepted")
	}
	for _, d := range []string{"tmp", "buckets/" + bucket} {
		if left, err := os.ReadDir(filepath.Join(dir, d)); err != nil || len(left) != 0 {
			t.Errorf("left in %s: %v, %v", d, left, err)
		}
	}
}

type errReader struct{}

func (errReader) Read([]byte) (int, error) { return 0, errors.New("the disk it comes from is gone") }
