package collect

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3store"

	"github.com/oklog/ulid/v2"
)

// sweep is one run after its mark.
type sweep struct {
	c       *Collector
	m       *Marker
	r       *Report
	started time.Time // when the mark began
	packs   map[string]Pack
	use     map[string]*use
}

// use is what of a pack is needed.
type use struct {
	bytes   int64          // of entries that are needed and that are counted here: no live pack before it has them
	entries []catalog.Held // these
}

// survey passes over all entries, in the order of digests as the marks are, and counts each that is marked for one pack: a
// live one if there is any, else a condemned one.
func (s *sweep) survey(ctx context.Context) error {
	var group []catalog.Held // of the same digest, pieces or composites
	settle := func() {
		if len(group) == 0 {
			return
		}
		best := group[0]
		for _, h := range group[1:] {
			if s.state(best.Pack) != farm.PackLive && s.state(h.Pack) == farm.PackLive {
				best = h
			}
		}
		u := s.use[best.Pack]
		if u == nil {
			u = &use{}
			s.use[best.Pack] = u
		}
		u.bytes += best.Length
		u.entries = append(u.entries, best)
		s.r.Needed += best.Length
		group = group[:0]
	}
	next := 0
	err := s.c.Index.Survey(ctx, func(h catalog.Held) error {
		s.r.Entries++
		if len(group) > 0 && (group[0].Sum != h.Sum || group[0].Composite != h.Composite) {
			settle()
		}
		for next < len(s.m.marked) && compareSums(s.m.marked[next], h.Sum) < 0 {
			next++
		}
		if next < len(s.m.marked) && s.m.marked[next] == h.Sum {
			group = append(group, h)
		}
		return nil
	})
	settle()
	for _, p := range s.packs {
		s.r.Packs++
		s.r.Stored += p.Size
	}
	return err
}

// state is a pack's, as it was before the mark. One that has come since is young, and so live.
func (s *sweep) state(pack string) farm.PackState {
	if p, known := s.packs[pack]; known {
		return p.State
	}
	return farm.PackLive
}

// packsByUse does to each pack what its use asks for.
func (s *sweep) packsByUse(ctx context.Context) error {
	var copies []catalog.Held
	wasteful := s.wasteful()
	for _, id := range slices.Sorted(maps.Keys(s.packs)) {
		if err := ctx.Err(); err != nil {
			return err
		}
		p := s.packs[id]
		u := s.use[id]
		if u == nil {
			u = &use{}
		}
		sparse := wasteful[id] || s.below(p, s.c.RepackBelow)
		switch {
		case p.State == farm.PackLive && s.young(p.Pack):
		case p.State == farm.PackLive && len(u.entries) == 0:
			if err := s.condemn(ctx, p); err != nil {
				return err
			}
		case p.State == farm.PackLive && sparse:
			if err := s.condemn(ctx, p); err != nil {
				return err
			}
			s.r.Repacked++
			copies = append(copies, u.entries...)
		case p.State == farm.PackLive:
		case len(u.entries) > 0 && !sparse:
			if err := s.revive(ctx, p); err != nil {
				return err
			}
		case len(u.entries) > 0:
			copies = append(copies, u.entries...)
			s.r.Waiting++
			s.r.WaitBytes += p.Size
		case p.CondemnedAt.IsZero() || !p.CondemnedAt.Add(s.c.Grace).Before(s.started):
			s.r.Waiting++
			s.r.WaitBytes += p.Size
		default:
			if err := s.delete(ctx, p); err != nil {
				return err
			}
		}
	}
	return s.copy(ctx, copies)
}

// wasteBelow is the share of a pack that must be needed, in percent, for it to be left as it is whatever is wasted: what is copied
// then is at most three times what it frees.
const wasteBelow = 75

// below reports whether less than so many percent of a pack is needed.
func (s *sweep) below(p Pack, percent int) bool {
	var needed int64
	if u := s.use[p.ID]; u != nil {
		needed = u.bytes
	}
	return needed*100 < p.IndexAt*int64(percent)
}

