package coordinator

import "testing"

// TestCensusNumbersOnlyGrow also when versions are deleted, of which it need not be told.
func TestCensusNumbersOnlyGrow(t *testing.T) {
	c := newCensus()
	if n := c.next("app"); n != 1 {
		t.Errorf("the first is number %d", n)
	}
	for _, n := range []uint64{7, 3} {
		c.note("app", n)
	}
	if n := c.next("app"); n != 8 {
		t.Errorf("after 7 and 3 comes %d", n)
	}
	if n := c.next("other"); n != 1 {
		t.Errorf("another name begins with %d", n)
	}
}
