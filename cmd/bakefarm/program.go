package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"
)

// program is parts that run together: each is started after what it depends on, and stopped before it. Every goroutine
// is waited for.
//
//	p := newProgram(ctx, log)
//	p.closes("bus", b.Close)        // stopped last
//	p.runs("coordinator", c.Run)    // stopped first
//	err := p.wait()                 // until ctx ends or a part fails; then everything stops, in reverse order
type program struct {
	asked context.Context // ends when somebody wants the program to stop
	ctx   context.Context // ends then, and when a part fails
	fail  context.CancelCauseFunc
	log   *slog.Logger
	// patience bounds an orderly stop: what has not ended by then ends with the process.
	patience time.Duration
	mu       sync.Mutex
	parts    []part
}

type part struct {
	name string
	stop func() error
}

func newProgram(ctx context.Context, log *slog.Logger) *program {
	failable, fail := context.WithCancelCause(ctx)
	return &program{asked: ctx, ctx: failable, fail: fail, log: log, patience: stopTime}
}

func (p *program) add(name string, stop func() error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.parts = append(p.parts, part{name, stop})
}

// closes registers something that is open and has to be closed.
func (p *program) closes(name string, closeIt func() error) { p.add(name, closeIt) }

// runs starts a part that runs until its context ends. When it ends earlier, the whole program stops with its error.
func (p *program) runs(name string, run func(context.Context) error) {
	// The part's context must not end with the program's, but in its turn.
	ctx, cancel := context.WithCancel(context.WithoutCancel(p.ctx))
	done := make(chan error, 1)
	go func() {
		err := run(ctx)
		if ctx.Err() == nil {
			if err == nil {
				err = errors.New("ended by itself")
			}
			p.fail(fmt.Errorf("%s: %w", name, err))
		}
		done <- err
	}()
	p.add(name, func() error {
		cancel()
		err := <-done
		if errors.Is(err, context.Canceled) {
			return nil
		}
		return err
	})
}

// stopTime is a program's patience when nothing in it asks for more.
const stopTime = 5 * time.Second

// stopMore is what an orderly stop takes beside the draining of workers.
const stopMore = 2 * time.Second

// wait returns after the program was asked to stop, or a part has failed, and every part was stopped. The error is that of
// the part that failed.
func (p *program) wait() error {
	<-p.ctx.Done()
	cause := context.Cause(p.ctx)
	if p.asked.Err() != nil {
		cause = nil
	}
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		p.stop()
	}()
	select {
	case <-stopped:
	case <-time.After(p.patience):
		p.log.Warn("not everything has stopped in time", "after", p.patience)
	}
	return cause
}

// stop stops every part, the last one first.
func (p *program) stop() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := len(p.parts) - 1; i >= 0; i-- {
		part := p.parts[i]
		started := time.Now()
		if err := part.stop(); err != nil && !errors.Is(context.Cause(p.ctx), err) { // the cause is wait's to tell
			p.log.Warn("stop", "part", part.name, "error", err)
		}
		p.log.Debug("stopped", "part", part.name, "took", time.Since(started))
	}
	p.parts = nil
}
