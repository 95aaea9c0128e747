package s3store

import (
	"fmt"
	"net/url"
)

// Checksum is what a PUT carries for the service to verify the bytes with. (Pieces have their sha256 besides, and every read
// verifies that.)
type Checksum int

// The kinds of checksum.
const (
	CRC32C     Checksum = iota // x-amz-checksum-crc32c, as a header: what services of today know, and older ones overlook
	MD5                        // Content-MD5: what all know
	NoChecksum                 // for a service that refuses both
)

// ParseChecksum reads what a URL says about checksums: ?checksum=crc32c (default), md5 or none.
func ParseChecksum(rawURL string) (Checksum, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return 0, nil // Dial says so
	}
	switch kind := u.Query().Get("checksum"); kind {
	case "", "crc32c":
		return CRC32C, nil
	case "md5":
		return MD5, nil
	case "none":
		return NoChecksum, nil
	default:
		return 0, fmt.Errorf("S3 URL %s: checksum %q: want crc32c, md5 or none", u.Redacted(), kind)
	}
}
