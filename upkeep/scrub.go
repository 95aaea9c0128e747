package upkeep

import (
	"context"
	"errors"
	"maps"
	"slices"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"

	"github.com/opencontainers/go-digest"
)

// Scrubbed is what a scrub has found so far.
type Scrubbed struct {
	collect.Scrubbed
	// Hurt are the versions that need something that is lost, sorted: the next bake that leads to one makes it whole again.
	Hurt []string `json:"hurt"`
	// Restored is how many lost pieces came back out of which worker's cache.
	Restored map[string]int `json:"restored,omitempty"`
	// Mended are those that were hurt, and what was done: one without an error is whole again, and no longer in Hurt.
	Mended []Mending `json:"mended,omitempty"`
}

// scrub reads and verifies what is stored, from where the last scrub was stopped. What is lost is looked for in the workers'
// caches, and what versions still need then is made anew.
func (u *Upkeep) scrub(ctx context.Context, s *sweeping) error {
	c := u.Collect
	c.Packs, c.Index, c.Store, c.DryRun, c.Log, c.Now = packs{u.Bus.Packs}, u.Index, u.Store, s.rec.DryRun, u.Log, u.Now
	s.mu.Lock()
	cursor := s.rec.Cursor
	s.mu.Unlock()
	collector := collect.New(c)
	found, err := collector.Scrub(ctx, cursor, func(cursor string, r collect.Scrubbed) {
		s.mu.Lock()
		s.rec.Cursor = cursor
		s.mu.Unlock()
		s.tell(Scrubbed{Scrubbed: r, Hurt: []string{}})
	})
	if err != nil {
		return err
	}
	result := Scrubbed{Scrubbed: found, Hurt: []string{}}
	s.tell(result)
	if !s.rec.DryRun && len(found.Lost.Pieces) > 0 {
		if result.Restored = u.heal(ctx, found.Lost); len(result.Restored) > 0 {
			if err := collector.FindLost(ctx, &result.Scrubbed); err != nil {
				return err
			}
		}
	}
	if result.Hurt, err = u.hurt(ctx, result.Scrubbed); err != nil {
		return err
	}
	s.tell(result)
	if hurt := result.Hurt; len(hurt) > 0 && !s.rec.DryRun {
		result.Mended = u.mend(ctx, hurt)
		if err := collector.FindLost(ctx, &result.Scrubbed); err != nil {
			return err
		}
		if result.Hurt, err = u.hurt(ctx, result.Scrubbed); err != nil {
			return err
		}
		for i, m := range result.Mended {
			if m.Error == "" && slices.Contains(result.Hurt, m.Version) {
				result.Mended[i].Error = "its bake has ended, and something is still missing"
			}
		}
		s.tell(result)
	}
	for _, d := range result.Damage {
		u.Log.Error("damaged", "pack", d.Pack, "digest", d.Digest, "what", d.What, "healed", d.Healed)
	}
	return nil
}

// hurt finds the versions that need what is lost: all whose images the store does not have whole.
func (u *Upkeep) hurt(ctx context.Context, found collect.Scrubbed) ([]string, error) {
	versions := map[string]bool{}
	if len(found.Damage) == 0 {
		return []string{}, nil
	}
	looked := looked{u: u, lost: found.Lost, whole: map[digest.Digest]bool{}}
	err := u.Bus.Versions.Each(ctx, "", func(_ string, _ uint64, _ []byte, v farm.Version) error {
		for _, i := range v.Images {
			whole, err := looked.image(ctx, i)
			if err != nil {
				return err
			}
			if !whole {
				versions[v.Name+":"+v.Version] = true
			}
		}
		for _, a := range v.Attached {
			whole, err := looked.image(ctx, farm.Image{Digest: a.Digest, Blobs: a.Blobs})
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

// looked finds out what is whole, each blob once: images share most of theirs.
type looked struct {
	u     *Upkeep
	lost  collect.Lost
	whole map[digest.Digest]bool
}

// image reports whether live packs have everything of an image, and that undamaged.
func (l *looked) image(ctx context.Context, i farm.Image) (bool, error) {
	for _, d := range append(i.Blobs[:len(i.Blobs):len(i.Blobs)], i.Digest) {
		whole, known := l.whole[d]
		if !known {
			var err error
			if whole, err = l.blob(ctx, d); err != nil {
				return false, err
			}
			l.whole[d] = whole
		}
		if !whole {
			return false, nil
		}
	}
	return true, nil
}

func (l *looked) blob(ctx context.Context, d digest.Digest) (bool, error) {
	sum, err := imagestore.ParseDigest(d)
	if err != nil {
		return true, nil // a record that names something else: not ours to judge
	}
	if have, err := l.u.Store.Have(ctx, []digest.Digest{d}); err != nil || !have[0] {
		return false, ignoreDamage(err)
	}
	// A trial run has condemned nothing: what is damaged still counts as stored.
	if l.lost.Empty() {
		return true, nil
	}
	if l.lost.Pieces[sum] || l.lost.Composites[sum] {
		return false, nil
	}
	blob, err := l.u.Store.Stat(ctx, d)
	if err != nil {
		return false, ignoreDamage(err)
	}
	return !slices.ContainsFunc(blob.Parts, func(p imagestore.Part) bool {
		sum, err := imagestore.ParseDigest(p.Digest)
		return err == nil && l.lost.Pieces[sum]
	}), nil
}

// ignoreDamage is nil for an error that says that what was asked about is damaged.
func ignoreDamage(err error) error {
	if errors.Is(err, imagestore.ErrCorrupt) || errors.Is(err, imagestore.ErrNotFound) {
		return nil
	}
	return err
}
