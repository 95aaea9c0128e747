package catalog

import (
	"reflect"
	"strings"

	"bakefarm/farm"
	"bakefarm/imagestore"
)

// maxWords is how many words a text may be searched for.
const maxWords = 64

// wordSet says which of the words that are searched for something has, a bit each.
type wordSet uint64

// searchText is what of a version is its own, in lower case: its version and its bake. Neither holds the character between them,
// and neither does a word.
func searchText(v *version) string { return strings.ToLower(v.version + " " + v.bake) }

// hasWords finds images in whose rows every word stands, which are in lower case: in name, version, bake, base, labels, channels,
// kind or platform, or as the beginning of the digest. What many images have in common is searched once, and what is an image's
// own last, for words that can stand there.
func (x *index) hasWords(words []string) func(*image) bool {
	all := wordSet(1)<<len(words) - 1
	if len(words) == maxWords {
		all = ^wordSet(0)
	}
	var parts []digestPart
	var own wordSet // words that may stand in what is an image's own: versions and IDs of bakes are letters and digits
	for n, word := range words {
		if strings.Trim(word, "0123456789abcdefghijklmnopqrstuvwxyz") == "" {
			own |= 1 << n
		}
		if part := strings.TrimPrefix(word, "sha256:"); len(part) >= 4 && len(part) <= 64 && strings.Trim(part, "0123456789abcdef") == "" {
			parts = append(parts, digestPart{part, 1 << n})
			own |= 1 << n
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
	names := map[*repo]wordSet{}
	labels := map[uintptr]wordSet{}
	bases := map[string]wordSet{}
	kinds := map[*kind]wordSet{}
	shared := func(i *image) wordSet {
		found := once(names, i.repo, func() wordSet { return in(i.repo.name) }) |
			once(kinds, i.kind, func() wordSet { return in(i.kind.kind) | in(i.kind.platform) }) |
			once(bases, i.base.Ref, func() wordSet { return in(i.base.Ref) })
		if len(i.labels) > 0 {
			found |= once(labels, reflect.ValueOf(i.labels).Pointer(), func() (of wordSet) {
				for name, value := range i.labels {
					of |= in(name) | in(value)
				}
				return of
			})
		}
		return found
	}
	before := make([]lastSearched, 0, 256) // by number of the repository: images of a name share all that, as a rule
	var channels map[*version]wordSet
	return func(i *image) bool {
		if channels == nil {
			channels = x.channelWords(in)
		}
		if grow := int(i.repo.num) + 1 - len(before); grow > 0 {
			before = append(before, make([]lastSearched, grow)...)
		}
		last := &before[i.repo.num]
		if key := reflect.ValueOf(i.labels).Pointer(); last.kind != i.kind || last.base != i.base || last.labels != key {
			*last = lastSearched{i.kind, i.base, key, shared(i)}
		}
		found := last.found
		if len(channels) > 0 {
			found |= channels[i.of]
		}
		missing := all &^ found
		if missing&^own != 0 {
			return false
		}
		for _, p := range parts {
			if missing&p.bit != 0 && begins(i.sum, p.digits) {
				missing &^= p.bit
			}
		}
		for n := 0; missing != 0; n++ {
			if bit := wordSet(1) << n; missing&bit != 0 {
				if !strings.Contains(i.text, words[n]) {
					return false
				}
				missing &^= bit
			}
		}
		return true
	}
}

// digestPart is a word that may be the beginning of a digest.
type digestPart struct {
	digits string
	bit    wordSet
}

// channelWords finds the words in the names of the channels that point to each version.
func (x *index) channelWords(in func(string) wordSet) map[*version]wordSet {
	words := map[*version]wordSet{}
	for _, c := range x.channels {
		if v := x.versions[versionKey(c.Name, c.Version)]; v != nil {
			if found := in(c.Channel); found != 0 {
				words[v] |= found
			}
		}
	}
	return words
}

// lastSearched is what stands in what an image of a repository has in common with others.
type lastSearched struct {
	kind   *kind
	base   *farm.Base
	labels uintptr
	found  wordSet
}

// once remembers what stands in something that many images have in common.
func once[K comparable](known map[K]wordSet, key K, search func() wordSet) wordSet {
	found, ok := known[key]
	if !ok {
		found = search()
		known[key] = found
	}
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
