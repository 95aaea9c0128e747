package s3store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// locateFresh locates digests; when one is missing, or is to be deleted, it looks again after the projection has caught
// up with the ledger.
func (s *Store) locateFresh(ctx context.Context, digests []digest.Digest) ([]imagestore.Location, error) {
	if len(digests) == 0 {
		return nil, nil
	}
	locs, err := s.locator.Locate(ctx, digests)
	if err != nil || !slices.ContainsFunc(locs, func(l imagestore.Location) bool { return l.Pack == "" || l.Condemned }) {
		return locs, err
	}
	if err := s.locator.CatchUp(ctx); err != nil {
		return nil, err
	}
	return s.locator.Locate(ctx, digests)
}

// Have reports what live packs hold: see imagestore.Reader.
func (s *Store) Have(ctx context.Context, digests []digest.Digest) ([]bool, error) {
	if err := s.locator.CatchUp(ctx); err != nil {
		return nil, err
	}
	locs, err := s.locator.Locate(ctx, digests)
	if err != nil {
		return nil, err
	}
	have := make([]bool, len(digests))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for i, l := range locs {
		have[i] = l.Pack != "" && !l.Condemned
		if have[i] && l.Composite {
			g.Go(func() error {
				b, err := s.descriptor(ctx, digests[i], l)
				if errors.Is(err, imagestore.ErrNotFound) { // its pack has gone since
					have[i] = false
					return nil
				}
				if err != nil {
					return err
				}
				parts, err := s.locator.Locate(ctx, pieceDigests(b.Parts))
				if err != nil {
					return err
				}
				have[i] = !slices.ContainsFunc(parts, func(l imagestore.Location) bool { return l.Pack == "" || l.Condemned || l.Composite })
				return nil
			})
		}
	}
	return have, g.Wait()
}

func pieceDigests(parts []imagestore.Part) []digest.Digest {
	ds := make([]digest.Digest, 0, len(parts))
	for _, p := range parts {
		if p.Digest != "" {
			ds = append(ds, p.Digest)
		}
	}
	return ds
}

// Stat says what a blob is made of: see imagestore.Reader.
func (s *Store) Stat(ctx context.Context, d digest.Digest) (imagestore.Blob, error) {
	b, loc, err := s.stat(ctx, d)
	if err != nil || !loc.Composite {
		return b, err
	}
	if _, err := s.locateParts(ctx, b, b.Parts); err != nil {
		return imagestore.Blob{}, err
	}
	b.Parts = slices.Clone(b.Parts) // the cache's own must not be changed
	return b, nil
}

// stat is Stat without asking for the parts. A piece's Blob has itself as its only part.
func (s *Store) stat(ctx context.Context, d digest.Digest) (imagestore.Blob, imagestore.Location, error) {
	locs, err := s.locateFresh(ctx, []digest.Digest{d})
	if err != nil {
		return imagestore.Blob{}, imagestore.Location{}, err
	}
	l := locs[0]
	switch {
	case l.Pack == "":
		return imagestore.Blob{}, l, fmt.Errorf("%s: %w", d, imagestore.ErrNotFound)
	case l.Composite:
		b, err := s.descriptor(ctx, d, l)
		return b, l, err
	}
	return imagestore.Blob{Digest: d, Size: l.Length, Parts: []imagestore.Part{{Digest: d, Size: l.Length}}}, l, nil
}

// descriptor reads a composite's description.
func (s *Store) descriptor(ctx context.Context, d digest.Digest, l imagestore.Location) (imagestore.Blob, error) {
	if b, ok := s.cache.get(key{d, true}).(imagestore.Blob); ok {
		return b, nil
	}
	data, err := s.fetch(ctx, []wanted{{d, l}}, make([]byte, l.Length))
	if err != nil {
		return imagestore.Blob{}, fmt.Errorf("description of %s: %w", d, err)
	}
	b, err := imagestore.DecodeBlob(data[0])
	if err == nil && b.Digest != d {
		err = fmt.Errorf("it is that of %s", b.Digest)
	}
	if err != nil {
		return imagestore.Blob{}, fmt.Errorf("description of %s in pack %s at offset %d: %w: %w", d, l.Pack, l.Offset, imagestore.ErrCorrupt, err)
	}
	s.cache.add(key{d, true}, b, int64(len(b.Parts))*96)
	return b, nil
}

