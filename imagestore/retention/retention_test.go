package retention

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"bakefarm/farm"
)

var update = flag.Bool("update", false, "write the golden files anew")

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// history makes n versions of a name, the newest baked an hour ago, each older one a step earlier.
func history(name string, n int, step time.Duration) []Version {
	versions := make([]Version, n)
	for i := range versions {
		age := time.Hour + time.Duration(i)*step
		versions[i] = Version{Name: name, Version: fmt.Sprintf("%s-%03d", filepath.Base(name), n-i), Sequence: uint64(n - i),
			CreatedAt: now.Add(-age), Size: int64(1000 + i)}
	}
	return versions
}

func render(d Decision) string {
	var b strings.Builder
	for _, v := range d.Verdicts {
		verb := "expire"
		if v.Keep {
			verb = "keep"
		}
		fmt.Fprintf(&b, "%-6s %s:%s #%d %d bytes\n", verb, v.Name, v.Version, v.Sequence, v.Size)
		for _, r := range v.Reasons {
			fmt.Fprintf(&b, "       - %s\n", r)
		}
	}
	for _, u := range d.Unmet {
		fmt.Fprintf(&b, "unmet  line %d: %s\n", u.Line, u)
	}
	return b.String()
}

func TestDecide(t *testing.T) {
	tests := map[string]struct {
		policy   Policy
		versions []Version
		channels []farm.Channel
	}{
		"default": {Default, history("shop/checkout", 12, 4*day), nil},
		"last-three": {
			Policy{Rules: []Rule{{Match: "shop/*", KeepLast: 3}}},
			append(history("shop/checkout", 5, day), history("shop/cart", 2, day)...), nil},
		"time-only": {
			Policy{Rules: []Rule{{Match: "**", KeepFor: Duration(2 * day)}}}, history("app", 4, day), nil},
		"first-rule-decides": {
			Policy{Rules: []Rule{{Match: "shop/checkout", KeepLast: 1}, {Match: "**", KeepLast: 3}}},
			append(history("shop/checkout", 3, day), history("shop/cart", 3, day)...), nil},
		"no-rule-matches": {
			Policy{Rules: []Rule{{Match: "shop/*", KeepLast: 1}}}, history("base/debian", 2, 400*day), nil},
		"channels-hold": {
			Policy{Rules: []Rule{{Match: "**", KeepLast: 1}}}, history("app", 6, 30*day),
			[]farm.Channel{
				{Name: "app", Channel: "prod", Version: "app-002", Recent: []string{"app-001", "app-004", "app-001"}},
				{Name: "app", Channel: "dev", Version: "app-006", Recent: []string{"app-002"}},
				{Name: "other", Channel: "prod", Version: "app-003"},
			}},
		"used": {
			Policy{Rules: []Rule{{Match: "**", KeepPulledFor: Duration(10 * day), KeepDeployedFor: Duration(60 * day)}}},
			with(history("app", 5, 30*day), func(v []Version) {
				v[0].LastPulled = now.Add(-3 * day)
				v[1].LastPulled = now.Add(-11 * day)
				v[2].LastDeployed = now.Add(-59 * day)
				v[3].Deployments = []string{"i-1", "i-2", "i-3", "i-4", "i-5"}
			}), nil},
		"named": {
			Policy{Rules: []Rule{{Match: "**", KeepTags: []string{"release-*"}, KeepLabels: []Pattern{{"tier", "gold*"}}, KeepChannels: []string{"prod*"}}}},
			with(history("app", 5, 30*day), func(v []Version) {
				v[0].Tags = []string{"latest"}
				v[1].Tags = []string{"latest", "release-4"}
				v[2].Labels = map[string]string{"tier": "golden", "team": "shop"}
				v[3].EverIn = []string{"dev", "prod-eu"}
				v[4].Labels = map[string]string{"tier": "silver"}
			}), nil},
		"periods": {
			Policy{Rules: []Rule{{Match: "**", KeepDaily: Duration(3 * day), KeepWeekly: Duration(21 * day), KeepMonthly: Duration(90 * day)}}},
			history("app", 30, 31*time.Hour), nil},
		"pinned": {
			Policy{Rules: []Rule{{Match: "**", KeepLast: 1}}},
			with(history("app", 5, day), func(v []Version) {
				v[1].Pins = []farm.Pin{{By: "ann"}}
				v[2].Pins = []farm.Pin{{By: "bob", Note: "the last good one"}, {By: "law", Hold: "4711"}}
				v[3].Bakes = []string{"01J"}
			}), nil},
		"parents": {
			Policy{Rules: []Rule{{Match: "**", KeepLast: 1}}},
			with(append(history("app", 2, day), history("base", 4, day)...), func(v []Version) {
				v[0].Parents = []ID{{"base", "base-003"}}                        // kept, and so is what it stands on
				v[1].Parents = []ID{{"base", "base-002"}}                        // goes, and so does that
				v[3].Parents = []ID{{"base", "base-001"}, {"elsewhere", "none"}} // base-003: the parent's parent stays
			}), nil},
		"quota": {
			Policy{Rules: []Rule{{Match: "**", KeepLast: 10, Quota: 3000}}},
			append(with(history("app", 5, day), func(v []Version) { v[4].Pins = []farm.Pin{{By: "ann"}} }), history("small", 2, day)...), nil},
		"quota-alone": {
			Policy{Rules: []Rule{{Match: "**", Quota: 2500}}},
			history("shop/checkout", 4, day), []farm.Channel{{Name: "shop/checkout", Channel: "prod", Version: "checkout-001"}}},
		"quota-of-a-team": {
			Policy{Rules: []Rule{{Match: "**", KeepLast: 10}}, Quotas: []Quota{{Match: "shop/**", Size: 3100}}},
			append(with(history("shop/app", 3, 10*day), func(v []Version) { v[0].Parents = []ID{{"shop/base", "base-001"}} }),
				append(history("shop/base", 2, day), history("other", 2, day)...)...), nil},
		"quota-unmet": {
			Policy{Rules: []Rule{{Line: 2, Match: "**", KeepLast: 10, Quota: 1500}}},
			history("app", 3, day), []farm.Channel{{Name: "app", Channel: "prod", Version: "app-001", Recent: []string{"app-002"}}}},
		"nothing": {Default, nil, []farm.Channel{{Name: "app", Channel: "prod", Version: "gone"}}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := render(Decide(test.policy, test.versions, test.channels, now))
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got\n%swant\n%s", got, want)
			}
		})
	}
}

