package s3embed_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/imagestore/s3embed"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// crashDir tells the re-executed test binary to be a server on that directory.
const crashDir = "S3EMBED_CRASH_DIR"

// serveUntilKilled prints its address and serves.
func serveUntilKilled(dir string) {
	fail := func(err error) {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	cfg := config()
	cfg.NoSync = false
	server, err := s3embed.Open(dir, cfg)
	if err != nil {
		fail(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		fail(err)
	}
	fmt.Println(l.Addr())
	fail(http.Serve(l, server.Handler()))
}

// Killed again and again in the middle of PUTs, multipart uploads and overwrites, the
// store holds every answered object, and nothing but whole ones.
func TestKill9(t *testing.T) {
	dir := t.TempDir()
	answered := map[string]string{} // key → sha256
	var mu sync.Mutex
	for round := range 4 {
		crashRound(t, dir, round, func(key, sum string) {
			mu.Lock()
			answered[key] = sum
			mu.Unlock()
		})
		f := open(t, dir, config(), ways[3])
		if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) != 0 {
			t.Errorf("unfinished files after open: %v, %v", left, err)
		}
		listed := map[string]bool{}
		for o := range f.ListObjects(t.Context(), bucket, minio.ListObjectsOptions{Recursive: true, WithMetadata: true}) {
			if o.Err != nil {
				t.Fatal(o.Err)
			}
			listed[o.Key] = true
			data := f.mustGet(t, o.Key)
			st, err := f.StatObject(t.Context(), bucket, o.Key, minio.StatObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if st.UserMetadata["Sum"] != sum(data) || int64(len(data)) != o.Size {
				t.Errorf("%s: %d bytes with another sum than was sent", o.Key, len(data))
			}
		}
		for key := range answered {
			if !listed[key] {
				t.Errorf("%s was answered and is gone", key)
			}
		}
		t.Logf("round %d: %d answered, %d listed", round, len(answered), len(listed))
		if err := f.server.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

// crashRound writes to a server process until some time after its first objects,
// then kills it.
func crashRound(t *testing.T, dir string, round int, answered func(key, sum string)) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), crashDir+"="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }() // SIGKILL
	addr, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	client, err := minio.New(strings.TrimSpace(addr), &minio.Options{
		Creds: credentials.NewStaticV4(access, secret, ""), Transport: tr, MaxRetries: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	if round == 0 {
		if err := client.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
			t.Fatal(err)
		}
	}

	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := make(chan struct{})
	var once sync.Once
	var wg sync.WaitGroup
	for w := range 4 {
		wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				size := []int{100, 70_000, 900_000, 6 << 20}[rand.IntN(4)]
				data := noise(uint64(round*1000+w*100+i), size)
				key := fmt.Sprintf("w%d/k%d", w, i%7)
				_, err := client.PutObject(ctx, bucket, key, bytes.NewReader(data), int64(size), minio.PutObjectOptions{
					UserMetadata: map[string]string{"Sum": sum(data)}, PartSize: 5 << 20,
				})
				if err != nil {
					return
				}
				answered(key, sum(data))
				once.Do(func() { close(first) })
			}
		})
	}
	select {
	case <-first:
	case <-time.After(20 * time.Second):
		t.Error("no object was written")
	}
	time.Sleep(time.Duration(50+rand.IntN(300)) * time.Millisecond)
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	cancel()
	wg.Wait()
}
