package collect

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"

	"github.com/opencontainers/go-digest"
)

// Marker collects what is needed. It is used by one goroutine.
type Marker struct {
	c *Collector

	composites []imagestore.Sum // all that packs have, sorted
	documents  map[imagestore.Sum]int
	pending    []imagestore.Sum
	marked     []imagestore.Sum // sorted, when clean
	clean      bool
	expanded   map[imagestore.Sum]bool

	found map[imagestore.Sum][]imagestore.Sum // references that were read in this run
	reads int
	lost  []imagestore.Sum // composites that are marked and whose descriptor can't be read
}

func (c *Collector) newMarker(ctx context.Context) (*Marker, error) {
	m := &Marker{c: c, documents: map[imagestore.Sum]int{}, expanded: map[imagestore.Sum]bool{}, found: map[imagestore.Sum][]imagestore.Sum{}}
	err := c.Index.Survey(ctx, func(h catalog.Held) error {
		if h.Composite && (len(m.composites) == 0 || m.composites[len(m.composites)-1] != h.Sum) {
			m.composites = append(m.composites, h.Sum)
		}
		return nil
	})
	return m, err
}

// Need says that a record names something. depth is how many steps of what it names are needed too: 0 for what refers to
// nothing, 1 for a document that names pieces, 2 for one that names such documents. Parts of composites need no depth.
func (m *Marker) Need(d digest.Digest, depth int) {
	if sum, err := imagestore.ParseDigest(d); err == nil {
		m.need(sum, depth)
	}
}

// NeedAll is Need for every digest that stands in a text.
func (m *Marker) NeedAll(text []byte, depth int) {
	Names(text, func(sum imagestore.Sum) { m.need(sum, depth) })
}

func (m *Marker) need(sum imagestore.Sum, depth int) {
	m.pending = append(m.pending, sum)
	if depth > m.documents[sum] {
		m.documents[sum] = depth
		delete(m.expanded, sum)
	}
}

// Expand follows what was needed to what that needs.
func (m *Marker) Expand(ctx context.Context) error {
	for len(m.pending) > 0 {
		todo := m.pending
		m.pending = nil
		slices.SortFunc(todo, compareSums)
		todo = slices.Compact(todo)
		for _, sum := range todo {
			_, composite := slices.BinarySearchFunc(m.composites, sum, compareSums)
			depth := m.documents[sum]
			if !composite && depth == 0 || m.expanded[sum] {
				continue
			}
			m.expanded[sum] = true
			refs, err := m.refs(ctx, sum, composite)
			if err != nil {
				return err
			}
			for _, r := range refs {
				if depth > 1 {
					m.need(r, depth-1)
				} else {
					m.pending = append(m.pending, r)
				}
			}
		}
		m.marked = append(m.marked, todo...)
		m.clean = false
		if len(m.found) > 1000 {
			if err := m.note(ctx); err != nil {
				return err
			}
		}
	}
	if !m.clean {
		slices.SortFunc(m.marked, compareSums)
		m.marked = slices.Compact(m.marked)
		m.clean = true
	}
	return nil
}

// Needed reports whether something was marked before the latest Expand.
func (m *Marker) Needed(sum imagestore.Sum) bool {
	_, is := slices.BinarySearchFunc(m.marked, sum, compareSums)
	return is
}

func compareSums(a, b imagestore.Sum) int { return bytes.Compare(a[:], b[:]) }

// Reads is how many descriptors and documents had to be read, because they were new.
func (m *Marker) Reads() int { return m.reads }

// maxDocument is the size of the largest document that is read for what it names, in bytes. Locks, trees and manifests of
// contexts are below it.
const maxDocument = imagestore.MaxPiece

// refs are the parts of a composite, or the names in a document.
func (m *Marker) refs(ctx context.Context, of imagestore.Sum, composite bool) ([]imagestore.Sum, error) {
	if refs, known := m.found[of]; known {
		return refs, nil
	}
	refs, known, err := m.c.Index.Refs(ctx, of)
	if err != nil || known {
		return refs, err
	}
	m.reads++
	if err := m.c.pace(ctx, 1<<16); err != nil {
		return nil, err
	}
	d := of.Digest()
	if composite {
		blob, err := m.c.Store.Describe(ctx, d)
		switch {
		case errors.Is(err, imagestore.ErrNotFound):
			return nil, nil // its digest is that of a piece as well, which is what readers get; or its pack has just gone
		case errors.Is(err, imagestore.ErrCorrupt):
			m.lost = append(m.lost, of)
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("mark %s: %w", d, err)
		}
		for _, p := range blob.Parts {
			if p.Digest != "" {
				sum, err := imagestore.ParseDigest(p.Digest)
				if err != nil {
					return nil, err
				}
				refs = append(refs, sum)
			}
		}
	} else {
		raw, err := imagestore.ReadAll(ctx, m.c.Store, d, maxDocument)
		switch {
		case errors.Is(err, imagestore.ErrNotFound):
			return nil, nil // not remembered: it may come yet
		case errors.Is(err, imagestore.ErrCorrupt):
			m.lost = append(m.lost, of)
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("mark %s: %w", d, err)
		}
		if len(raw) > 0 && (raw[0] == '{' || raw[0] == '[') {
			Names(raw, func(sum imagestore.Sum) { refs = append(refs, sum) })
		}
	}
	slices.SortFunc(refs, compareSums)
	refs = slices.Compact(refs)
	m.found[of] = refs
	return refs, nil
}

// note remembers what was read.
func (m *Marker) note(ctx context.Context) error {
	if len(m.found) == 0 {
		return nil
	}
	if err := m.c.Index.NoteRefs(ctx, m.found); err != nil {
		return err
	}
	m.found = map[imagestore.Sum][]imagestore.Sum{}
	return nil
}

// forget drops the references that were remembered of what nothing needs any more.
func (m *Marker) forget(ctx context.Context) error {
	return m.c.Index.ForgetRefs(ctx, m.Needed)
}

// compareHeld orders entries to be copied by where they lie.
func compareHeld(a, b catalog.Held) int {
	return cmp.Or(cmp.Compare(a.Pack, b.Pack), cmp.Compare(a.Offset, b.Offset))
}
