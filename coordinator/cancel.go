package coordinator

import (
	"context"
	"errors"
	"slices"

	"bakefarm/bus"
	"bakefarm/farm"
)

// cancel withdraws a bake. One that is over, or is being committed, stays as it is; the reply says what it is.
func (c *Coordinator) cancel(ctx context.Context, req bus.CancelRequest) (farm.Bake, error) {
	cancelled := false
	b, err := c.bakes.change(ctx, req.ID, func(b *farm.Bake) error {
		cancelled = b.State.CanMove(farm.BakeCancelled)
		if !cancelled {
			return errAsIs
		}
		b.State, b.DoneAt = farm.BakeCancelled, c.doneAt(*b)
		b.Error = "cancelled"
		if req.By != "" {
			b.Error += " by " + clip(req.By, 200)
		}
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return farm.Bake{}, &bus.RemoteError{Code: "not-found", Message: "there is no bake " + clip(req.ID, 100)}
	}
	if err != nil {
		return farm.Bake{}, err
	}
	if cancelled {
		c.bakeEvent(ctx, b)
		c.ended(b)
		c.kick(b.ID) // whoever drives it sees that it is over, and withdraws what it may have dispatched meanwhile
	}
	if b.State == farm.BakeCancelled {
		err = c.withdraw(ctx, b.ID)
	}
	return b, err
}

// withdraw ends a bake's interest in whatever is still being made. It looks at the records that are seen now; what slips
// through, the sweep finds.
func (c *Coordinator) withdraw(ctx context.Context, bake string) error {
	wanted := c.queue.wantedBy(bake)
	return parallel(ctx, len(wanted), func(ctx context.Context, i int) error { return c.leave(ctx, wanted[i], bake) })
}

// leave takes a bake out of those that want a shard. A shard that nobody wants is cancelled, and its worker told.
func (c *Coordinator) leave(ctx context.Context, shard, bake string) error {
	ran := false
	rec, err := c.shards.change(ctx, shard, func(s *farm.Shard) error {
		ran = false
		if s.State.Finished() || !wants(*s, bake) {
			return errAsIs
		}
		s.Bakes = slices.DeleteFunc(slices.Clone(s.Bakes), func(b string) bool { return b == bake })
		if len(s.Bakes) == 0 {
			ran = s.State == farm.ShardClaimed
			s.State = farm.ShardCancelled
		}
		return nil
	})
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil || !ran {
		return err
	}
	c.stopAttempt(ctx, rec.ID, rec.Token)
	return nil
}

// stopAttempt tells whoever runs an attempt that it is not wanted any more.
func (c *Coordinator) stopAttempt(ctx context.Context, shard, token string) {
	if err := c.Bus.Broadcast(ctx, bus.CancelShard{Schema: farm.Schema, ShardID: shard, Token: token}); err != nil {
		c.Log.Warn("stop not broadcast: the worker learns of it at its next beat", "shard", shard, "err", err)
	}
}
