package s3embed_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/imagestore/s3embed"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"golang.org/x/sys/unix"
)

// oddKeys are all different, and a filesystem would confuse or refuse many of them.
var oddKeys = []string{
	"a", "A", "a/", "a/b", "a//b", "a/b/", "a.b", ".", "..", "../..", "../../etc/passwd", "/lead", "//lead", "trail/", "trail//",
	".hidden", "dir/.hidden", "%41", "%2F", "a%2Fb", "a+b", "a b", " a", "a ", "a?b", "a&b=c", "a#b", "#x", "a\\b", "a:b", "a*b", "a\"b", "a<b>", "a;b", "a~b", "a'b",
	"ünïcode/käse", "日本語", "😀", "e\u0301", "é", "tab\tin", "new\nline", "\x7f", strings.Repeat("x", 255), strings.Repeat("y", 1024),
	strings.Repeat("z/", 512), strings.Repeat("é", 100), strings.Repeat("ü", 512),
}

func TestPutGet(t *testing.T) {
	each(t, func(t *testing.T, f *farm) {
		for _, n := range []int{0, 1, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1 << 20, 5<<20 + 3} {
			data := noise(uint64(n), n)
			put := f.put(t, "key", data, minio.PutObjectOptions{ContentType: "text/x-bake", UserMetadata: map[string]string{"Farm": "one"}})
			st, err := f.StatObject(t.Context(), bucket, "key", minio.StatObjectOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if st.Size != int64(n) || st.ETag != put.ETag || st.ContentType != "text/x-bake" || st.UserMetadata["Farm"] != "one" || st.Metadata.Get("Content-Encoding") != "" {
				t.Errorf("%d bytes: stat %d bytes, %q, %q, %v", n, st.Size, st.ETag, st.ContentType, st.UserMetadata)
			}
			if d := time.Since(st.LastModified); d < -time.Minute || d > time.Minute {
				t.Errorf("last modified %v ago", d)
			}
			if got := f.mustGet(t, "key"); !bytes.Equal(got, data) {
				t.Errorf("%d bytes: got %d other bytes", n, len(got))
			}
		}
		_, err := f.get(t.Context(), "nokey", minio.GetObjectOptions{})
		wantCode(t, err, 404, "NoSuchKey")
		_, err = f.PutObject(t.Context(), "nobucket", "key", strings.NewReader("x"), 1, minio.PutObjectOptions{})
		wantCode(t, err, 404, "NoSuchBucket")
	})
}

func TestRange(t *testing.T) {
	each(t, func(t *testing.T, f *farm) {
		data := noise(1, 100_000)
		f.put(t, "key", data, minio.PutObjectOptions{})
		for _, r := range []struct {
			header   string
			from, to int
		}{
			{"bytes=0-0", 0, 1}, {"bytes=10-19", 10, 20}, {"bytes=99999-", 99_999, 100_000}, {"bytes=500-200000", 500, 100_000},
			{"bytes=-1", 99_999, 100_000}, {"bytes=-70000", 30_000, 100_000}, {"bytes=-100000", 0, 100_000}, {"bytes=-9999999", 0, 100_000},
			{"bytes=0-9223372036854775807", 0, 100_000},
		} {
			core := minio.Core{Client: f.Client}
			opts := minio.GetObjectOptions{}
			opts.Set("Range", r.header)
			body, _, header, err := core.GetObject(t.Context(), bucket, "key", opts)
			if err != nil {
				t.Errorf("%s: %v", r.header, err)
				continue
			}
			got, err := io.ReadAll(body)
			body.Close()
			if err != nil || !bytes.Equal(got, data[r.from:r.to]) {
				t.Errorf("%s: %d bytes, %v", r.header, len(got), err)
			}
			if want := fmt.Sprintf("bytes %d-%d/100000", r.from, r.to-1); header.Get("Content-Range") != want {
				t.Errorf("%s: Content-Range %q, want %q", r.header, header.Get("Content-Range"), want)
			}
		}
		for _, bad := range []string{"bytes=100000-", "bytes=-0"} {
			opts := minio.GetObjectOptions{}
			opts.Set("Range", bad)
			_, err := f.get(t.Context(), "key", opts)
			wantCode(t, err, 416, "InvalidRange")
		}
	})
}

func TestOddKeys(t *testing.T) {
	dir := t.TempDir()
	for round := range 2 { // the second reads what the first left
		t.Run(fmt.Sprint("round ", round), func(t *testing.T) {
			w := ways[0]
			w.inProcess = round == 1
			f := open(t, dir, config(), w)
			if round == 0 {
				if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
					t.Fatal(err)
				}
				for _, k := range oddKeys {
					f.put(t, k, []byte("content of "+k), minio.PutObjectOptions{})
				}
			}
			for _, k := range oddKeys {
				if got := string(f.mustGet(t, k)); got != "content of "+k {
					t.Errorf("%q holds %q", k, got)
				}
			}
			want := slices.Clone(oddKeys)
			slices.Sort(want)
			for _, v1 := range []bool{false, true} {
				for _, page := range []int{0, 1, 2, 7} {
					got := f.keys(t, minio.ListObjectsOptions{Recursive: true, UseV1: v1, MaxKeys: page})
					if !slices.Equal(got, want) {
						t.Errorf("v1 %v, pages of %d:\n got %q\nwant %q", v1, page, got, want)
					}
				}
			}
		})
	}
	// Nothing of it may lie outside the bucket's directory.
	files, err := os.ReadDir(filepath.Join(dir, "buckets", bucket))
	if err != nil || len(files) != len(oddKeys) {
		t.Errorf("%d files for %d keys, %v", len(files), len(oddKeys), err)
	}
}

