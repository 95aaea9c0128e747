package catalog

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
)

const (
	loaders    = 8           // indexes that are read from the store at the same time
	ahead      = 64          // changes of packs that are read ahead of the one that is projected
	aheadFar   = 2048        // of records: more of them in one transaction cost less
	batch      = 2048        // changes in one transaction, at most
	fillFor    = time.Second // how long a batch may wait to become full while much is to come: fuller ones write less
	batchRows  = 20_000      // entries in one transaction, about
	retryFirst = 50 * time.Millisecond
	retryMost  = 5 * time.Second
)

// feed is what packs and versions have in common, for keep.
type feed struct {
	name     string
	seen     *progress
	identity func(context.Context) (string, error)
	last     func(context.Context) (uint64, error)
	reset    func(context.Context) error // empties the projection
	// follow projects what comes after; up to last it is there already.
	follow func(ctx context.Context, after, last uint64) error
}

// keep follows a feed until ctx ends, from where the file stands; from the beginning when the feed is another one than the
// file was made from, or an older copy of it.
func (c *Catalog) keep(ctx context.Context, f feed) error {
	for attempt := 0; ; attempt++ {
		before := f.seen.now()
		err := c.noticed(c.once(ctx, f))
		if ctx.Err() != nil {
			return nil
		}
		if f.seen.now() > before {
			attempt = 0
		}
		if err == nil {
			err = errors.New("the feed ended")
		}
		f.seen.fail(err)
		c.log.Warn("catalog can't follow "+f.name+": retrying", "err", err)
		if pause(ctx, attempt) != nil {
			return nil
		}
	}
}

func (c *Catalog) once(ctx context.Context, f feed) error {
	identity, err := f.identity(ctx)
	if err != nil {
		return err
	}
	last, err := f.last(ctx)
	if err != nil {
		return err
	}
	var made string
	var after uint64
	if err := errors.Join(
		getMeta(ctx, c.db.write, f.name+".identity", &made),
		getMeta(ctx, c.db.write, f.name+".seq", &after),
	); err != nil {
		return err
	}
	if made != identity || after > last {
		if made != "" { // else it is empty, but for what has been announced since it was opened
			c.log.Info("catalog is made anew", "feed", f.name, "was", made, "is", identity, "at", after, "newest", last)
			if err := f.reset(ctx); err != nil {
				return fmt.Errorf("empty the catalog of %s: %w", f.name, err)
			}
		}
		if err := errors.Join(
			setMeta(ctx, c.db.write, f.name+".seq", 0),
			setMeta(ctx, c.db.write, f.name+".identity", identity),
		); err != nil {
			return err
		}
		after = 0
	}
	f.seen.at(after)
	return f.follow(ctx, after, last)
}

