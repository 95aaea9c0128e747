package retention

import (
	"fmt"
	"path"
	"strings"
)

// Policy is an ordered list of rules. For each name the first rule whose glob matches decides alone; names that none
// matches are kept. Quotas bound what the rules keep.
type Policy struct {
	Rules  []Rule
	Quotas []Quota
	// Trash is how long what has expired can be restored; 0: DefaultTrash.
	Trash Duration
	// MaxExpire is the share of all versions, in percent, that a change of policy may let expire without being confirmed;
	// 0: DefaultMaxExpire.
	MaxExpire int
}

// What a policy says that says nothing of it.
const (
	DefaultTrash     = Duration(7 * day)
	DefaultMaxExpire = 25
)

// TrashFor is how long what has expired can be restored.
func (p Policy) TrashFor() Duration {
	if p.Trash == 0 {
		return DefaultTrash
	}
	return p.Trash
}

// Share is the share of all versions, in percent, that a change to this policy may let expire unconfirmed.
func (p Policy) Share() int {
	if p.MaxExpire == 0 {
		return DefaultMaxExpire
	}
	return p.MaxExpire
}

// Rule says how long versions of the names that it matches are kept. A version is kept when any field keeps it, and the quota
// has room.
type Rule struct {
	Line int // of the policy's text; 0: it has none
	// Match is a glob over the whole image name: * any characters within a path component, ? one, [a-z] one of these;
	// "**" matches every name, and "shop/**" every name below shop.
	Match string

	KeepLast        int      // the newest so many versions of each name; 0: not set
	KeepFor         Duration // versions baked less than so long ago; 0: not set
	KeepPulledFor   Duration // versions pulled, or resolved through a channel, less than so long ago
	KeepDeployedFor Duration // versions that were reported as deployed less than so long ago
	KeepDaily       Duration // the newest version of each day (UTC), for so long
	KeepWeekly      Duration // the newest version of each ISO week
	KeepMonthly     Duration // the newest version of each month

	KeepTags     []string  // versions with a tag that one of the globs matches
	KeepLabels   []Pattern // versions with a label that one of them matches
	KeepChannels []string  // versions that a channel whose name matches has ever pointed to

	// Quota is how many bytes the versions of each name may have together; 0: any. The oldest go first. What is protected
	// (see Decide), and what tags, labels and channels keep, stays. With nothing beside it, it keeps all that fit.
	Quota int64
}

// onlyQuota reports whether nothing but a quota decides.
func (r Rule) onlyQuota() bool {
	return r.Quota > 0 && r.KeepLast == 0 && len(r.KeepTags)+len(r.KeepLabels)+len(r.KeepChannels) == 0 &&
		r.KeepFor+r.KeepPulledFor+r.KeepDeployedFor+r.KeepDaily+r.KeepWeekly+r.KeepMonthly == 0
}

// Pattern is a label and a glob over its value.
type Pattern struct{ Label, Glob string }

// Quota bounds what the versions of all names that it matches, a team's for example, have together.
type Quota struct {
	Line  int
	Match string
	Size  int64 // bytes
}

// Default is the policy of a farm that was given none: the last ten versions of every name, and all of the last 30 days.
var Default = Policy{Rules: []Rule{{Line: 1, Match: "**", KeepLast: 10, KeepFor: Duration(30 * day)}}}

// DefaultText is the Default as people write it.
const DefaultText = `rules: [{match: "**", keepLast: 10, keepFor: 30d}]` + "\n"

// ruleFor finds the rule that decides about a name; none when no rule matches.
func (p Policy) ruleFor(name string) deciding {
	for i := range p.Rules {
		if r := &p.Rules[i]; matches(r.Match, name) {
			return deciding{r, fmt.Sprintf("rule %d (%s)", i+1, r.Match)}
		}
	}
	return deciding{}
}

// Uses says what a policy asks of versions that is not known without looking it up.
func (p Policy) Uses() (labels, channelHistory bool) {
	for _, r := range p.Rules {
		labels = labels || len(r.KeepLabels) > 0
		channelHistory = channelHistory || len(r.KeepChannels) > 0
	}
	return labels, channelHistory
}

// matches reports whether a glob of a policy matches an image name.
func matches(glob, name string) bool {
	if glob == "**" {
		return true
	}
	if above, found := strings.CutSuffix(glob, "/**"); found {
		parts := strings.Split(name, "/")
		depth := strings.Count(above, "/") + 1
		if len(parts) <= depth {
			return false
		}
		glob, name = above, strings.Join(parts[:depth], "/")
	}
	return globMatches(glob, name)
}

func globMatches(glob, s string) bool {
	ok, err := path.Match(glob, s)
	return ok && err == nil // ParsePolicy refuses what path.Match can't read
}

func anyMatches(globs []string, s string) bool {
	for _, g := range globs {
		if globMatches(g, s) {
			return true
		}
	}
	return false
}