// locateParts locates those of the parts that are pieces; holes have zero Locations.
func (s *Store) locateParts(ctx context.Context, b imagestore.Blob, parts []imagestore.Part) ([]imagestore.Location, error) {
	found, err := s.locateFresh(ctx, pieceDigests(parts))
	if err != nil {
		return nil, err
	}
	locs := make([]imagestore.Location, len(parts))
	k := 0
	for i, p := range parts {
		if p.Digest == "" {
			continue
		}
		l := found[k]
		k++
		if l.Pack == "" || l.Composite {
			return nil, fmt.Errorf("%s: its piece %s: %w", b.Digest, p.Digest, imagestore.ErrNotFound)
		}
		if l.Length != p.Size {
			return nil, fmt.Errorf("%s: its piece %s: %w: %d bytes in pack %s at offset %d, want %d",
				b.Digest, p.Digest, imagestore.ErrCorrupt, l.Length, l.Pack, l.Offset, p.Size)
		}
		locs[i] = l
	}
	return locs, nil
}

// Open reads a range of a blob or piece: see imagestore.Reader.
func (s *Store) Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, error) {
	if data := s.inMemory(d); data != nil {
		from, to, err := span(d, int64(len(data)), offset, n)
		if err != nil {
			return nil, err
		}
		return memoryReader{bytes.NewReader(data[from:to])}, nil
	}
	b, l, err := s.stat(ctx, d)
	if err != nil {
		return nil, err
	}
	from, to, err := span(d, b.Size, offset, n)
	if err != nil {
		return nil, err
	}
	if !l.Composite {
		return newBlobReader(ctx, s, []segment{{wanted: wanted{d, l}, from: from, to: to}}), nil
	}
	segments, err := s.segments(ctx, b, from, to)
	if err != nil {
		return nil, err
	}
	return newBlobReader(ctx, s, segments), nil
}

// OpenParts reads parts one after the other: see imagestore.PartsReader.
func (s *Store) OpenParts(ctx context.Context, parts []imagestore.Part) (io.ReadCloser, error) {
	segments := make([]segment, len(parts))
	var ask []digest.Digest
	for i, p := range parts {
		segments[i] = segment{wanted: wanted{digest: p.Digest}, to: p.Size}
		if p.Digest == "" {
			continue
		}
		if data := s.inMemory(p.Digest); int64(len(data)) == p.Size && data != nil {
			segments[i].data = data
			continue
		}
		ask = append(ask, p.Digest)
	}
	found, err := s.locateFresh(ctx, ask)
	if err != nil {
		return nil, err
	}
	for i := range segments {
		g := &segments[i]
		if g.hole() || g.data != nil {
			continue
		}
		g.at, found = found[0], found[1:]
		switch {
		case g.at.Pack == "" || g.at.Composite:
			return nil, fmt.Errorf("piece %s: %w", g.digest, imagestore.ErrNotFound)
		case g.at.Length != g.to:
			return nil, fmt.Errorf("piece %s: %w: it has %d bytes, not %d", g.digest, imagestore.ErrSize, g.at.Length, g.to)
		}
	}
	return newBlobReader(ctx, s, segments), nil
}

// span checks a range and clamps it to the blob's size.
func span(d digest.Digest, size, offset, n int64) (from, to int64, err error) {
	if offset < 0 || offset > size {
		return 0, 0, fmt.Errorf("%s: offset %d: it has %d bytes", d, offset, size)
	}
	if n < 0 || n > size-offset {
		n = size - offset
	}
	return offset, offset + n, nil
}

var _ imagestore.PartsReader = (*Store)(nil)

// segments are the parts that the range touches, with what it takes of each.
func (s *Store) segments(ctx context.Context, b imagestore.Blob, from, to int64) ([]segment, error) {
	var segments []segment
	first, last, at := -1, 0, int64(0)
	for i, p := range b.Parts {
		if at+p.Size > from && at < to {
			if first < 0 {
				first = i
			}
			last = i + 1
			segments = append(segments, segment{wanted: wanted{digest: p.Digest}, from: max(from-at, 0), to: min(to-at, p.Size)})
		}
		at += p.Size
	}
	if first < 0 {
		return nil, nil
	}
	locs, err := s.locateParts(ctx, b, b.Parts[first:last])
	if err != nil {
		return nil, err
	}
	for i := range segments {
		segments[i].at = locs[i]
	}
	return segments, nil
}
