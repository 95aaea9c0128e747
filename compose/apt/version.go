package apt

import "strings"

// CompareVersions orders two Debian versions as dpkg does (deb-version(7)): negative when a is older than b, zero when
// they are equal, positive when a is newer. Any strings can be compared; malformed ones get some fixed order.
func CompareVersions(a, b string) int {
	if a == b {
		return 0
	}
	epochA, upstreamA, revisionA := splitVersion(a)
	epochB, upstreamB, revisionB := splitVersion(b)
	if c := compareRuns(epochA, epochB); c != 0 {
		return c
	}
	if c := compareRuns(upstreamA, upstreamB); c != 0 {
		return c
	}
	return compareRuns(revisionA, revisionB)
}

// splitVersion splits [epoch:]upstream[-revision]. An absent epoch or revision is "", which compares equal to "0".
func splitVersion(v string) (epoch, upstream, revision string) {
	if i := strings.IndexByte(v, ':'); i >= 0 {
		epoch, v = v[:i], v[i+1:]
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		v, revision = v[:i], v[i+1:]
	}
	return epoch, v, revision
}

// compareRuns compares alternating runs of non-digits, by character, and of digits, by value of any length.
func compareRuns(a, b string) int {
	for a != "" || b != "" {
		for (a != "" && !isDigit(a[0])) || (b != "" && !isDigit(b[0])) {
			wa, wb := weight(a), weight(b)
			if wa != wb {
				return wa - wb
			}
			a, b = a[1:], b[1:] // equal weights that are not 0: both are non-empty
		}
		a, b = strings.TrimLeft(a, "0"), strings.TrimLeft(b, "0")
		first := 0
		for a != "" && b != "" && isDigit(a[0]) && isDigit(b[0]) {
			if first == 0 {
				first = int(a[0]) - int(b[0])
			}
			a, b = a[1:], b[1:]
		}
		switch {
		case a != "" && isDigit(a[0]):
			return 1
		case b != "" && isDigit(b[0]):
			return -1
		case first != 0:
			return first
		}
	}
	return 0
}

// weight orders the first character of a run: '~' before the end, the end and digits before letters, letters before all
// others.
func weight(s string) int {
	if s == "" || isDigit(s[0]) {
		return 0
	}
	switch c := s[0]; {
	case c == '~':
		return -1
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z':
		return int(c)
	default:
		return int(c) + 256
	}
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }
