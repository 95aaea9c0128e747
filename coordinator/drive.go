package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// errOver ends a drive: the bake ended, by us or by somebody else.
var errOver = errors.New("the bake is over")

// drive takes a bake as far as it goes without waiting. ended says that the bake is over; an error, that it is worth
// trying again. What ends the bake itself, such as a shard that failed, is no error here.
func (c *Coordinator) drive(ctx context.Context, f *flight) (ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, drivePatience)
	defer cancel()
	for {
		b, _, _, err := c.bakes.get(ctx, f.id)
		if errors.Is(err, bus.ErrNotFound) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		if !b.State.Finished() {
			for _, e := range f.tellings() {
				c.events.emit(ctx, e)
			}
		}
		var again bool
		switch b.State {
		case farm.BakeAccepted, farm.BakeResolving:
			again, err = c.resolve(ctx, f, b)
		case farm.BakeBaking:
			again, err = c.advance(ctx, f, b)
		case farm.BakeCommitting:
			again, err = true, c.commit(ctx, f, b)
		case farm.BakeTesting:
			again, err = c.test(ctx, f, b)
		default:
			return true, c.withdraw(ctx, f.id)
		}
		if own := (fatal{}); errors.As(err, &own) {
			again, err = true, c.fail(ctx, f, own.Error())
		}
		var refused *bus.RemoteError
		if errors.As(err, &refused) && refused.Code == "invalid" { // by prepare: the recipe's or the context's own fault
			again, err = true, c.fail(ctx, f, refused.Message)
		}
		if errors.Is(err, errOver) {
			again, err = true, nil
		}
		if err != nil || !again {
			return false, err
		}
	}
}

// move changes a bake's record on its way from a state to the next, unless it is over.
func (c *Coordinator) move(ctx context.Context, id string, next farm.BakeState, set func(*farm.Bake)) (farm.Bake, error) {
	moved := false
	b, err := c.bakes.change(ctx, id, func(b *farm.Bake) error {
		moved = false
		if b.State.Finished() {
			return errOver
		}
		if b.State == next {
			return errAsIs // another coordinator was faster
		}
		if !b.State.CanMove(next) {
			return fmt.Errorf("bake %s: is %s, and can't become %s", id, b.State, next)
		}
		b.State = next
		if set != nil {
			set(b)
		}
		moved = true
		return nil
	})
	if err != nil {
		return b, err
	}
	if moved {
		c.bakeEvent(ctx, b)
		if b.State.Finished() {
			c.ended(b)
		}
	}
	return b, nil
}

// fail ends a bake with an error, and its interest in what still runs.
func (c *Coordinator) fail(ctx context.Context, f *flight, message string) error {
	_, err := c.move(ctx, f.id, farm.BakeFailed, func(b *farm.Bake) {
		b.Error, b.DoneAt = clip(message, maxError), c.doneAt(*b)
		if f.graph != nil {
			if refs := slices.Concat(f.early, f.graph.refs); fits(refs) {
				b.Shards = refs
			}
		} else if len(f.early) > 0 {
			b.Shards = f.early
		}
	})
	return err
}

// ended tells who wants to know about a bake that is over.
func (c *Coordinator) ended(b farm.Bake) {
	if c.lacksLog(b) {
		c.ends.Store(b.ID, nil)
	}
	if c.OnDone != nil {
		c.OnDone(b)
	}
}

// endedHere reports whether a bake's end was this coordinator's doing.
func (c *Coordinator) endedHere(bake string) bool {
	_, here := c.ends.Load(bake)
	return here
}

// doneAt is when a bake that was not done when it was accepted is: later.
func (c *Coordinator) doneAt(b farm.Bake) time.Time {
	now := c.Now().UTC()
	if !now.After(b.AcceptedAt) {
		now = b.AcceptedAt.Add(time.Nanosecond)
	}
	return now
}

// failure says in a sentence why a shard failed, and so its bakes.
func failure(s farm.Shard) string {
	if strings.HasPrefix(s.Error, notReproducible) {
		return s.Error
	}
	if s.Worker == "" { // nobody has tried
		return fmt.Sprintf("%s: %s", s.Label, s.Error)
	}
	attempts := ""
	if s.Attempt > 1 {
		attempts = fmt.Sprintf(", attempt %d", s.Attempt)
	}
	return fmt.Sprintf("%s: %s (worker %s%s)", s.Label, s.Error, s.Worker, attempts)
}
