package worker

import (
	"context"
	"fmt"

	"bakefarm/bus"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// restore puts pieces that the store has lost back into it, those that the cache has: a scrub asks, before it has anything made
// anew. The cache's sums are against accidents; what becomes truth again is hashed.
func (w *Worker) restore(ctx context.Context, r bus.RestoreRequest) (bus.RestoreReply, error) {
	var reply bus.RestoreReply
	if len(r.Pieces) > bus.MaxRestore {
		return reply, fmt.Errorf("pieces: %d: at most %d: %w", len(r.Pieces), bus.MaxRestore, bus.ErrInvalid)
	}
	for i, d := range r.Pieces {
		if _, err := imagestore.ParseDigest(d); err != nil {
			return reply, fmt.Errorf("pieces: %d: %w: %w", i, err, bus.ErrInvalid)
		}
	}
	// This asks the ledger, too: a Writer must know that what has the damage is condemned, else it stores nothing.
	have, err := w.Store.Have(ctx, r.Pieces)
	if err != nil {
		return reply, err
	}
	back := w.Store.Begin()
	for i, d := range r.Pieces {
		data, ok := w.cached(d)
		if have[i] || !ok {
			continue
		}
		if _, err := back.PutAs(ctx, d, data); err != nil {
			return reply, err
		}
		reply.Restored = append(reply.Restored, d)
	}
	if err := back.Commit(ctx); err != nil {
		return bus.RestoreReply{}, err
	}
	if len(reply.Restored) > 0 {
		w.Log.Info("pieces that the store had lost are back", "pieces", len(reply.Restored))
	}
	return reply, nil
}

// cached reads a piece out of the cache and hashes it.
func (w *Worker) cached(d digest.Digest) ([]byte, bool) {
	data, err := w.env.Cache.Get(d, imagestore.MaxPiece)
	if err != nil {
		return nil, false
	}
	if imagestore.SumOf(data).Digest() != d {
		w.env.Cache.Drop(d)
		return nil, false
	}
	return data, true
}
