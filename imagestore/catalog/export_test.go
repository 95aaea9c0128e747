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

// CountSets counts the sets of packages in the file, and the rows of postings.
func (c *Catalog) CountSets(t testing.TB) (sets, postings int) {
	t.Helper()
	if err := c.db.read.QueryRow("SELECT (SELECT count(*) FROM package_sets), (SELECT count(*) FROM postings)").Scan(&sets, &postings); err != nil {
		t.Fatal(err)
	}
	return sets, postings
}
