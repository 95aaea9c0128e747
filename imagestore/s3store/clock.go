package s3store

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// A clocked transport signs by the service's clock where this machine's is wrong. An S3 service refuses requests that are signed
// more than 15 minutes before or after its own time, and says in every answer what time that is (RFC 9110, section 6.6.1).
//
//	403, and its Date is far from the time that the request was signed at:   take the difference; sign and send again
//	from then on:                                                            every request is signed anew, by that clock
//
// A request whose body can't be read again is not sent again here: the caller's next try is right. Presigned URLs, and payloads
// that are signed chunk by chunk (the store sends none), stay as they are.
//
// https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
type clocked struct {
	http.RoundTripper
	keys *credentials.Credentials
	now  func() time.Time
	off  atomic.Int64 // the service's clock less this machine's, in nanoseconds
}

const (
	signedBy    = "AWS4-HMAC-SHA256"
	stampFormat = "20060102T150405Z"
	farOff      = 4 * time.Minute // the narrowest limit of a service that is known is 5 minutes
)

func (c *clocked) RoundTrip(r *http.Request) (*http.Response, error) {
	sent, at, err := c.sign(r)
	if err != nil {
		return nil, err
	}
	answer, err := c.RoundTripper.RoundTrip(sent)
	if err != nil || answer.StatusCode != http.StatusForbidden || at.IsZero() {
		return answer, err
	}
	date, noDate := http.ParseTime(answer.Header.Get("Date"))
	if wrong := date.Sub(at).Abs(); noDate != nil || wrong < farOff {
		return answer, nil
	}
	off := date.Sub(c.now()).Round(time.Second)
	if off.Abs() < farOff { // this machine's clock has been put right
		off = 0
	}
	c.off.Store(int64(off))
	slog.Warn("the clocks of this machine and of the S3 service differ: requests are signed by the service's", "service", r.URL.Host, "ahead", off)
	if r.Body != nil && r.Body != http.NoBody {
		if r.GetBody == nil {
			return answer, nil
		}
		body, err := r.GetBody()
		if err != nil {
			return answer, nil
		}
		r = r.Clone(r.Context())
		r.Body = body
	}
	again, _, err := c.sign(r)
	if err != nil {
		return answer, nil
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(answer.Body, 64<<10)) // so that the connection can be used again
	answer.Body.Close()
	return c.RoundTripper.RoundTrip(again)
}

// sign returns the request with a signature of the service's time, and the time that it is signed at; zero when it is not
// signed in a way that could be done again.
func (c *clocked) sign(r *http.Request) (*http.Request, time.Time, error) {
	fields, signed := strings.CutPrefix(r.Header.Get("Authorization"), signedBy+" ")
	at, err := time.Parse(stampFormat, r.Header.Get("X-Amz-Date"))
	if !signed || err != nil || strings.HasPrefix(r.Header.Get("X-Amz-Content-Sha256"), "STREAMING-AWS4") {
		return r, time.Time{}, nil
	}
	off := time.Duration(c.off.Load())
	if off == 0 {
		return r, at, nil
	}
	key, err := c.keys.GetWithContext(nil)
	if err != nil {
		return nil, at, fmt.Errorf("S3 credentials: %w", err)
	}
	var credential, headers string
	for field := range strings.SplitSeq(fields, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(field), "="); name {
		case "Credential":
			credential = value
		case "SignedHeaders":
			headers = value
		}
	}
	scope := strings.Split(strings.TrimPrefix(credential, key.AccessKeyID+"/"), "/")
	if len(scope) != 4 || !strings.HasPrefix(credential, key.AccessKeyID+"/") {
		return r, at, nil // of other keys than these
	}
	at = c.now().Add(off).UTC()
	stamp := at.Format(stampFormat)
	scope[0] = stamp[:8]
	r = r.Clone(r.Context())
	r.Header.Set("X-Amz-Date", stamp)
	canonical := sha256.Sum256([]byte(canonical(r, strings.Split(headers, ";"))))
	signing := []byte("AWS4" + key.SecretAccessKey)
	for _, part := range append(slices.Clone(scope), strings.Join([]string{signedBy, stamp, strings.Join(scope, "/"), hex.EncodeToString(canonical[:])}, "\n")) {
		mac := hmac.New(sha256.New, signing)
		mac.Write([]byte(part))
		signing = mac.Sum(nil)
	}
	r.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s, SignedHeaders=%s, Signature=%x", signedBy, key.AccessKeyID, strings.Join(scope, "/"), headers, signing))
	return r, at, nil
}

// canonical is the request in the form that is signed.
func canonical(r *http.Request, headers []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n%s\n%s\n", r.Method, s3utils.EncodePath(r.URL.Path), strings.ReplaceAll(r.URL.Query().Encode(), "+", "%20"))
	for _, name := range headers {
		values := r.Header.Values(name)
		if name == "host" {
			values = []string{r.Host}
			if r.Host == "" {
				values[0] = r.URL.Host
			}
		}
		trimmed := make([]string, len(values))
		for i, v := range values {
			trimmed[i] = strings.Join(strings.Fields(v), " ")
		}
		fmt.Fprintf(&b, "%s:%s\n", name, strings.Join(trimmed, ","))
	}
	fmt.Fprintf(&b, "\n%s\n%s", strings.Join(headers, ";"), r.Header.Get("X-Amz-Content-Sha256"))
	return b.String()
}