func TestListPrefixDelimiter(t *testing.T) {
	f := start(t, ways[3])
	for _, k := range []string{"a", "a/1", "a/2", "a/b/3", "a0", "b/", "b/1", "c//1", "d", "\xf4\x8f\xbf\xbf/1"} {
		f.put(t, k, []byte("x"), minio.PutObjectOptions{})
	}
	core := minio.Core{Client: f.Client}
	for _, test := range []struct{ prefix, delimiter, after, want string }{
		{"", "/", "", "a a/ a0 b/ c/ d \U0010ffff/"},
		{"a", "/", "", "a a/ a0"},
		{"a/", "/", "", "a/1 a/2 a/b/"},
		{"b/", "/", "", "b/ b/1"},
		{"c/", "/", "", "c//"},
		{"", "/", "a/", "a0 b/ c/ d \U0010ffff/"},
		{"", "/", "a/1", "a/ a0 b/ c/ d \U0010ffff/"},
		{"", "", "a/2", "a/b/3 a0 b/ b/1 c//1 d \U0010ffff/1"},
		{"a/", "", "a/1", "a/2 a/b/3"},
		{"a/", "", "b", ""},
		{"b", "", "a", "b/ b/1"},
		{"a", "b/", "", "a a/1 a/2 a/b/ a0"},
		{"\U0010ffff", "/", "\U0010ffff/", ""},
		{"none", "/", "", ""},
	} {
		for page := 1; page <= 4; page++ {
			var got []string
			token, after := "", test.after
			for {
				l, err := core.ListObjectsV2(bucket, test.prefix, after, token, test.delimiter, page)
				if err != nil {
					t.Fatal(err)
				}
				for _, o := range l.Contents {
					got = append(got, o.Key)
				}
				for _, p := range l.CommonPrefixes {
					got = append(got, p.Prefix)
				}
				if n := len(l.Contents) + len(l.CommonPrefixes); n > page {
					t.Errorf("%+v: page of %d items, want %d", test, n, page)
				}
				if token = l.NextContinuationToken; !l.IsTruncated {
					break
				}
			}
			slices.Sort(got)
			if s := strings.Join(got, " "); s != test.want {
				t.Errorf("%+v, pages of %d:\n got %s\nwant %s", test, page, s, test.want)
			}
		}
	}
}

