package execute

import "github.com/opencontainers/go-digest"

// LowerMaxUnpacked has a base unpack to n bytes at the most, until restore is called.
func LowerMaxUnpacked(n int64) (restore func()) {
	before := maxUnpacked
	maxUnpacked = n
	return func() { maxUnpacked = before }
}

// Has reports whether an index is there.
func (x *Indexes) Has(file digest.Digest) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.byFile[file] != nil
}
