package upkeep

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/retention"

	"github.com/opencontainers/go-digest"
)

// Facts is what a decision about versions rests on: all records that matter, read one bucket after the other. Uses are
// read after the versions, so that a version that is in use is not missed; one that comes into use later is looked at again
// when it goes.
type Facts struct {
	Records  map[string]farm.Version // by name@version; those in the trash too
	Versions []retention.Version     // without those in the trash
	Channels []farm.Channel
}

// Policy reads the farm's retention policy and its revision; the default, with revision 0, when none was set.
func Policy(ctx context.Context, b *bus.Bus) (retention.Policy, farm.RetentionPolicy, uint64, error) {
	record, revision, err := b.Policies.Get(ctx, bus.PolicyKey)
	if errors.Is(err, bus.ErrNotFound) {
		return retention.Default, farm.RetentionPolicy{File: "default", Text: retention.DefaultText}, 0, nil
	}
	if err != nil {
		return retention.Policy{}, record, 0, err
	}
	p, err := retention.ParsePolicy(record.File, []byte(record.Text))
	return p, record, revision, err
}

// Gather reads the facts that a policy asks for.
func Gather(ctx context.Context, b *bus.Bus, p retention.Policy, now time.Time) (Facts, error) {
	var f Facts
	var err error
	if f.Records, err = b.Versions.List(ctx, ""); err != nil {
		return f, err
	}
	channels, err := b.Channels.List(ctx, "")
	if err != nil {
		return f, err
	}
	f.Channels = slices.SortedFunc(maps.Values(channels), func(a, b farm.Channel) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Channel, b.Channel))
	})
	usage, err := b.Usage.List(ctx, "")
	if err != nil {
		return f, err
	}
	uses, err := running(ctx, b, now)
	if err != nil {
		return f, err
	}
	tags, err := b.Tags.List(ctx, "")
	if err != nil {
		return f, err
	}
	named := tagged(f.Records, tags)
	var ever map[string][]string
	if _, history := p.Uses(); history {
		if ever, err = everIn(ctx, b, f.Channels); err != nil {
			return f, err
		}
	}
	f.Versions = make([]retention.Version, 0, len(f.Records))
	for key, v := range f.Records {
		if v.Trash != nil {
			continue
		}
		r := version(v)
		u := usage[key]
		r.LastPulled, r.LastDeployed = u.PulledAt, u.DeployedAt
		if u.ResolvedAt.After(r.LastPulled) {
			r.LastPulled = u.ResolvedAt
		}
		r.Deployments, r.Bakes = uses.deployments[key], uses.bakes[key]
		r.Tags, r.EverIn = named[key], ever[key]
		f.Versions = append(f.Versions, r)
	}
	return f, nil
}

// version is what a version's own record says.
func version(v farm.Version) retention.Version {
	r := retention.Version{Name: v.Name, Version: v.Version, Sequence: v.Sequence, CreatedAt: v.CreatedAt, Pins: v.Pins}
	if c := v.Contents; c != nil {
		r.Labels = c.Labels
		if c.Base.Name != "" {
			r.Parents = []retention.ID{{Name: c.Base.Name, Version: c.Base.Version}}
		}
	}
	index := slices.ContainsFunc(v.Images, farm.Image.IsIndex)
	for _, i := range v.Images {
		if i.Kind == farm.ImageOCI && index != i.IsIndex() {
			continue // the index's size is that of its images, and counts what they share once
		}
		r.Size += i.Size
	}
	return r
}

// uses are the deployments and bakes that need versions, by name@version.
type uses struct{ deployments, bakes map[string][]string }

// running finds what runs versions now, and which unfinished bakes lead to one.
func running(ctx context.Context, b *bus.Bus, now time.Time) (uses, error) {
	u := uses{map[string][]string{}, map[string][]string{}}
	deployments, err := b.Deployments.List(ctx, "")
	if err != nil {
		return u, err
	}
	for _, id := range slices.Sorted(maps.Keys(deployments)) {
		if d := deployments[id]; d.Live(now) {
			key := versionKey(d.Name, d.Version)
			u.deployments[key] = append(u.deployments[key], id)
		}
	}
	bakes, err := b.Bakes.List(ctx, "")
	if err != nil {
		return u, err
	}
	for _, id := range slices.Sorted(maps.Keys(bakes)) {
		if r := bakes[id]; !r.State.Finished() && r.Version != "" {
			key := versionKey(r.Name, r.Version)
			u.bakes[key] = append(u.bakes[key], id)
		}
	}
	return u, nil
}

// tagged lists the tags that point to images of each version, besides its own.
func tagged(records map[string]farm.Version, tags map[string]farm.Tag) map[string][]string {
	type manifest struct {
		name   string
		digest digest.Digest
	}
	of := make(map[manifest][]string, len(records))
	for key, v := range records {
		for _, i := range v.Images {
			m := manifest{i.Name, i.Digest}
			of[m] = append(of[m], key)
		}
	}
	named := map[string][]string{}
	for _, key := range slices.Sorted(maps.Keys(tags)) {
		name, tag, _ := strings.Cut(key, "@")
		for _, version := range of[manifest{name, digest.Digest(tags[key].Digest)}] {
			if version != versionKey(name, tag) {
				named[version] = append(named[version], tag)
			}
		}
	}
	return named
}

// everIn lists the channels that have pointed to each version at any time, as far back as their history is read.
func everIn(ctx context.Context, b *bus.Bus, channels []farm.Channel) (map[string][]string, error) {
	ever := map[string][]string{}
	for _, c := range channels {
		moves, err := b.Moves(ctx, c.Name, c.Channel, bus.MaxMoves)
		if err != nil {
			return nil, err
		}
		seen := map[string]bool{}
		for _, m := range append(moves, c.LastMove()) {
			if m.To != "" && !seen[m.To] {
				seen[m.To] = true
				key := versionKey(c.Name, m.To)
				ever[key] = append(ever[key], c.Channel)
			}
		}
	}
	return ever, nil
}

func versionKey(name, version string) string { return name + "@" + version }
