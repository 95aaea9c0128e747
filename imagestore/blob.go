package imagestore

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// Validate checks a blob by itself: its digests' form, its sizes, and that the parts add up. It does not ask whether
// the parts exist.
func (b Blob) Validate() error {
	if _, err := ParseDigest(b.Digest); err != nil {
		return fmt.Errorf("blob: %w", err)
	}
	if len(b.Parts) == 0 || len(b.Parts) > MaxParts {
		return fmt.Errorf("blob %s: %d parts: want 1 to %d", b.Digest, len(b.Parts), MaxParts)
	}
	var size int64
	for i, p := range b.Parts {
		if p.Digest != "" {
			if _, err := ParseDigest(p.Digest); err != nil {
				return fmt.Errorf("blob %s: part %d: %w", b.Digest, i, err)
			}
			if p.Size > MaxPiece {
				return fmt.Errorf("blob %s: part %d: %d bytes: a piece has at most %d", b.Digest, i, p.Size, MaxPiece)
			}
		}
		if p.Size <= 0 || p.Size > math.MaxInt64-size {
			return fmt.Errorf("blob %s: part %d: size %d: want more than 0", b.Digest, i, p.Size)
		}
		size += p.Size
	}
	if size != b.Size {
		return fmt.Errorf("blob %s: size %d, but its parts add up to %d", b.Digest, b.Size, size)
	}
	return nil
}

// EncodeBlob encodes a blob's descriptor: compact JSON in the order of the fields, so that equal blobs have equal bytes.
func EncodeBlob(b Blob) ([]byte, error) {
	if err := b.Validate(); err != nil {
		return nil, err
	}
	return json.Marshal(b)
}

// DecodeBlob decodes a descriptor and validates it.
func DecodeBlob(data []byte) (Blob, error) {
	var b Blob
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&b); err != nil {
		return Blob{}, fmt.Errorf("blob descriptor: %w", err)
	}
	if d.More() {
		return Blob{}, fmt.Errorf("blob descriptor: more than one value")
	}
	return b, b.Validate()
}
