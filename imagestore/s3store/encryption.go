package s3store

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7/pkg/encrypt"
)

// Encryption reads what a URL asks of the service about encryption at rest:
//
//	…?sse=s3          with the service's own keys (SSE-S3)
//	…?sse=kms:KEY     with a key of its key management service (SSE-KMS); kms alone: its default key
//
// It is nil when the URL asks for nothing: then it is as the bucket is set up. The service encrypts and decrypts; nothing
// here sees a key.
func Encryption(rawURL string) (encrypt.ServerSide, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, nil // Dial says so
	}
	kind, key, _ := strings.Cut(u.Query().Get("sse"), ":")
	switch {
	case kind == "":
		return nil, nil
	case kind == "s3" && key == "":
		return encrypt.NewSSE(), nil
	case kind == "kms":
		return encrypt.NewSSEKMS(key, nil)
	}
	return nil, fmt.Errorf("S3 URL %s: sse %q: want s3, kms or kms:KEY", u.Redacted(), u.Query().Get("sse"))
}
