package retention

import (
	"fmt"
	"path"
	"strings"
)

// Policy is an ordered list of rules. For each name the first rule whose glob matches decides alone; names that none
// matches are kept.
type Policy struct {
	Rules []Rule
}

// Rule says how long versions of the names that it matches are kept. A version is kept when any field keeps it.
type Rule struct {
	// Match is a glob over the whole image name: * any characters within a path component, ? one, [a-z] one of these;
	// "**" matches every name, and "shop/**" every name below shop.
	Match    string
	KeepLast int      // the newest so many versions of each name; 0: not set
	KeepFor  Duration // versions baked less than so long ago; 0: not set
}

// Default is the policy of a farm that was given none: the last ten versions of every name, and all of the last 30 days.
var Default = Policy{Rules: []Rule{{Match: "**", KeepLast: 10, KeepFor: Duration(30 * day)}}}

// ruleFor finds the rule that decides about a name; none when no rule matches.
func (p Policy) ruleFor(name string) deciding {
	for i := range p.Rules {
		if r := &p.Rules[i]; r.matches(name) {
			return deciding{r, fmt.Sprintf("rule %d (%s)", i+1, r.Match)}
		}
	}
	return deciding{}
}

func (r *Rule) matches(name string) bool {
	glob := r.Match
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
	ok, err := path.Match(glob, name)
	return ok && err == nil // ParsePolicy refuses what path.Match can't read
}
