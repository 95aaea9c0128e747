package strict

import (
	"strings"
	"unicode/utf8"
)

// Clip shortens foreign text for a message.
func Clip(s string) string {
	const most = 80
	if len(s) <= most {
		return s
	}
	cut := most
	for cut > 0 && !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}

// Nearest returns the candidate that key is most likely a misspelling of, or "".
func Nearest(key string, candidates []string) string {
	const tooLong = 40
	best, least := "", 3
	if len(key) > tooLong {
		return ""
	}
	for _, c := range candidates {
		limit := min(least, max(2, len(c)/2)) // two edits turn any two-letter word into any other
		if strings.EqualFold(key, c) {
			return c
		}
		if d := distance(strings.ToLower(key), strings.ToLower(c)); d < limit {
			best, least = c, d
		}
	}
	return best
}

// distance is the number of bytes to insert, delete, change or swap with their neighbours that turn a into b (the optimal
// string alignment distance).
func distance(a, b string) int {
	before, row := make([]int, len(b)+1), make([]int, len(b)+1) // of a[:i-1] and a[:i]
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		next := make([]int, len(b)+1)
		next[0] = i + 1
		for j := range len(b) {
			change := row[j]
			if a[i] != b[j] {
				change++
			}
			next[j+1] = min(change, next[j]+1, row[j+1]+1)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				next[j+1] = min(next[j+1], before[j-1]+1)
			}
		}
		before, row = row, next
	}
	return row[len(b)]
}
