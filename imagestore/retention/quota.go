package retention

import (
	"cmp"
	"fmt"
	"slices"
)

// deliberation is a decision in the making.
type deliberation struct {
	policy Policy
	cases  []*judged // sorted by name, then newest first
	byID   map[ID]*judged
}

// protectParents ties versions to those built upon them: a parent stays as long as a child that is kept.
func (d *deliberation) protectParents() {
	for _, c := range d.cases {
		seen := map[ID]bool{c.id(): true}
		for _, id := range c.Parents {
			if p := d.byID[id]; p != nil && !seen[id] {
				seen[id] = true
				p.children = append(p.children, c)
			}
		}
	}
	for _, c := range d.cases {
		if len(c.firm) > 0 || len(c.loose) > 0 {
			d.hold(c)
		}
	}
}

// hold counts a version that has become kept with its parents.
func (d *deliberation) hold(c *judged) {
	d.eachParent(c, func(p *judged) {
		was := p.kept()
		if p.kids++; !was {
			d.hold(p)
		}
	})
}

// drop takes out one that is kept no longer; gone is told of the parents that only it has kept.
func (d *deliberation) drop(c *judged, gone func(*judged)) {
	d.eachParent(c, func(p *judged) {
		if p.kids--; !p.kept() {
			gone(p)
			d.drop(p, gone)
		}
	})
}

func (d *deliberation) eachParent(c *judged, fn func(*judged)) {
	seen := map[ID]bool{c.id(): true}
	for _, id := range c.Parents {
		if p := d.byID[id]; p != nil && !seen[id] {
			seen[id] = true
			fn(p)
		}
	}
}

// applyQuotas lets versions go, the oldest first, until every quota is met or nothing is left that one may take: those of
// names first, then those of teams in their order.
func (d *deliberation) applyQuotas() []Unmet {
	var unmet []Unmet
	for start := 0; start < len(d.cases); {
		end := start + 1
		for end < len(d.cases) && d.cases[end].Name == d.cases[start].Name {
			end++
		}
		if c := d.cases[start]; c.rule.Rule != nil && c.rule.Quota > 0 {
			unmet = d.meet(unmet, d.cases[start:end], c.rule.Line, "the quota of "+c.rule.called+", for "+c.Name+",", c.rule.Quota)
		}
		start = end
	}
	for i, q := range d.policy.Quotas {
		var of []*judged
		for _, c := range d.cases {
			if matches(q.Match, c.Name) {
				of = append(of, c)
			}
		}
		unmet = d.meet(unmet, of, q.Line, fmt.Sprintf("quota %d (%s)", i+1, q.Match), q.Size)
	}
	return unmet
}

func (d *deliberation) meet(unmet []Unmet, of []*judged, line int, called string, limit int64) []Unmet {
	var total int64
	for _, c := range of {
		if c.kept() {
			total += c.Size
		}
	}
	if total <= limit {
		return unmet
	}
	oldest := slices.SortedFunc(slices.Values(of), func(a, b *judged) int {
		return cmp.Or(a.CreatedAt.Compare(b.CreatedAt), cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Version.Version, b.Version.Version))
	})
	within := make(map[*judged]bool, len(of))
	for _, c := range of {
		within[c] = true
	}
	// A parent can go only after its children, which are younger: go round until nothing changes.
	for again := true; again && total > limit; {
		again = false
		for _, c := range oldest {
			if total <= limit {
				break
			}
			if !c.kept() || len(c.firm) > 0 || c.kids > 0 {
				continue
			}
			c.over = fmt.Sprintf("%s of %s: with it there would be %s; the oldest go first, and no channel holds it", called, FormatSize(limit), FormatSize(total))
			again = true
			total -= c.Size
			d.drop(c, func(p *judged) {
				if within[p] {
					total -= p.Size
				}
			})
		}
	}
	if total <= limit {
		return unmet
	}
	u := Unmet{Line: line, Quota: called, Limit: limit, Kept: total}
	for _, c := range of {
		if c.target {
			u.Target = c.id().String()
			break
		}
	}
	return append(unmet, u)
}
