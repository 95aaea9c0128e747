package coordinator

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

const (
	matchEvery = time.Second     // how often queued shards are compared with the workers that are present
	matchAfter = 2 * time.Second // a shard that nobody could run is no news before: a worker may be starting
)

// workerGone takes back at once what a worker ran that has died for certain.
func (c *Coordinator) workerGone(ctx context.Context, req bus.WorkerGoneRequest) (bus.Empty, error) {
	if req.Worker == "" || len(req.Worker) > maxID {
		return bus.Empty{}, invalid("worker gone: want an ID of 1 to %d bytes", maxID)
	}
	if err := c.Bus.Workers.Delete(ctx, req.Worker, 0); err != nil {
		return bus.Empty{}, err
	}
	ran := c.shards.pick(func(v *view[farm.Shard]) bool {
		return v.rec.State == farm.ShardClaimed && v.rec.Worker == req.Worker
	})
	return bus.Empty{}, parallel(ctx, len(ran), func(ctx context.Context, i int) error {
		return c.expire(ctx, ran[i].id, ran[i].view, fmt.Sprintf("worker %s died", req.Worker))
	})
}

// unfit says why a worker may not have a shard of a class; empty: it may. A worker without a record may: its record comes
// after its first claims, and may lapse while NATS is away.
func (c *Coordinator) unfit(worker, class string) string {
	w, known := c.workers.peek(worker)
	switch {
	case !known:
		return ""
	case w.Draining:
		return "the worker is draining"
	case !slices.Contains(w.Classes, class):
		return fmt.Sprintf("the worker is not one for %s", need(class))
	}
	return ""
}

// need says in words what a class wants of a worker: "arch=arm64", or "kind=convert" where the architecture does not matter.
func need(class string) string {
	arch, kind, _ := strings.Cut(class, ".")
	if arch == "any" {
		return "kind=" + kind
	}
	return "arch=" + arch + ", kind=" + kind
}

// noteWaiting has every bake say what it waits for, when none of the workers that are present can run one of its shards, and
// unsay it when one can.
func (c *Coordinator) noteWaiting(ctx context.Context, now time.Time) {
	served := map[string]bool{}
	for _, w := range c.workers.pick(func(v *view[farm.Worker]) bool { return !v.rec.Draining }) {
		for _, class := range w.rec.Classes {
			served[class] = true
		}
	}
	waiting := map[string]string{}
	for _, s := range c.shards.pick(func(v *view[farm.Shard]) bool {
		return v.rec.State == farm.ShardQueued && !served[v.rec.Class] && now.Sub(v.changed) > matchAfter
	}) {
		for _, bake := range s.rec.Bakes {
			if text := "a worker with " + need(s.rec.Class); waiting[bake] == "" || text < waiting[bake] {
				waiting[bake] = text
			}
		}
	}
	for _, b := range c.bakes.pick(func(v *view[farm.Bake]) bool { return unfinished(v) && v.rec.Waiting != waiting[v.rec.ID] }) {
		text := waiting[b.id]
		changed := false
		_, err := c.bakes.change(ctx, b.id, func(b *farm.Bake) error {
			if changed = !b.State.Finished() && b.Waiting != text; !changed {
				return errAsIs
			}
			b.Waiting = text
			return nil
		})
		switch {
		case ctx.Err() != nil:
			return
		case err != nil:
			c.Log.Warn("what a bake waits for is not noted", "bake", b.id, "err", err)
		case changed && strings.HasPrefix(text, "a worker with kind="): // failUnserved speaks of the others
			c.note(ctx, b.id, "waiting for "+text)
		}
	}
}
