package s3store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"bakefarm/imagestore"

	"github.com/minio/minio-go/v7"
	"github.com/opencontainers/go-digest"
)

// get reads len(dst) bytes of a pack's object from offset on. errGone when there is no such object.
func (s *Store) get(ctx context.Context, pack string, offset int64, dst []byte) error {
	return s.getObject(ctx, s.objectName(pack), offset, dst)
}

// errAnswer: the service has sent something else than what it was asked for.
var errAnswer = errors.New("not what was asked for")

// getObject reads len(dst) bytes of an object from offset on. errGone when there is none.
func (s *Store) getObject(ctx context.Context, name string, offset int64, dst []byte) error {
	if len(dst) == 0 {
		return nil
	}
	var opts minio.GetObjectOptions
	if err := opts.SetRange(offset, offset+int64(len(dst))-1); err != nil {
		return err
	}
	body, info, _, err := s.core.GetObject(ctx, s.bucket, name, opts)
	if err != nil {
		res := minio.ToErrorResponse(err)
		if res.StatusCode == http.StatusNotFound && res.Code != minio.NoSuchBucket {
			return fmt.Errorf("%w: %s", errGone, name)
		}
		return err
	}
	defer body.Close()
	if info.Size != int64(len(dst)) {
		return fmt.Errorf("GET %s: %w: %d bytes at %d are wanted, the service sends %d", name, errAnswer, len(dst), offset, info.Size)
	}
	if _, err := io.ReadFull(body, dst); err != nil {
		return fmt.Errorf("GET %s at %d: %w", name, offset, err)
	}
	io.Copy(io.Discard, io.LimitReader(body, 1)) // reach the end, so that the connection is used again
	return nil
}

// wanted is a piece and where it lies.
type wanted struct {
	digest digest.Digest // as the caller named it
	at     imagestore.Location
}

// fetch reads pieces that lie side by side in one pack with one GET, and verifies each. dst is as long as from the
// first's beginning to the last's end. When the pack is gone, each is looked for elsewhere; then the data are not in dst.
func (s *Store) fetch(ctx context.Context, run []wanted, dst []byte) ([][]byte, error) {
	first := run[0].at
	data := make([][]byte, len(run))
	err := retry(ctx, func() error {
		if err := s.get(ctx, first.Pack, first.Offset, dst); err != nil {
			return err
		}
		for i, w := range run {
			from := w.at.Offset - first.Offset
			b := dst[from : from+w.at.Length : from+w.at.Length]
			if got := imagestore.SumOf(b).Digest(); got != w.at.Piece {
				return fmt.Errorf("%w: %s in pack %s at offset %d, %d bytes: they have %s",
					imagestore.ErrCorrupt, w.at.Piece, first.Pack, w.at.Offset, w.at.Length, got)
			}
			data[i] = b
		}
		return nil
	})
	if errors.Is(err, errGone) {
		return s.fetchElsewhere(ctx, run, err)
	}
	if err != nil {
		return nil, err
	}
	for i, w := range run {
		s.keep(w, data[i])
	}
	return data, nil
}

func (s *Store) keep(w wanted, data []byte) {
	if len(data) <= cacheItem && !w.at.Composite && s.cache.piece(w.digest) == nil {
		s.cache.add(key{w.digest, false}, append([]byte(nil), data...), int64(len(data)))
	}
}

// fetchElsewhere looks for pieces whose pack is gone: garbage collection may have copied them into another and deleted
// it since they were located.
func (s *Store) fetchElsewhere(ctx context.Context, run []wanted, gone error) ([][]byte, error) {
	ask := make([]digest.Digest, len(run))
	for i, w := range run {
		ask[i] = w.digest
	}
	if err := s.locator.CatchUp(ctx); err != nil {
		return nil, err
	}
	locs, err := s.locator.Locate(ctx, ask)
	if err != nil {
		return nil, err
	}
	data := make([][]byte, len(run))
	for i, w := range run {
		l := locs[i]
		if l.Pack == "" || l.Pack == w.at.Pack || l.Composite != w.at.Composite {
			return nil, fmt.Errorf("%s: %w: %w", w.digest, imagestore.ErrNotFound, gone)
		}
		b, err := s.fetch(ctx, []wanted{{w.digest, l}}, make([]byte, l.Length))
		if err != nil {
			return nil, err
		}
		data[i] = b[0]
	}
	return data, nil
}
