package s3store

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/minio/minio-go/v7"
)

// ErrForeign says that the bucket, below the store's prefix, holds another farm's images.
var ErrForeign = errors.New("another farm's")

// identity is the object that says whose the packs beside it are. It is no pack: neither the ledger nor garbage collection knows
// of it.
type identity struct {
	Schema int    `json:"schema"`
	Farm   string `json:"farm"`
}

const (
	identityName = "farm.json"
	maxIdentity  = 64 << 10
)

// Claim makes the bucket, below the store's prefix, the farm's with the given identity, or finds that it is: ErrForeign when it
// is another one's, whose packs a garbage collection of this farm would take for rubbish. takeOver makes it this farm's all
// the same. Of two farms that claim a new bucket at the same time, both see whose it came to be. A service that is away is tried
// again until ctx ends.
func (s *Store) Claim(ctx context.Context, farm string, takeOver bool) error {
	return s.ask(ctx, "whose the bucket is can't be asked", func(ctx context.Context) error { return s.claim(ctx, farm, takeOver) })
}

func (s *Store) claim(ctx context.Context, farm string, takeOver bool) error {
	is, err := s.identity(ctx)
	if err != nil {
		return err
	}
	if is == "" || is != farm && takeOver {
		raw, err := json.Marshal(identity{Schema: 1, Farm: farm})
		if err != nil {
			return err
		}
		_, err = s.client.PutObject(ctx, s.bucket, path.Join(s.prefix, identityName), bytes.NewReader(raw), int64(len(raw)),
			minio.PutObjectOptions{ContentType: "application/json", DisableContentSha256: true, ServerSideEncryption: s.sse})
		if err != nil {
			return fmt.Errorf("S3 %s: write %s: %w", s.url(), identityName, err)
		}
		if is, err = s.identity(ctx); err != nil {
			return err
		}
	}
	if is != farm {
		return fmt.Errorf("S3 %s holds the images of %w: farm %s, and this is farm %s", s.url(), ErrForeign, is, farm)
	}
	return nil
}

// identity reads whose the bucket is; empty: nobody's yet.
func (s *Store) identity(ctx context.Context) (string, error) {
	object, err := s.client.GetObject(ctx, s.bucket, path.Join(s.prefix, identityName), minio.GetObjectOptions{ServerSideEncryption: s.sse})
	if err != nil {
		return "", fmt.Errorf("S3 %s: %s: %w", s.url(), identityName, err)
	}
	defer object.Close()
	raw, err := io.ReadAll(io.LimitReader(object, maxIdentity))
	var response minio.ErrorResponse
	if errors.As(err, &response) && response.Code == "NoSuchKey" {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("S3 %s: read %s: %w", s.url(), identityName, err)
	}
	var is identity
	if err := json.Unmarshal(raw, &is); err != nil || is.Farm == "" {
		return "", fmt.Errorf("S3 %s: %w: %s does not say whose the bucket is: remove it, or name another bucket or prefix", s.url(), ErrRefused, identityName)
	}
	return is.Farm, nil
}
