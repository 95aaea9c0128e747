package upkeep

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/retention"
)

// retentionName signs what the policy does.
const retentionName = "retention"

// Expire applies the farm's policy, if one was set: what it lets expire goes to the trash. A farm that was given none keeps
// everything until somebody asks otherwise.
func (u *Upkeep) Expire(ctx context.Context) error {
	policy, _, revision, err := Policy(ctx, u.Bus)
	if err != nil || revision == 0 {
		return err
	}
	facts, err := Gather(ctx, u.Bus, policy, u.Now())
	if err != nil {
		return err
	}
	items := Expired(retention.Decide(policy, facts.Versions, facts.Channels, u.Now()), facts.Versions)
	for chunk := range slices.Chunk(items, bus.MaxKeep) {
		reply, err := u.keep(ctx, bus.KeepRequest{Action: bus.KeepTrash, Items: chunk, By: retentionName, For: time.Duration(policy.TrashFor())})
		if err != nil {
			return err
		}
		for _, r := range reply.Results {
			if r.Error != "" {
				u.Log.Info("a version that had expired is in use again", "version", r.Version.Name+":"+r.Version.Version, "why", r.Error)
				continue
			}
			u.Log.Info("expired", "version", r.Version.Name+":"+r.Version.Version, "why", r.Version.Trash.Reason, "restorable until", r.Version.Trash.Until)
		}
	}
	return nil
}

// Expired lists what a decision about versions lets go, with the reasons: children before their parents, which they would
// hold.
func Expired(d retention.Decision, versions []retention.Version) []bus.KeepItem {
	depth := depths(versions)
	var items []bus.KeepItem
	for _, v := range d.Verdicts {
		if !v.Keep {
			items = append(items, bus.KeepItem{Name: v.Name, Version: v.Version, Note: strings.Join(v.Reasons, "; ")})
		}
	}
	slices.SortStableFunc(items, func(a, b bus.KeepItem) int {
		return depth[retention.ID{Name: b.Name, Version: b.Version}] - depth[retention.ID{Name: a.Name, Version: a.Version}]
	})
	return items
}

// depths says how many generations of parents stand under each version that has any.
func depths(versions []retention.Version) map[retention.ID]int {
	parents := map[retention.ID][]retention.ID{}
	for _, v := range versions {
		if len(v.Parents) > 0 {
			parents[retention.ID{Name: v.Name, Version: v.Version}] = v.Parents
		}
	}
	depth := make(map[retention.ID]int, len(parents))
	var of func(retention.ID) int
	of = func(id retention.ID) int {
		if _, known := depth[id]; known || len(parents[id]) == 0 {
			return depth[id]
		}
		depth[id] = 0 // should there be a circle, it ends here
		deepest := 0
		for _, p := range parents[id] {
			deepest = max(deepest, of(p)+1)
		}
		depth[id] = deepest
		return deepest
	}
	for id := range parents {
		of(id)
	}
	return depth
}

// EmptyTrash deletes the records of versions whose time in the trash is over. What has come into use again meanwhile is
// restored instead.
func (u *Upkeep) EmptyTrash(ctx context.Context) error {
	records, err := u.Bus.Versions.List(ctx, "")
	if err != nil {
		return err
	}
	var inUse func(farm.Version) ([]string, error)
	for key, v := range records {
		if v.Trash == nil {
			continue
		}
		if inUse == nil {
			if inUse, err = u.inUse(ctx); err != nil {
				return err
			}
		}
		why, err := inUse(v)
		if err != nil {
			return err
		}
		switch {
		case len(why) > 0:
			if _, err := u.changeVersion(ctx, v.Name, v.Version, func(v farm.Version) (farm.Version, error) { v.Trash = nil; return v, nil }); err != nil {
				return err
			}
			u.Log.Info("restored from the trash", "version", v.Name+":"+v.Version, "why", strings.Join(why, "; "))
		case !u.Now().Before(v.Trash.Until):
			if err := u.delete(ctx, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// delete ends a version that has been in the trash for long enough: its record goes, if it still stands as it was, and with
// it what was only about it.
func (u *Upkeep) delete(ctx context.Context, key string) error {
	v, revision, err := u.Bus.Versions.Get(ctx, key)
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if v.Trash == nil || u.Now().Before(v.Trash.Until) {
		return nil
	}
	if err := u.Bus.Versions.Delete(ctx, key, revision); err != nil {
		if errors.Is(err, bus.ErrConflict) || errors.Is(err, bus.ErrNotFound) {
			return nil // restored at the last moment, or deleted by another
		}
		return err
	}
	u.Log.Info("deleted", "version", v.Name+":"+v.Version, "expired", v.Trash.At, "why", v.Trash.Reason)
	return errors.Join(u.Bus.Tags.Delete(ctx, key, 0), u.Bus.Usage.Delete(ctx, key, 0))
}
