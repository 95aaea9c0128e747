package coordinator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

const (
	archiveEvery    = 500 * time.Millisecond
	archiveAtOnce   = 64              // logs that share a commit
	archivePatience = 2 * time.Second // for the last event of a bake that is over, or the lease, if that is less
	archiveWithin   = 24 * time.Hour  // after that the events are no longer there to be kept
	archiveOthers   = 3 * time.Second // what another coordinator has ended is left to that one for so long, or for the lease
	maxLog          = 16 << 20        // bytes of one log; the rest is left out
)

// lacksLog reports whether a finished bake's log has still to be stored. One that was done when it was accepted has none.
func (c *Coordinator) lacksLog(b farm.Bake) bool {
	return b.State.Finished() && b.Log == "" && !b.DoneAt.Equal(b.AcceptedAt) && c.Now().Sub(b.DoneAt) < archiveWithin
}

// archive stores the logs of finished bakes, many at a time, until ctx ends. The events themselves are kept for a while
// only.
func (c *Coordinator) archive(ctx context.Context) {
	tick := time.NewTicker(archiveEvery)
	defer tick.Stop()
	for more := false; ctx.Err() == nil; {
		if !more {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
		due := c.bakes.pick(func(v *view[farm.Bake]) bool {
			return c.lacksLog(v.rec) && (c.endedHere(v.rec.ID) || time.Since(v.changed) > min(archiveOthers, c.Lease))
		})
		if len(due) == 0 {
			more = false
			continue
		}
		if more = len(due) > archiveAtOnce; more {
			due = due[:archiveAtOnce]
		}
		if err := c.archiveLogs(ctx, due); err != nil && ctx.Err() == nil {
			more = false
			c.Log.Warn("logs not stored, trying again", "bakes", len(due), "err", err)
		}
	}
}

func (c *Coordinator) archiveLogs(ctx context.Context, bakes []picked[farm.Bake]) error {
	logs := make([][]byte, len(bakes))
	err := parallel(ctx, len(bakes), func(ctx context.Context, i int) (err error) {
		logs[i], err = c.readEvents(ctx, bakes[i].rec)
		return err
	})
	if err != nil {
		return err
	}
	w := c.Store.Begin()
	pieces := make([]digest.Digest, len(bakes))
	for i, log := range logs {
		part, err := w.Put(ctx, log)
		if err != nil {
			return err
		}
		pieces[i] = part.Digest
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	return parallel(ctx, len(bakes), func(ctx context.Context, i int) error {
		defer c.ends.Delete(bakes[i].id)
		_, err := c.bakes.change(ctx, bakes[i].id, func(b *farm.Bake) error {
			if b.Log != "" {
				return errAsIs
			}
			b.Log = pieces[i]
			return nil
		})
		if errors.Is(err, bus.ErrNotFound) {
			return nil
		}
		return err
	})
}

// readEvents returns a bake's events, one JSON object a line. If the last one, which says how the bake ended, is missing
// because whoever ended it died before telling, it is told now: watchers wait for it.
func (c *Coordinator) readEvents(ctx context.Context, b farm.Bake) ([]byte, error) {
	var out bytes.Buffer
	add := func(e farm.Event) error {
		raw, err := json.Marshal(e)
		if err == nil && out.Len()+len(raw) < maxLog {
			out.Write(raw)
			out.WriteByte('\n')
		}
		return err
	}
	last := farm.Event{Schema: farm.Schema, Type: farm.EventBake, Bake: b.ID, At: b.DoneAt, State: b.State, Error: b.Error}
	var after uint64
	told := false
	look := func(seq uint64, e farm.Event) error {
		after = seq
		if told = e.Type == farm.EventBake && e.State.Finished(); told {
			last = e
			return bus.ErrStop
		}
		return add(e)
	}
	if err := c.Bus.EventsSoFar(ctx, b.ID, 0, look); err != nil {
		return nil, err
	}
	if told {
		return append(out.Bytes(), mustLine(last)...), nil
	}
	patient, cancel := context.WithTimeout(ctx, min(archivePatience, c.Lease))
	defer cancel()
	err := c.Bus.Events(patient, b.ID, after, look)
	if patient.Err() != nil && ctx.Err() == nil {
		err = c.Bus.PublishEvent(ctx, last)
	}
	if err != nil {
		return nil, err
	}
	return append(out.Bytes(), mustLine(last)...), nil
}

func mustLine(e farm.Event) []byte {
	raw, err := json.Marshal(e)
	if err != nil {
		panic("coordinator: an event always encodes: " + err.Error())
	}
	return append(raw, '\n')
}
