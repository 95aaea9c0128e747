package deb

import (
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Inspect reads a .deb of size bytes and returns what its control archive says: a Record without the package's files. The
// whole is verified, the data archive not looked into.
func Inspect(r io.Reader, size int64, want digest.Digest, dec Decompressors) (*Record, error) {
	if dec == nil {
		dec = PureGo()
	}
	d, err := NewReader(r, size, want, dec, DefaultLimits)
	if err != nil {
		return nil, err
	}
	c := &conversion{limits: DefaultLimits, date: d.Date}
	if err := c.control(d); err != nil {
		return nil, fmt.Errorf("control.tar: %w", err)
	}
	return &c.rec, d.Close()
}
