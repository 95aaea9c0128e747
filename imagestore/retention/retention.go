// Package retention decides what may go. It is a pure function: a policy, the versions that exist with what is known of
// them, the channels and the time in; for each version keep or expire, with every reason, out. It deletes nothing.
//
//	protected, whatever the policy says: what a channel points to or has in its rollback window, pinned and held versions,
//	    reported deployments, images of running bakes, parents of what is kept
//	otherwise the first rule whose glob matches the name:
//	    keepLast, keepFor, keepPulledFor, keepDeployedFor, keepDaily …, keepTags, keepLabels, keepChannels: any keeps
//	    no rule matches: keep
//	then quotas, of a name and of a team: the oldest go that only a number or a time has kept
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
	"strings"
	"time"

	"bakefarm/farm"
)

// ID names a version among those of all names.
type ID struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

func (id ID) String() string { return id.Name + ":" + id.Version }

// Version is what the decision needs to know of a version.
type Version struct {
	Name      string
	Version   string
	Sequence  uint64 // counts the versions of a name: the higher, the newer
	CreatedAt time.Time
	Size      int64 // compressed bytes of its images, shared ones counted whole

	LastPulled   time.Time // or resolved through a channel; zero: never
	LastDeployed time.Time // reported; zero: never
	Deployments  []string  // reported ones whose time is not over
	Bakes        []string  // running ones that need it
	Pins         []farm.Pin
	Tags         []string // that point to it, besides the version itself
	Labels       map[string]string
	EverIn       []string // channels that have pointed to it at any time: for rules with keepChannels
	Parents      []ID     // whose images its own are built upon
}

func (v Version) id() ID { return ID{v.Name, v.Version} }

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

// Unmet is a quota that can't be kept: what it may not take is larger.
type Unmet struct {
	Line  int    `json:"line"` // of the policy's text
	Quota string `json:"quota"`
	Limit int64  `json:"limit"` // bytes
	Kept  int64  `json:"kept"`  // bytes of what stays
	// Target is a version that a channel points to and that would have to go; empty if there is none.
	Target string `json:"target,omitempty"`
}

func (u Unmet) String() string {
	text := fmt.Sprintf("%s of %s can't be met: what it may not take has %s", u.Quota, FormatSize(u.Limit), FormatSize(u.Kept))
	if u.Target != "" {
		text += ", such as " + u.Target + ", which a channel points to"
	}
	return text
}

// Decision is what a policy comes to.
type Decision struct {
	Verdicts []Verdict // sorted by name, then newest first
	Unmet    []Unmet
}

// Decide judges every version. The order of the arguments does not matter.
func Decide(p Policy, versions []Version, channels []farm.Channel, now time.Time) Decision {
	d := deliberation{policy: p, cases: make([]*judged, 0, len(versions)), byID: make(map[ID]*judged, len(versions))}
	held := holds(channels)
	targets := make(map[ID]bool, len(channels))
	for _, c := range channels {
		targets[ID{c.Name, c.Version}] = true
	}
	byName := make(map[string][]Version)
	for _, v := range versions {
		byName[v.Name] = append(byName[v.Name], v)
	}
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		rule := p.ruleFor(name)
		slices.SortFunc(byName[name], newestFirst)
		periods := rule.periods(byName[name], now)
		for i, v := range byName[name] {
			c := &judged{Version: v, nth: i + 1, rule: rule, target: targets[v.id()]}
			c.firm = protections(v, held[v.id()])
			c.firm = append(c.firm, rule.firmly(v)...)
			c.loose = append(rule.loosely(v, i+1, now), periods[i]...)
			d.cases = append(d.cases, c)
			d.byID[v.id()] = c
		}
	}
	d.protectParents()
	unmet := d.applyQuotas()
	verdicts := make([]Verdict, len(d.cases))
	for i, c := range d.cases {
		verdicts[i] = c.verdict(now)
	}
	return Decision{verdicts, unmet}
}

