package upkeep

import (
	"context"
	"errors"
	"maps"
	"slices"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"
)

// Scrubbed is what a scrub has found so far.
type Scrubbed struct {
	collect.Scrubbed
	// Hurt are the versions that need something that is damaged and that no other pack has, sorted: the next bake that leads
	// to one makes it whole again.
	Hurt []string `json:"hurt"`
	// Mended are those that were hurt, and what was done: one without an error is whole again, and no longer in Hurt.
	Mended []Mending `json:"mended,omitempty"`
}

// scrub reads and verifies what is stored, from where the last scrub was stopped.
func (u *Upkeep) scrub(ctx context.Context, s *sweeping) error {
	c := u.Collect
	c.Packs, c.Index, c.Store, c.DryRun, c.Log, c.Now = packs{u.Bus.Packs}, u.Index, u.Store, s.rec.DryRun, u.Log, u.Now
	s.mu.Lock()
	cursor := s.rec.Cursor
	s.mu.Unlock()
	found, err := collect.New(c).Scrub(ctx, cursor, func(cursor string, r collect.Scrubbed) {
		s.mu.Lock()
		s.rec.Cursor = cursor
		s.mu.Unlock()
		s.tell(Scrubbed{Scrubbed: r, Hurt: []string{}})
	})
	if err != nil {
		return err
	}
	hurt, err := u.hurt(ctx, found)
	result := Scrubbed{Scrubbed: found, Hurt: hurt}
	s.tell(result)
	if err == nil && len(hurt) > 0 && !s.rec.DryRun {
		result.Mended = u.mend(ctx, hurt)
		if result.Hurt, err = u.hurt(ctx, found); err == nil {
			for i, m := range result.Mended {
				if m.Error == "" && slices.Contains(result.Hurt, m.Version) {
					result.Mended[i].Error = "its bake has ended, and something is still missing"
				}
			}
		}
		s.tell(result)
	}
	for _, d := range found.Damage {
		u.Log.Error("damaged", "pack", d.Pack, "digest", d.Digest, "what", d.What, "healed", d.Healed)
	}
	return err
}

// hurt finds the versions that need what is damaged: all whose images the store no longer has whole.
func (u *Upkeep) hurt(ctx context.Context, found collect.Scrubbed) ([]string, error) {
	versions := map[string]bool{}
	if len(found.Damage) == 0 {
		return []string{}, nil
	}
	err := u.Bus.Versions.Each(ctx, "", func(_ string, _ uint64, _ []byte, v farm.Version) error {
		for _, i := range v.Images {
			whole, err := u.whole(ctx, i)
			if err != nil {
				return err
			}
			if !whole {
				versions[v.Name+":"+v.Version] = true
			}
		}
		return nil
	})
	return append([]string{}, slices.Sorted(maps.Keys(versions))...), err
}

// whole reports whether live packs have everything of an image.
func (u *Upkeep) whole(ctx context.Context, i farm.Image) (bool, error) {
	for _, d := range append(i.Blobs[:len(i.Blobs):len(i.Blobs)], i.Digest) {
		if _, err := imagestore.ParseDigest(d); err != nil {
			continue
		}
		have, err := u.Store.Have(ctx, append(i.Blobs[:0:0], d))
		if err != nil || !have[0] {
			return false, ignoreDamage(err)
		}
	}
	return true, nil
}

// ignoreDamage is nil for an error that says that what was asked about is damaged.
func ignoreDamage(err error) error {
	if errors.Is(err, imagestore.ErrCorrupt) || errors.Is(err, imagestore.ErrNotFound) {
		return nil
	}
	return err
}
