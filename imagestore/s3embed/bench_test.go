package s3embed_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync/atomic"
	"testing"

	"github.com/minio/minio-go/v7"
)

var benchSizes = []struct {
	name string
	n    int
}{{"4KB", 4 << 10}, {"200KB", 200 << 10}, {"64MB", 64 << 20}}

// BenchmarkPut measures whole PUTs, fsync included, from minio-go's call to its return.
func BenchmarkPut(b *testing.B) {
	for _, w := range ways {
		for _, size := range benchSizes {
			for _, parallel := range []int{1, 8} {
				if size.n > 1<<20 && parallel > 1 {
					continue
				}
				b.Run(fmt.Sprintf("%s/%s/%d", w.name, size.name, parallel), func(b *testing.B) {
					cfg := config()
					cfg.NoSync = false
					benchPut(b, open(b, b.TempDir(), cfg, w), noise(1, size.n), parallel)
				})
			}
		}
	}
}

// BenchmarkPutNoSync is BenchmarkPut without the disk's part of it.
func BenchmarkPutNoSync(b *testing.B) {
	for _, w := range ways {
		for _, size := range benchSizes {
			b.Run(w.name+"/"+size.name, func(b *testing.B) {
				benchPut(b, open(b, b.TempDir(), config(), w), noise(1, size.n), 1)
			})
		}
	}
}

func benchPut(b *testing.B, f *farm, data []byte, parallel int) {
	if err := f.MakeBucket(b.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		b.Fatal(err)
	}
	opts := minio.PutObjectOptions{DisableMultipart: true, DisableContentSha256: f.way.unsigned}
	var n atomic.Int64
	b.SetBytes(int64(len(data)))
	b.SetParallelism(parallel)
	put := func() {
		// Small objects get new names, as in life. Overwriting thousands a second measures
		// ext4, which looks long for an inode that was not deleted within 5 seconds.
		key := fmt.Sprint("k", n.Add(1))
		if len(data) > 1<<20 {
			key = "k"
		}
		if _, err := f.PutObject(context.Background(), bucket, key, bytes.NewReader(data), int64(len(data)), opts); err != nil {
			b.Error(err)
		}
	}
	b.ResetTimer()
	if parallel == 1 {
		for range b.N {
			put()
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			put()
		}
	})
}

func BenchmarkGet(b *testing.B) {
	for _, w := range []way{ways[0], ways[3]} {
		for _, size := range benchSizes {
			b.Run(w.name+"/"+size.name, func(b *testing.B) {
				f := start(b, w)
				f.put(b, "key", noise(1, size.n), minio.PutObjectOptions{DisableMultipart: true})
				buf := make([]byte, 256<<10)
				b.SetBytes(int64(size.n))
				for b.Loop() {
					core := minio.Core{Client: f.Client}
					body, _, _, err := core.GetObject(b.Context(), bucket, "key", minio.GetObjectOptions{})
					if err != nil {
						b.Fatal(err)
					}
					n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, body, buf)
					body.Close()
					if err != nil || n != int64(size.n) {
						b.Fatal(n, err)
					}
				}
			})
		}
	}
}

func BenchmarkList(b *testing.B) {
	f := start(b, ways[3])
	for i := range 5000 {
		f.put(b, fmt.Sprintf("packs/%05d", i), []byte("x"), minio.PutObjectOptions{})
	}
	for b.Loop() {
		if n := len(f.keys(b, minio.ListObjectsOptions{Recursive: true})); n != 5000 {
			b.Fatal(n)
		}
	}
}
