package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/worker/execute"
)

const (
	flushEvery    = 250 * time.Millisecond // lines travel at most so often
	maxOutput     = 256 << 10              // bytes of an output: what a coordinator takes
	maxError      = 8 << 10                // bytes of an error's text
	reportTimeout = 5 * time.Second
	handBack      = time.Second // for a report when the worker stops
)

// attempt is one claim that was granted.
type attempt struct {
	w     *Worker
	hint  bus.Hint
	task  farm.Task
	lines *lines
	ctx   context.Context // what runs; its cause says why it was stopped
	stop  context.CancelCauseFunc

	handBack func() // ends it because the worker takes no more work: it is reported, and does not count
}

// errDropped is why an attempt's result is of no use to anybody.
type errDropped struct{ reason string }

func (e *errDropped) Error() string { return "dropped: " + e.reason }

// attempt goes after a hint. working ends when the worker stops and its grace is over.
func (w *Worker) attempt(working context.Context, h bus.Hint) {
	if w.tap.isShut() { // drained since the hint was fetched: another worker has time
		if err := h.Nak(0); err != nil {
			w.Log.Debug("hint comes again", "shard", h.ShardID, "err", err)
		}
		return
	}
	task, ok := w.claim(working, h)
	if !ok {
		return
	}
	a := &attempt{w: w, hint: h, task: task, lines: newLines()}
	ctx, cancel := context.WithCancelCause(working)
	defer cancel(nil)
	a.ctx, a.stop = ctx, func(cause error) { cancel(&errDropped{cause.Error()}) }
	a.handBack = func() { cancel(errStopping) }
	if !w.enter(a) {
		a.ack()
		return
	}
	defer w.exit(a)

	beating, quiet := context.WithCancel(context.WithoutCancel(working))
	beats := make(chan struct{})
	go func() {
		defer close(beats)
		a.beat(beating)
	}()
	defer func() {
		quiet()
		<-beats
	}()

	started := time.Now()
	output, err := a.outlast(a.run)
	took := time.Since(started)
	log := w.Log.With("shard", task.Label, "attempt", task.Attempt, "took", took.Round(time.Millisecond))
	var dropped *errDropped
	if errors.As(context.Cause(ctx), &dropped) {
		log.Info("attempt dropped", "reason", dropped.reason)
		a.ack()
		return
	}
	if err != nil {
		log.Info("attempt failed", "err", err)
	} else {
		log.Debug("attempt done")
	}
	a.report(working, a.result(output, err, took))
}

// claim asks a coordinator for the shard of a hint.
func (w *Worker) claim(ctx context.Context, h bus.Hint) (farm.Task, bool) {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	reply, err := bus.Call[bus.ClaimRequest, bus.ClaimReply](ctx, w.Bus, bus.Claim, bus.ClaimRequest{ShardID: h.ShardID, Worker: w.ID})
	switch {
	case err != nil:
		w.Log.Warn("claim not answered: the hint is handed back", "shard", h.ShardID, "err", err)
		err = h.Nak(noCoordinator)
	case reply.Granted:
		return reply.Task, true
	case reply.Gone:
		err = h.Ack()
	default:
		w.Log.Debug("claim refused", "shard", h.ShardID, "reason", reply.Reason)
		err = h.Nak(noCoordinator)
	}
	if err != nil {
		w.Log.Debug("hint comes again", "shard", h.ShardID, "err", err)
	}
	return farm.Task{}, false
}

// outlast calls run again while the image store is away, for at most Config.Patience: an outage is nothing that another
// attempt, there or here, would do better at, so it must not cost one.
func (a *attempt) outlast(run func() (json.RawMessage, error)) (json.RawMessage, error) {
	var away time.Time // since when
	for pause := firstBackoff; ; pause = min(2*pause, maxBackoff) {
		output, err := run()
		if err == nil || !execute.Outage(err) || a.ctx.Err() != nil {
			return output, err
		}
		if away.IsZero() {
			away = time.Now()
			a.lines.say("waiting for the image store: " + err.Error())
			a.w.Log.Warn("the image store is away: the shard waits", "shard", a.task.Label, "at most", a.w.Patience, "err", err)
		}
		if time.Since(away)+pause > a.w.Patience {
			return output, err
		}
		select {
		case <-a.ctx.Done():
			return output, err
		case <-time.After(pause):
		}
	}
}

