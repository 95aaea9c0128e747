package s3store

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"path"
	"time"

	"github.com/minio/minio-go/v7"
)

// probeAge is when a probe's object that is still there must be what a process left that was killed.
const probeAge = time.Hour

// Probe has the service do once what the store will ask of it: take an object with the checksum and the encryption that packs
// have, send a part of it, list it, delete it. ErrRefused names what it does not do, before a bake has to find that out. A
// service that is away is asked again until ctx ends.
func (s *Store) Probe(ctx context.Context) error {
	return s.ask(ctx, "whether S3 does what is needed can't be asked", s.probe)
}

func (s *Store) probe(ctx context.Context) error {
	name := path.Join(s.prefix, "probes", rand.Text())
	content := []byte("bakefarm asks what this service can do")
	if err := s.putObject(ctx, name, pieces{content}, int64(len(content)), crc32.Checksum(content, castagnoli)); err != nil {
		hint := "its key needs s3:PutObject below the prefix"
		if s.sum != NoChecksum {
			hint += ", or the service knows no such checksum: try ?checksum=md5, or none"
		}
		if s.sse != nil {
			hint += "; or it does not encrypt as ?sse= says"
		}
		return s.cannot("store an object", err, hint)
	}
	defer func() { // also when what follows fails
		clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanTime)
		defer cancel()
		_ = s.client.RemoveObject(clean, s.bucket, name, minio.RemoveObjectOptions{})
	}()
	const from, to = 9, 13
	part := make([]byte, to-from)
	switch err := s.getObject(ctx, name, from, part); {
	case err != nil:
		return s.cannot("send a part of an object", err, "its key needs s3:GetObject below the prefix, and the service must know Range")
	case !bytes.Equal(part, content[from:to]):
		return s.cannot("send a part of an object", fmt.Errorf("%w: of %q it sent %q as bytes %d to %d", errAnswer, content, part, from, to-1),
			"what is between must leave bodies and Range alone")
	}
	err := s.list(ctx, "probes", func(o minio.ObjectInfo) error {
		if time.Since(o.LastModified) < probeAge {
			return nil
		}
		return s.client.RemoveObject(ctx, s.bucket, o.Key, minio.RemoveObjectOptions{})
	})
	if err != nil {
		return s.cannot("list objects (version 2)", err, "its key needs s3:ListBucket")
	}
	if err := s.client.RemoveObject(ctx, s.bucket, name, minio.RemoveObjectOptions{}); err != nil {
		return s.cannot("delete an object", err, "its key needs s3:DeleteObject below the prefix, and the bucket no lock on objects")
	}
	return nil
}

// cannot says what the service does not do, and what may help; a failure that may pass is left to be tried again.
func (s *Store) cannot(what string, err error, hint string) error {
	err = fmt.Errorf("S3 %s does not %s: %w", s.url(), what, err)
	if !final(err) && !errors.Is(err, errAnswer) {
		return err
	}
	return fmt.Errorf("%w: %w: %s", ErrRefused, err, hint)
}
