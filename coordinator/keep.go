package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// isRebake reports whether a shard belongs to one re-bake alone.
func isRebake(shardID string) bool { return strings.Contains(shardID, "~") }

// shardID is the ID of the shard with the given key, in a re-bake or else in any bake.
func shardID(key string, rebake bool, bake string) string {
	if rebake {
		return key + "~" + bake
	}
	return key
}

// keep puts a reported output where the farm looks for it: the observations or the action cache. The first output of a
// key stays; kept is that one, and complaint says in which way the reported one differs.
func (c *Coordinator) keep(ctx context.Context, rec farm.Shard, req bus.ReportRequest, out output) (kept json.RawMessage, complaint string, err error) {
	if rec.Kind == farm.KindObserve {
		// What the mirror had when the attempt began, not when it was heard of.
		seen := farm.Observation{Schema: farm.Schema, Key: rec.Key, Output: req.Output, At: c.Now().Add(-req.Took), Took: req.Took}
		err := c.observations.put(ctx, rec.Key.Encoded(), seen)
		return req.Output, "", err
	}
	entry := farm.ActionEntry{
		Schema: farm.Schema, Key: rec.Key, Kind: rec.Kind, Output: req.Output, Worker: req.Worker, Took: req.Took, At: c.Now(),
	}
	_, err = c.Bus.Actions.Create(ctx, rec.Key.Encoded(), entry)
	if errors.Is(err, bus.ErrExists) {
		var first farm.ActionEntry
		if first, _, err = c.Bus.Actions.Get(ctx, rec.Key.Encoded()); err != nil {
			return nil, "", err
		}
		was, err := readOutput(rec.Kind, first.Output)
		if err != nil {
			return nil, "", err
		}
		if !sameOutput(was, out) {
			complaint = differs(rec.Label, was, out)
		}
		entry = first
	}
	if err != nil {
		return nil, "", err
	}
	c.outputs.put(rec.ID, entry.Output, origin(entry))
	return entry.Output, complaint, nil
}

// finding is what is known of one shard's output.
type finding struct {
	output json.RawMessage // nil: nobody has it
	origin string          // for people
	worker string
	took   time.Duration
}

// want names an output to look for.
type want struct {
	id   string // shard ID
	kind farm.Kind
	key  string // hex
}

// find looks for the outputs of shards: in the memo, the action cache, and, for a re-bake, its own finished shards. A hit
// that names a piece which the store lacks is a miss, and its entry goes. Observations are not found here.
func (c *Coordinator) find(ctx context.Context, wants []want) ([]finding, error) {
	found := make([]finding, len(wants))
	revisions := make([]uint64, len(wants))
	err := parallel(ctx, len(wants), func(ctx context.Context, i int) error {
		var err error
		found[i], revisions[i], err = c.findOne(ctx, wants[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	whole, err := c.whole(ctx, wants, found)
	if err != nil {
		return nil, err
	}
	for i := range wants {
		if found[i].output == nil || whole[i] {
			continue
		}
		c.Log.Warn("an output has lost pieces: it will be made again", "shard", wants[i].id, "kind", wants[i].kind)
		found[i] = finding{}
		c.outputs.forget(wants[i].id)
		if isRebake(wants[i].id) {
			continue
		}
		if revisions[i] == 0 { // from the memo
			if _, revisions[i], err = c.Bus.Actions.Get(ctx, wants[i].key); errors.Is(err, bus.ErrNotFound) {
				continue
			} else if err != nil {
				return nil, err
			}
		}
		err := c.Bus.Actions.Delete(ctx, wants[i].key, revisions[i])
		if err != nil && !errors.Is(err, bus.ErrConflict) && !errors.Is(err, bus.ErrNotFound) {
			return nil, err
		}
	}
	return found, nil
}

func (c *Coordinator) findOne(ctx context.Context, w want) (finding, uint64, error) {
	if raw, origin, ok := c.outputs.get(w.id); ok {
		return finding{output: raw, origin: origin}, 0, nil
	}
	if isRebake(w.id) {
		rec, _, err := c.Bus.Shards.Get(ctx, w.id)
		if errors.Is(err, bus.ErrNotFound) || err == nil && rec.State != farm.ShardDone {
			return finding{}, 0, nil
		}
		return finding{output: rec.Output, worker: rec.Worker, took: rec.Took}, 0, err
	}
	entry, revision, err := c.Bus.Actions.Get(ctx, w.key)
	if errors.Is(err, bus.ErrNotFound) {
		return finding{}, 0, nil
	}
	if err != nil {
		return finding{}, 0, err
	}
	c.outputs.put(w.id, entry.Output, origin(entry))
	return finding{output: entry.Output, origin: origin(entry), worker: entry.Worker, took: entry.Took}, revision, nil
}

// whole reports for each finding whether its output reads well and the store has everything that it names.
func (c *Coordinator) whole(ctx context.Context, wants []want, found []finding) ([]bool, error) {
	var asked asking
	whole := make([]bool, len(wants))
	spans := make([][2]int, len(wants))
	for i, f := range found {
		if f.output == nil {
			continue
		}
		out, err := readOutput(wants[i].kind, f.output)
		if err != nil {
			c.Log.Warn("an output does not read", "shard", wants[i].id, "err", err)
			continue
		}
		spans[i][0] = len(asked)
		asked = append(asked, out.pieces...)
		spans[i][1] = len(asked)
		whole[i] = true
	}
	have, err := asked.of(ctx, c.Store)
	if err != nil {
		return nil, err
	}
	for i, span := range spans {
		for _, ok := range have[span[0]:span[1]] {
			whole[i] = whole[i] && ok
		}
	}
	return whole, nil
}
