package imagestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

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

// PartsReader is what a Reader may offer beside its interface: pieces that nobody has composed a blob of, as if they were one. Those
// that lie side by side cost one request, and others are read ahead.
type PartsReader interface {
	// OpenParts reads the parts one after the other; errors and verification are those of Reader.Open. A piece that is not as
	// long as its part is ErrSize.
	OpenParts(ctx context.Context, parts []Part) (io.ReadCloser, error)
}

// OpenParts reads parts one after the other, as well as r can.
func OpenParts(ctx context.Context, r Reader, parts []Part) (io.ReadCloser, error) {
	if p, ok := r.(PartsReader); ok {
		return p.OpenParts(ctx, parts)
	}
	return &partsReader{ctx: ctx, r: r, parts: parts, current: io.NopCloser(strings.NewReader(""))}, nil
}

// partsReader opens a part when the one before has ended.
type partsReader struct {
	ctx     context.Context
	r       Reader
	parts   []Part
	current io.ReadCloser
	of      Part  // current
	left    int64 // of it
}

func (p *partsReader) Read(b []byte) (int, error) {
	for p.left == 0 {
		if len(p.parts) == 0 {
			return 0, io.EOF
		}
		if err := p.next(); err != nil {
			return 0, err
		}
	}
	n, err := p.current.Read(b[:min(int64(len(b)), p.left)])
	p.left -= int64(n)
	switch {
	case errors.Is(err, io.EOF) && p.left > 0:
		return 0, p.wrongSize()
	case err != nil && !errors.Is(err, io.EOF):
		return n, err
	case p.left == 0: // and so must the piece end
		if extra, err := io.CopyN(io.Discard, p.current, 1); extra > 0 {
			return 0, p.wrongSize()
		} else if !errors.Is(err, io.EOF) {
			return n, err
		}
	}
	return n, nil
}

// next opens the next part.
func (p *partsReader) next() (err error) {
	if err := p.current.Close(); err != nil {
		return err
	}
	p.of, p.parts = p.parts[0], p.parts[1:]
	p.current = io.NopCloser(io.LimitReader(zeros{}, p.of.Size))
	if p.of.Digest != "" {
		if p.current, err = p.r.Open(p.ctx, p.of.Digest, 0, -1); err != nil {
			p.current, p.parts = io.NopCloser(strings.NewReader("")), nil
			return err
		}
	}
	p.left = p.of.Size
	return nil
}

func (p *partsReader) wrongSize() error {
	return fmt.Errorf("piece %s: %w: it does not have %d bytes", p.of.Digest, ErrSize, p.of.Size)
}

func (p *partsReader) Close() error { return p.current.Close() }

// zeros is an endless hole.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

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
