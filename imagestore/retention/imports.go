package retention

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"bakefarm/farm"
)

// Imported is what has become of another registry's retention rules.
type Imported struct {
	Policy Policy `json:"-"`
	Text   string `json:"policy"` // YAML
	// Untranslated names what has no counterpart here, and what comes out otherwise: one sentence each, with the rule.
	Untranslated []string `json:"untranslated"`
}

func (i *Imported) note(format string, args ...any) {
	i.Untranslated = append(i.Untranslated, fmt.Sprintf(format, args...))
}

func (i Imported) done() Imported {
	i.Text = i.Policy.Encode()
	if i.Untranslated == nil {
		i.Untranslated = []string{}
	}
	return i
}

// readForeign decodes another registry's JSON into v.
func readForeign(what string, data []byte, v any) error {
	if len(data) > MaxPolicy {
		return fmt.Errorf("%s: %d bytes: at most %d", what, len(data), MaxPolicy)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if d.More() {
		return fmt.Errorf("%s: more than one JSON value", what)
	}
	return nil
}

// strangers names the keys of a JSON object that are not known.
func (i *Imported) strangers(where string, object map[string]json.RawMessage, known ...string) {
	for _, key := range slices.Sorted(maps.Keys(object)) {
		if !slices.Contains(known, key) {
			i.note("%s: %q is unknown here", where, clip(key))
		}
	}
}

// clip shortens what came from outside, for messages.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}

// ecrPolicy is a lifecycle policy of Amazon ECR (Amazon ECR user guide, "Lifecycle policy parameters").
type ecrPolicy struct {
	Rules []ecrRule `json:"rules"`
}

type ecrRule struct {
	Priority    int    `json:"rulePriority"`
	Description string `json:"description"`
	Selection   struct {
		TagStatus      string   `json:"tagStatus"` // tagged, untagged, any
		TagPrefixList  []string `json:"tagPrefixList"`
		TagPatternList []string `json:"tagPatternList"`
		CountType      string   `json:"countType"` // imageCountMoreThan, sinceImagePushed, sinceImagePulled …
		CountNumber    int      `json:"countNumber"`
		CountUnit      string   `json:"countUnit"`    // days
		StorageClass   string   `json:"storageClass"` // standard, archive
	} `json:"selection"`
	Action struct {
		Type string `json:"type"` // expire, transition
	} `json:"action"`
}

// ecrKeys are all keys of such a policy, to find those that are unknown here.
type ecrKeys struct {
	Text  string                       `json:"lifecyclePolicyText"` // of "aws ecr get-lifecycle-policy": the policy is in it
	Rules []map[string]json.RawMessage `json:"rules"`
}

// ImportECR translates a lifecycle policy of Amazon ECR for the names that match covers. ECR's rules say what expires, ours
// what is kept: a rule about all images becomes the number or time to keep; what none of its rules selects is kept there,
// and so are here versions with a tag that only narrower rules select.
func ImportECR(match string, data []byte) (Imported, error) {
	var in Imported
	if why := badGlob(match); why != "" {
		return in, fmt.Errorf("match %q %s", match, why)
	}
	const what = "ECR lifecycle policy"
	var keys ecrKeys
	if err := readForeign(what, data, &keys); err != nil {
		return in, err
	}
	if keys.Text != "" {
		data, keys = []byte(keys.Text), ecrKeys{}
		if err := readForeign(what, data, &keys); err != nil {
			return in, err
		}
	}
	var p ecrPolicy
	if err := readForeign(what, data, &p); err != nil {
		return in, err
	}
	if len(p.Rules) == 0 {
		return in, fmt.Errorf("%s: it has no rules", what)
	}
	for i, r := range keys.Rules {
		name := fmt.Sprintf("ECR rule %d", p.Rules[i].Priority)
		in.strangers(name, r, "rulePriority", "description", "selection", "action")
		var selection map[string]json.RawMessage
		if json.Unmarshal(r["selection"], &selection) == nil {
			in.strangers(name, selection, "tagStatus", "tagPrefixList", "tagPatternList", "countType", "countNumber", "countUnit", "storageClass")
		}
	}
	slices.SortStableFunc(p.Rules, func(a, b ecrRule) int { return a.Priority - b.Priority })
	rule := Rule{Match: match}
	all := false
	for _, r := range p.Rules {
		name := fmt.Sprintf("ECR rule %d", r.Priority)
		s := r.Selection
		switch {
		case r.Action.Type == "transition", s.StorageClass != "" && s.StorageClass != "standard":
			in.note("%s: images are not moved to an archive here, nor out of one", name)
			continue
		case r.Action.Type != "expire":
			in.note("%s: action %q is unknown here", name, clip(r.Action.Type))
			continue
		case s.CountNumber <= 0:
			in.note("%s: countNumber %d: it is ignored", name, s.CountNumber)
			continue
		case s.TagStatus == "untagged":
			in.note("%s: untagged images: every image here belongs to a version and is never untagged; what nothing needs any more is collected anyway", name)
			continue
		case s.TagStatus == "tagged":
			patterns := slices.Clone(s.TagPatternList)
			for _, prefix := range s.TagPrefixList {
				patterns = append(patterns, prefix+"*")
			}
			in.note("%s: only images tagged %s expire there; here a rule decides about all versions of a name, so these are kept with keepTags", name, strings.Join(patterns, ", "))
			for _, pattern := range patterns {
				if badPattern(pattern) == "" && !slices.Contains(rule.KeepTags, pattern) {
					rule.KeepTags = append(rule.KeepTags, pattern)
				}
			}
			continue
		case s.TagStatus != "any":
			in.note("%s: tagStatus %q is unknown here", name, clip(s.TagStatus))
			continue
		}
		switch s.CountType {
		case "imageCountMoreThan":
			rule.KeepLast, all = s.CountNumber, true
		case "sinceImagePushed":
			var pushed Duration
			all = days(&in, name, s.CountNumber, s.CountUnit, &pushed) || all
			rule.KeepFor = max(rule.KeepFor, pushed)
		case "sinceImagePulled": // of what was never pulled the time of the push counts
			all = days(&in, name, s.CountNumber, s.CountUnit, &rule.KeepPulledFor) || all
			rule.KeepFor = max(rule.KeepFor, rule.KeepPulledFor)
		default:
			in.note("%s: countType %q is unknown here", name, clip(s.CountType))
		}
	}
	if rule.KeepLast > 0 && (rule.KeepFor > 0 || rule.KeepPulledFor > 0) {
		in.note("ECR lets an image expire when any rule selects it; here it is kept when any field keeps it: look at keepLast and the times together")
	}
	if all {
		in.Policy.Rules = []Rule{rule}
	} else {
		in.note("no rule is about all images: everything that %s matches is kept", match)
	}
	return in.done(), nil
}

func days(in *Imported, name string, n int, unit string, to *Duration) bool {
	switch unit {
	case "", "days", "day":
	default:
		in.note("%s: countUnit %q is unknown here", name, unit)
		return false
	}
	if n > 36500 {
		in.note("%s: %d days: at most 100 years", name, n)
		return false
	}
	*to = Duration(n) * Duration(day)
	return true
}

// harborPolicy is a tag retention policy of Harbor (its API, RetentionPolicy).
type harborPolicy struct {
	Algorithm string       `json:"algorithm"` // or
	Rules     []harborRule `json:"rules"`
	Trigger   struct {
		Settings struct {
			Cron string `json:"cron"`
		} `json:"settings"`
	} `json:"trigger"`
}

type harborRule struct {
	ID             int                         `json:"id"`
	Disabled       bool                        `json:"disabled"`
	Action         string                      `json:"action"` // retain
	Template       string                      `json:"template"`
	Params         map[string]json.Number      `json:"params"`
	TagSelectors   []harborSelector            `json:"tag_selectors"`
	ScopeSelectors map[string][]harborSelector `json:"scope_selectors"`
}

type harborSelector struct {
	Kind       string `json:"kind"`       // doublestar
	Decoration string `json:"decoration"` // matches, excludes, repoMatches, repoExcludes
	Pattern    string `json:"pattern"`
	Extras     string `json:"extras"` // {"untagged": true}
}

// ImportHarbor translates a tag retention policy of Harbor. Repositories there are within a project: prefix is put before
// their names ("shop/"); it may be empty.
func ImportHarbor(prefix string, data []byte) (Imported, error) {
	var in Imported
	var p harborPolicy
	if err := readForeign("Harbor retention policy", data, &p); err != nil {
		return in, err
	}
	var keys map[string]json.RawMessage
	if err := readForeign("Harbor retention policy", data, &keys); err != nil {
		return in, err
	}
	in.strangers("policy", keys, "id", "algorithm", "rules", "trigger", "scope")
	if len(p.Rules) == 0 {
		return in, fmt.Errorf("Harbor retention policy: it has no rules")
	}
	if p.Algorithm != "" && p.Algorithm != "or" {
		in.note("algorithm %q: rules are joined by or here", clip(p.Algorithm))
	}
	if cron := p.Trigger.Settings.Cron; cron != "" {
		in.note("trigger %s: the farm applies a policy by itself, every few hours; there is no other schedule", clip(cron))
	}
	for i, r := range p.Rules {
		name := fmt.Sprintf("Harbor rule %d", i+1)
		switch {
		case r.Disabled:
			in.note("%s: it is disabled and left out", name)
			continue
		case r.Action != "" && r.Action != "retain":
			in.note("%s: action %q is unknown here", name, r.Action)
			continue
		}
		rule, ok := in.harborRule(name, r)
		if !ok {
			continue
		}
		for _, glob := range in.harborScope(name, prefix, r.ScopeSelectors["repository"]) {
			in.add(name, glob, rule)
		}
	}
	return in.done(), nil
}

// add joins a rule to one of the same glob, or puts it behind the others.
func (i *Imported) add(name, glob string, r Rule) {
	for k := range i.Policy.Rules {
		have := &i.Policy.Rules[k]
		if have.Match != glob {
			continue
		}
		have.KeepLast = max(have.KeepLast, r.KeepLast)
		have.KeepFor = max(have.KeepFor, r.KeepFor)
		have.KeepPulledFor = max(have.KeepPulledFor, r.KeepPulledFor)
		for _, tag := range r.KeepTags {
			if !slices.Contains(have.KeepTags, tag) {
				have.KeepTags = append(have.KeepTags, tag)
			}
		}
		return
	}
	if number, taken := i.Policy.taker(glob); taken != nil {
		i.note("%s: repositories %s: rule %d (%s) decides about them already", name, glob, number, taken.Match)
		return
	}
	r.Match = glob
	i.Policy.Rules = append(i.Policy.Rules, r)
}

func (i *Imported) harborRule(name string, r harborRule) (rule Rule, ok bool) {
	n := 0
	if value, has := r.Params[r.Template]; has {
		number, err := value.Int64()
		if err != nil || number < 1 || number > MaxKeepLast {
			i.note("%s: %s %s: want a number from 1", name, r.Template, value)
			return rule, false
		}
		n = int(number)
	}
	narrowed := ""
	for _, s := range r.TagSelectors {
		switch {
		case s.Decoration == "matches" && s.Pattern == "**":
		case s.Decoration == "matches" && r.Template == "always":
			for _, pattern := range braces(s.Pattern) {
				pattern = strings.ReplaceAll(pattern, "**", "*")
				if badPattern(pattern) != "" {
					i.note("%s: tags %q: no glob that can be written here", name, s.Pattern)
					return rule, false
				}
				rule.KeepTags = append(rule.KeepTags, pattern)
			}
		default:
			narrowed = s.Decoration + " " + s.Pattern
		}
	}
	if narrowed != "" {
		i.note("%s: only tags that it %s count there; here all versions of a name do", name, narrowed)
	}
	if r.Template == "nothing" {
		i.note("%s: it retains nothing; a rule here has to keep something, and what none is about is kept", name)
		return rule, false
	}
	if n == 0 && r.Template != "always" {
		i.note("%s: template %q without its number", name, r.Template)
		return rule, false
	}
	switch r.Template {
	case "always":
		if len(rule.KeepTags) == 0 {
			rule.KeepTags = []string{"*"}
		}
	case "latestPushedK":
		rule.KeepLast = n
	case "nDaysSinceLastPush":
		rule.KeepFor = Duration(min(n, 36500)) * Duration(day)
	case "nDaysSinceLastPull":
		rule.KeepPulledFor = Duration(min(n, 36500)) * Duration(day)
	case "latestPulledN":
		i.note("%s: the %d most recently pulled: versions are counted by their number here, so they are kept for 30 days after a pull", name, n)
		rule.KeepPulledFor = Duration(30 * day)
	case "latestActiveK":
		i.note("%s: the %d most recently active: the newest %d are kept, and what was pulled in the last 30 days", name, n, n)
		rule.KeepLast, rule.KeepPulledFor = n, Duration(30*day)
	default:
		i.note("%s: template %q is unknown here", name, r.Template)
		return rule, false
	}
	return rule, true
}

// harborScope turns the repositories that a rule is about into globs; none: it was noted that they can't be.
func (i *Imported) harborScope(name, prefix string, selectors []harborSelector) (globs []string) {
	if len(selectors) == 0 {
		selectors = []harborSelector{{Decoration: "repoMatches", Pattern: "**"}}
	}
	for _, s := range selectors {
		if s.Decoration != "repoMatches" {
			i.note("%s: repositories %s %s: a rule here can't leave names out; put a rule for these above it", name, s.Decoration, s.Pattern)
			continue
		}
		for _, pattern := range braces(s.Pattern) {
			glob := prefix + pattern
			if why := badGlob(glob); why != "" {
				i.note("%s: repositories %q: as a glob it %s", name, glob, why)
				continue
			}
			if isName(glob) && farm.ValidateName(glob) != nil {
				continue
			}
			globs = append(globs, glob)
		}
	}
	return globs
}

// braces writes a pattern with alternatives, {a,b}c, as several. Harbor's console writes a single one as {a}.
func braces(pattern string) []string {
	open := strings.IndexByte(pattern, '{')
	end := strings.IndexByte(pattern, '}')
	if open < 0 || end < open || strings.Count(pattern, "{") > 1 {
		return []string{pattern}
	}
	var all []string
	for part := range strings.SplitSeq(pattern[open+1:end], ",") {
		all = append(all, pattern[:open]+part+pattern[end+1:])
	}
	return all
}
