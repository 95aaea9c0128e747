package bus

import (
	"context"
	"fmt"

	"bakefarm/farm"
)

// PublishEvent adds an event to its bake's.
func (b *Bus) PublishEvent(ctx context.Context, e farm.Event) error {
	return b.PublishEvents(ctx, e.Bake, []farm.Event{e})
}

// PublishEvents adds events to a bake's, in order, without waiting for one after the other. On an error some of them may
// be there.
func (b *Bus) PublishEvents(ctx context.Context, bakeID string, events []farm.Event) error {
	if bakeID == "" || len(bakeID) > MaxKey {
		return fmt.Errorf("publish event: bake ID %.40q: want 1 to %d bytes", bakeID, MaxKey)
	}
	return publishAll(ctx, b, "event of bake "+bakeID, b.events.prefix+escapeKey(bakeID), events, func(e farm.Event) (farm.Event, string) {
		e.Bake = bakeID
		switch { // what several coordinators may find that nobody has told yet: once is enough
		case e.Type == farm.EventBake && e.State.Finished():
			return e, "end of bake " + bakeID
		case e.Type == farm.EventShard && e.Status == farm.ShardDone:
			return e, fmt.Sprintf("end of shard %s of bake %s by %s in %d", e.Shard, bakeID, e.Worker, e.Took)
		}
		return e, ""
	})
}

// Events calls fn for every event of a bake after the given sequence that is still kept (EventAge, EventBytes), in order,
// and then for each new one, until ctx ends or fn fails, and returns why; nil when fn returns ErrStop. Sequences rise, with
// gaps: all bakes share them. One that this stream has not got to yet (the farm was made anew) counts as 0.
//
// A bake that ended longer ago than events are kept has none, and waits in vain: its own record says that it ended.
func (b *Bus) Events(ctx context.Context, bakeID string, after uint64, fn func(seq uint64, e farm.Event) error) error {
	return b.readEvents(ctx, bakeID, reading{after: after}, fn)
}

// EventsSoFar is Events, but ends with what is there now.
func (b *Bus) EventsSoFar(ctx context.Context, bakeID string, after uint64, fn func(seq uint64, e farm.Event) error) error {
	return b.readEvents(ctx, bakeID, reading{after: after, once: true}, fn)
}

func (b *Bus) readEvents(ctx context.Context, bakeID string, r reading, fn func(seq uint64, e farm.Event) error) error {
	if r.after > 0 {
		info, err := b.streamInfo(ctx, b.events.name)
		if err != nil {
			return fmt.Errorf("events: %w", err)
		}
		if r.after > info.State.LastSeq {
			r.after = 0
		}
	}
	r.filters = []string{escapeKey(bakeID)}
	return b.replay(ctx, b.events, r, func(m delivery) error {
		e, err := decode[farm.Event]("event", m.data)
		if err != nil {
			return err
		}
		return fn(m.seq, e)
	})
}
