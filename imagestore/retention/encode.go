package retention

import (
	"fmt"
	"strconv"
	"strings"
)

// Encode writes a policy as people do: ParsePolicy reads it back, but for the lines.
func (p Policy) Encode() string {
	var b strings.Builder
	if len(p.Rules) == 0 {
		b.WriteString("rules: []\n")
	} else {
		b.WriteString("rules:\n")
	}
	for _, r := range p.Rules {
		fmt.Fprintf(&b, "- match: %s\n", strconv.Quote(r.Match))
		if r.KeepLast > 0 {
			fmt.Fprintf(&b, "  keepLast: %d\n", r.KeepLast)
		}
		for _, d := range []struct {
			key  string
			kept Duration
		}{
			{"keepFor", r.KeepFor}, {"keepPulledFor", r.KeepPulledFor}, {"keepDeployedFor", r.KeepDeployedFor},
			{"keepDaily", r.KeepDaily}, {"keepWeekly", r.KeepWeekly}, {"keepMonthly", r.KeepMonthly},
		} {
			if d.kept > 0 {
				fmt.Fprintf(&b, "  %s: %s\n", d.key, d.kept)
			}
		}
		for _, g := range []struct {
			key   string
			globs []string
		}{{"keepTags", r.KeepTags}, {"keepChannels", r.KeepChannels}} {
			if len(g.globs) > 0 {
				quoted := make([]string, len(g.globs))
				for i, s := range g.globs {
					quoted[i] = strconv.Quote(s)
				}
				fmt.Fprintf(&b, "  %s: [%s]\n", g.key, strings.Join(quoted, ", "))
			}
		}
		if len(r.KeepLabels) > 0 {
			b.WriteString("  keepLabels:\n")
			for _, l := range r.KeepLabels {
				fmt.Fprintf(&b, "    %s: %s\n", strconv.Quote(l.Label), strconv.Quote(l.Glob))
			}
		}
		if r.Quota > 0 {
			fmt.Fprintf(&b, "  quota: %s\n", writeSize(r.Quota))
		}
	}
	if len(p.Quotas) > 0 {
		b.WriteString("quotas:\n")
	}
	for _, q := range p.Quotas {
		fmt.Fprintf(&b, "- {match: %s, size: %s}\n", strconv.Quote(q.Match), writeSize(q.Size))
	}
	if p.Trash > 0 {
		fmt.Fprintf(&b, "trash: %s\n", p.Trash)
	}
	if p.MaxExpire > 0 {
		fmt.Fprintf(&b, "maxExpire: %d%%\n", p.MaxExpire)
	}
	return b.String()
}

// writeSize writes a size in the largest unit that divides it.
func writeSize(n int64) string {
	for _, u := range sizes {
		if n%u.bytes == 0 {
			return strconv.FormatInt(n/u.bytes, 10) + u.suffix
		}
	}
	return strconv.FormatInt((n+1023)/1024, 10) + "KiB"
}
