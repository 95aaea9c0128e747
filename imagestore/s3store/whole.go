package s3store

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"path"
	"time"

	"bakefarm/imagestore"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// A blob that many ask for may lie in the bucket as one object too, so that they can be sent to the service for it. Such an object
// is named by the blob's digest, has no record, and is no truth: it may go at any time, and the pieces stay.

// maxWhole is the size limit of one PUT, in bytes (Amazon S3 API reference, PutObject).
const maxWhole = 5 << 30

// Whole is a blob that lies in the bucket as one object.
type Whole struct {
	Digest   digest.Digest
	Size     int64
	Modified time.Time // by the service's clock
}

func (s *Store) wholeName(d digest.Digest) string {
	return path.Join(s.prefix, "blobs", d.Encoded()[:2], d.Encoded())
}

// Materialise puts a blob together as one object. Idempotent; the object is there, with the blob's digest, when it returns.
func (s *Store) Materialise(ctx context.Context, d digest.Digest) error {
	b, err := s.Stat(ctx, d)
	if err != nil {
		return err
	}
	if b.Size > maxWhole {
		return fmt.Errorf("%s: %d bytes: an object of at most %d is made", d, b.Size, int64(maxWhole))
	}
	if there, err := s.Materialised(ctx, d); err != nil || there {
		return err
	}
	err = retry(ctx, func() error {
		content, err := s.Open(ctx, d, 0, -1)
		if err != nil {
			return err
		}
		defer content.Close()
		// The object appears when its last byte has come, and that comes only if all are right.
		body := &verifying{r: content, left: b.Size, want: d, hash: sha256.New()}
		options := minio.PutObjectOptions{
			ContentType: "application/octet-stream", DisableMultipart: true, DisableContentSha256: true, ServerSideEncryption: s.sse,
		}
		if s.sum == CRC32C { // such a service knows the digest itself as a checksum, too
			sum, err := hex.DecodeString(d.Encoded())
			if err != nil {
				return err
			}
			options.UserMetadata = map[string]string{wholeChecksum: base64.StdEncoding.EncodeToString(sum)}
		}
		_, err = s.client.PutObject(ctx, s.bucket, s.wholeName(d), body, b.Size, options)
		return err
	})
	if err != nil {
		// There are services that keep what has come of a body that broke off.
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		return errors.Join(fmt.Errorf("materialise %s: %w", d, err), s.Dematerialise(clean, d))
	}
	return nil
}

// wholeChecksum (Amazon S3 API reference, PutObject) is written as checksumHeader is.
const wholeChecksum = "X-Amz-Checksum-Sha256"

// cleanTime is how long the deletion of an object that came to nothing may take.
const cleanTime = 10 * time.Second

// verifying fails at the end of bytes that do not have the digest.
type verifying struct {
	r    io.Reader
	left int64
	want digest.Digest
	hash hash.Hash
}

func (v *verifying) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	if v.left -= int64(n); v.left == 0 && n > 0 && hex.EncodeToString(v.hash.Sum(nil)) != v.want.Encoded() {
		return 0, fmt.Errorf("%s: %w: its pieces together have another digest", v.want, imagestore.ErrCorrupt)
	}
	return n, err
}

// Materialised reports whether a blob lies in the bucket as one object, all of it. It asks the service.
func (s *Store) Materialised(ctx context.Context, d digest.Digest) (there bool, err error) {
	b, _, err := s.stat(ctx, d)
	if errors.Is(err, imagestore.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = retry(ctx, func() error {
		info, err := s.client.StatObject(ctx, s.bucket, s.wholeName(d), minio.StatObjectOptions{})
		var res minio.ErrorResponse
		if errors.As(err, &res) && res.StatusCode == http.StatusNotFound {
			return nil
		}
		there = err == nil && info.Size == b.Size
		return err
	})
	if err != nil {
		return false, fmt.Errorf("look for %s: %w", d, err)
	}
	return there, nil
}

// Presign makes a URL that reads a materialised blob without credentials for so long.
func (s *Store) Presign(ctx context.Context, d digest.Digest, valid time.Duration) (string, error) {
	u, err := s.client.PresignedGetObject(ctx, s.bucket, s.wholeName(d), valid, nil)
	if err != nil {
		return "", fmt.Errorf("presign %s: %w", d, err)
	}
	return u.String(), nil
}

// Wholes calls fn for every materialised blob.
func (s *Store) Wholes(ctx context.Context, fn func(Whole) error) error {
	return s.list(ctx, "blobs", func(o minio.ObjectInfo) error {
		d := digest.NewDigestFromEncoded(digest.SHA256, path.Base(o.Key))
		if d.Validate() != nil || o.Key != s.wholeName(d) {
			return nil // not one of ours
		}
		return fn(Whole{d, o.Size, o.LastModified})
	})
}

// Dematerialise deletes the object of a materialised blob. It is no error when there is none.
func (s *Store) Dematerialise(ctx context.Context, d digest.Digest) error {
	err := retry(ctx, func() error {
		return s.client.RemoveObject(ctx, s.bucket, s.wholeName(d), minio.RemoveObjectOptions{})
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", s.wholeName(d), err)
	}
	return nil
}
