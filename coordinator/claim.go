package coordinator

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
)

// errRefused ends a change that a worker may not make; the reply's Reason says why.
var errRefused = errors.New("refused")

// maxChoices bounds how many shards are tried for one claim: others may be faster each time.
const maxChoices = 8

// claim grants a worker the shard that its hint names, or a more urgent one of the same class. The reply tells whether the
// hint is of any further use: a shard that somebody runs gets a new hint when its lease runs out.
func (c *Coordinator) claim(ctx context.Context, req bus.ClaimRequest) (bus.ClaimReply, error) {
	if req.Worker == "" || len(req.Worker) > maxID {
		return bus.ClaimReply{}, invalid("claim: worker: want an ID of 1 to %d bytes", maxID)
	}
	hinted, _, _, err := c.shards.get(ctx, req.ShardID)
	if errors.Is(err, bus.ErrNotFound) {
		return bus.ClaimReply{Reason: "no such shard", Gone: true}, nil
	}
	if err != nil {
		return bus.ClaimReply{}, err
	}
	if reason := c.unfit(req.Worker, hinted.Class); reason != "" {
		return bus.ClaimReply{Reason: reason}, nil
	}
	worker, _ := c.workers.peek(req.Worker) // without a record it has no labels and nothing in its cache: it comes soon
	worker.ID = req.Worker
	var refused []string
	reply := bus.ClaimReply{Reason: "nothing is queued", Gone: true}
	for range maxChoices {
		id, chosen, left := c.queue.choose(hinted.Class, req.ShardID, worker, refused)
		if id == "" && left {
			return bus.ClaimReply{Reason: "what is queued requires labels that the worker does not have, or is kept for others for a moment"}, nil
		}
		if id == "" {
			break
		}
		reply, err = c.grant(ctx, id, worker)
		chosen()
		if err != nil || reply.Granted {
			return reply, err
		}
		refused = append(refused, id)
	}
	return reply, nil
}

// grant gives a shard to a worker if it waits for one.
func (c *Coordinator) grant(ctx context.Context, id string, worker farm.Worker) (bus.ClaimReply, error) {
	rec, _, mirrored, err := c.shards.get(ctx, id)
	if err == nil && mirrored && rec.State != farm.ShardQueued { // the mirror may lag
		rec, _, err = c.shards.fetch(ctx, id)
	}
	if errors.Is(err, bus.ErrNotFound) {
		return bus.ClaimReply{Reason: "no such shard", Gone: true}, nil
	}
	if err != nil {
		return bus.ClaimReply{}, err
	}
	var outputs farm.Payload
	waits := rec.State == farm.ShardQueued
	if waits { // else the refusal, below, needs none
		if outputs, err = c.inputs(ctx, rec); errors.Is(err, errVanished) {
			c.replan(rec.Bakes)
			return bus.ClaimReply{Reason: err.Error()}, nil
		}
		if err != nil {
			return bus.ClaimReply{}, err
		}
	}
	reply := bus.ClaimReply{}
	token := rand.Text()
	rec, err = c.shards.change(ctx, id, func(s *farm.Shard) error {
		switch s.State {
		case farm.ShardQueued:
		case farm.ShardClaimed:
			reply.Reason, reply.Gone = "claimed by "+s.Worker, true
			return errRefused
		default:
			reply.Reason, reply.Gone = "it is "+string(s.State), true
			return errRefused
		}
		if !waits { // it was given back this very moment, and its inputs have not been looked up
			reply.Reason = "it waits again"
			return errRefused
		}
		if !farm.Meets(worker.Labels, s.Requires) {
			reply.Reason = "it requires labels that the worker does not have"
			return errRefused
		}
		s.State, s.Token, s.Worker, s.Lease, s.Beat = farm.ShardClaimed, token, worker.ID, c.Lease, 0
		s.Cache = worker.CacheID
		s.Attempt++
		return nil
	})
	switch {
	case errors.Is(err, errRefused):
		return reply, nil
	case errors.Is(err, bus.ErrNotFound):
		return bus.ClaimReply{Reason: "no such shard", Gone: true}, nil
	case err != nil:
		return bus.ClaimReply{}, err
	}
	c.underWay(ctx, rec)
	return bus.ClaimReply{Granted: true, Task: farm.Task{
		Schema: farm.Schema, ShardID: rec.ID, Key: rec.Key, Kind: rec.Kind, Label: rec.Label, Token: token,
		Attempt: rec.Attempt, Lease: rec.Lease, Spec: rec.Spec, Outputs: outputs,
	}}, nil
}

