package s3store

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// Dial makes a client for a URL, without connecting:
//
//	http[s]://KEY:SECRET@host[:port]/bucket[/prefix][?region=us-east-1][&lookup=path|dns]
//
// Key and secret are percent-encoded where need be. transport is nil for one of its own. The client does not retry by
// itself: the Store does, with a new pack ID for each PUT.
func Dial(rawURL string, transport http.RoundTripper) (client *minio.Client, bucket, prefix string, err error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The URL holds a secret: its text must not go into an error.
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err
		}
		return nil, "", "", fmt.Errorf("S3 URL: %w", err)
	}
	secret, hasSecret := u.User.Password()
	bucket, prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		err = fmt.Errorf("scheme %q: want http or https", u.Scheme)
	case u.Host == "":
		err = errors.New("no host")
	case u.User.Username() == "" || !hasSecret || secret == "":
		err = errors.New("no access key and secret: want http://KEY:SECRET@host/bucket")
	case bucket == "":
		err = errors.New("no bucket: want http://KEY:SECRET@host/bucket")
	default:
		if bad := s3utils.CheckValidBucketNameStrict(bucket); bad != nil {
			err = fmt.Errorf("bucket %q: %w: want 3 to 63 lower-case letters, digits, - and .", bucket, bad)
		}
	}
	if err != nil {
		return nil, "", "", fmt.Errorf("S3 URL %s: %w", u.Redacted(), err)
	}
	lookup := minio.BucketLookupAuto
	switch l := u.Query().Get("lookup"); l {
	case "":
	case "path":
		lookup = minio.BucketLookupPath
	case "dns":
		lookup = minio.BucketLookupDNS
	default:
		return nil, "", "", fmt.Errorf("S3 URL %s: lookup %q: want path or dns", u.Redacted(), l)
	}
	region := u.Query().Get("region")
	if region == "" {
		region = "us-east-1"
	}
	if transport == nil {
		t, err := minio.DefaultTransport(u.Scheme == "https")
		if err != nil {
			return nil, "", "", fmt.Errorf("S3 URL %s: %w", u.Redacted(), err)
		}
		t.MaxIdleConnsPerHost = 64
		t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
		transport = t
	}
	client, err = minio.New(u.Host, &minio.Options{
		Creds:        credentials.NewStaticV4(u.User.Username(), secret, ""),
		Secure:       u.Scheme == "https",
		Transport:    transport,
		Region:       region,
		BucketLookup: lookup,
		MaxRetries:   1,
		// Packs carry their checksum as a header. minio-go takes one only with this set, and sends no trailers for it.
		TrailingHeaders: true,
	})
	if err != nil {
		return nil, "", "", fmt.Errorf("S3 URL %s: %w", u.Redacted(), err)
	}
	return client, bucket, prefix, nil
}
