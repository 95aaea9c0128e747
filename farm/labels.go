package farm

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
)

// MaxRequires bounds what a bake may require of its workers.
const MaxRequires = 16

var label = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?(=[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?)?$`)

// CheckLabel checks what a worker has, or a bake requires: a word, or a word with a value.
func CheckLabel(l string) error {
	if !label.MatchString(l) {
		return fmt.Errorf("label %q: want a word or a word and a value, of letters, digits, '.', '_' and '-': gpu, region=eu", l)
	}
	return nil
}

// SecureBootLabel is what workers have that sign disks with the key of a certificate, by its fingerprint.
func SecureBootLabel(fingerprint string) string {
	return "secure-boot=" + fingerprint[:min(len(fingerprint), 32)]
}

// Meets reports whether labels have everything that is required. What is required without a value is met by the label with
// any value.
func Meets(labels, requires []string) bool {
	for _, r := range requires {
		if !slices.ContainsFunc(labels, func(l string) bool { return l == r || strings.HasPrefix(l, r+"=") }) {
			return false
		}
	}
	return true
}