func TestDelete(t *testing.T) {
	f := start(t, ways[0])
	for i := range 1100 {
		f.put(t, fmt.Sprintf("bulk/%04d", i), []byte("x"), minio.PutObjectOptions{})
	}
	f.put(t, "keep", []byte("x"), minio.PutObjectOptions{})
	if err := f.RemoveBucket(t.Context(), bucket); code(err) != "BucketNotEmpty" {
		t.Errorf("remove full bucket: %v", err)
	}
	objects := make(chan minio.ObjectInfo)
	go func() {
		defer close(objects)
		for i := range 1100 {
			objects <- minio.ObjectInfo{Key: fmt.Sprintf("bulk/%04d", i)}
		}
		objects <- minio.ObjectInfo{Key: "never was"}
	}()
	for e := range f.RemoveObjects(t.Context(), bucket, objects, minio.RemoveObjectsOptions{}) {
		t.Error(e)
	}
	if got := f.keys(t, minio.ListObjectsOptions{Recursive: true}); !slices.Equal(got, []string{"keep"}) {
		t.Errorf("left: %q", got)
	}
	for range 2 { // idempotent
		if err := f.RemoveObject(t.Context(), bucket, "keep", minio.RemoveObjectOptions{}); err != nil {
			t.Error(err)
		}
	}
	if err := f.RemoveBucket(t.Context(), bucket); err != nil {
		t.Error(err)
	}
	if ok, err := f.BucketExists(t.Context(), bucket); ok || err != nil {
		t.Errorf("bucket exists: %v, %v", ok, err)
	}
}

