package imagestore

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

// ReadAll reads a piece or blob of at most max bytes into memory.
func ReadAll(ctx context.Context, r Reader, d digest.Digest, max int64) ([]byte, error) {
	rc, err := r.Open(ctx, d, 0, -1)
	if err != nil {
		return nil, err
	}
	data, err := readAll(rc, max+1)
	if cerr := rc.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", d, err)
	}
	if int64(len(data)) > max {
		return nil, fmt.Errorf("read %s: more than the %d bytes that are allowed here", d, max)
	}
	return data, nil
}

// Sized is what a reader may have that knows how many bytes are left to read; -1 when it does not.
type Sized interface{ Len() int64 }

// readAll reads at most so many bytes. For a reader that is Sized, as a Store's are, it makes just the room that it needs.
func readAll(r io.Reader, most int64) ([]byte, error) {
	left := int64(-1)
	if sized, ok := r.(Sized); ok {
		left = sized.Len()
	}
	if left < 0 {
		return io.ReadAll(io.LimitReader(r, most))
	}
	data := make([]byte, min(left, most))
	_, err := io.ReadFull(r, data)
	return data, err
}

// StorePayload encodes v as JSON, and puts it into the store if it is too large to stand inline. The payload may be used
// once w is committed.
func StorePayload(ctx context.Context, w Writer, v any) (farm.Payload, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return farm.Payload{}, fmt.Errorf("encode payload: %w", err)
	}
	if len(data) <= farm.MaxInline {
		return farm.Payload{Inline: data}, nil
	}
	part, err := w.Put(ctx, data)
	if err != nil {
		return farm.Payload{}, fmt.Errorf("store payload: %w", err)
	}
	return farm.Payload{Piece: part.Digest, Size: part.Size}, nil
}

// LoadPayload returns a payload's JSON, of at most max bytes. The zero payload has none.
func LoadPayload(ctx context.Context, r Reader, p farm.Payload, max int64) ([]byte, error) {
	size := int64(len(p.Inline))
	if p.Piece != "" {
		size = p.Size
	}
	if size > max {
		return nil, fmt.Errorf("payload of %d bytes: at most %d are allowed here", size, max)
	}
	if p.Piece == "" {
		return p.Inline, nil
	}
	data, err := ReadAll(ctx, r, p.Piece, max)
	if err != nil {
		return nil, fmt.Errorf("load payload: %w", err)
	}
	if int64(len(data)) != p.Size {
		return nil, fmt.Errorf("load payload: %s has %d bytes, the record says %d", p.Piece, len(data), p.Size)
	}
	return data, nil
}