// errVanished: the output of a shard that another one builds upon is known no longer.
var errVanished = errors.New("has vanished: it has to be made again")

// inputs collects the outputs of a shard's dependencies, in their order.
func (c *Coordinator) inputs(ctx context.Context, s farm.Shard) (farm.Payload, error) {
	if len(s.Deps) == 0 {
		return farm.Payload{}, nil
	}
	outputs := make([]json.RawMessage, len(s.Deps))
	err := parallel(ctx, len(s.Deps), func(ctx context.Context, i int) error {
		raw, err := c.outputOf(ctx, s.Deps[i])
		outputs[i] = raw
		return err
	})
	if err != nil {
		return farm.Payload{}, err
	}
	size := 0
	for _, o := range outputs {
		size += len(o) + 1
	}
	w := c.Store.Begin()
	payload, err := imagestore.StorePayload(ctx, w, outputs)
	if err == nil && payload.Piece != "" {
		err = w.Commit(ctx)
	}
	return payload, err
}

// outputOf finds a finished shard's output by the shard's ID; errVanished.
func (c *Coordinator) outputOf(ctx context.Context, id string) (json.RawMessage, error) {
	if raw, _, ok := c.outputs.get(id); ok {
		return raw, nil
	}
	if !isRebake(id) {
		entry, _, err := c.Bus.Actions.Get(ctx, id)
		if err == nil {
			c.outputs.put(id, entry.Output, origin(entry))
			return entry.Output, nil
		}
		if !errors.Is(err, bus.ErrNotFound) {
			return nil, err
		}
	}
	rec, _, err := c.Bus.Shards.Get(ctx, id)
	switch {
	case err == nil && rec.State == farm.ShardDone:
		c.outputs.put(id, rec.Output, "")
		return rec.Output, nil
	case err == nil || errors.Is(err, bus.ErrNotFound):
		return nil, fmt.Errorf("the output of shard %s %w", id, errVanished)
	}
	return nil, err
}

// origin says how an entry of the action cache came to be, for people.
func origin(e farm.ActionEntry) string {
	return fmt.Sprintf("made by %s at %s", e.Worker, e.At.UTC().Format(time.DateTime))
}

// beat keeps an attempt's lease, and hands its lines to those who watch.
func (c *Coordinator) beat(ctx context.Context, req bus.BeatRequest) (bus.BeatReply, error) {
	reply := bus.BeatReply{}
	rec, err := c.shards.change(ctx, req.ShardID, func(s *farm.Shard) error {
		if reply.Reason = notYours(s, req.Token); reply.Reason != "" {
			return errRefused
		}
		s.Beat++
		return nil
	})
	switch {
	case errors.Is(err, errRefused):
		reply.Stop = true
		c.heardOf(ctx, rec, req.Worker)
		return reply, nil
	case errors.Is(err, bus.ErrNotFound):
		return bus.BeatReply{Stop: true, Reason: "no such shard"}, nil
	case err != nil:
		return bus.BeatReply{}, err
	}
	c.logLines(ctx, rec, req.Lines)
	return bus.BeatReply{}, nil
}

// notYours says why the holder of a token may not write a shard; empty: it may.
func notYours(s *farm.Shard, token string) string {
	switch {
	case s.State != farm.ShardClaimed:
		return "the shard is " + string(s.State)
	case token == "" || s.Token != token:
		return fmt.Sprintf("attempt %d, by %s, runs the shard now", s.Attempt, s.Worker)
	}
	return ""
}
