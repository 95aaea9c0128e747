package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
)

// cache keeps what mirrors said last, one file per address, so that an unchanged archive costs one small question. It is
// disposable: entries are replaced whole (rename), verified like fresh answers, and missing ones are no error. The zero
// dir keeps nothing.
type cache struct{ dir string }

// answer is a Release file as a mirror gave it, with what it wants to hear when it is asked again.
type answer struct {
	URL          string `json:"url"`
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	Body         []byte `json:"body"`
}

func (c cache) name(address, ending string) string {
	sum := sha256.Sum256([]byte(address))
	return filepath.Join(c.dir, hex.EncodeToString(sum[:])+ending)
}

// release returns the last answer of an address, or nil.
func (c cache) release(address string) *answer {
	if c.dir == "" {
		return nil
	}
	raw, err := os.ReadFile(c.name(address, ".release"))
	var a answer
	if err != nil || json.Unmarshal(raw, &a) != nil || a.URL != address || (a.ETag == "" && a.LastModified == "") {
		return nil
	}
	return &a
}

func (c cache) keepRelease(a *answer) error {
	if c.dir == "" {
		return nil
	}
	raw, err := json.Marshal(a)
	if err != nil {
		return err
	}
	return c.keep(c.name(a.URL, ".release"), raw)
}

// index returns the Packages file of an address when it has the digest, or nil.
func (c cache) index(address string, sum digest.Digest) []byte {
	if c.dir == "" {
		return nil
	}
	raw, err := os.ReadFile(c.name(address, ".packages"))
	if err != nil || digest.FromBytes(raw) != sum {
		return nil
	}
	return raw
}

func (c cache) keepIndex(address string, raw []byte) error {
	if c.dir == "" {
		return nil
	}
	return c.keep(c.name(address, ".packages"), raw)
}

func (c cache) keep(name string, raw []byte) error {
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return err
	}
	f, err := os.CreateTemp(c.dir, strings.TrimSuffix(filepath.Base(name), filepath.Ext(name))+".*.part")
	if err != nil {
		return err
	}
	_, err = f.Write(raw)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error counts
	}
	return err
}