// judged is a version on its way to a verdict.
type judged struct {
	Version
	nth      int // newest of its name
	rule     deciding
	target   bool     // a channel points to it
	firm     []string // reasons that no quota outweighs
	loose    []string // those that one does
	over     string   // the quota that outweighed what kept it
	children []*judged
	kids     int // kept ones among them
}

func (c *judged) kept() bool {
	return len(c.firm) > 0 || len(c.loose) > 0 && c.over == "" || c.kids > 0
}

func (c *judged) verdict(now time.Time) Verdict {
	verdict := Verdict{Name: c.Name, Version: c.Version.Version, Sequence: c.Sequence, CreatedAt: c.CreatedAt, Size: c.Size, Keep: c.kept()}
	switch {
	case !verdict.Keep && c.over != "":
		verdict.Reasons = []string{c.over}
		return verdict
	case !verdict.Keep:
		verdict.Reasons = []string{c.rule.expires(c.Version, c.nth, now)}
		return verdict
	}
	verdict.Reasons = slices.Clone(c.firm)
	if c.over == "" {
		verdict.Reasons = append(verdict.Reasons, c.loose...)
	}
	for _, child := range c.children {
		if child.kept() {
			verdict.Reasons = append(verdict.Reasons, "parent of "+child.id().String()+", which is kept")
			break
		}
	}
	return verdict
}

// protections are the reasons to keep a version whatever the policy says.
func protections(v Version, channels []string) []string {
	reasons := channels[:len(channels):len(channels)]
	for _, p := range v.Pins {
		why := "pinned by " + p.By
		if p.Hold != "" {
			why = "held for the legal case " + p.Hold + " by " + p.By
		}
		if p.Note != "" {
			why += ": " + p.Note
		}
		reasons = append(reasons, why)
	}
	for i, d := range v.Deployments {
		if i == 3 {
			reasons = append(reasons, fmt.Sprintf("and %d more deployments run it", len(v.Deployments)-i))
			break
		}
		reasons = append(reasons, "deployment "+d+" runs it")
	}
	for _, b := range v.Bakes {
		reasons = append(reasons, "bake "+b+" needs it")
	}
	return reasons
}

// Protections are the reasons that keep a version whatever any policy says, as far as they lie in it and the channels;
// none: it may go.
func Protections(v Version, channels []farm.Channel) []string {
	return protections(v, holds(channels)[v.id()])
}

