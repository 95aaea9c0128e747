package catalog

import "testing"

// SetSweepAt changes how many dead entries are borne, until the function returned is called.
func SetSweepAt(n int64) (restore func()) {
	was := sweepAt
	sweepAt = n
	return func() { sweepAt = was }
}

// CountEntries counts the entries in the file, those of deleted packs too.
func (c *Catalog) CountEntries(t testing.TB) (n int) {
	t.Helper()
	if err := c.db.read.QueryRow("SELECT count(*) FROM entries").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// CountSets counts the sets of packages in the file.
func (c *Catalog) CountSets(t testing.TB) (sets int) {
	t.Helper()
	if err := c.db.read.QueryRow("SELECT count(*) FROM package_sets").Scan(&sets); err != nil {
		t.Fatal(err)
	}
	return sets
}
