package retention

import (
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Duration is a length of time that people write as a whole number of a unit: 90m, 36h, 30d, 12w.
type Duration time.Duration

const day = 24 * time.Hour

// units are the units of a Duration, longest first.
var units = []struct {
	suffix string
	length time.Duration
}{{"w", 7 * day}, {"d", day}, {"h", time.Hour}, {"m", time.Minute}}

// maxDuration keeps sums of times far from overflow.
const maxDuration = 100 * 365 * day

// ParseDuration reads a Duration. Zero and negative ones are refused: a rule without the field says the same.
func ParseDuration(s string) (Duration, error) {
	for _, u := range units {
		digits, found := strings.CutSuffix(s, u.suffix)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || n == 0 || time.Duration(n) > maxDuration/u.length {
			break
		}
		return Duration(time.Duration(n) * u.length), nil
	}
	return 0, fmt.Errorf("%q is no length of time: write a whole number and a unit, such as 12h, 30d or 8w, at most 100 years", s)
}

// String writes the Duration in the longest unit that divides it.
func (d Duration) String() string {
	for _, u := range units {
		if n := time.Duration(d); n >= u.length && n%u.length == 0 {
			return strconv.FormatInt(int64(n/u.length), 10) + u.suffix
		}
	}
	return time.Duration(d).String()
}

// rough writes it in the longest unit that it fills, for people.
func (d Duration) rough() string {
	for _, u := range units[1:] {
		if n := time.Duration(d) / u.length; n > 0 {
			return strconv.FormatInt(int64(n), 10) + u.suffix
		}
	}
	return "less than a minute"
}
