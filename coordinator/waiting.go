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

// Nobody can run it: one rule. A queued shard that none of the present workers can run waits, and its bakes say for what:
//
//	none has its class or labels                      waits for such a worker, as long as the bake may take
//	one would, but its machine forbids it (Lacks)     the same, for forbiddenGrace; then it fails with what is missing: that is
//	                                                  to be mended on that machine, and nobody learns of it by waiting
//
// A worker's Lacks are what doctor says.
const (
	matchEvery     = time.Second     // how often queued shards are compared with the workers that are present
	matchAfter     = 2 * time.Second // a shard that nobody could run is no news before: a worker may be starting
	forbiddenGrace = 10 * time.Second
)

// unmatched is since when shards wait for a worker that is not forbidden to run them, as far as one process knows.
type unmatched map[string]time.Time

// matchWorkers has every bake say what it waits for, when none of the workers that are present can run one of its shards,
// and unsay it when one can; and fails what is forbidden.
func (c *Coordinator) matchWorkers(ctx context.Context, now time.Time, since unmatched) {
	workers := map[string]farm.Worker{}
	for _, w := range c.workers.pick(func(v *view[farm.Worker]) bool { return !v.rec.Draining }) {
		workers[w.id] = w.rec
	}
	type demand struct{ class, requires string }
	verdicts := map[demand]verdict{} // many shards, few demands
	waiting := map[string]string{}   // by bake
	forbidden := map[string]string{} // by shard
	c.shards.visit(func(id string, s *view[farm.Shard]) {
		if s.rec.State != farm.ShardQueued || now.Sub(s.changed) <= matchAfter {
			return
		}
		d := demand{s.rec.Class, strings.Join(s.rec.Requires, ",")}
		v, known := verdicts[d]
		if !known {
			v = match(workers, s.rec.Class, s.rec.Requires)
			verdicts[d] = v
		}
		if v.able {
			return
		}
		if v.why != "" {
			forbidden[id] = v.why
		}
		for _, bake := range s.rec.Bakes {
			if text := "a worker with " + need(s.rec.Class, s.rec.Requires); waiting[bake] == "" || text < waiting[bake] {
				waiting[bake] = text
			}
		}
	})
	c.noteWaiting(ctx, waiting)
	maps.DeleteFunc(since, func(id string, _ time.Time) bool { return forbidden[id] == "" })
	for id, why := range forbidden {
		first, known := since[id]
		if !known {
			since[id] = now
		} else if now.Sub(first) > forbiddenGrace {
			if err := c.failQueued(ctx, id, why); err != nil {
				c.Log.Warn("nobody may run it", "shard", id, "err", err)
			}
		}
	}
}

// A verdict says whether somebody can run shards of a class; why, if nobody can although the workers are there.
type verdict struct {
	able bool
	why  string
}

// match compares what a shard wants with the workers that are present and take work.
func match(workers map[string]farm.Worker, class string, requires []string) verdict {
	lacking := map[string][]string{} // what is missing → workers
	for id, w := range workers {
		if !farm.Meets(w.Labels, requires) {
			continue
		}
		if slices.Contains(w.Classes, class) {
			return verdict{able: true}
		}
		if lack := w.Lacks[class]; lack != "" {
			lacking[lack] = append(lacking[lack], id)
		}
	}
	if len(lacking) == 0 {
		return verdict{}
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
	return verdict{why: fmt.Sprintf("no worker of this farm can %s. %s. Mend it (bakefarm doctor looks at a machine), start a worker that can, or %s",
		can, strings.Join(who, "; "), instead)}
}

// need says in words what a shard wants of a worker: "arch=arm64, kind=boot", or "kind=convert" where the architecture does not
// matter, and the labels that are required.
func need(class string, requires []string) string {
	arch, kind, _ := strings.Cut(class, ".")
	text := "kind=" + kind
	if arch != "any" {
		text = "arch=" + arch + ", " + text
	}
	return strings.Join(append([]string{text}, requires...), ", ")
}

// noteWaiting makes the records of the bakes say what they wait for.
func (c *Coordinator) noteWaiting(ctx context.Context, waiting map[string]string) {
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
		case changed && text != "":
			c.note(ctx, b.id, "waiting for "+text)
		}
	}
}

// failQueued fails a shard that is still queued.
func (c *Coordinator) failQueued(ctx context.Context, id, reason string) error {
	_, err := c.shards.change(ctx, id, func(s *farm.Shard) error {
		if s.State != farm.ShardQueued {
			return errAsIs
		}
		s.State, s.Error = farm.ShardFailed, clip(reason, maxError)
		return nil
	})
	return err
}
