package s3store

import (
	"context"
	"fmt"
	"path"
	"strings"
	"time"

	"bakefarm/imagestore"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// Object is a pack's object in the bucket.
type Object struct {
	Pack     string
	Size     int64
	Modified time.Time // by the service's clock
}

// Objects calls fn for every pack object in the bucket, with or without a record.
func (s *Store) Objects(ctx context.Context, fn func(Object) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the listing when fn fails
	root := path.Join(s.prefix, "packs") + "/"
	for o := range s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: root, Recursive: true}) {
		if o.Err != nil {
			return fmt.Errorf("list %s%s: %w", s.url(), "/packs", o.Err)
		}
		pack := path.Base(o.Key)
		if o.Key != s.objectName(pack) || strings.HasSuffix(o.Key, "/") {
			continue // not one of ours
		}
		if err := fn(Object{pack, o.Size, o.LastModified}); err != nil {
			return err
		}
	}
	return context.Cause(ctx)
}

// Remove deletes a pack's object. It is no error when there is none. Its record must have gone before.
func (s *Store) Remove(ctx context.Context, pack string) error {
	err := retry(ctx, func() error {
		return s.client.RemoveObject(ctx, s.bucket, s.objectName(pack), minio.RemoveObjectOptions{})
	})
	if err != nil {
		return fmt.Errorf("delete %s: %w", s.objectName(pack), err)
	}
	return nil
}

// Describe reads the description of a composite without asking for its parts: see collect.Store.
func (s *Store) Describe(ctx context.Context, d digest.Digest) (imagestore.Blob, error) {
	locs, err := s.locateFresh(ctx, []digest.Digest{d})
	if err != nil {
		return imagestore.Blob{}, err
	}
	if locs[0].Pack == "" || !locs[0].Composite {
		return imagestore.Blob{}, fmt.Errorf("description of %s: %w", d, imagestore.ErrNotFound)
	}
	return s.descriptor(ctx, d, locs[0])
}
