// Package retention decides what may go. It is a pure function: a policy, the versions that exist, the channels and the
// time in; for each version keep or expire, with every reason, out. It deletes nothing.
//
//	for each version:
//	  held by a channel (now, or within its rollback window)?        keep, whatever the policy says
//	  first rule whose glob matches the name:
//	    keepLast N   among the N newest versions of its name?        keep
//	    keepFor  D   baked less than D ago?                          keep
//	  no rule matches?                                               keep
//	  otherwise                                                      expire
//
// A version may be kept for several reasons; all of them are told, because "why is this still here?" is the question
// that people ask before they trust the answer to "what may go?".
package retention

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"bakefarm/farm"
)

// Version is what the decision needs to know of a version.
type Version struct {
	Name      string
	Version   string
	Sequence  uint64 // counts the versions of a name: the higher, the newer
	CreatedAt time.Time
	Size      int64 // compressed bytes of its images, shared ones counted whole
}

// Verdict is the decision about one version.
type Verdict struct {
	Name      string    `json:"name"`
	Version   string    `json:"version"`
	Sequence  uint64    `json:"sequence"`
	CreatedAt time.Time `json:"createdAt"`
	Size      int64     `json:"size"` // compressed bytes of its images, shared ones counted whole
	Keep      bool      `json:"keep"`
	Reasons   []string  `json:"reasons"` // at least one: all that keep it, or why nothing does
}

// Decide judges every version. The verdicts are sorted by name, then newest first; the order of the arguments does not
// matter.
func Decide(p Policy, versions []Version, channels []farm.Channel, now time.Time) []Verdict {
	held := holds(channels)
	byName := make(map[string][]Version)
	for _, v := range versions {
		byName[v.Name] = append(byName[v.Name], v)
	}
	verdicts := make([]Verdict, 0, len(versions))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		rule := p.ruleFor(name)
		slices.SortFunc(byName[name], newestFirst)
		for i, v := range byName[name] {
			verdict := Verdict{Name: v.Name, Version: v.Version, Sequence: v.Sequence, CreatedAt: v.CreatedAt, Size: v.Size}
			reasons := held[id{v.Name, v.Version}]
			reasons = append(reasons[:len(reasons):len(reasons)], rule.keeps(v, i+1, now)...)
			verdict.Keep = len(reasons) > 0
			if !verdict.Keep {
				reasons = []string{rule.expires(v, i+1, now)}
			}
			verdict.Reasons = reasons
			verdicts = append(verdicts, verdict)
		}
	}
	return verdicts
}

// id names a version among those of all names.
type id struct{ name, version string }

// holds says for every version that channels hold by which and how.
func holds(channels []farm.Channel) map[id][]string {
	held := make(map[id][]string)
	for _, c := range slices.SortedFunc(slices.Values(channels), func(a, b farm.Channel) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Channel, b.Channel))
	}) {
		now := id{c.Name, c.Version}
		held[now] = append(held[now], fmt.Sprintf("channel %s points to it", c.Channel))
		told := map[string]bool{c.Version: true}
		for i, former := range c.Recent {
			if i == farm.RollbackWindow {
				break
			}
			if told[former] {
				continue
			}
			told[former] = true
			was := id{c.Name, former}
			held[was] = append(held[was], fmt.Sprintf("in the rollback window of channel %s, %d back", c.Channel, i+1))
		}
	}
	return held
}

func newestFirst(a, b Version) int {
	return cmp.Or(cmp.Compare(b.Sequence, a.Sequence), b.CreatedAt.Compare(a.CreatedAt), cmp.Compare(a.Version, b.Version))
}

// deciding is the rule that decides about a name, as reasons call it: "rule 1 (shop/*)". Without a rule it is zero.
type deciding struct {
	*Rule
	called string
}

// keeps lists the reasons for which the rule keeps the version that is the nth newest of its name.
func (r deciding) keeps(v Version, nth int, now time.Time) []string {
	if r.Rule == nil {
		return []string{"no rule matches its name"}
	}
	var reasons []string
	if r.KeepLast > 0 && nth <= r.KeepLast {
		reasons = append(reasons, r.called+": number "+strconv.Itoa(nth)+" of its name, within the last "+strconv.Itoa(r.KeepLast))
	}
	if age := now.Sub(v.CreatedAt); r.KeepFor > 0 && age < time.Duration(r.KeepFor) {
		reasons = append(reasons, r.called+": baked "+Duration(max(age, 0)).rough()+" ago, kept for "+r.KeepFor.String())
	}
	return reasons
}

// expires says why the rule does not keep it.
func (r deciding) expires(v Version, nth int, now time.Time) string {
	why := r.called + ":"
	if r.KeepLast > 0 {
		why += " number " + strconv.Itoa(nth) + " of its name, beyond the last " + strconv.Itoa(r.KeepLast) + ";"
	}
	if r.KeepFor > 0 {
		why += " baked " + Duration(now.Sub(v.CreatedAt)).rough() + " ago, kept for " + r.KeepFor.String() + ";"
	}
	return why + " no channel holds it"
}
