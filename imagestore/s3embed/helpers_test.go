package s3embed

import (
	"crypto/sha256"
	"hash"
	"os"
	"path/filepath"
)

func newHash() hash.Hash { return sha256.New() }

// sha256Hasher is a hash.Hash as minio-go's signer wants it.
type sha256Hasher struct{ hash.Hash }

func (sha256Hasher) Close() {}

func (s *store) tempFile(b []byte) (*os.File, error) {
	path := filepath.Join(s.dir, "object")
	if err := os.WriteFile(path, b, 0o644); err != nil {
		return nil, err
	}
	return os.Open(path)
}
