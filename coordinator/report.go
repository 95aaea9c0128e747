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

// report ends an attempt. Only the attempt that the record names counts; one that reports again is told the same again.
//
// The order of the writes makes it safe to die in between: the output goes into the action cache first and the record
// says done after that, so that a shard which looks unfinished is at worst run again, to the same output.
func (c *Coordinator) report(ctx context.Context, req bus.ReportRequest) (bus.ReportReply, error) {
	req.Took = max(req.Took, 0)
	rec, refused, err := c.reported(ctx, req)
	if err != nil || refused != nil {
		return deref(refused), err
	}
	c.logLines(ctx, rec, req.Lines)
	if req.Error != "" || len(req.Output) == 0 {
		reason := req.Error
		if reason == "" {
			reason = "the worker reported neither an output nor an error"
		}
		if req.HandedBack {
			return c.handedBack(ctx, rec, req)
		}
		return c.attemptFailed(ctx, rec, req, reason, req.Retry)
	}
	out, err := readOutput(rec.Kind, req.Output)
	if err != nil {
		return c.attemptFailed(ctx, rec, req, err.Error(), false)
	}
	have, err := c.Store.Have(ctx, out.pieces)
	if err != nil {
		return bus.ReportReply{}, err
	}
	if i := slices.Index(have, false); i >= 0 {
		return c.attemptFailed(ctx, rec, req, fmt.Sprintf("the output names %s, which is not in the store", out.pieces[i]), true)
	}
	kept, complaint, err := c.keep(ctx, rec, req, out)
	if err != nil {
		return bus.ReportReply{}, err
	}
	if complaint != "" {
		c.Log.Warn(complaint, "shard", rec.ID, "worker", req.Worker)
		if isRebake(rec.ID) {
			return c.attemptFailed(ctx, rec, req, complaint, false)
		}
		for _, bake := range rec.Bakes {
			c.note(ctx, bake, complaint+": the first output is kept")
		}
	}
	reply := bus.ReportReply{}
	rec, err = c.shards.change(ctx, rec.ID, func(s *farm.Shard) error {
		if reply.Reason = notYours(s, req.Token); reply.Reason != "" {
			return errRefused
		}
		s.State, s.Output, s.Error, s.Took, s.DoneAt = farm.ShardDone, kept, "", req.Took, c.Now()
		return nil
	})
	if errors.Is(err, errRefused) {
		return reply, nil
	}
	if err != nil {
		return bus.ReportReply{}, err
	}
	c.shardEvent(ctx, rec, req.Took)
	return bus.ReportReply{Accepted: true}, nil
}

// reported finds the record that a report is about, or the reply to one that doesn't count.
func (c *Coordinator) reported(ctx context.Context, req bus.ReportRequest) (rec farm.Shard, refused *bus.ReportReply, err error) {
	rec, _, mirrored, err := c.shards.get(ctx, req.ShardID)
	if err == nil && mirrored && notYours(&rec, req.Token) != "" {
		rec, _, err = c.shards.fetch(ctx, req.ShardID)
	}
	if errors.Is(err, bus.ErrNotFound) {
		return rec, &bus.ReportReply{Reason: "no such shard"}, nil
	}
	if err != nil {
		return rec, nil, err
	}
	if rec.State == farm.ShardDone && req.Token != "" && rec.Token == req.Token && req.Error == "" {
		return rec, &bus.ReportReply{Accepted: true, Reason: "reported before"}, nil
	}
	if reason := notYours(&rec, req.Token); reason != "" {
		return rec, &bus.ReportReply{Reason: reason}, nil
	}
	return rec, nil, nil
}

func deref(r *bus.ReportReply) bus.ReportReply {
	if r == nil {
		return bus.ReportReply{}
	}
	return *r
}

// attemptFailed records that an attempt came to nothing: the shard is queued again if that makes sense, else it failed,
// and with it every bake that wants it.
func (c *Coordinator) attemptFailed(ctx context.Context, rec farm.Shard, req bus.ReportRequest, reason string, retry bool) (bus.ReportReply, error) {
	reason = clip(reason, maxError)
	if tail := lastLines(req.Lines, 10); tail != "" && reason == req.Error && !strings.Contains(reason, tail) {
		reason = clip(reason+"\n"+tail, maxError)
	}
	reply := bus.ReportReply{}
	rec, err := c.shards.change(ctx, rec.ID, func(s *farm.Shard) error {
		if reply.Reason = notYours(s, req.Token); reply.Reason != "" {
			return errRefused
		}
		c.lose(s, reason, retry, c.MaxAttempts)
		return nil
	})
	if errors.Is(err, errRefused) {
		return reply, nil
	}
	if err != nil {
		return bus.ReportReply{}, err
	}
	c.afterLoss(ctx, rec, backOff(rec.Attempt))
	return bus.ReportReply{Accepted: true}, nil
}

// handedBack offers a shard again whose worker stops. The attempt does not count: it says nothing about the shard.
func (c *Coordinator) handedBack(ctx context.Context, rec farm.Shard, req bus.ReportRequest) (bus.ReportReply, error) {
	reply := bus.ReportReply{}
	rec, err := c.shards.change(ctx, rec.ID, func(s *farm.Shard) error {
		if reply.Reason = notYours(s, req.Token); reply.Reason != "" {
			return errRefused
		}
		s.State, s.Token = farm.ShardQueued, ""
		s.Attempt--
		return nil
	})
	if errors.Is(err, errRefused) {
		return reply, nil
	}
	if err != nil {
		return bus.ReportReply{}, err
	}
	c.shardEvent(ctx, rec, 0)
	for _, bake := range rec.Bakes {
		c.note(ctx, bake, fmt.Sprintf("%s: handed back by %s, which stops", rec.Label, req.Worker))
	}
	c.hint(ctx, rec)
	return bus.ReportReply{Accepted: true}, nil
}

// lose ends the running attempt of a shard without a result. The shard is offered again, unless that makes no sense or
// this was the last of so many attempts.
func (c *Coordinator) lose(s *farm.Shard, reason string, retry bool, attempts int) {
	s.History = append(slices.Clone(s.History), farm.Attempt{
		Number: s.Attempt, Worker: s.Worker, Reason: clip(reason, maxLine), At: c.Now(),
	})
	s.History = s.History[max(0, len(s.History)-farm.MaxHistory):]
	s.Error, s.Token = reason, ""
	s.State = farm.ShardFailed
	if retry && s.Attempt < attempts {
		s.State = farm.ShardQueued
	}
}

// afterLoss tells about an attempt that came to nothing, and has the shard offered again after a while.
func (c *Coordinator) afterLoss(ctx context.Context, rec farm.Shard, wait time.Duration) {
	c.shardEvent(ctx, rec, 0)
	if rec.State != farm.ShardQueued {
		return
	}
	for _, bake := range rec.Bakes {
		c.note(ctx, bake, fmt.Sprintf("%s: attempt %d, on %s, failed, trying again: %s", rec.Label, rec.Attempt, rec.Worker, rec.Error))
	}
	if wait > 0 {
		at := time.Now().Add(wait)
		c.queue.holdUntil(rec.ID, at)
		c.shards.hintAt(rec.ID, at) // the sweep sends it
		return
	}
	c.hint(ctx, rec)
}

// backOff is how long a shard waits after its nth attempt failed.
func backOff(attempt int) time.Duration {
	return min(100*time.Millisecond<<min(attempt, 10), 10*time.Second)
}

// lastLines joins the last n lines of what a worker printed.
func lastLines(lines []string, n int) string {
	return clip(strings.Join(lines[max(0, len(lines)-n):], "\n"), maxError/2)
}