// holds says for every version that channels hold by which and how.
func holds(channels []farm.Channel) map[ID][]string {
	held := make(map[ID][]string)
	for _, c := range slices.SortedFunc(slices.Values(channels), func(a, b farm.Channel) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Channel, b.Channel))
	}) {
		now := ID{c.Name, c.Version}
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
			was := ID{c.Name, former}
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

// firmly lists the reasons for which the rule keeps a version by what it is called.
func (r deciding) firmly(v Version) []string {
	if r.Rule == nil {
		return []string{"no rule matches its name"}
	}
	var reasons []string
	add := func(format string, args ...any) {
		reasons = append(reasons, r.called+": "+fmt.Sprintf(format, args...))
	}
	for _, tag := range v.Tags {
		if anyMatches(r.KeepTags, tag) {
			add("tag %s", tag)
		}
	}
	for _, p := range r.KeepLabels {
		if value, has := v.Labels[p.Label]; has && globMatches(p.Glob, value) {
			add("label %s=%s", p.Label, value)
		}
	}
	for _, channel := range v.EverIn {
		if anyMatches(r.KeepChannels, channel) {
			add("channel %s has pointed to it", channel)
		}
	}
	return reasons
}

// loosely lists the reasons for which the rule keeps the version that is the nth newest of its name by number and time.
func (r deciding) loosely(v Version, nth int, now time.Time) []string {
	if r.Rule == nil {
		return nil
	}
	var reasons []string
	if r.onlyQuota() {
		reasons = append(reasons, r.called+": within the quota of "+FormatSize(r.Quota))
	}
	if r.KeepLast > 0 && nth <= r.KeepLast {
		reasons = append(reasons, r.called+": number "+strconv.Itoa(nth)+" of its name, within the last "+strconv.Itoa(r.KeepLast))
	}
	for _, t := range r.times(v) {
		if age := now.Sub(t.at); t.kept > 0 && !t.at.IsZero() && age < time.Duration(t.kept) {
			reasons = append(reasons, r.called+": "+t.what+" "+Duration(max(age, 0)).rough()+" ago, kept for "+t.kept.String())
		}
	}
	return reasons
}

// timed is a time that a rule keeps versions from.
type timed struct {
	what string
	at   time.Time
	kept Duration
}

func (r deciding) times(v Version) [3]timed {
	return [3]timed{{"baked", v.CreatedAt, r.KeepFor}, {"pulled", v.LastPulled, r.KeepPulledFor}, {"deployed", v.LastDeployed, r.KeepDeployedFor}}
}

// periods lists for each of a name's versions, newest first, the days, weeks and months that the rule keeps it for.
func (r deciding) periods(versions []Version, now time.Time) [][]string {
	reasons := make([][]string, len(versions))
	if r.Rule == nil {
		return reasons
	}
	for _, p := range []struct {
		every string
		kept  Duration
		of    func(time.Time) string
	}{
		{"day", r.KeepDaily, func(t time.Time) string { return t.Format(time.DateOnly) }},
		{"week", r.KeepWeekly, func(t time.Time) string { y, w := t.ISOWeek(); return fmt.Sprintf("week %d of %d", w, y) }},
		{"month", r.KeepMonthly, func(t time.Time) string { return t.Format("2006-01") }},
	} {
		if p.kept == 0 {
			continue
		}
		newest := map[string]int{} // index, by baking time: sequence numbers may stand in another order
		for i, v := range versions {
			if now.Sub(v.CreatedAt) >= time.Duration(p.kept) {
				continue
			}
			period := p.of(v.CreatedAt.UTC())
			if j, has := newest[period]; !has || versions[j].CreatedAt.Before(v.CreatedAt) {
				newest[period] = i
			}
		}
		for period, i := range newest {
			reasons[i] = append(reasons[i], fmt.Sprintf("%s: the newest of %s, one a %s kept for %s", r.called, period, p.every, p.kept))
		}
	}
	return reasons
}

// expires says why the rule does not keep it.
func (r deciding) expires(v Version, nth int, now time.Time) string {
	if r.Rule == nil {
		return "what it was the parent of has gone"
	}
	why := r.called + ":"
	if r.KeepLast > 0 {
		why += " number " + strconv.Itoa(nth) + " of its name, beyond the last " + strconv.Itoa(r.KeepLast) + ";"
	}
	for _, t := range r.times(v) {
		switch {
		case t.kept == 0:
		case t.at.IsZero():
			why += " never " + t.what + ";"
		default:
			why += " " + t.what + " " + Duration(now.Sub(t.at)).rough() + " ago, kept for " + t.kept.String() + ";"
		}
	}
	for _, p := range []struct {
		every string
		kept  Duration
	}{{"day", r.KeepDaily}, {"week", r.KeepWeekly}, {"month", r.KeepMonthly}} {
		if p.kept > 0 {
			why += " not one of those kept for " + p.kept.String() + ", one a " + p.every + ";"
		}
	}
	var named []string
	for _, n := range []struct {
		set  bool
		what string
	}{{len(r.KeepTags) > 0, "tag"}, {len(r.KeepLabels) > 0, "label"}, {len(r.KeepChannels) > 0, "former channel"}} {
		if n.set {
			named = append(named, n.what)
		}
	}
	if len(named) > 0 {
		why += " no " + strings.Join(named, " or ") + " that is kept;"
	}
	return why + " no channel holds it"
}