func with(versions []Version, change func([]Version)) []Version {
	change(versions)
	return versions
}

// world makes a random policy, versions and channels.
func world(r *rand.Rand) (Policy, []Version, []farm.Channel) {
	names := []string{"a", "shop/a", "shop/b"}
	var versions []Version
	var channels []farm.Channel
	for _, name := range names {
		all := history(name, 1+r.IntN(30), time.Duration(1+r.IntN(72))*time.Hour)
		versions = append(versions, all...)
		pick := func() string { return all[r.IntN(len(all))].Version }
		for _, channel := range []string{"dev", "prod"} {
			c := farm.Channel{Name: name, Channel: channel, Version: pick()}
			for range r.IntN(15) {
				c.Recent = append(c.Recent, pick())
			}
			channels = append(channels, c)
		}
	}
	for i := range versions {
		if r.IntN(4) == 0 { // parents are older, by their place
			if j := i + 1 + r.IntN(len(versions)); j < len(versions) {
				versions[i].Parents = append(versions[i].Parents, versions[j].id())
			}
		}
		if r.IntN(10) == 0 {
			versions[i].Pins = []farm.Pin{{By: "ann"}}
		}
	}
	p := Policy{}
	for range r.IntN(3) {
		p.Rules = append(p.Rules, Rule{Match: []string{"shop/*", "a", "**"}[r.IntN(3)], KeepLast: 1 + r.IntN(5), KeepFor: Duration(r.IntN(3)) * Duration(day)})
	}
	return p, versions, channels
}

