package s3store

import (
	"bytes"
	"context"
	"fmt"
	"slices"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// Writer is an imagestore.Writer. After a Commit that failed, every further call fails with the same error: begin
// another Writer and do the work again. After one that succeeded it may go on.
type Writer struct {
	s    *Store
	err  error
	held map[key]int64 // what was put or composed, or was found to be in the store: sizes

	items []item // not handed on yet
	bytes int64
	early []*batch
	after map[*batch]bool // packs of other Writers, in flight, that hold pieces of ours
}

var (
	_ imagestore.Writer = (*Writer)(nil)
	_ imagestore.Held   = (*Writer)(nil)
)

// Begin starts a Writer.
func (s *Store) Begin() imagestore.Writer { return &Writer{s: s, held: map[key]int64{}} }

// Held reports whether the piece or blob was put or composed by this Writer, and its size.
func (w *Writer) Held(d digest.Digest) (int64, bool) {
	if size, ok := w.held[key{d, false}]; ok {
		return size, true
	}
	size, ok := w.held[key{d, true}]
	return size, ok
}

// Put stores data as a piece: see imagestore.Writer.
func (w *Writer) Put(ctx context.Context, data []byte) (imagestore.Part, error) {
	return w.PutAs(ctx, imagestore.SumOf(data).Digest(), data)
}

// PutAs keeps data in memory, named d.
func (w *Writer) PutAs(ctx context.Context, d digest.Digest, data []byte) (imagestore.Part, error) {
	if w.err != nil {
		return imagestore.Part{}, w.err
	}
	if len(data) > imagestore.MaxPiece {
		return imagestore.Part{}, fmt.Errorf("a piece of %d bytes: at most %d", len(data), imagestore.MaxPiece)
	}
	part := imagestore.Part{Digest: d, Size: int64(len(data))}
	k := key{part.Digest, false}
	if _, ok := w.held[k]; ok {
		return part, nil
	}
	if err := w.keep(ctx, item{digest: part.Digest, data: bytes.Clone(data)}); err != nil {
		return imagestore.Part{}, fmt.Errorf("put %s: %w", part.Digest, err)
	}
	w.held[k] = part.Size
	return part, nil
}

// has reports whether what lies at l is what would be stored. A piece is readable as a blob, but not the other way round
// as a part.
func has(l imagestore.Location, composite bool) bool {
	return l.Pack != "" && !l.Condemned && (composite || !l.Composite)
}

func (w *Writer) dependOn(b *batch) {
	if w.after == nil {
		w.after = map[*batch]bool{}
	}
	w.after[b] = true
}

// keep adds an item to those of the next commit, unless another Writer's that has it is on its way, and uploads these if
// they have become many. Which of them the store has already is asked for all together, before they are uploaded.
func (w *Writer) keep(ctx context.Context, it item) error {
	if b := w.s.packer.inFlight(it.key()); b != nil {
		w.dependOn(b)
		return nil
	}
	n := int64(len(it.data))
	if w.bytes+n > imagestore.MaxPack || len(w.items) == maxEntries {
		if err := w.flush(ctx); err != nil {
			return err
		}
	}
	w.items, w.bytes = append(w.items, it), w.bytes+n
	if w.bytes >= earlyAt {
		return w.flush(ctx)
	}
	return nil
}

// flush uploads those of the Writer's items that the store lacks in a pack of its own, to be registered at Commit.
func (w *Writer) flush(ctx context.Context) error {
	items, err := w.missing(ctx)
	if err != nil {
		return w.fail(err)
	}
	w.items, w.bytes = nil, 0
	if len(items) == 0 {
		return nil
	}
	b := newBatch()
	for _, it := range items {
		b.add(it)
	}
	// What is remembered is held until Commit: each small piece would be a request to read back.
	b.fresh = w.s.fresh(items, cacheItem)
	if err := w.s.packer.uploadEarly(ctx, b); err != nil {
		return w.fail(err)
	}
	w.early = append(w.early, b)
	w.forget()
	return nil
}

// forget lets go of what is to be remembered of the packs before, when the later ones have enough: a disk has hundreds of
// megabytes in small pieces, and would push all else out.
func (w *Writer) forget() {
	if w.s.recent == nil {
		return
	}
	rest := w.s.recent.limit / 2
	for _, b := range slices.Backward(w.early) {
		for _, it := range b.fresh {
			rest -= int64(len(it.data))
		}
		if rest < 0 {
			b.fresh = nil
		}
	}
}

func (w *Writer) fail(err error) error {
	w.err = fmt.Errorf("this writer has failed: %w", err)
	w.items, w.early, w.after, w.held = nil, nil, nil, nil
	return err
}

// Compose stores the description of a blob: see imagestore.Writer.
func (w *Writer) Compose(ctx context.Context, b imagestore.Blob) error {
	if w.err != nil {
		return w.err
	}
	data, err := imagestore.EncodeBlob(b)
	if err != nil {
		return err
	}
	if len(data) > imagestore.MaxPiece {
		return fmt.Errorf("blob %s: its description has %d bytes: at most %d", b.Digest, len(data), imagestore.MaxPiece)
	}
	if err := w.checkParts(ctx, b); err != nil {
		return err
	}
	if len(b.Parts) == 1 && b.Parts[0].Digest == b.Digest {
		return nil // a piece is a blob already
	}
	k := key{b.Digest, true}
	if _, ok := w.held[k]; ok {
		return nil
	}
	if err := w.keep(ctx, item{digest: b.Digest, piece: imagestore.SumOf(data).Digest(), data: data}); err != nil {
		return fmt.Errorf("compose %s: %w", b.Digest, err)
	}
	w.held[k] = b.Size
	return nil
}

// checkParts refuses a blob whose parts are not pieces that the store or this Writer has, with the sizes given.
func (w *Writer) checkParts(ctx context.Context, b imagestore.Blob) error {
	var ask []digest.Digest
	var index []int
	for i, p := range b.Parts {
		if p.Digest == "" {
			continue
		}
		if size, ok := w.held[key{p.Digest, false}]; !ok {
			ask, index = append(ask, p.Digest), append(index, i)
		} else if size != p.Size {
			return sizeError(b, i, size)
		}
	}
	locs, err := w.s.locateFresh(ctx, ask)
	if err != nil {
		return fmt.Errorf("compose %s: %w", b.Digest, err)
	}
	for k, l := range locs {
		p := b.Parts[index[k]]
		if l.Condemned && !l.Composite && l.Length == p.Size {
			if err := w.rescue(ctx, p.Digest, l); err != nil {
				return fmt.Errorf("compose %s: part %d: %w", b.Digest, index[k], err)
			}
			continue
		}
		switch {
		case l.Pack == "" || l.Condemned:
			return fmt.Errorf("compose %s: part %d: %s: %w: put it first", b.Digest, index[k], p.Digest, imagestore.ErrNotFound)
		case l.Composite:
			return fmt.Errorf("compose %s: part %d: %s is composed itself: give its pieces", b.Digest, index[k], p.Digest)
		case l.Length != p.Size:
			return sizeError(b, index[k], l.Length)
		}
	}
	return nil
}

// rescue copies a piece out of a pack that was condemned after the caller had decided to build upon it: so nothing new
// ever refers to a pack that is about to go.
func (w *Writer) rescue(ctx context.Context, d digest.Digest, at imagestore.Location) error {
	data, err := w.s.fetch(ctx, []wanted{{d, at}}, make([]byte, at.Length))
	if err != nil {
		return err
	}
	_, err = w.Put(ctx, data[0])
	return err
}

func sizeError(b imagestore.Blob, part int, size int64) error {
	p := b.Parts[part]
	return fmt.Errorf("compose %s: part %d: %s has %d bytes, not %d", b.Digest, part, p.Digest, size, p.Size)
}

// Commit makes everything durable and visible: see imagestore.Writer.
func (w *Writer) Commit(ctx context.Context) error {
	if w.err != nil {
		return w.err
	}
	if err := w.commit(ctx); err != nil {
		return w.fail(fmt.Errorf("commit: %w", err))
	}
	w.items, w.bytes, w.early, w.after = nil, 0, nil, nil
	return nil
}

func (w *Writer) commit(ctx context.Context) error {
	// What was uploaded early is registered before anything that refers to it.
	for _, b := range w.early {
		if err := b.wait(ctx); err != nil {
			return err
		}
		if err := w.s.register(ctx, b); err != nil {
			return err
		}
	}
	items, err := w.missing(ctx)
	if err != nil {
		return err
	}
	waits := w.s.packer.commit(items, w.after)
	for b := range waits {
		if err := b.wait(ctx); err != nil {
			return err
		}
	}
	for b := range w.after {
		if err := b.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// missing are the items that no live pack has.
func (w *Writer) missing(ctx context.Context) ([]item, error) {
	if len(w.items) == 0 {
		return nil, nil
	}
	ask := make([]digest.Digest, len(w.items))
	for i, it := range w.items {
		ask[i] = it.digest
	}
	locs, err := w.s.locator.Locate(ctx, ask)
	if err != nil {
		return nil, err
	}
	var items []item
	for i, it := range w.items {
		if !has(locs[i], it.piece != "") {
			items = append(items, it)
		}
	}
	return items, nil
}

func (b *batch) wait(ctx context.Context) error {
	select {
	case <-b.done:
		return b.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
