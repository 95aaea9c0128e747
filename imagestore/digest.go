package imagestore

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/opencontainers/go-digest"
)

const sha256Prefix = "sha256:"

// Sum is a sha256 as 32 bytes: what pack indexes and the catalog keep instead of a digest's 71 characters.
type Sum [sha256.Size]byte

// ParseDigest turns a digest into its sum. Only the canonical form is taken: "sha256:" and 64 lower-case hex digits.
func ParseDigest(d digest.Digest) (Sum, error) {
	var s Sum
	if len(d) != len(sha256Prefix)+2*sha256.Size || d[:len(sha256Prefix)] != sha256Prefix {
		return s, fmt.Errorf("digest %.100q: want sha256: and 64 hex digits", string(d))
	}
	for i := range s {
		hi, lo := nibble(d[len(sha256Prefix)+2*i]), nibble(d[len(sha256Prefix)+2*i+1])
		if hi > 15 || lo > 15 {
			return Sum{}, fmt.Errorf("digest %.100q: want sha256: and 64 lower-case hex digits", string(d))
		}
		s[i] = hi<<4 | lo
	}
	return s, nil
}

func nibble(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 0xff
}

// Digest is the sum in its usual form.
func (s Sum) Digest() digest.Digest {
	var b [len(sha256Prefix) + 2*sha256.Size]byte
	copy(b[:], sha256Prefix)
	hex.Encode(b[len(sha256Prefix):], s[:])
	return digest.Digest(b[:])
}

// SumOf hashes data.
func SumOf(data []byte) Sum { return sha256.Sum256(data) }