func TestDecideHolds(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 1))
		policy, versions, channels := world(r)
		verdicts := Decide(policy, versions, channels, now).Verdicts
		if len(verdicts) != len(versions) {
			t.Fatalf("seed %d: %d verdicts for %d versions", seed, len(verdicts), len(versions))
		}
		kept := map[ID]bool{}
		for _, v := range verdicts {
			kept[ID{v.Name, v.Version}] = v.Keep
			if len(v.Reasons) == 0 {
				t.Fatalf("seed %d: no reason for %s:%s", seed, v.Name, v.Version)
			}
		}
		for _, c := range channels {
			held := append([]string{c.Version}, c.Recent[:min(len(c.Recent), farm.RollbackWindow)]...)
			for _, version := range held {
				if !kept[ID{c.Name, version}] {
					t.Fatalf("seed %d: %s:%s expires though channel %s holds it", seed, c.Name, version, c.Channel)
				}
			}
		}

		for _, v := range versions {
			for _, p := range v.Parents {
				if kept[v.id()] && !kept[p] {
					t.Fatalf("seed %d: %s expires, though its child %s is kept", seed, p, v.id())
				}
			}
			if len(v.Pins) > 0 && !kept[v.id()] {
				t.Fatalf("seed %d: %s expires though it is pinned", seed, v.id())
			}
		}
		limited := policy
		limited.Quotas = []Quota{{Match: []string{"**", "shop/*"}[r.IntN(2)], Size: 1 + r.Int64N(20_000)}}
		d := Decide(limited, versions, channels, now)
		var left int64
		for i, v := range d.Verdicts {
			if v.Keep && !verdicts[i].Keep {
				t.Fatalf("seed %d: a quota keeps %s:%s", seed, v.Name, v.Version)
			}
			if v.Keep && matches(limited.Quotas[0].Match, v.Name) {
				left += v.Size
			}
		}
		if (left > limited.Quotas[0].Size) != (len(d.Unmet) > 0) || len(d.Unmet) > 0 && d.Unmet[0].Kept != left {
			t.Fatalf("seed %d: %d bytes are left under a quota of %d, unmet: %v", seed, left, limited.Quotas[0].Size, d.Unmet)
		}

		r.Shuffle(len(versions), func(i, j int) { versions[i], versions[j] = versions[j], versions[i] })
		r.Shuffle(len(channels), func(i, j int) { channels[i], channels[j] = channels[j], channels[i] })
		if again := Decide(policy, versions, channels, now).Verdicts; !reflect.DeepEqual(verdicts, again) {
			t.Fatalf("seed %d: the order of the arguments matters", seed)
		}

		for i := range policy.Rules {
			policy.Rules[i].KeepLast++
			policy.Rules[i].KeepFor += Duration(day)
		}
		for _, v := range Decide(policy, versions, channels, now).Verdicts {
			if kept[ID{v.Name, v.Version}] && !v.Keep {
				t.Fatalf("seed %d: %s:%s expires under a more generous policy", seed, v.Name, v.Version)
			}
		}
	}
}

func BenchmarkDecide100k(b *testing.B) {
	var versions []Version
	for i := range 1000 {
		versions = append(versions, history(fmt.Sprintf("team%d/app", i), 100, time.Hour)...)
	}
	policy := Policy{Rules: []Rule{{Match: "**", KeepLast: 10, KeepFor: Duration(30 * day), KeepWeekly: Duration(90 * day), Quota: 50_000}},
		Quotas: []Quota{{Match: "team1*/**", Size: 1_000_000}}}
	for b.Loop() {
		Decide(policy, versions, nil, now)
	}
}

func TestParseDuration(t *testing.T) {
	for in, want := range map[string]time.Duration{"90m": 90 * time.Minute, "36h": 36 * time.Hour, "30d": 30 * day, "8w": 56 * day} {
		got, err := ParseDuration(in)
		if err != nil || time.Duration(got) != want {
			t.Errorf("ParseDuration(%q) = %v, %v", in, got, err)
		}
		if back, err := ParseDuration(got.String()); err != nil || back != got {
			t.Errorf("%q comes back as %v, %v", got.String(), back, err)
		}
	}
	for _, in := range []string{"", "d", "-1d", "0d", "1.5d", "30", "1y", "99999999w", "1 d", "+1d"} {
		if d, err := ParseDuration(in); err == nil {
			t.Errorf("ParseDuration(%q) = %v", in, d)
		}
	}
}
