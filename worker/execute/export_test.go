package execute

// LowerMaxUnpacked has a base unpack to n bytes at the most, until restore is called.
func LowerMaxUnpacked(n int64) (restore func()) {
	before := maxUnpacked
	maxUnpacked = n
	return func() { maxUnpacked = before }
}
