package catalog

import (
	"reflect"
	"strings"

	"bakefarm/imagestore"
)

// maxWords is how many words a text may be searched for.
const maxWords = 64

// wordSet says which of the words that are searched for something has, a bit each.
type wordSet uint64

// hasWords finds images in whose rows every word stands, which are in lower case: in name, version, bake, base, labels, channels,
// kind or platform, or as the beginning of the digest. What many images have in common is searched once.
func hasWords(words []string) func(*image) bool {
	all := wordSet(1)<<len(words) - 1
	if len(words) == maxWords {
		all = ^wordSet(0)
	}
	// Versions are hex digits, and IDs of bakes capital letters and digits: where a word can't stand it is not searched.
	upper, parts, plain := make([]string, len(words)), make([]string, len(words)), make([]bool, len(words))
	for n, word := range words {
		upper[n] = strings.ToUpper(word)
		plain[n] = strings.Trim(word, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
		if part := strings.TrimPrefix(word, "sha256:"); len(part) >= 4 && len(part) <= 64 && strings.Trim(part, "0123456789abcdef") == "" {
			parts[n] = part
		}
	}
	in := func(text string) (found wordSet) {
		text = strings.ToLower(text)
		for n, word := range words {
			if strings.Contains(text, word) {
				found |= 1 << n
			}
		}
		return found
	}
	var repos []searchedRepo // by number
	labels := map[uintptr]wordSet{}
	var base, kind, platform, ofChannel searched
	return func(i *image) bool {
		v := i.of
		if v.repo.num >= int64(len(repos)) {
			repos = append(repos, make([]searchedRepo, v.repo.num+256-int64(len(repos)))...)
		}
		r := &repos[v.repo.num]
		if !r.known {
			r.known, r.name = true, in(v.repo.name)
		}
		found := r.name
		if found == all {
			return true
		}
		if len(v.labels) > 0 { // versions of a name share theirs, as a rule
			if key := reflect.ValueOf(v.labels).Pointer(); key != r.labelsAt {
				of, known := labels[key]
				if !known {
					for name, value := range v.labels {
						of |= in(name) | in(value)
					}
					labels[key] = of
				}
				r.labelsAt, r.labels = key, of
			}
			found |= r.labels
		}
		if v.facts != nil {
			for _, channel := range v.facts.channels {
				found |= ofChannel.of(channel, in)
			}
		}
		for n, word := range words {
			bit := wordSet(1) << n
			if found&bit != 0 {
				continue
			}
			if plain[n] && (strings.Contains(v.version, word) || strings.Contains(v.bake, upper[n])) || parts[n] != "" && begins(i.sum, parts[n]) {
				continue
			}
			if (base.of(v.base.Ref, in)|kind.of(i.kind, in)|platform.of(i.platform, in))&bit == 0 {
				return false
			}
		}
		return true
	}
}

// searchedRepo is what stands in a repository's name, and in the labels of its version that was looked at last.
type searchedRepo struct {
	known        bool
	name, labels wordSet
	labelsAt     uintptr
}

// searched remembers what stands in texts of which there are few. Neighbours often have the same.
type searched struct {
	text  string
	found wordSet
	known map[string]wordSet
}

func (s *searched) of(text string, in func(string) wordSet) wordSet {
	if s.known != nil && text == s.text {
		return s.found
	}
	found, known := s.known[text]
	if !known {
		if s.known == nil {
			s.known = map[string]wordSet{}
		}
		found = in(text)
		s.known[text] = found
	}
	s.text, s.found = text, found
	return found
}

// begins reports whether a sum in hex digits begins with some.
func begins(sum imagestore.Sum, hexDigits string) bool {
	const digits = "0123456789abcdef"
	for n := range len(hexDigits) {
		b := sum[n/2]
		if n%2 == 0 {
			b >>= 4
		}
		if digits[b&15] != hexDigits[n] {
			return false
		}
	}
	return true
}
