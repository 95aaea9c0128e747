package bus

import (
	"fmt"
	"strings"
)

// MaxKey is the length in bytes of the longest key that a bucket takes. Escaped, it is up to three times as long, which
// with the bucket's prefix and a reply subject still fits into the 4 KiB of a NATS control line.
const MaxKey = 1024

const upperHex = "0123456789ABCDEF"

// escapeKey turns any string into a key that JetStream's KV takes and that is also a valid tail of a subject. ASCII
// letters, digits, '-' and '_' stand for themselves; every other byte becomes '=' and two hex digits. An '@' inside the
// key becomes '.', which separates the tokens of a subject, so that the server can select "shop/checkout@…" by itself;
// where a '.' is not allowed (first, last, after another) the '@' is escaped like any other byte. The empty key is "=".
//
// It is injective, and unescapeKey is its inverse.
func escapeKey(key string) string {
	if key == "" {
		return "="
	}
	var b strings.Builder
	b.Grow(len(key) + 8)
	dot := true // a '.' may not come now
	for i := range len(key) {
		c := key[i]
		switch {
		case plain(c):
			b.WriteByte(c)
		case c == '@' && !dot && i < len(key)-1:
			b.WriteByte('.')
			dot = true
			continue
		default:
			b.WriteByte('=')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		}
		dot = false
	}
	return b.String()
}

// unescapeKey is the inverse of escapeKey. It refuses what escapeKey never writes.
func unescapeKey(escaped string) (string, error) {
	if escaped == "=" {
		return "", nil
	}
	var b strings.Builder
	b.Grow(len(escaped))
	for i := 0; i < len(escaped); i++ {
		switch c := escaped[i]; {
		case plain(c):
			b.WriteByte(c)
		case c == '.':
			b.WriteByte('@')
		case c == '=' && i+2 < len(escaped):
			hi, lo := strings.IndexByte(upperHex, escaped[i+1]), strings.IndexByte(upperHex, escaped[i+2])
			if hi < 0 || lo < 0 {
				return "", fmt.Errorf("key %q: bad escape at byte %d", escaped, i)
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			return "", fmt.Errorf("key %q: unexpected byte %q at %d", escaped, c, i)
		}
	}
	if key := b.String(); escapeKey(key) == escaped {
		return key, nil
	}
	return "", fmt.Errorf("key %q is not in the form that this release writes", escaped)
}

func plain(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_'
}

// prefixFilters are the filters, relative to a bucket's or stream's subject, that select every key with the given prefix,
// and perhaps others: the caller still compares. The server can only select whole tokens, so what follows the prefix's
// last '@' does not count here.
func prefixFilters(prefix string) []string {
	at := strings.LastIndexByte(prefix, '@')
	if at <= 0 || prefix[at-1] == '@' {
		return []string{">"}
	}
	filters := []string{escapeKey(prefix[:at]) + ".>"}
	if at == len(prefix)-1 {
		filters = append(filters, escapeKey(prefix)) // a key may end in '@'
	}
	return filters
}
