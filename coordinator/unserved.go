package coordinator

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"bakefarm/farm"
)

// How often the sweep looks for shards that nobody takes, and how long workers have to come.
const (
	unservedEvery = time.Second
	unservedGrace = 10 * time.Second
)

// unserved are the queued shards of classes that no present worker takes, and since when, as far as one process knows.
// Only work that runs code of images has such classes: every worker takes the others.
type unserved map[string]time.Time

// failUnserved fails shards that wait for a kind of worker that the farm has none of: its bake says what is missing
// instead of waiting for it. A farm without any worker waits: somebody is going to start one.
func (c *Coordinator) failUnserved(ctx context.Context, now time.Time, since unserved) {
	queued := c.shards.pick(func(v *view[farm.Shard]) bool {
		return v.rec.State == farm.ShardQueued && !strings.HasPrefix(v.rec.Class, "any.")
	})
	if len(queued) == 0 {
		clear(since)
		return
	}
	workers, err := c.Bus.Workers.List(ctx, "")
	if err != nil {
		return // another time
	}
	waiting := map[string]bool{}
	for _, s := range queued {
		reason := unservedReason(s.rec.Class, workers)
		if reason == "" {
			continue
		}
		waiting[s.id] = true
		first, known := since[s.id]
		switch {
		case !known:
			since[s.id] = now
			for _, bake := range s.rec.Bakes {
				c.note(ctx, bake, fmt.Sprintf("%s: waiting %s for a worker that can: %s", s.rec.Label, unservedGrace, reason))
			}
		case now.Sub(first) > unservedGrace:
			if err := c.failQueued(ctx, s.id, reason); err != nil {
				c.Log.Warn("nobody takes it", "shard", s.id, "class", s.rec.Class, "err", err)
			}
		}
	}
	maps.DeleteFunc(since, func(id string, _ time.Time) bool { return !waiting[id] })
}

// failQueued fails a shard that is still queued.
func (c *Coordinator) failQueued(ctx context.Context, id, reason string) error {
	failed := false
	rec, err := c.shards.change(ctx, id, func(s *farm.Shard) error {
		if failed = s.State == farm.ShardQueued; !failed {
			return errAsIs
		}
		s.State, s.Error = farm.ShardFailed, clip(reason, maxError)
		return nil
	})
	if err == nil && failed {
		c.shardEvent(ctx, rec, 0)
	}
	return err
}

// unservedReason says why no worker takes work of a class; empty: one does, or there is none at all.
func unservedReason(class string, workers map[string]farm.Worker) string {
	if len(workers) == 0 {
		return ""
	}
	lacking := map[string][]string{} // what is missing → workers
	for id, w := range workers {
		if slices.Contains(w.Classes, class) {
			return ""
		}
		lack := w.Lacks[class]
		if lack == "" {
			lack = "takes no such work"
		}
		lacking[lack] = append(lacking[lack], id)
	}
	arch, kind, _ := strings.Cut(class, ".")
	var who []string
	for _, lack := range slices.Sorted(maps.Keys(lacking)) {
		who = append(who, fmt.Sprintf("%s: %s", strings.Join(slices.Sorted(slices.Values(lacking[lack])), ", "), lack))
	}
	can, instead := "run programs of "+arch+" images", "write scripts: skip"
	switch farm.Kind(kind) {
	case farm.KindRun:
		instead = "leave the image out of tests (on: disk)"
	case farm.KindBoot:
		can, instead = "start "+arch+" disks", "leave the disk out of tests (on: oci)"
	}
	return fmt.Sprintf("no worker of this farm can %s. %s. Mend it (bakefarm doctor looks at a machine), start a worker that can, or %s",
		can, strings.Join(who, "; "), instead)
}