func pause(ctx context.Context, attempt int) error {
	t := time.NewTimer(min(retryMost, retryFirst<<min(attempt, 10)))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// change is one change on its way from a feed into the file. ready is closed when all of it is there.
type change[T any] struct {
	seq   uint64
	value T
	ready chan struct{}
}

var already = func() chan struct{} { c := make(chan struct{}); close(c); return c }()

// inOrder passes changes from produce to apply, in order and in batches: of what is ready, as much as there is; of the changes up
// to last, which are there to be had, as much as is had within fillFor. It returns when either fails; both have ended then.
func inOrder[T any](ctx context.Context, ahead int, last uint64, produce func(ctx context.Context, put func(*change[T]) error) error, apply func(context.Context, []*change[T]) error, rows func(T) int) error {
	ctx, cancel := context.WithCancelCause(ctx)
	queue := make(chan *change[T], ahead)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(queue)
		cancel(produce(ctx, func(ch *change[T]) error {
			select {
			case queue <- ch:
				return nil
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}))
	})
	defer wg.Wait()
	defer cancel(nil)

	var next *change[T] // taken from the queue, but not ready in time for the batch
	for {
		if next == nil {
			select {
			case next = <-queue:
			case <-ctx.Done():
			}
			if next == nil {
				return context.Cause(ctx)
			}
		}
		select {
		case <-next.ready:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		todo, n := []*change[T]{next}, rows(next.value)
		next = nil
		full := time.After(fillFor)
		for len(todo) < batch && n < batchRows {
			wait := full
			if todo[len(todo)-1].seq >= last {
				wait = over
			}
			if next == nil {
				if next = within(queue, wait); next == nil {
					break
				}
			}
			if !readyWithin(next.ready, wait) {
				break
			}
			todo, n = append(todo, next), n+rows(next.value)
			next = nil
		}
		if err := apply(ctx, todo); err != nil {
			cancel(err)
			return err
		}
	}
}

// over is a wait that has ended.
var over = func() chan time.Time { c := make(chan time.Time); close(c); return c }()

// within takes what there is, or what comes before the wait has ended; nil when that was nothing.
func within[T any](from <-chan *T, wait <-chan time.Time) *T {
	select {
	case v := <-from:
		return v
	default:
	}
	select {
	case v := <-from:
		return v
	case <-wait:
		return nil
	}
}

// readyWithin reports whether ready is closed, or comes to be before the wait has ended.
func readyWithin(ready <-chan struct{}, wait <-chan time.Time) bool {
	select {
	case <-ready:
		return true
	default:
	}
	select {
	case <-ready:
		return true
	case <-wait:
		return false
	}
}

func (c *Catalog) followPacks(ctx context.Context, read IndexReader) error {
	return c.keep(ctx, feed{
		name: "packs", seen: &c.packsSeen, identity: c.ledger.Identity, last: c.ledger.Last,
		reset:  c.resetPacks,
		follow: func(ctx context.Context, after, last uint64) error { return c.projectPacks(ctx, after, last, read) },
	})
}

func (c *Catalog) projectPacks(ctx context.Context, after, last uint64, read IndexReader) error {
	loading := newLoading()
	defer loading.wait()
	return inOrder(ctx, ahead, last, func(ctx context.Context, put func(*change[packChange]) error) error {
		return c.ledger.Follow(ctx, after, func(pc farm.PackChange) error {
			ch := &change[packChange]{seq: pc.Seq, value: packChange{id: pc.ID, state: stateOf(pc.Pack)}, ready: already}
			entries, known := c.announcement(pc.ID)
			ch.value.entries = entries
			if pc.Pack != nil && !known {
				var err error
				if ch.ready, err = loading.begin(ctx, func() { ch.value.entries = c.loadIndex(ctx, *pc.Pack, read) }); err != nil {
					return err
				}
			}
			return put(ch)
		})
	}, func(ctx context.Context, changes []*change[packChange]) error {
		if err := ctx.Err(); err != nil {
			return err // an index may be missing only because its loading was stopped
		}
		todo := make([]packChange, len(changes))
		for i, ch := range changes {
			todo[i] = ch.value
		}
		seq := changes[len(changes)-1].seq
		if err := c.apply(ctx, seq, todo); err != nil {
			return err
		}
		c.packsSeen.at(seq)
		return nil
	}, func(ch packChange) int { return len(ch.entries) })
}

// loading reads what changes are about, several at a time, beside their being followed.
type loading struct {
	running sync.WaitGroup
	slots   chan struct{}
}

func newLoading() *loading { return &loading{slots: make(chan struct{}, loaders)} }

// begin runs load when there is a slot for it. The channel is closed when it has run.
func (l *loading) begin(ctx context.Context, load func()) (chan struct{}, error) {
	select {
	case l.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ready := make(chan struct{})
	l.running.Go(func() {
		defer close(ready)
		load()
		<-l.slots
	})
	return ready, nil
}

func (l *loading) wait() { l.running.Wait() }

func stateOf(p *farm.Pack) int32 {
	switch {
	case p == nil:
		return gone
	case p.State == farm.PackLive:
		return live
	default: // a state that a later release has added is not one to build upon
		return condemned
	}
}

// loadIndex reads the index of a pack that another process has written, for as long as it takes. A pack whose object is
// gone or broken has no entries: nothing else must wait for it.
func (c *Catalog) loadIndex(ctx context.Context, p farm.Pack, read IndexReader) []imagestore.Entry {
	for attempt := 0; ; attempt++ {
		entries, err := read(ctx, p)
		switch {
		case err == nil:
			return entries
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, imagestore.ErrNotFound):
			c.log.Warn("a registered pack has no object: its pieces are missing", "pack", p.ID, "writer", p.Writer, "err", err)
			return nil
		case errors.Is(err, imagestore.ErrCorrupt), errors.Is(err, imagestore.ErrNoPack):
			c.log.Error("a registered pack can't be read: its pieces are missing", "pack", p.ID, "writer", p.Writer, "err", err)
			return nil
		}
		c.packsSeen.fail(err)
		c.log.Warn("catalog can't read a pack's index: retrying", "pack", p.ID, "err", err)
		if pause(ctx, attempt) != nil {
			return nil
		}
	}
}

func (c *Catalog) resetPacks(ctx context.Context) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	tx, err := c.db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	if _, err := tx.ExecContext(ctx, "DELETE FROM packs; DELETE FROM entries; DELETE FROM meta WHERE key = 'dead'"); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	c.dead = 0
	return c.loadPacks(ctx)
}
