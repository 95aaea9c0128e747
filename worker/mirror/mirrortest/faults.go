package mirrortest

import (
	"bytes"
	"net/http"
	"slices"
	"time"
)

// Fault is a way in which a mirror serves a file wrongly. Signatures and indexes stay as they were.
type Fault struct {
	status int
	times  int // 0: always
	delay  time.Duration
	after  int // break the connection after so many bytes
	change func([]byte) []byte
}

type placed struct {
	part  string
	fault Fault
	used  int
}

// Serve makes the mirror serve every file whose path contains part with a fault. Of several that fit, the first one
// that is not used up counts.
func (m *Mirror) Serve(part string, fault Fault) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = append(m.faults, &placed{part: part, fault: fault})
}

// Heal takes all faults away.
func (m *Mirror) Heal() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.faults = nil
}

// Missing answers 404.
func Missing() Fault { return Fault{status: http.StatusNotFound} }

// Unavailable answers 503, n times.
func Unavailable(n int) Fault { return Fault{status: http.StatusServiceUnavailable, times: n} }

// Cut breaks the connection after so many bytes of the body, n times.
func Cut(after, n int) Fault { return Fault{after: after, times: n} }

// Slow says nothing for a time, n times.
func Slow(d time.Duration, n int) Fault { return Fault{delay: d, times: n} }

// Truncated serves the file without its last bytes, as if they had never been.
func Truncated(bytes int) Fault {
	return Fault{change: func(data []byte) []byte { return data[:max(0, len(data)-bytes)] }}
}

// Swapped serves other bytes.
func Swapped(other []byte) Fault {
	return Fault{change: func([]byte) []byte { return other }}
}

// Flipped serves the file with one byte in its middle changed: same size, other digest.
func Flipped() Fault {
	return Fault{change: func(data []byte) []byte {
		data = slices.Clone(data)
		if len(data) > 0 {
			data[len(data)/2] ^= 1
		}
		return data
	}}
}

// Replaced serves the file with every old replaced by new: for changing a signed text below its signature.
func Replaced(old, new string) Fault {
	return Fault{change: func(data []byte) []byte { return bytes.ReplaceAll(data, []byte(old), []byte(new)) }}
}

// ChangePackages serves Packages files that are not those that the Release was signed for.
func (m *Mirror) ChangePackages() { m.Serve("/binary-", Flipped()) }

// BreakSignature serves Release files that were changed after they were signed.
func (m *Mirror) BreakSignature() {
	m.Serve("/InRelease", Replaced("Origin: Fixture", "Origin: Fixtura"))
}

// SignWithUnknownKey signs a suite with a key that is not in the keyring.
func (m *Mirror) SignWithUnknownKey(suite string) {
	m.t.Helper()
	m.Resign(suite, Release{Key: NewKey(m.t)})
}

// Expire signs a suite with a Valid-Until in the past.
func (m *Mirror) Expire(suite string) {
	m.t.Helper()
	m.Resign(suite, Release{ValidUntil: m.now.Add(-time.Hour)})
}
