package collect

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"

	"github.com/opencontainers/go-digest"
)

// Damage is an entry of a pack that is not what it should be, or a pack that can't be read at all (then without a digest).
type Damage struct {
	Pack   string        `json:"pack"`
	Digest digest.Digest `json:"digest,omitempty"` // of the piece or composite
	Offset int64         `json:"offset,omitempty"`
	Length int64         `json:"length,omitempty"`
	What   string        `json:"what"`
	Healed bool          `json:"healed"` // a live pack has it whole
}

// Scrubbed is what a scrub has found so far.
type Scrubbed struct {
	Packs       int      `json:"packs"` // that were read
	Of          int      `json:"of"`    // that there are
	Bytes       int64    `json:"bytes"` // that were read
	Entries     int      `json:"entries"`
	Damage      []Damage `json:"damage"`
	Quarantined int      `json:"quarantined"` // packs

	// Lost are the entries that no live pack has whole: what the damage comes to.
	Lost Lost `json:"-"`
}

// Lost are entries that no live pack has whole. The digest of a composite may be that of a piece as well.
type Lost struct{ Pieces, Composites map[imagestore.Sum]bool }

// Empty reports whether nothing is lost.
func (l Lost) Empty() bool { return len(l.Pieces)+len(l.Composites) == 0 }

// of are the lost entries of a kind.
func (l Lost) of(composite bool) map[imagestore.Sum]bool {
	if composite {
		return l.Composites
	}
	return l.Pieces
}

// Scrub reads every pack behind cursor, in the order of their IDs, and verifies every entry. A pack with a damaged one is
// quarantined: it is condemned, so that nobody builds upon it and what is damaged is made again when it is wanted next, and
// what is whole of it is copied. done is told after each pack; its cursor is where the next scrub goes on. With DryRun it
// only tells. What is lost, and what is Healed, is known in the end.
func (c *Collector) Scrub(ctx context.Context, cursor string, done func(cursor string, s Scrubbed)) (Scrubbed, error) {
	s := Scrubbed{Damage: []Damage{}}
	packs, err := c.Packs.List(ctx)
	if err != nil {
		return s, err
	}
	s.Of = len(packs)
	for _, id := range slices.Sorted(maps.Keys(packs)) {
		if id <= cursor {
			continue
		}
		if err := c.scrubPack(ctx, packs[id], &s); err != nil {
			return s, fmt.Errorf("scrub pack %s: %w", id, err)
		}
		done(id, s)
	}
	done("", s)
	return s, c.FindLost(ctx, &s)
}

// FindLost looks through all entries for those that are damaged and that no live pack has whole.
func (c *Collector) FindLost(ctx context.Context, s *Scrubbed) error {
	s.Lost = Lost{map[imagestore.Sum]bool{}, map[imagestore.Sum]bool{}}
	if len(s.Damage) == 0 {
		return nil
	}
	if err := c.Index.CatchUp(ctx); err != nil {
		return err
	}
	packs, err := c.Packs.List(ctx)
	if err != nil {
		return err
	}
	type place struct {
		pack   string
		offset int64
	}
	broken, damaged := map[string]bool{}, map[place]bool{}
	for _, d := range s.Damage {
		if d.Digest == "" {
			broken[d.Pack] = true
		}
		damaged[place{d.Pack, d.Offset}] = true
	}
	whole := false // a live pack has the entry that is looked at
	var last catalog.Held
	err = c.Index.Survey(ctx, func(h catalog.Held) error {
		if h.Sum != last.Sum || h.Composite != last.Composite {
			whole = false
		}
		last = h
		switch lost := s.Lost.of(h.Composite); {
		case broken[h.Pack] || damaged[place{h.Pack, h.Offset}]:
			if !whole {
				lost[h.Sum] = true
			}
		case packs[h.Pack].State == farm.PackLive:
			whole = true
			delete(lost, h.Sum)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for i, d := range s.Damage {
		sum, err := imagestore.ParseDigest(d.Digest)
		s.Damage[i].Healed = err == nil && !s.Lost.Pieces[sum] && !s.Lost.Composites[sum]
	}
	return nil
}

func (c *Collector) scrubPack(ctx context.Context, p Pack, s *Scrubbed) error {
	entries, bad, err := c.Store.Verify(ctx, p.Pack, func(n int64) error { return c.pace(ctx, n) })
	s.Packs++
	whole := false
	switch {
	case errors.Is(err, imagestore.ErrNotFound), errors.Is(err, imagestore.ErrCorrupt), errors.Is(err, imagestore.ErrNoPack):
		now, listErr := c.Packs.List(ctx)
		if listErr != nil {
			return listErr
		}
		if _, still := now[p.ID]; !still {
			s.Packs-- // it was deleted meanwhile
			return nil
		}
		s.Damage = append(s.Damage, Damage{Pack: p.ID, What: err.Error()})
	case err != nil:
		return err
	default:
		s.Bytes += p.Size
		s.Entries += len(entries)
		whole = len(bad) == 0
		for _, e := range bad {
			s.Damage = append(s.Damage, Damage{Pack: p.ID, Digest: e.Digest, Offset: e.Offset, Length: e.Length, What: "its bytes do not match its digest"})
		}
	}
	if whole || c.DryRun {
		return nil
	}
	return c.quarantine(ctx, p, entries, bad, s)
}

// quarantine condemns a pack and copies what is whole of it.
func (c *Collector) quarantine(ctx context.Context, p Pack, entries, bad []imagestore.Entry, s *Scrubbed) error {
	if p.State == farm.PackLive {
		c.Step("quarantine")
		p.State, p.CondemnedAt = farm.PackCondemned, c.Now().UTC()
		if err := c.Packs.Update(ctx, p.Pack, p.Revision); errors.Is(err, imagestore.ErrConflict) {
			return nil // another sweep has it; the next scrub looks again
		} else if err != nil {
			return err
		}
		s.Quarantined++
	}
	damaged := make(map[int64]bool, len(bad)) // by offset
	for _, e := range bad {
		damaged[e.Offset] = true
	}
	var copies []catalog.Held
	for _, e := range entries {
		sum, err := imagestore.ParseDigest(e.Digest)
		if err == nil && !damaged[e.Offset] {
			copies = append(copies, catalog.Held{Sum: sum, Composite: e.Piece != "", Pack: p.ID, Offset: e.Offset, Length: e.Length})
		}
	}
	var r Report
	return (&sweep{c: c, r: &r}).copy(ctx, copies)
}