// run runs the task. A panic is the task's failure, not the worker's.
func (a *attempt) run() (output json.RawMessage, err error) {
	defer func() {
		if p := recover(); p != nil {
			a.w.Log.Error("executor panicked", "shard", a.task.Label, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("the worker has a bug: %s: %v", a.task.Kind, p)
		}
	}()
	return execute.Run(a.ctx, &a.w.env, a.task, a.lines.say)
}

// result is the report on what run returned.
func (a *attempt) result(output json.RawMessage, err error, took time.Duration) bus.ReportRequest {
	r := bus.ReportRequest{ShardID: a.task.ShardID, Token: a.task.Token, Worker: a.w.ID, Took: took}
	switch {
	case err == nil && len(output) > maxOutput:
		r.Error = fmt.Sprintf("output of %d bytes: at most %d can be reported", len(output), maxOutput)
	case err == nil:
		r.Output = output
	case errors.Is(context.Cause(a.ctx), errStopping):
		r.Error, r.Retry, r.HandedBack = errStopping.Error(), true, true
	default:
		r.Error, r.Retry = clip(err.Error(), maxError), execute.MayPass(err)
	}
	r.Lines = a.lines.take()
	return r
}

// report records the attempt's end and takes the hint out of the queue after that. It tries for as long as the attempt
// may count; beats go on meanwhile.
func (a *attempt) report(working context.Context, r bus.ReportRequest) {
	log := a.w.Log.With("shard", a.task.Label)
	deadline := time.Now().Add(2 * a.task.Lease)
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, maxBackoff) {
		reply, err := a.send(working, r)
		switch {
		case err == nil && !reply.Accepted:
			log.Info("report not accepted", "reason", reply.Reason)
			a.ack()
			return
		case err == nil:
			a.ack()
			return
		case errors.Is(err, bus.ErrInvalid), errors.Is(err, bus.ErrTooLarge):
			log.Error("report refused: the shard is left to its lease", "err", err)
			return
		case working.Err() != nil, time.Now().After(deadline):
			log.Warn("report not delivered: the shard is left to its lease", "err", err)
			return
		}
		log.Warn("report not delivered: trying again", "err", err)
		select {
		case <-time.After(pause):
		case <-working.Done(): // once more, at once
		}
	}
}

// send sends a report. It also goes out when the worker stops, but doesn't wait long then.
func (a *attempt) send(working context.Context, r bus.ReportRequest) (bus.ReportReply, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(working), reportTimeout)
	defer cancel()
	defer context.AfterFunc(working, func() { time.AfterFunc(handBack, cancel) })()
	return bus.Call[bus.ReportRequest, bus.ReportReply](ctx, a.w.Bus, bus.Report, r)
}

func (a *attempt) ack() {
	if err := a.hint.Ack(); err != nil {
		a.w.Log.Debug("hint comes again", "shard", a.task.ShardID, "err", err)
	}
}

// beat tells the coordinator that the attempt is alive, every third of the lease and when lines are waiting, until ctx
// ends.
func (a *attempt) beat(ctx context.Context) {
	every := max(min(a.task.Lease, bus.HintAckWait)/3, 10*time.Millisecond)
	last := time.Now()
	timer := time.NewTimer(every)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-a.lines.ready:
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Until(last.Add(flushEvery))):
			}
		}
		last = time.Now()
		timer.Reset(a.beatOnce(ctx, every))
	}
}

// beatOnce sends one beat and returns when the next one is due.
func (a *attempt) beatOnce(ctx context.Context, every time.Duration) time.Duration {
	if err := a.hint.InProgress(); err != nil {
		a.w.Log.Debug("hint not renewed", "shard", a.task.Label, "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, every)
	defer cancel()
	said := a.lines.take()
	reply, err := bus.Call[bus.BeatRequest, bus.BeatReply](ctx, a.w.Bus, bus.Beat,
		bus.BeatRequest{ShardID: a.task.ShardID, Token: a.task.Token, Worker: a.w.ID, Lines: said})
	switch {
	case err != nil && context.Cause(ctx) == context.Canceled: // the attempt ended meanwhile
	case err != nil:
		a.w.Log.Warn("beat not answered", "shard", a.task.Label, "err", err)
		a.lines.restore(said)
		return every / 2
	case reply.Stop:
		a.stop(errors.New(reply.Reason))
	}
	return every
}
