package s3embed

import (
	"iter"
	"slices"
	"sort"
	"strings"
	"time"
)

// objectStat is what a listing says about an object.
type objectStat struct {
	size     int64
	etag     string
	modified time.Time
}

func (i *objectInfo) stat() *objectStat {
	return &objectStat{size: i.Size, etag: i.ETag, modified: i.Modified}
}

// entry is one key of a keySet. stat is nil until something asked for it.
type entry struct {
	key  string
	stat *objectStat
}

// keySet is the sorted set of a bucket's keys: sorted runs of at most maxRun
// entries, in order. A million keys are some thousand runs, so that every
// operation is two binary searches and a short move. Not safe for concurrent use.
type keySet struct {
	runs [][]entry
	n    int
}

const maxRun = 1024

// run returns the index of the run that holds key or would hold it.
func (s *keySet) run(key string) int {
	i := sort.Search(len(s.runs), func(i int) bool { return s.runs[i][0].key > key })
	return max(i-1, 0)
}

func find(run []entry, key string) (int, bool) {
	return slices.BinarySearchFunc(run, key, func(e entry, k string) int { return strings.Compare(e.key, k) })
}

// set adds key or replaces its stat.
func (s *keySet) set(key string, stat *objectStat) {
	if len(s.runs) == 0 {
		s.runs = [][]entry{{{key, stat}}}
		s.n++
		return
	}
	r := s.run(key)
	i, ok := find(s.runs[r], key)
	if ok {
		s.runs[r][i].stat = stat
		return
	}
	s.n++
	s.runs[r] = slices.Insert(s.runs[r], i, entry{key, stat})
	if run := s.runs[r]; len(run) > maxRun {
		s.runs[r] = run[: maxRun/2 : maxRun/2]
		s.runs = slices.Insert(s.runs, r+1, slices.Clone(run[maxRun/2:]))
	}
}

func (s *keySet) delete(key string) {
	if len(s.runs) == 0 {
		return
	}
	r := s.run(key)
	i, ok := find(s.runs[r], key)
	if !ok {
		return
	}
	s.n--
	if s.runs[r] = slices.Delete(s.runs[r], i, i+1); len(s.runs[r]) == 0 {
		s.runs = slices.Delete(s.runs, r, r+1)
	}
}

// from yields the entries whose keys are at or after key, in order.
func (s *keySet) from(key string) iter.Seq[entry] {
	return func(yield func(entry) bool) {
		if len(s.runs) == 0 {
			return
		}
		r := s.run(key)
		i, _ := find(s.runs[r], key)
		for ; r < len(s.runs); r, i = r+1, 0 {
			for _, e := range s.runs[r][i:] {
				if !yield(e) {
					return
				}
			}
		}
	}
}

// listing is one page of a bucket's listing.
type listing struct {
	entries  []entry
	prefixes []string // common prefixes
	next     string   // last item of the page; set if truncated
	more     bool     // truncated
}

// list makes the page of at most limit items (entries and common prefixes) that
// follows the item after. An empty delimiter means none, also if it was sent.
//
// A common prefix given as after hides everything below it; any other after hides
// the keys up to itself, so that a prefix with later keys below is still shown.
func (s *keySet) list(prefix, delimiter, after string, limit int) (page listing) {
	pos, ok := prefix, true
	if after != "" && after >= prefix {
		if rollUp(after, prefix, delimiter) == after {
			pos, ok = successor(after)
		} else {
			pos = after + "\x00"
		}
	}
	for ok {
		again := false
		for e := range s.from(pos) {
			if !strings.HasPrefix(e.key, prefix) {
				return page
			}
			if len(page.entries)+len(page.prefixes) == limit {
				page.more = true
				return page
			}
			if common := rollUp(e.key, prefix, delimiter); common != "" {
				page.prefixes = append(page.prefixes, common)
				page.next = common
				pos, again = successor(common)
				break
			}
			page.entries = append(page.entries, e)
			page.next = e.key
		}
		ok = again
	}
	return page
}

// rollUp returns the common prefix that key is shown as, or "" if as itself.
func rollUp(key, prefix, delimiter string) string {
	if delimiter == "" || !strings.HasPrefix(key, prefix) {
		return ""
	}
	i := strings.Index(key[len(prefix):], delimiter)
	if i < 0 {
		return ""
	}
	return key[:len(prefix)+i+len(delimiter)]
}

// successor returns the first string that is after every string with prefix p.
func successor(p string) (string, bool) {
	for i := len(p) - 1; i >= 0; i-- {
		if p[i] != 0xff {
			return p[:i] + string([]byte{p[i] + 1}), true
		}
	}
	return "", false
}
