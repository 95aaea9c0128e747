package s3store

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/minio/minio-go/v7"
	"github.com/oklog/ulid/v2"
)

// checksumHeader (Amazon S3 API reference, PutObject) is written as it goes over the wire: minio-go takes the lower-case
// form for a wish to have it sent as a trailer, and refuses that to clients without trailers.
const checksumHeader = "X-Amz-Checksum-Crc32c"

// packType is the media type of pack objects, for people who look into the bucket.
const packType = "application/vnd.bakefarm.pack.v1"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// upload puts a batch into a pack object and sets its record and entries. Every try has an ID of its own: after a failure
// nobody knows what became of the object.
func (s *Store) upload(ctx context.Context, b *batch) error {
	entries := make([]imagestore.Entry, len(b.items))
	body := make(pieces, 0, len(b.items)+1)
	var at int64
	for i, it := range b.items {
		entries[i] = imagestore.Entry{Digest: it.digest, Piece: it.piece, Offset: at, Length: int64(len(it.data))}
		at += int64(len(it.data))
		body = append(body, it.data)
	}
	trailer, index, err := imagestore.EncodeTrailer(entries, at)
	if err != nil {
		return err
	}
	body = append(body, trailer)
	var crc uint32
	for _, p := range body {
		crc = crc32.Update(crc, castagnoli, p)
	}
	p := farm.Pack{
		Schema: farm.Schema, State: farm.PackLive, Size: at + int64(len(trailer)),
		Index: index, IndexAt: at, Entries: len(entries), Writer: s.writer,
	}
	if len(trailer) <= farm.MaxTrailer {
		p.Trailer = trailer
	}
	err = retry(ctx, func() error {
		id, err := ulid.New(ulid.Now(), rand.Reader)
		if err != nil {
			return err
		}
		p.ID, p.At = id.String(), time.Now().UTC().Truncate(time.Millisecond)
		return s.put(ctx, p, body, crc)
	})
	if err != nil {
		return fmt.Errorf("upload a pack to %s: %w", s.url(), err)
	}
	b.pack, b.entries = p, entries
	return nil
}

// put uploads a pack. The checksum travels as a header of its own: the service verifies it if it knows it, and
// neither side spends time on the sha256 that the payload's signature would take (pieces have theirs) or on the framing
// that a trailing checksum needs.
func (s *Store) put(ctx context.Context, p farm.Pack, body pieces, crc uint32) error {
	return s.putObject(ctx, s.objectName(p.ID), body, p.Size, crc)
}

// putObject uploads an object of size bytes with one PUT, as packs are. crc is its CRC32C.
func (s *Store) putObject(ctx context.Context, name string, body pieces, size int64, crc uint32) error {
	options := minio.PutObjectOptions{
		ContentType:          packType,
		DisableMultipart:     true,
		DisableContentSha256: true,
		ServerSideEncryption: s.sse,
	}
	sum := base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint32(nil, crc))
	switch s.sum {
	case CRC32C:
		options.UserMetadata = map[string]string{checksumHeader: sum}
	case MD5:
		options.SendContentMd5 = true
	}
	info, err := s.client.PutObject(ctx, s.bucket, name, &reader{pieces: body}, size, options)
	if err != nil {
		return err
	}
	if info.ChecksumCRC32C != "" && info.ChecksumCRC32C != sum {
		return fmt.Errorf("PUT %s: the service has stored bytes with CRC32C %s, sent were %s", name, info.ChecksumCRC32C, sum)
	}
	return nil
}

// register makes an uploaded pack visible.
func (s *Store) register(ctx context.Context, b *batch) error {
	if err := s.locator.Add(ctx, b.pack, b.entries); err != nil {
		return err
	}
	if err := retry(ctx, func() error { return s.ledger.Register(ctx, b.pack) }); err != nil {
		return fmt.Errorf("register pack %s: %w", b.pack.ID, err)
	}
	s.remember(b.fresh)
	b.fresh = nil
	return s.locator.Registered(ctx, b.pack.ID)
}

// closing names the reason when an error comes from Close.
func (s *Store) closing(err error) error {
	if err != nil && s.ctx.Err() != nil {
		return errClosed
	}
	return err
}

// ReadIndex reads a pack's index: what the locator asks for when another process has written the pack. It is in the pack's
// record where it is short, else at the object's end. Errors as readTrailer's.
func (s *Store) ReadIndex(ctx context.Context, p farm.Pack) ([]imagestore.Entry, error) {
	if entries, f, err := imagestore.DecodeTrailer(p.Trailer, p.Size); err == nil && f.Index == p.Index {
		return entries, nil
	}
	return s.readTrailer(ctx, p)
}

// readTrailer reads a pack's index from its object. imagestore.ErrNotFound when there is no object, ErrCorrupt when it is not
// the one that was registered.
func (s *Store) readTrailer(ctx context.Context, p farm.Pack) ([]imagestore.Entry, error) {
	length := p.Size - p.IndexAt
	if p.IndexAt < 0 || length < imagestore.FooterSize || length > imagestore.MaxTrailer {
		return nil, fmt.Errorf("index of pack %s: %w: its record says %d bytes at %d", p.ID, imagestore.ErrNoPack, length, p.IndexAt)
	}
	var entries []imagestore.Entry
	err := retry(ctx, func() error {
		b := make([]byte, length)
		if err := s.get(ctx, p.ID, p.IndexAt, b); err != nil {
			return err
		}
		got, f, err := imagestore.DecodeTrailer(b, p.Size)
		if err != nil {
			return err
		}
		if f.Index != p.Index {
			return fmt.Errorf("%w: want %s, got %s", imagestore.ErrCorrupt, p.Index, f.Index)
		}
		entries = got
		return nil
	})
	switch {
	case errors.Is(err, errGone):
		return nil, fmt.Errorf("index of pack %s: %w (%w)", p.ID, imagestore.ErrNotFound, err)
	case err != nil:
		return nil, fmt.Errorf("index of pack %s: %w", p.ID, err)
	}
	return entries, nil
}

// pieces is a pack's content without having it in one place.
type pieces [][]byte

// reader reads pieces. It can seek, so that a client that was told to may send a request again.
type reader struct {
	pieces pieces
	at     int // piece
	off    int // in it
}

func (r *reader) Read(p []byte) (int, error) {
	n := 0
	for n < len(p) {
		if r.at == len(r.pieces) {
			if n == 0 && len(p) > 0 {
				return 0, io.EOF
			}
			break
		}
		k := copy(p[n:], r.pieces[r.at][r.off:])
		n, r.off = n+k, r.off+k
		if r.off == len(r.pieces[r.at]) {
			r.at, r.off = r.at+1, 0
		}
	}
	return n, nil
}

// Seek goes to the beginning, which is all that anybody asks for.
func (r *reader) Seek(offset int64, whence int) (int64, error) {
	if offset != 0 || whence != io.SeekStart {
		return 0, errors.ErrUnsupported
	}
	r.at, r.off = 0, 0
	return 0, nil
}