func TestCopy(t *testing.T) {
	f := start(t, ways[0])
	data := noise(3, 300_000)
	f.put(t, "from/ü %41", data, minio.PutObjectOptions{ContentType: "text/x", UserMetadata: map[string]string{"A": "1"}})
	dst, src := minio.CopyDestOptions{Bucket: bucket, Object: "to"}, minio.CopySrcOptions{Bucket: bucket, Object: "from/ü %41"}
	if _, err := f.CopyObject(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	st, err := f.StatObject(t.Context(), bucket, "to", minio.StatObjectOptions{})
	if err != nil || st.ContentType != "text/x" || st.UserMetadata["A"] != "1" {
		t.Errorf("%+v, %v", st, err)
	}
	if !bytes.Equal(f.mustGet(t, "to"), data) {
		t.Error("copied other bytes")
	}
	dst.Object, dst.ReplaceMetadata, dst.UserMetadata = "to2", true, map[string]string{"A": "2"}
	if _, err := f.CopyObject(t.Context(), dst, src); err != nil {
		t.Fatal(err)
	}
	if st, err = f.StatObject(t.Context(), bucket, "to2", minio.StatObjectOptions{}); err != nil || st.UserMetadata["A"] != "2" {
		t.Errorf("%+v, %v", st, err)
	}
}

func TestConditions(t *testing.T) {
	f := start(t, ways[0])
	only := minio.PutObjectOptions{}
	only.SetMatchETagExcept("*")
	var won, lost int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			data := noise(uint64(i), 10_000)
			_, err := f.PutObject(t.Context(), bucket, "once", bytes.NewReader(data), int64(len(data)), only)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case code(err) == "PreconditionFailed":
				lost++
			default:
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 || lost != 7 {
		t.Errorf("%d created it, %d were refused", won, lost)
	}
	st, err := f.StatObject(t.Context(), bucket, "once", minio.StatObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	match := minio.PutObjectOptions{}
	match.SetMatchETag(st.ETag)
	f.put(t, "once", []byte("second"), match)
	_, err = f.PutObject(t.Context(), bucket, "once", strings.NewReader("third"), 5, match)
	wantCode(t, err, 412, "PreconditionFailed")
	if got := string(f.mustGet(t, "once")); got != "second" {
		t.Errorf("holds %q", got)
	}
	get := minio.GetObjectOptions{}
	if err := get.SetMatchETag(st.ETag); err != nil {
		t.Fatal(err)
	}
	_, err = f.get(t.Context(), "once", get)
	wantCode(t, err, 412, "PreconditionFailed")
}

func TestChecksums(t *testing.T) {
	each(t, func(t *testing.T, f *farm) {
		data := noise(9, 200_000)
		for _, c := range []minio.ChecksumType{minio.ChecksumCRC32, minio.ChecksumCRC32C, minio.ChecksumCRC64NVME, minio.ChecksumSHA1, minio.ChecksumSHA256} {
			if !f.way.trailers {
				break // minio-go then sends none
			}
			f.put(t, "sum", data, minio.PutObjectOptions{Checksum: c})
			st, err := f.StatObject(t.Context(), bucket, "sum", minio.StatObjectOptions{Checksum: true})
			if err != nil {
				t.Fatal(err)
			}
			if st.ChecksumCRC32+st.ChecksumCRC32C+st.ChecksumCRC64NVME+st.ChecksumSHA1+st.ChecksumSHA256 == "" {
				t.Errorf("%v: no checksum came back", c)
			}
			if !bytes.Equal(f.mustGet(t, "sum"), data) {
				t.Errorf("%v: other bytes", c)
			}
		}
		f.put(t, "md5", data, minio.PutObjectOptions{SendContentMd5: true})
	})
}

func TestMultipart(t *testing.T) {
	for _, w := range ways {
		t.Run(w.name, func(t *testing.T) {
			dir := t.TempDir()
			parts := [][]byte{noise(1, 5<<20), noise(2, 6<<20), noise(3, 123)}
			var id string
			t.Run("begin", func(t *testing.T) {
				f := open(t, dir, config(), w)
				core := minio.Core{Client: f.Client}
				if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
					t.Fatal(err)
				}
				var err error
				id, err = core.NewMultipartUpload(t.Context(), bucket, "big/one", minio.PutObjectOptions{ContentType: "text/x", UserMetadata: map[string]string{"A": "1"}})
				if err != nil {
					t.Fatal(err)
				}
				for i, p := range [][]byte{[]byte("to be replaced"), parts[1]} {
					if _, err := core.PutObjectPart(t.Context(), bucket, "big/one", id, i+1, bytes.NewReader(p), int64(len(p)), minio.PutObjectPartOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			})
			// After a restart the upload is still there.
			f := open(t, dir, config(), w)
			core := minio.Core{Client: f.Client}
			for _, i := range []int{0, 2} {
				if _, err := core.PutObjectPart(t.Context(), bucket, "big/one", id, i+1, bytes.NewReader(parts[i]), int64(len(parts[i])), minio.PutObjectPartOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			var complete []minio.CompletePart
			for marker, more := 0, true; more; {
				l, err := core.ListObjectParts(t.Context(), bucket, "big/one", id, marker, 2)
				if err != nil {
					t.Fatal(err)
				}
				for _, p := range l.ObjectParts {
					complete = append(complete, minio.CompletePart{PartNumber: p.PartNumber, ETag: p.ETag})
					if p.Size != int64(len(parts[p.PartNumber-1])) {
						t.Errorf("part %d has %d bytes", p.PartNumber, p.Size)
					}
				}
				marker, more = l.NextPartNumberMarker, l.IsTruncated
			}
			if len(complete) != 3 {
				t.Fatalf("parts: %+v", complete)
			}
			uploads, err := core.ListMultipartUploads(t.Context(), bucket, "big/", "", "", "", 10)
			if err != nil || len(uploads.Uploads) != 1 || uploads.Uploads[0].UploadID != id || uploads.Uploads[0].Key != "big/one" {
				t.Errorf("uploads: %+v, %v", uploads, err)
			}
			if got := f.keys(t, minio.ListObjectsOptions{Recursive: true}); len(got) != 0 {
				t.Errorf("visible before complete: %q", got)
			}
			wrong := slices.Clone(complete)
			wrong[1].ETag = wrong[0].ETag
			_, err = core.CompleteMultipartUpload(t.Context(), bucket, "big/one", id, wrong, minio.PutObjectOptions{})
			wantCode(t, err, 400, "InvalidPart")
			for range 2 { // a repeated complete says the same
				if _, err := core.CompleteMultipartUpload(t.Context(), bucket, "big/one", id, complete, minio.PutObjectOptions{}); err != nil {
					t.Fatal(err)
				}
			}
			if got, want := f.mustGet(t, "big/one"), bytes.Join(parts, nil); !bytes.Equal(got, want) {
				t.Errorf("%d bytes, want %d", len(got), len(want))
			}
			st, err := f.StatObject(t.Context(), bucket, "big/one", minio.StatObjectOptions{})
			if err != nil || st.ContentType != "text/x" || st.UserMetadata["A"] != "1" {
				t.Errorf("%+v, %v", st, err)
			}
			for _, d := range []string{"uploads", "tmp"} {
				if left, err := os.ReadDir(filepath.Join(dir, d)); err != nil || len(left) != 0 {
					t.Errorf("left in %s: %v, %v", d, left, err)
				}
			}
			// minio-go's own cutting into parts.
			data := noise(7, 17<<20)
			f.put(t, "big/two", data, minio.PutObjectOptions{PartSize: 5 << 20})
			if !bytes.Equal(f.mustGet(t, "big/two"), data) {
				t.Error("other bytes")
			}
		})
	}
}

func TestMultipartAbortAndExpiry(t *testing.T) {
	dir := t.TempDir()
	cfg := config()
	f := open(t, dir, cfg, ways[0])
	core := minio.Core{Client: f.Client}
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	ids := map[string]string{}
	for _, key := range []string{"abort", "expire"} {
		id, err := core.NewMultipartUpload(t.Context(), bucket, key, minio.PutObjectOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := core.PutObjectPart(t.Context(), bucket, key, id, 1, strings.NewReader("abc"), 3, minio.PutObjectPartOptions{}); err != nil {
			t.Fatal(err)
		}
		ids[key] = id
	}
	if err := core.AbortMultipartUpload(t.Context(), bucket, "abort", ids["abort"]); err != nil {
		t.Fatal(err)
	}
	_, err := core.PutObjectPart(t.Context(), bucket, "abort", ids["abort"], 2, strings.NewReader("abc"), 3, minio.PutObjectPartOptions{})
	wantCode(t, err, 404, "NoSuchUpload")
	if err := f.server.Close(); err != nil {
		t.Fatal(err)
	}

	cfg.UploadTTL = time.Millisecond
	time.Sleep(2 * time.Millisecond)
	open(t, dir, cfg, ways[0])
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		left, err := os.ReadDir(filepath.Join(dir, "uploads"))
		if err != nil {
			t.Fatal(err)
		}
		if len(left) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left after the TTL: %v", left)
		}
	}
}

func TestComposeFromParts(t *testing.T) {
	f := start(t, ways[0])
	a, b := noise(1, 6<<20), noise(2, 1000)
	f.put(t, "a", a, minio.PutObjectOptions{})
	f.put(t, "b", b, minio.PutObjectOptions{})
	_, err := f.ComposeObject(t.Context(), minio.CopyDestOptions{Bucket: bucket, Object: "ab"},
		minio.CopySrcOptions{Bucket: bucket, Object: "a"},
		minio.CopySrcOptions{Bucket: bucket, Object: "b", MatchRange: true, Start: 10, End: 99})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(f.mustGet(t, "ab"), slices.Concat(a, b[10:100])) {
		t.Error("other bytes")
	}
}

// A reader sees one version whole, whatever is written meanwhile.
func TestOverwriteIsAtomic(t *testing.T) {
	f := start(t, ways[0])
	versions := map[string]bool{}
	var bodies [][]byte
	for i := range 4 {
		b := noise(uint64(i), 300_000+i*1000)
		bodies = append(bodies, b)
		versions[sum(b)] = true
	}
	f.put(t, "key", bodies[0], minio.PutObjectOptions{})
	ctx, cancel := context.WithCancel(t.Context())
	var writers, readers sync.WaitGroup
	for w := range 2 {
		writers.Go(func() {
			for i := range 40 {
				b := bodies[(i+w)%len(bodies)]
				if _, err := f.PutObject(t.Context(), bucket, "key", bytes.NewReader(b), int64(len(b)), minio.PutObjectOptions{}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 3 {
		readers.Go(func() {
			for ctx.Err() == nil {
				b, err := f.get(t.Context(), "key", minio.GetObjectOptions{})
				if err != nil || !versions[sum(b)] {
					t.Errorf("read %d bytes that nobody wrote, %v", len(b), err)
				}
				if got := f.keys(t, minio.ListObjectsOptions{}); !slices.Equal(got, []string{"key"}) {
					t.Errorf("listed %q", got)
				}
			}
		})
	}
	writers.Wait()
	cancel()
	readers.Wait()
}

func TestPresigned(t *testing.T) {
	f := start(t, ways[0])
	put, err := f.PresignedPutObject(t.Context(), bucket, "pre signed/ü", time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	do := func(method, url, body string, header ...string) (int, string) {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if len(header) > 0 {
			req.Header.Set(header[0], header[1])
		}
		tr := &http.Transport{DisableKeepAlives: true}
		resp, err := (&http.Client{Transport: tr}).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(b)
	}
	if status, body := do("PUT", put.String(), "hello"); status != 200 {
		t.Fatalf("put: %d %s", status, body)
	}
	get, err := f.PresignedGetObject(t.Context(), bucket, "pre signed/ü", time.Minute, map[string][]string{"response-content-type": {"text/x"}})
	if err != nil {
		t.Fatal(err)
	}
	if status, body := do("GET", get.String(), ""); status != 200 || body != "hello" {
		t.Errorf("get: %d %s", status, body)
	}
	if status, body := do("DELETE", get.String(), ""); status != 403 || !strings.Contains(body, "SignatureDoesNotMatch") {
		t.Errorf("other method: %d %s", status, body)
	}
	if status, body := do("GET", strings.Replace(get.String(), "text%2Fx", "text%2Fy", 1), ""); status != 403 {
		t.Errorf("other parameter: %d %s", status, body)
	}
	if status, body := do("PUT", put.String(), "", "X-Amz-Copy-Source", "/images/other"); status != 403 {
		t.Errorf("unsigned x-amz- header: %d %s", status, body)
	}
	short, err := f.PresignedGetObject(t.Context(), bucket, "pre signed/ü", time.Second, nil)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(2100 * time.Millisecond) // the signature's clock has whole seconds
	if status, body := do("GET", short.String(), ""); status != 403 || !strings.Contains(body, "expired") {
		t.Errorf("expired: %d %s", status, body)
	}
}

func TestWhoMayNot(t *testing.T) {
	f := start(t, ways[0])
	f.put(t, "key", []byte("x"), minio.PutObjectOptions{})
	as := func(creds *credentials.Credentials, region string) *minio.Client {
		tr := &http.Transport{DisableKeepAlives: true}
		c, err := minio.New(f.url, &minio.Options{Creds: creds, Region: region, Transport: tr})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for _, test := range []struct {
		name   string
		client *minio.Client
		status int
		code   string
	}{
		{"wrong secret", as(credentials.NewStaticV4(access, "guess", ""), ""), 403, "SignatureDoesNotMatch"},
		{"wrong key", as(credentials.NewStaticV4("guess", secret, ""), ""), 403, "InvalidAccessKeyId"},
		{"anonymous", as(credentials.NewStaticV4("", "", ""), ""), 403, "AccessDenied"},
		{"signature v2", as(credentials.NewStaticV2(access, secret, ""), ""), 400, "InvalidRequest"},
		{"wrong region", as(credentials.NewStaticV4(access, secret, ""), "mars-1"), 400, "AuthorizationHeaderMalformed"},
	} {
		t.Run(test.name, func(t *testing.T) {
			for _, n := range []int{1, 32 << 20} { // a refusal must also reach a client that is still sending
				opts := minio.PutObjectOptions{DisableMultipart: true}
				_, err := test.client.PutObject(t.Context(), bucket, "key", bytes.NewReader(make([]byte, n)), int64(n), opts)
				wantCode(t, err, test.status, test.code)
			}
			o, err := test.client.GetObject(t.Context(), bucket, "key", minio.GetObjectOptions{})
			if err == nil {
				_, err = io.ReadAll(o)
			}
			wantCode(t, err, test.status, test.code)
			_, err = test.client.ListBuckets(t.Context())
			wantCode(t, err, test.status, test.code)
		})
	}
	if got := string(f.mustGet(t, "key")); got != "x" {
		t.Errorf("holds %q", got)
	}
}

func TestRegion(t *testing.T) {
	cfg := config()
	cfg.Region = "farm-2"
	f := open(t, t.TempDir(), cfg, ways[0])
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	f.put(t, "key", []byte("x"), minio.PutObjectOptions{})
}

func TestInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, dir, config(), ways[0])
	_, err := s3embed.Open(dir, config())
	var inUse *s3embed.InUseError
	if !errors.Is(err, s3embed.ErrInUse) || !errors.As(err, &inUse) || inUse.Dir != dir || inUse.PID != os.Getpid() {
		t.Errorf("second open: %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	cfg := config()
	cfg.MinFree = 1 << 60
	dir := t.TempDir()
	f := open(t, dir, cfg, ways[0])
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err := f.PutObject(t.Context(), bucket, "key", strings.NewReader("x"), 1, minio.PutObjectOptions{})
	wantCode(t, err, 507, "InsufficientStorage")
	if got := f.keys(t, minio.ListObjectsOptions{}); len(got) != 0 {
		t.Errorf("listed %q", got)
	}
}

// The kernel refuses to write on, as it does when the disk is full.
func TestWriteFails(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	signal.Ignore(unix.SIGXFSZ)
	t.Cleanup(func() { signal.Reset(unix.SIGXFSZ) })
	small := unix.Rlimit{Cur: 1 << 20, Max: limit.Max}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &small); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
			t.Error(err)
		}
	})
	dir := t.TempDir()
	f := open(t, dir, config(), ways[0])
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	f.put(t, "fits", noise(1, 500_000), minio.PutObjectOptions{})
	_, err := f.PutObject(t.Context(), bucket, "does not", bytes.NewReader(noise(1, 3<<20)), 3<<20, minio.PutObjectOptions{})
	wantCode(t, err, 507, "InsufficientStorage")
	if got := f.keys(t, minio.ListObjectsOptions{}); !slices.Equal(got, []string{"fits"}) {
		t.Errorf("listed %q", got)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "tmp")); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestDamagedFileIsNotAnObject(t *testing.T) {
	dir := t.TempDir()
	f := open(t, dir, config(), ways[0])
	if err := f.MakeBucket(t.Context(), bucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, k := range []string{"cut", "good", "grown"} {
		f.put(t, k, noise(1, 10_000), minio.PutObjectOptions{})
	}
	if err := f.server.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "buckets", bucket)
	if err := os.Truncate(filepath.Join(path, "cut"), 5000); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(path, "grown"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "grown"), append([]byte("x"), b...), 0o644); err != nil {
		t.Fatal(err)
	}
	f = open(t, dir, config(), ways[0])
	if got := f.keys(t, minio.ListObjectsOptions{}); !slices.Equal(got, []string{"good"}) {
		t.Errorf("listed %q", got)
	}
}
