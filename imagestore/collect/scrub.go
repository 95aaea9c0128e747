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
	Healed bool          `json:"healed"` // another pack has it too
}

// Scrubbed is what a scrub has found so far.
type Scrubbed struct {
	Packs       int      `json:"packs"` // that were read
	Of          int      `json:"of"`    // that there are
	Bytes       int64    `json:"bytes"` // that were read
	Entries     int      `json:"entries"`
	Damage      []Damage `json:"damage"`
	Quarantined int      `json:"quarantined"` // packs
}

// Scrub reads every pack behind cursor, in the order of their IDs, and verifies every entry. A pack with a damaged one is
// quarantined: it is condemned, so that nobody builds upon it and what is damaged is made again when it is wanted next, and
// what is whole of it is copied. done is told after each pack; its cursor is where the next scrub goes on. With DryRun it
// only tells.
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
	return s, nil
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
	if err := (&sweep{c: c, r: &r}).copy(ctx, copies); err != nil {
		return err
	}
	for i := range s.Damage {
		d := &s.Damage[i]
		if d.Pack != p.ID || d.Digest == "" {
			continue
		}
		have, err := c.Store.Have(ctx, []digest.Digest{d.Digest})
		if err != nil && !errors.Is(err, imagestore.ErrCorrupt) {
			return err
		}
		d.Healed = err == nil && have[0]
	}
	return nil
}
