package worker

import (
	"context"
	"os"
	"slices"
	"time"

	"bakefarm/farm"
)

const (
	presenceEvery   = 10 * time.Second // a third of what the record lives
	presenceAtMost  = time.Second      // between two renewals because something has changed
	presenceTimeout = 2 * time.Second
)

// presence keeps the worker's record in the farm, and removes it when ctx ends. A farm that has no record for a moment
// shows a worker less, nothing more: errors are only worth a line.
func (w *Worker) presence(ctx context.Context) {
	host, _ := os.Hostname() // for people; empty is fine
	put := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), presenceTimeout)
		defer cancel()
		if _, err := w.Bus.Workers.Put(ctx, w.ID, w.record(host)); err != nil {
			w.Log.Warn("presence not renewed", "err", err)
		}
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), presenceTimeout)
		defer cancel()
		if err := w.Bus.Workers.Delete(ctx, w.ID, 0); err != nil {
			w.Log.Debug("presence not removed: it runs out by itself", "err", err)
		}
	}()
	for {
		put()
		select {
		case <-ctx.Done():
			return
		case <-time.After(presenceAtMost):
		}
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
		case <-time.After(presenceEvery - presenceAtMost):
		}
	}
}

// renew has the presence record renewed soon.
func (w *Worker) renew() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

func (w *Worker) record(host string) farm.Worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := farm.Worker{
		Schema: farm.Schema, ID: w.ID, Host: host, Classes: w.Classes, Lacks: w.lacks, Slots: w.Slots,
		Running: make([]string, 0, len(w.running)), Done: w.done.Load(),
		Started: w.started.UTC(), Seen: time.Now().UTC(),
	}
	for _, a := range w.running {
		r.Running = append(r.Running, a.task.Label)
	}
	slices.Sort(r.Running)
	return r
}
