package s3embed

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxName is the longest escaped key used as a file name. NAME_MAX is 255 on every
// filesystem that matters, less on those that encrypt names (ecryptfs: 143).
const maxName = 143

const upperHex = "0123456789ABCDEF"

// fileName maps a key to the name of its file: injective, without "/", never "."
// or "..", never beginning with a dot. A long key becomes "#" and its digest, and
// is then known from the file's footer only; no escaped key contains "#".
func fileName(key string) string {
	var b strings.Builder
	b.Grow(len(key) + 8)
	for i := 0; i < len(key); i++ {
		c := key[i]
		if isNameByte(c) || c == '.' && i > 0 {
			b.WriteByte(c)
		} else {
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
		if b.Len() > maxName {
			sum := sha256.Sum256([]byte(key))
			return "#" + hex.EncodeToString(sum[:])
		}
	}
	return b.String()
}

// keyOf is the inverse of fileName for keys that were escaped. ok is false for
// digests and for names that fileName never makes.
func keyOf(name string) (key string, ok bool) {
	var b strings.Builder
	for i := 0; i < len(name); i++ {
		c := name[i]
		if c == '%' {
			if i+2 >= len(name) {
				return "", false
			}
			hi, lo := strings.IndexByte(upperHex, name[i+1]), strings.IndexByte(upperHex, name[i+2])
			if hi < 0 || lo < 0 {
				return "", false
			}
			c = byte(hi<<4 | lo)
			i += 2
		}
		b.WriteByte(c)
	}
	key = b.String()
	return key, key != "" && fileName(key) == name
}

func isNameByte(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}
