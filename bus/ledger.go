package bus

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"bakefarm/farm"

	"github.com/oklog/ulid/v2"
)

// Ledger is the truth about packs, for a process that may write it: a coordinator.
type Ledger struct{ b *Bus }

// Ledger is the packs' bucket as the image store wants it.
func (b *Bus) Ledger() Ledger { return Ledger{b} }

// Register makes a pack live. Idempotent for an equal record; ErrConflict when the ID is taken by another.
//
// One that was uploaded long ago is refused: garbage collection may have taken it for an upload that nothing came of.
func (l Ledger) Register(ctx context.Context, p farm.Pack) error {
	p.Schema = farm.Schema
	if id, err := ulid.ParseStrict(p.ID); err == nil && time.Since(ulid.Time(id.Time())) > farm.RegisterWithin {
		if have, _, err := l.b.Packs.Get(ctx, p.ID); err == nil && same(have, p) {
			return nil
		}
		return fmt.Errorf("pack %s was uploaded more than %s ago: do the work again: %w", p.ID, farm.RegisterWithin, ErrConflict)
	}
	_, err := l.b.Packs.Create(ctx, p.ID, p)
	if !errors.Is(err, ErrExists) {
		return err
	}
	have, _, err := l.b.Packs.Get(ctx, p.ID)
	if err != nil {
		return err
	}
	if same(have, p) {
		return nil
	}
	return fmt.Errorf("pack %s is registered with another record (%s, by %s): %w", p.ID, have.State, have.Writer, ErrConflict)
}

// same compares two records as they are stored. The index says what the trailer is, which an older release leaves out.
func same(a, b farm.Pack) bool {
	a.At, b.At = a.At.UTC(), b.At.UTC()
	a.Trailer, b.Trailer = nil, nil
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

// Follow calls fn for every pack's latest change after the sequence given, in order, and then for new ones until ctx ends or
// fn fails. ErrRewound as in Bucket.Follow.
func (l Ledger) Follow(ctx context.Context, after uint64, fn func(farm.PackChange) error) error {
	return l.b.Packs.Follow(ctx, after, func(seq uint64, key string, p *farm.Pack) error {
		return fn(farm.PackChange{Seq: seq, ID: key, Pack: p})
	})
}

// Last is the sequence of the newest change.
func (l Ledger) Last(ctx context.Context) (uint64, error) { return l.b.Packs.Last(ctx) }

// Identity names this ledger: a projection of another identity must be rebuilt.
func (l Ledger) Identity(ctx context.Context) (string, error) { return l.b.Packs.Identity(ctx) }

// RemoteLedger is the truth about packs, for a process that only reads it: packs are registered by a coordinator.
type RemoteLedger struct{ Ledger }

// RemoteLedger is the ledger of workers and APIs.
func (b *Bus) RemoteLedger() RemoteLedger { return RemoteLedger{Ledger{b}} }

// Register asks a coordinator to make a pack live. Errors as Ledger.Register's, and ErrNoResponder.
func (l RemoteLedger) Register(ctx context.Context, p farm.Pack) error {
	_, err := Call[farm.Pack, Empty](ctx, l.b, RegisterPack, p)
	return err
}