// wasteful finds the packs that are repacked because all of them together waste too much, the emptiest first. Bakes leave many that
// are half full: what was uploaded for one goes a day later, what was made of it stays.
func (s *sweep) wasteful() map[string]bool {
	type partly struct {
		id    string
		waste int64
		share float64
	}
	var candidates []partly
	var stored, waste int64
	for id, p := range s.packs {
		u := s.use[id]
		if p.State != farm.PackLive || s.young(p.Pack) || u == nil || p.IndexAt == 0 {
			continue // what nothing is needed of goes anyway
		}
		stored += p.IndexAt
		if s.below(p, s.c.RepackBelow) {
			continue
		}
		w := max(0, p.IndexAt-u.bytes)
		waste += w
		if s.below(p, wasteBelow) {
			candidates = append(candidates, partly{id, w, float64(u.bytes) / float64(p.IndexAt)})
		}
	}
	slices.SortFunc(candidates, func(a, b partly) int { return cmp.Or(cmp.Compare(a.share, b.share), cmp.Compare(a.id, b.id)) })
	chosen := map[string]bool{}
	for _, c := range candidates {
		if s.c.Waste < 0 || waste*100 <= stored*int64(s.c.Waste) {
			break
		}
		chosen[c.id] = true
		waste -= c.waste
	}
	return chosen
}

func (s *sweep) young(p farm.Pack) bool { return !p.At.Add(s.c.MinAge).Before(s.started) }

func (s *sweep) condemn(ctx context.Context, p Pack) error {
	s.r.Condemned++
	p.State, p.CondemnedAt = farm.PackCondemned, s.c.Now().UTC()
	return s.update(ctx, "condemn", p)
}

func (s *sweep) revive(ctx context.Context, p Pack) error {
	s.r.Revived++
	p.State, p.CondemnedAt = farm.PackLive, time.Time{}
	return s.update(ctx, "revive", p)
}

// update is the compare-and-set of a pack's record. Whoever changed it meanwhile is another collector, and is as right.
func (s *sweep) update(ctx context.Context, what string, p Pack) error {
	if s.c.DryRun {
		return nil
	}
	s.c.Step(what)
	err := s.c.Packs.Update(ctx, p.Pack, p.Revision)
	if errors.Is(err, imagestore.ErrConflict) {
		return nil
	}
	return err
}

// delete ends a pack: its record first, which nobody can bring back, then its object. A crash in between leaves an object
// without a record.
func (s *sweep) delete(ctx context.Context, p Pack) error {
	s.r.Deleted++
	s.r.Freed += p.Size
	if s.c.DryRun {
		return nil
	}
	s.c.Step("delete record")
	err := s.c.Packs.Delete(ctx, p.ID, p.Revision)
	if errors.Is(err, imagestore.ErrConflict) || errors.Is(err, imagestore.ErrNotFound) {
		s.r.Deleted--
		s.r.Freed -= p.Size
		return nil
	}
	if err != nil {
		return err
	}
	s.c.Step("delete object")
	return s.c.Store.Remove(ctx, p.ID)
}

// copyBatch is how much is copied between two commits.
const copyBatch = 128 << 20

