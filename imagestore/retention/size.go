package retention

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// sizes are the units of sizes, largest first.
var sizes = []struct {
	suffix string
	bytes  int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}}

// ParseSize reads a number of bytes that people write as a whole number of a unit: 500MiB, 20GiB.
func ParseSize(s string) (int64, error) {
	for _, u := range sizes {
		digits, found := strings.CutSuffix(s, u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
		if err != nil || n <= 0 || n > math.MaxInt64/2/u.bytes {
			break
		}
		return n * u.bytes, nil
	}
	return 0, fmt.Errorf("%q is no size: write a whole number and a unit, such as 500MiB, 20GiB or 1TiB", s)
}

// FormatSize writes a number of bytes in the largest unit that it fills, with a digit behind the point where it does not
// fill it evenly.
func FormatSize(n int64) string {
	for _, u := range sizes {
		if n >= u.bytes {
			return strings.TrimSuffix(strconv.FormatFloat(float64(n)/float64(u.bytes), 'f', 1, 64), ".0") + " " + u.suffix
		}
	}
	return strconv.FormatInt(n, 10) + " B"
}
