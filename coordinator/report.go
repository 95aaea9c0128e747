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
	_, err = c.shards.change(ctx, rec.ID, func(s *farm.Shard) error {
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
		c.heardOf(ctx, rec, req.Worker)
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
		c.fall(s, reason, retry)
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
	c.underWay(ctx, rec)
	for _, bake := range rec.Bakes {
		c.note(ctx, bake, fmt.Sprintf("%s: handed back by %s, which stops", rec.Label, req.Worker))
	}
	c.hint(ctx, rec)
	return bus.ReportReply{Accepted: true}, nil
}

// fall ends the running attempt of a shard with an error. The shard is offered again, unless that makes no sense or this was
// the last of so many.
func (c *Coordinator) fall(s *farm.Shard, reason string, retry bool) {
	c.over(s, farm.Attempt{Reason: reason})
	if s.Failed++; retry && s.Failed < c.MaxAttempts && s.Attempt < mostAttempts {
		s.State = farm.ShardQueued
	}
}

// lose ends the running attempt of a shard whose worker has gone. Only what may be the shard's doing counts against it:
//
//	the worker died, or was never heard of again   counts; after MaxLost of them the shard is set aside
//	the worker was paused or cut off, and is back  does not (lived), when it says so
//	NATS or this coordinator stood still           nothing is lost then (attention.go)
//
// Whatever counts, attempts are bounded: a shard that starves its worker of the time to beat each time would go round for ever.
func (c *Coordinator) lose(s *farm.Shard, reason string) {
	c.over(s, farm.Attempt{Reason: reason, Lost: true})
	switch s.Lost++; {
	case s.Lost >= c.MaxLost:
		s.Error = fmt.Sprintf("set aside: %d workers have gone while they ran it, so that it may be what kills them; the last one: %s", s.Lost, reason)
	case s.Attempt >= mostAttempts:
		s.Error = fmt.Sprintf("set aside after %d attempts; the last one: %s", s.Attempt, reason)
	default:
		s.State = farm.ShardQueued
	}
}

// mostAttempts bounds the claims of one shard, whatever became of them.
const mostAttempts = 20

// over ends the running attempt of a shard, and remembers it.
func (c *Coordinator) over(s *farm.Shard, a farm.Attempt) {
	a.Number, a.Worker, a.At = s.Attempt, s.Worker, c.Now()
	s.Error, s.Token, s.State = a.Reason, "", farm.ShardFailed
	a.Reason = clip(a.Reason, maxLine)
	s.History = append(slices.Clone(s.History), a)
	s.History = s.History[max(0, len(s.History)-farm.MaxHistory):]
}

// heardOf notes that a worker lives which is thought to have gone with an attempt at a shard: what it had lost does not count
// against the shard.
func (c *Coordinator) heardOf(ctx context.Context, shard farm.Shard, worker string) {
	gone := func(a farm.Attempt) bool { return a.Worker == worker && a.Lost && !a.Lived }
	if shard.State.Finished() || !slices.ContainsFunc(shard.History, gone) {
		return
	}
	_, err := c.shards.change(ctx, shard.ID, func(s *farm.Shard) error {
		if s.State.Finished() || !slices.ContainsFunc(s.History, gone) {
			return errAsIs
		}
		s.History = slices.Clone(s.History)
		for i := range s.History {
			if gone(s.History[i]) {
				s.History[i].Lived = true
				s.Lost = max(0, s.Lost-1)
			}
		}
		return nil
	})
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		c.Log.Warn("that a worker lives is not noted", "shard", shard.ID, "worker", worker, "err", err)
	}
}

// afterLoss tells about an attempt that came to nothing, and has the shard offered again after a while.
func (c *Coordinator) afterLoss(ctx context.Context, rec farm.Shard, wait time.Duration) {
	if rec.State != farm.ShardQueued {
		return
	}
	c.underWay(ctx, rec)
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