// copy puts what is needed of condemned packs into new ones: pieces first, then the composites that are made of them.
func (s *sweep) copy(ctx context.Context, entries []catalog.Held) error {
	for _, h := range entries {
		s.r.Copied += h.Length
	}
	if s.c.DryRun || len(entries) == 0 {
		return nil
	}
	// The Writer must see that the packs are condemned, else it takes the pieces for stored.
	if err := s.c.Index.CatchUp(ctx); err != nil {
		return err
	}
	slices.SortFunc(entries, compareHeld)
	w := s.c.Store.Begin()
	var pending int64
	flush := func(most int64) error {
		if pending <= most {
			return nil
		}
		s.c.Step("copy")
		pending = 0
		err := w.Commit(ctx)
		w = s.c.Store.Begin()
		s.c.Progress(*s.r)
		return err
	}
	for _, composite := range []bool{false, true} {
		for _, h := range entries {
			if h.Composite != composite {
				continue
			}
			if err := s.c.pace(ctx, h.Length); err != nil {
				return err
			}
			err := s.copyOne(ctx, w, h)
			if errors.Is(err, imagestore.ErrCorrupt) || errors.Is(err, imagestore.ErrNotFound) {
				// Damaged, or made of something that is. As long as it is needed its pack stays where it is.
				s.r.Lost++
				s.c.Log.Error("needed, but damaged", "digest", h.Sum.Digest(), "pack", h.Pack, "err", err)
				continue
			}
			if err != nil {
				return fmt.Errorf("copy %s out of pack %s: %w", h.Sum.Digest(), h.Pack, err)
			}
			pending += h.Length + 1
			if err := flush(copyBatch); err != nil {
				return err
			}
		}
		if err := flush(0); err != nil {
			return err
		}
	}
	return nil
}

func (s *sweep) copyOne(ctx context.Context, w imagestore.Writer, h catalog.Held) error {
	if h.Composite {
		blob, err := s.c.Store.Describe(ctx, h.Sum.Digest())
		if errors.Is(err, imagestore.ErrNotFound) {
			return nil // a piece has the same digest, which is what readers get
		}
		if err != nil {
			return err
		}
		return w.Compose(ctx, blob)
	}
	data, err := imagestore.ReadAll(ctx, s.c.Store, h.Sum.Digest(), imagestore.MaxPiece)
	if err != nil {
		return err
	}
	_, err = w.Put(ctx, data)
	return err
}

// orphans deletes objects that have no record, long after one could still be made: uploads that nothing came of, and packs
// whose record was deleted by a run that died then.
func (s *sweep) orphans(ctx context.Context) error {
	type orphan struct {
		id   string
		size int64
	}
	var old []orphan
	err := s.c.Store.Objects(ctx, func(o s3store.Object) error {
		if _, known := s.packs[o.Pack]; known {
			return nil
		}
		id, err := ulid.ParseStrict(o.Pack)
		if err != nil {
			return nil // not one of ours
		}
		// Twice the time, by the writer's clock and by the service's: neither has to be right to the hour.
		if limit := s.started.Add(-2 * max(s.c.MinAge, farm.RegisterWithin)); ulid.Time(id.Time()).Before(limit) && o.Modified.Before(limit) {
			old = append(old, orphan{o.Pack, o.Size})
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	// A record that stood there when the listing began may be younger than our list of records.
	now, err := s.c.Packs.List(ctx)
	if err != nil {
		return err
	}
	for _, o := range old {
		if _, known := now[o.id]; known {
			continue
		}
		s.r.Orphans++
		s.r.Freed += o.size
		if s.c.DryRun {
			continue
		}
		s.c.Step("delete orphan")
		if err := s.c.Store.Remove(ctx, o.id); err != nil {
			return err
		}
	}
	return nil
}

// wholes deletes the objects of materialised blobs that nothing needs any more, once no URL of them is good.
func (s *sweep) wholes(ctx context.Context) error {
	var old []s3store.Whole
	err := s.c.Store.Wholes(ctx, func(w s3store.Whole) error {
		if sum, err := imagestore.ParseDigest(w.Digest); err == nil && !s.m.Needed(sum) && w.Modified.Before(s.started.Add(-s.c.MinAge)) {
			old = append(old, w)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, w := range old {
		s.r.Wholes++
		s.r.Freed += w.Size
		if s.c.DryRun {
			continue
		}
		s.c.Step("delete whole")
		if err := s.c.Store.Dematerialise(ctx, w.Digest); err != nil {
			return err
		}
	}
	return nil
}
