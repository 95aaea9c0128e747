package worker

import (
	"context"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// A tap lets work in, or not.
type tap struct {
	mu      sync.Mutex
	opened  chan struct{}      // closed while it is open
	closing context.CancelFunc // ends what has waited for it to be open; nil: it is shut
	flow    context.Context
}

func newTap() *tap {
	t := &tap{opened: make(chan struct{})}
	t.open()
	return t
}

// open lets work in. It reports whether it was shut.
func (t *tap) open() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing != nil {
		return false
	}
	t.flow, t.closing = context.WithCancel(context.Background())
	close(t.opened)
	return true
}

// shut lets no more in. It reports whether it was open.
func (t *tap) shut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closing == nil {
		return false
	}
	t.closing()
	t.closing, t.opened = nil, make(chan struct{})
	return true
}

func (t *tap) isShut() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.closing == nil
}

// wait waits until the tap is open, and returns a context that ends when it is shut, or with ctx; nil when ctx ended first.
func (t *tap) wait(ctx context.Context) (context.Context, context.CancelFunc) {
	for {
		t.mu.Lock()
		opened, flow, open := t.opened, t.flow, t.closing != nil
		t.mu.Unlock()
		if open {
			both, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(flow, cancel)
			return both, func() { stop(); cancel() }
		}
		select {
		case <-opened:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// pullWhileOpen pulls hints of a class whenever the worker takes work, until ctx ends.
func (w *Worker) pullWhileOpen(ctx context.Context, class string, begin func(farm.Kind, bus.Hint)) {
	for ctx.Err() == nil {
		open, cancel := w.tap.wait(ctx)
		if open == nil {
			return
		}
		w.pull(open, class, begin)
		cancel()
	}
}

// drain stops the worker from taking work, or lets it take some again. What runs when it is drained may go on for Grace.
func (w *Worker) drain(_ context.Context, r bus.DrainRequest) (farm.Worker, error) {
	if r.Resume {
		if w.tap.open() {
			w.Log.Info("resumed: takes work again")
		}
	} else if w.tap.shut() {
		w.Log.Info("drained: takes no more work", "running", w.count(), "grace", w.Grace)
		time.AfterFunc(w.Grace, w.handBackIfShut)
	}
	w.renew()
	return w.record(w.host), nil
}

func (w *Worker) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.running)
}

// handBackIfShut ends the attempts of a worker that is still drained.
func (w *Worker) handBackIfShut() {
	if !w.tap.isShut() {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, a := range w.running {
		a.handBack()
	}
}

// succeed tells the coordinators of the workers whose place this one takes.
func (w *Worker) succeed(ctx context.Context) {
	for _, id := range w.Succeeds {
		ctx, cancel := context.WithTimeout(ctx, claimTimeout)
		_, err := bus.Call[bus.WorkerGoneRequest, bus.Empty](ctx, w.Bus, bus.WorkerGone, bus.WorkerGoneRequest{Worker: id})
		cancel()
		if err != nil && ctx.Err() == nil {
			w.Log.Warn("what a dead worker ran waits for its lease", "dead", id, "err", err)
		}
	}
}
