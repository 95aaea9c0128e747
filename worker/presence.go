package worker

import (
	"context"
	"maps"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
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
	put := func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), presenceTimeout)
		defer cancel()
		if _, err := w.Bus.Workers.Put(ctx, w.ID, w.record(w.host)); err != nil {
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
		w.env.Cache.Trim() // others may have filled the disk, also while nothing is baked
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

// load is the host's load average over a minute, a processor; 0 where the system does not tell.
func load() float64 {
	raw, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	first, _, _ := strings.Cut(string(raw), " ")
	average, err := strconv.ParseFloat(first, 64)
	if err != nil {
		return 0
	}
	return math.Round(100*average/float64(runtime.NumCPU())) / 100
}

func (w *Worker) record(host string) farm.Worker {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := farm.Worker{
		Schema: farm.Schema, ID: w.ID, Host: host, Classes: w.Classes, Lacks: maps.Clone(w.lacks), Labels: w.Labels, Slots: w.Slots,
		Draining: w.tap.isShut(), Cache: w.env.Cache.Used(), CacheID: w.env.Cache.ID(), Has: w.slots.room.has(), Load: load(),
		Running: make([]string, 0, len(w.running)), Done: w.done.Load(),
		Started: w.started.UTC(), Seen: time.Now().UTC(),
	}
	for _, a := range w.running {
		r.Running = append(r.Running, a.task.Label)
	}
	slices.Sort(r.Running)
	return r
}
