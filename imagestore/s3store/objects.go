package s3store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"

	"bakefarm/farm"
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
	return s.list(ctx, "packs", func(o minio.ObjectInfo) error {
		pack := path.Base(o.Key)
		if o.Key != s.objectName(pack) {
			return nil // not one of ours
		}
		return fn(Object{pack, o.Size, o.LastModified})
	})
}

// list calls fn for every object below a directory of the store's.
func (s *Store) list(ctx context.Context, dir string, fn func(minio.ObjectInfo) error) error {
	ctx, cancel := context.WithCancel(ctx)
	root := path.Join(s.prefix, dir) + "/"
	listing := s.client.ListObjects(ctx, s.bucket, minio.ListObjectsOptions{Prefix: root, Recursive: true})
	defer func() { // the listing ends when it can't send any more
		cancel()
		for range listing {
		}
	}()
	for o := range listing {
		if o.Err != nil {
			return fmt.Errorf("list %s/%s: %w", s.url(), dir, o.Err)
		}
		if strings.HasSuffix(o.Key, "/") {
			continue // made by somebody who thinks of directories
		}
		if err := fn(o); err != nil {
			return err
		}
	}
	return ctx.Err()
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

// Verify reads a pack's object from beginning to end and lists the entries whose bytes are not what they should be. pace is
// told how many bytes are read next, and may wait. imagestore.ErrNotFound when there is no object, ErrCorrupt when its index
// is not the registered one: nothing of it can be relied on then.
func (s *Store) Verify(ctx context.Context, p farm.Pack, pace func(int64) error) (entries, bad []imagestore.Entry, err error) {
	if entries, err = s.readTrailer(ctx, p); err != nil {
		return nil, nil, err
	}
	for start := 0; start < len(entries); {
		// As many entries as fit into one GET; at least one.
		end, from := start+1, entries[start].Offset
		for end < len(entries) && entries[end].Offset+entries[end].Length-from <= 2*runBytes {
			end++
		}
		to := from
		for _, e := range entries[start:end] {
			to = max(to, e.Offset+e.Length)
		}
		if err := pace(to - from); err != nil {
			return nil, nil, err
		}
		data := make([]byte, to-from)
		err := retry(ctx, func() error { return s.get(ctx, p.ID, from, data) })
		if errors.Is(err, errGone) {
			return nil, nil, fmt.Errorf("%w: %w", imagestore.ErrNotFound, err)
		}
		if err != nil {
			return nil, nil, err
		}
		for _, e := range entries[start:end] {
			want := e.Digest
			if e.Piece != "" {
				want = e.Piece
			}
			at := e.Offset - from
			if imagestore.SumOf(data[at:at+e.Length]).Digest() != want {
				bad = append(bad, e)
			}
		}
		start = end
	}
	return entries, bad, nil
}
