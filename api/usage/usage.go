// Package usage writes down when versions are used, without a write for each use: uses are collected in memory and written
// now and then, one record a version, and only what is newer than the record by farm.UsageGrain. A version that is pulled a
// thousand times a second costs one small write a minute.
//
//	registry, disks, deployments ──Note──▶ pending ──each second──▶ KV usage ──▶ catalog, retention
//
// What was noted within the last second before a process is killed is lost; the next use says the same.
package usage

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// Kind is how a version is used.
type Kind int

// The kinds of use.
const (
	Pulled   Kind = iota // a manifest or disk of it was downloaded
	Resolved             // a channel led to it
	Deployed             // somebody reported to run it
)

// Records are the bucket of usage: bus.Bucket.
type Records interface {
	Get(ctx context.Context, key string) (farm.Usage, uint64, error)
	Update(ctx context.Context, key string, u farm.Usage, revision uint64) (uint64, error)
}

// Recorder collects uses. Its methods may be called concurrently; a nil Recorder forgets everything.
type Recorder struct {
	records Records
	log     *slog.Logger

	mu      sync.Mutex
	pending map[string]farm.Usage // by name@version: uses that are not written yet
	written map[string]farm.Usage // what the records are known to say; emptied when it has become large
}

// Times and bounds of a Recorder.
const (
	flushEvery = time.Second
	lastFlush  = 2 * time.Second // for what is pending when it stops
	maxPending = 1 << 17         // versions
	maxTries   = 5               // against others who write the same record
)

// New makes a Recorder that writes while Run runs.
func New(records Records, log *slog.Logger) *Recorder {
	return &Recorder{records: records, log: log, pending: map[string]farm.Usage{}, written: map[string]farm.Usage{}}
}

// Note says that a version is being used now.
func (r *Recorder) Note(name, version string, kind Kind) {
	if r == nil || name == "" || version == "" {
		return
	}
	use := farm.Usage{Schema: farm.Schema, Name: name, Version: version}
	*field(&use, kind) = time.Now().UTC()
	key := name + "@" + version
	r.mu.Lock()
	defer r.mu.Unlock()
	if written, ok := r.written[key]; ok && !newer(written, use) {
		return
	}
	if was, ok := r.pending[key]; ok {
		use = merge(was, use)
	} else if len(r.pending) >= maxPending {
		return // the records can't be reached for long: what is used is used again
	}
	r.pending[key] = use
}

// Run writes until ctx ends, and then what is pending; it returns nil.
func (r *Recorder) Run(ctx context.Context) error {
	tick := time.NewTicker(flushEvery)
	defer tick.Stop()
	for troubles := 0; ; {
		select {
		case <-tick.C:
			switch err := r.flush(ctx); {
			case err == nil:
				troubles = 0
			case ctx.Err() == nil:
				if troubles++; troubles == 1 || troubles%60 == 0 {
					r.log.Warn("uses of images can't be written down, trying again", "err", err)
				}
			}
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastFlush)
			defer cancel()
			if err := r.flush(ctx); err != nil {
				r.log.Warn("the last uses of images were not written down", "err", err)
			}
			return nil
		}
	}
}

// flush writes what is pending. What fails stays pending.
func (r *Recorder) flush(ctx context.Context) error {
	r.mu.Lock()
	todo := r.pending
	r.pending = map[string]farm.Usage{}
	r.mu.Unlock()
	var failed error
	for key, use := range todo {
		written := use
		if failed == nil {
			written, failed = r.write(ctx, key, use)
		}
		r.mu.Lock()
		if failed != nil {
			r.pending[key] = merge(use, r.pending[key])
		} else {
			if len(r.written) >= maxPending {
				clear(r.written)
			}
			r.written[key] = written
		}
		r.mu.Unlock()
	}
	return failed
}

// write brings one record up to date, and returns what it says then.
func (r *Recorder) write(ctx context.Context, key string, use farm.Usage) (farm.Usage, error) {
	for try := 1; ; try++ {
		was, revision, err := r.records.Get(ctx, key)
		if err != nil && !errors.Is(err, bus.ErrNotFound) {
			return use, err
		}
		if err == nil && !newer(was, use) {
			return was, nil
		}
		next := merge(use, was)
		if _, err = r.records.Update(ctx, key, next, revision); err == nil {
			return next, nil
		}
		if !errors.Is(err, bus.ErrConflict) || try == maxTries {
			return use, err
		}
	}
}

func field(u *farm.Usage, kind Kind) *time.Time {
	switch kind {
	case Pulled:
		return &u.PulledAt
	case Resolved:
		return &u.ResolvedAt
	default:
		return &u.DeployedAt
	}
}

// newer reports whether use says something that is worth a write.
func newer(was, use farm.Usage) bool {
	for _, kind := range []Kind{Pulled, Resolved, Deployed} {
		old, at := *field(&was, kind), *field(&use, kind)
		if !at.IsZero() && (old.IsZero() || at.Sub(old) >= farm.UsageGrain) {
			return true
		}
	}
	return false
}

// merge is a with what b knows of later uses.
func merge(a, b farm.Usage) farm.Usage {
	for _, kind := range []Kind{Pulled, Resolved, Deployed} {
		if x, y := field(&a, kind), *field(&b, kind); y.After(*x) {
			*x = y
		}
	}
	return a
}
