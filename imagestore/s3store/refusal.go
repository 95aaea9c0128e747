package s3store

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// ErrRefused says that the service was reached and will not let this store use the bucket, or can't do what the store needs.
// Trying again does not help; other credentials, another bucket or other options may, and the error says which.
var ErrRefused = errors.New("refused")

// ask calls fn when a process starts, until the service has answered: one that is away is logged as trouble and asked again
// until ctx ends; a refusal is ErrRefused at once, with what may be done about it.
func (s *Store) ask(ctx context.Context, trouble string, fn func(context.Context) error) error {
	for attempt := 0; ; attempt++ {
		err := fn(ctx)
		switch {
		case err == nil, ctx.Err() != nil, errors.Is(err, ErrForeign), errors.Is(err, ErrRefused):
			return err
		case final(err):
			return fmt.Errorf("%w: %w%s", ErrRefused, err, s.remedy(err))
		}
		wait := min(10*time.Second, 250*time.Millisecond<<min(attempt, 10))
		s.log.Warn(trouble+": retrying", "url", s.url(), "err", fmt.Sprint(err, s.remedy(err)), "in", wait)
		if sleep(ctx, wait) != nil {
			return err
		}
	}
}

// final reports whether a process that starts should give up. One that has worked with the service already tries again in some
// of these cases: certificates are renewed.
func final(err error) bool {
	var certificate *tls.CertificateVerificationError
	return !transient(err) || errors.As(err, &certificate) || errors.Is(err, http.ErrSchemeMismatch) || answeredTLS(err)
}

// answeredTLS recognises a TLS alert record (RFC 8446, section 6) where HTTP was expected.
func answeredTLS(err error) bool {
	return strings.Contains(err.Error(), `malformed HTTP response "\x15\x03`)
}

// remedy is what a person may do about a refusal, for the end of its text.
func (s *Store) remedy(err error) string {
	var (
		authority   x509.UnknownAuthorityError
		certificate *tls.CertificateVerificationError
		name        *net.DNSError
		res         minio.ErrorResponse
	)
	switch {
	case errors.As(err, &authority):
		return ": name a file with the certificate of its authority, ?ca=FILE"
	case errors.As(err, &certificate):
		return ": name the service as its certificate does, or have that renewed"
	case errors.Is(err, http.ErrSchemeMismatch):
		return ": it speaks no TLS: want http:// in the URL"
	case answeredTLS(err):
		return ": it speaks TLS: want https:// in the URL"
	case errors.As(err, &name) && name.IsNotFound && strings.HasPrefix(name.Name, s.bucket+"."):
		return ": no host is called by the bucket's name: check the host, or say ?lookup=path"
	}
	errors.As(err, &res)
	switch res.Code {
	case "InvalidAccessKeyId":
		return ": check the access key"
	case "SignatureDoesNotMatch":
		return ": check the secret (percent-encoded where need be)"
	case "ExpiredToken", "InvalidToken", "InvalidTokenId":
		return ": get new credentials of the session"
	case "RequestTimeTooSkewed":
		return ": set this machine's clock"
	case "InvalidBucketName":
		return ": name another bucket"
	}
	// Answers to HEAD have no code.
	switch res.StatusCode {
	case http.StatusUnauthorized, http.StatusForbidden:
		if keys, err := s.client.GetCreds(); err == nil && keys.AccessKeyID == "" {
			return ": no credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or write ~/.aws/credentials"
		}
		return ": check the access key, the secret (percent-encoded where need be) and their rights to the bucket"
	case http.StatusBadRequest, http.StatusMovedPermanently:
		if res.Region != "" {
			return ": the bucket is in another region: say ?region=" + res.Region
		}
		return ": check the bucket's name, ?region= and ?lookup=, and whether it should be https"
	}
	return ""
}
