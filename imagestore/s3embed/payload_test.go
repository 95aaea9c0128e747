package s3embed

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/minio/minio-go/v7/pkg/signer"
)

// The worked examples of AWS:
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-query-string-auth.html
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming.html
// https://docs.aws.amazon.com/AmazonS3/latest/API/sigv4-streaming-trailers.html
var (
	awsKeys = keys{access: "AKIAIOSFODNN7EXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", region: "us-east-1"}
	awsTime = time.Date(2013, 5, 24, 0, 0, 0, 0, time.UTC)
)

const awsCredential = "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"

func awsRequest(method, url string, headers ...string) *http.Request {
	r := httptest.NewRequest(method, url, nil)
	r.Host = "examplebucket.s3.amazonaws.com"
	for i := 0; i < len(headers); i += 2 {
		r.Header.Set(headers[i], headers[i+1])
	}
	return r
}

func TestAWSExamples(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"get object": awsRequest("GET", "/test.txt", "Range", "bytes=0-9", "X-Amz-Content-Sha256", emptySHA256, "X-Amz-Date", "20130524T000000Z",
			"Authorization", awsCredential+"SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
		"put object": awsRequest("PUT", "/test%24file.text", "Date", "Fri, 24 May 2013 00:00:00 GMT", "X-Amz-Date", "20130524T000000Z", "X-Amz-Storage-Class", "REDUCED_REDUNDANCY",
			"X-Amz-Content-Sha256", "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
			"Authorization", awsCredential+"SignedHeaders=date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class,Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"),
		"get lifecycle": awsRequest("GET", "/?lifecycle", "X-Amz-Content-Sha256", emptySHA256, "X-Amz-Date", "20130524T000000Z",
			"Authorization", awsCredential+"SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
		"list": awsRequest("GET", "/?max-keys=2&prefix=J", "X-Amz-Content-Sha256", emptySHA256, "X-Amz-Date", "20130524T000000Z",
			"Authorization", awsCredential+"SignedHeaders=host;x-amz-content-sha256;x-amz-date,Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
		"presigned": awsRequest("GET", "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"+
			"&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"),
	} {
		if _, err := awsKeys.verify(r, awsTime.Add(time.Minute)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "presigned" {
			continue
		}
		for _, skew := range []time.Duration{-16 * time.Minute, 16 * time.Minute} {
			var api *apiError
			if _, err := awsKeys.verify(r, awsTime.Add(skew)); !errors.As(err, &api) || api.status != 403 || api.code != "RequestTimeTooSkewed" {
				t.Errorf("%s with a clock %v off: %v", name, skew, err)
			}
		}
	}
}

func TestAWSStreamingExample(t *testing.T) {
	const seed = "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9"
	r := awsRequest("PUT", "/examplebucket/chunkObject.txt", "X-Amz-Date", "20130524T000000Z", "X-Amz-Storage-Class", "REDUCED_REDUNDANCY",
		"X-Amz-Content-Sha256", signedChunks, "Content-Encoding", "aws-chunked", "X-Amz-Decoded-Content-Length", "66560", "Content-Length", "66824",
		"Authorization", awsCredential+"SignedHeaders=content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;x-amz-storage-class,Signature="+seed)
	r.Host = "s3.amazonaws.com"
	body := strings.Join([]string{
		"10000;chunk-signature=ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648", strings.Repeat("a", 65536),
		"400;chunk-signature=0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497", strings.Repeat("a", 1024),
		"0;chunk-signature=b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9", "", "",
	}, "\r\n")
	if len(body) != 66824 {
		t.Fatal(len(body))
	}
	r.Body, r.ContentLength = io.NopCloser(strings.NewReader(body)), int64(len(body))
	got, err := readPayload(awsKeys, r, awsTime)
	if err != nil || string(got) != strings.Repeat("a", 66560) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func readPayload(k keys, r *http.Request, now time.Time) ([]byte, error) {
	sig, err := k.verify(r, now)
	if err != nil {
		return nil, err
	}
	p, err := newPayload(r, sig)
	if err != nil {
		return nil, err
	}
	return io.ReadAll(p)
}

// signedPut is a PUT as minio-go sends it over plain HTTP, with a CRC-32C trailer or
// without, and its body on the wire.
func signedPut(t testing.TB, data []byte, trailer, chunks bool) (*http.Request, []byte) {
	t.Helper()
	now := time.Now().UTC()
	r, err := http.NewRequestWithContext(context.Background(), "PUT", "http://s3.local/bucket/key", bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if trailer {
		var sum [4]byte
		h := crc32.New(castagnoli)
		h.Write(data)
		r.Trailer = http.Header{"X-Amz-Checksum-Crc32c": {base64.StdEncoding.EncodeToString(h.Sum(sum[:0]))}}
	}
	if chunks {
		r = signer.StreamingSignV4(r, awsKeys.access, awsKeys.secret, "", awsKeys.region, int64(len(data)), now, sha256Hasher{newHash()})
	} else {
		h := r.Trailer
		r.Header.Set("X-Amz-Content-Sha256", unsignedPayloadTrailer)
		r.Trailer = nil
		r = signer.SignV4Trailer(*r, awsKeys.access, awsKeys.secret, "", awsKeys.region, h)
	}
	wire, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	r.Host, r.Trailer = r.URL.Host, nil
	return r, wire
}

func withBody(r *http.Request, wire []byte) *http.Request {
	r = r.Clone(context.Background())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(wire)), int64(len(wire))
	return r
}

// Every single bit of a signed body counts, and so does every one of a checksum.
func TestTamperedBodies(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 8200) // three chunks
	for _, kind := range []struct {
		name            string
		trailer, chunks bool
	}{{"signed", false, true}, {"signed with trailer", true, true}, {"unsigned with trailer", true, false}} {
		t.Run(kind.name, func(t *testing.T) {
			r, wire := signedPut(t, data, kind.trailer, kind.chunks)
			for name, body := range map[string]io.Reader{"whole": bytes.NewReader(wire), "by the byte": iotest.OneByteReader(bytes.NewReader(wire))} {
				q := withBody(r, wire)
				q.Body = io.NopCloser(body)
				if got, err := readPayload(awsKeys, q, time.Now()); err != nil || !bytes.Equal(got, data) {
					t.Fatalf("%s: %d bytes, %v\n%q", name, len(got), err, wire[len(wire)-200:])
				}
			}
			refused := func(what string, wire []byte) {
				t.Helper()
				got, err := readPayload(awsKeys, withBody(r, wire), time.Now())
				var api *apiError
				if err == nil && bytes.Equal(got, data) {
					return // what was changed did not matter (an empty line, the case of a digit)
				}
				if !errors.As(err, &api) || api.status < 400 || api.status >= 500 {
					t.Errorf("%s: %d bytes, %v", what, len(got), err)
				}
			}
			for i := 0; i < len(wire); i++ {
				if i > 200 && i < len(wire)-300 && i%997 != 0 && (i < 65500 || i > 65800) {
					continue
				}
				bad := bytes.Clone(wire)
				bad[i] ^= 1
				refused(fmt.Sprintf("bit of byte %d (%q)", i, wire[i]), bad)
			}
			for _, n := range []int{0, 1, 50, 100, 70_000, len(wire) / 2, len(wire) - 200, len(wire) - 100} {
				if got, err := readPayload(awsKeys, withBody(r, wire[:n]), time.Now()); err == nil {
					t.Errorf("cut at %d of %d: %d bytes accepted", n, len(wire), len(got))
				}
			}
			if kind.chunks {
				// Two chunks swapped: each is signed, the chain is not.
				chunk := len("10000;chunk-signature=") + 64 + 2 + 65536 + 2
				swapped := append(append(append([]byte{}, wire[chunk:2*chunk]...), wire[:chunk]...), wire[2*chunk:]...)
				if _, err := readPayload(awsKeys, withBody(r, swapped), time.Now()); err == nil {
					t.Error("swapped chunks accepted")
				}
			}
		})
	}
}

func TestDigestsOfPlainBodies(t *testing.T) {
	body := []byte("hello")
	for name, test := range map[string]struct {
		header, value string
		code          string
	}{
		"sha256":       {"X-Amz-Content-Sha256", strings.Repeat("0", 64), "XAmzContentSHA256Mismatch"},
		"odd sha256":   {"X-Amz-Content-Sha256", "abc", "InvalidArgument"},
		"md5":          {"Content-Md5", base64.StdEncoding.EncodeToString(make([]byte, 16)), "BadDigest"},
		"odd md5":      {"Content-Md5", "abc", "InvalidDigest"},
		"crc32c":       {"X-Amz-Checksum-Crc32c", "AAAAAA==", "BadDigest"},
		"crc64nvme":    {"X-Amz-Checksum-Crc64nvme", "AAAAAAAAAAA=", "BadDigest"},
		"odd checksum": {"X-Amz-Checksum-Crc99", "AAAAAA==", "InvalidRequest"},
	} {
		r := withBody(httptest.NewRequest("PUT", "/b/k", nil), body)
		sig := &signature{payload: unsignedPayload}
		if test.header == "X-Amz-Content-Sha256" {
			sig.payload = test.value
		} else {
			r.Header.Set(test.header, test.value)
		}
		p, err := newPayload(r, sig)
		if err == nil {
			_, err = io.ReadAll(p)
		}
		var api *apiError
		if !errors.As(err, &api) || api.code != test.code || api.status != 400 {
			t.Errorf("%s: %v, want %s", name, err, test.code)
		}
	}
}

func FuzzChunkReader(f *testing.F) {
	for _, trailer := range []bool{false, true} {
		_, wire := signedPut(f, []byte("hello, world"), trailer, true)
		f.Add(wire, int64(12), true)
		_, wire = signedPut(f, []byte("hello, world"), true, false)
		f.Add(wire, int64(12), false)
	}
	f.Fuzz(func(t *testing.T, wire []byte, size int64, signed bool) {
		r := withBody(httptest.NewRequest("PUT", "/b/k", nil), wire)
		r.Header.Set("X-Amz-Decoded-Content-Length", fmt.Sprint(size))
		r.Header.Set("X-Amz-Trailer", "x-amz-checksum-crc32c")
		sig := &signature{payload: unsignedPayloadTrailer}
		if signed {
			sig.payload = signedChunksTrailer
		}
		p, err := newPayload(r, sig)
		if err != nil {
			return
		}
		got, err := io.ReadAll(p)
		if int64(len(got)) > max(size, 0) || err == nil && int64(len(got)) != size {
			t.Errorf("%d bytes of %d announced, %v", len(got), size, err)
		}
		if signed && err == nil && size > 0 {
			t.Error("accepted without a key")
		}
	})
}

func FuzzFileName(f *testing.F) {
	for _, k := range []string{"a", ".", "..", "a/../b", "%41", "#x", strings.Repeat("é", 100)} {
		f.Add(k, k+"/")
	}
	f.Fuzz(func(t *testing.T, a, b string) {
		if a == "" || b == "" {
			return
		}
		na, nb := fileName(a), fileName(b)
		if (a == b) != (na == nb) {
			t.Errorf("%q and %q become %q and %q", a, b, na, nb)
		}
		if strings.ContainsAny(na, "/\x00") || na[0] == '.' || len(na) > maxName {
			t.Errorf("%q becomes %q", a, na)
		}
		if k, ok := keyOf(na); ok && k != a || !ok && na[0] != '#' {
			t.Errorf("%q becomes %q becomes %q, %v", a, na, k, ok)
		}
		keyOf(a) // must not panic
	})
}

func FuzzReadInfo(f *testing.F) {
	good, err := appendFooter([]byte("data"), &objectInfo{Key: "k", Size: 4, ETag: hex.EncodeToString(make([]byte, 20))})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := (&store{dir: t.TempDir(), minFree: -1, noSync: true}).tempFile(b)
		if err != nil {
			t.Fatal(err)
		}
		defer d.Close()
		if info, err := readInfo(d); err == nil && info.Size > int64(len(b)) {
			t.Errorf("%d bytes of data in a file of %d", info.Size, len(b))
		}
	})
}
