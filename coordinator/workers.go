package coordinator

import (
	"context"
	"fmt"
	"slices"

	"bakefarm/bus"
	"bakefarm/farm"
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
		return fmt.Sprintf("the worker is not one for %s", need(class, nil))
	}
	return ""
}
