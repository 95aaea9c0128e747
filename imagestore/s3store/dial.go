package s3store

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
	"github.com/minio/minio-go/v7/pkg/s3utils"
)

// urlOptions are what may stand behind the question mark of a URL.
var urlOptions = []string{"ca", "checksum", "credentials", "lookup", "region", "sse"}

// environmentTime bounds asking the machine for credentials.
const environmentTime = 10 * time.Second

// Dial makes a client for a URL, without connecting:
//
//	http[s]://KEY:SECRET@host[:port]/bucket[/prefix][?region=REGION][&lookup=path|dns][&ca=FILE]
//	https://host[:port]/bucket[/prefix]?credentials=environment[&…]
//
// The region is that of a host of Amazon's, else us-east-1, when it is not said.
//
// Key and secret are percent-encoded where need be. "environment" is where Amazon's own tools look: AWS_ACCESS_KEY_ID,
// AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, ~/.aws/credentials, and what the machine or container has been given. ca is a file
// of certificates (PEM) that are trusted beside the system's. Encryption and ParseChecksum read the rest of the URL.
//
// transport is nil for one of its own. The client does not retry by itself: the Store does, with a new pack ID for each PUT. Where
// this machine's clock is wrong it signs by the service's.
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
	defer func() {
		if err != nil {
			client, err = nil, fmt.Errorf("S3 URL %s: %w", u.Redacted(), err)
		}
	}()
	bucket, prefix, _ = strings.Cut(strings.Trim(u.Path, "/"), "/")
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, "", "", fmt.Errorf("scheme %q: want http or https", u.Scheme)
	case u.Host == "":
		return nil, "", "", errors.New("no host")
	}
	keys, err := credentialsOf(u)
	if err != nil {
		return nil, "", "", err
	}
	if bucket == "" {
		return nil, "", "", errors.New("no bucket: want http://KEY:SECRET@host/bucket")
	}
	if err := s3utils.CheckValidBucketNameStrict(bucket); err != nil {
		return nil, "", "", fmt.Errorf("bucket %q: %w: want 3 to 63 lower-case letters, digits, - and .", bucket, err)
	}
	query := u.Query()
	for option := range query {
		if !slices.Contains(urlOptions, option) {
			return nil, "", "", fmt.Errorf("unknown option %q: there are %s", option, strings.Join(urlOptions, ", "))
		}
	}
	options := &minio.Options{
		Creds: keys, Secure: u.Scheme == "https", Region: cmp.Or(query.Get("region"), s3utils.GetRegionFromURL(*u), "us-east-1"), MaxRetries: 1,
		// Packs carry their checksum as a header. minio-go takes one only with this set, and sends no trailers for it.
		TrailingHeaders: true,
	}
	switch l := query.Get("lookup"); l {
	case "": // by name for the services that want it, else by path
	case "path":
		options.BucketLookup = minio.BucketLookupPath
	case "dns":
		if net.ParseIP(u.Hostname()) != nil {
			return nil, "", "", fmt.Errorf("lookup dns: no bucket can stand before %s, which is an address: want a name, or ?lookup=path", u.Hostname())
		}
		options.BucketLookup = minio.BucketLookupDNS
	default:
		return nil, "", "", fmt.Errorf("lookup %q: want path or dns", l)
	}
	if transport == nil {
		if transport, err = Transport(query.Get("ca")); err != nil {
			return nil, "", "", err
		}
	}
	options.Transport = &clocked{RoundTripper: transport, keys: keys, now: time.Now}
	client, err = minio.New(u.Host, options)
	return client, bucket, prefix, err
}

func credentialsOf(u *url.URL) (*credentials.Credentials, error) {
	secret, _ := u.User.Password()
	switch from := u.Query().Get("credentials"); {
	case from == "environment" && u.User == nil:
		return credentials.NewChainCredentials([]credentials.Provider{
			&credentials.EnvAWS{}, &credentials.FileAWSCredentials{}, &credentials.IAM{Client: &http.Client{Timeout: environmentTime}},
		}), nil
	case from != "" && from != "environment":
		return nil, fmt.Errorf("credentials %q: want environment", from)
	case from == "environment":
		return nil, errors.New("a key stands in it, and credentials=environment: want one of them")
	case u.User.Username() == "" || secret == "":
		return nil, errors.New("no access key and secret: want http://KEY:SECRET@host/bucket, or ?credentials=environment")
	}
	return credentials.NewStaticV4(u.User.Username(), secret, ""), nil
}

// Transport is one for Dial that trusts the authorities in a file of PEM beside the system's; "" names no file. Whoever makes it
// closes its idle connections.
func Transport(authorities string) (*http.Transport, error) {
	t, err := minio.DefaultTransport(true)
	if err != nil {
		return nil, err
	}
	t.MaxIdleConnsPerHost = 64
	t.ReadBufferSize, t.WriteBufferSize = 64<<10, 64<<10
	if authorities == "" {
		return t, nil
	}
	pem, err := os.ReadFile(authorities)
	if err != nil {
		return nil, fmt.Errorf("ca: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca %s: no certificate (PEM) in it", authorities)
	}
	if t.TLSClientConfig == nil {
		t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	t.TLSClientConfig.RootCAs = pool
	return t, nil
}
