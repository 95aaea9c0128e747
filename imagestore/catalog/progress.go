package catalog

import (
	"context"
	"fmt"
	"sync"
)

// progress is how far a feed has been projected, and what keeps it, if anything does.
type progress struct {
	feed string

	mu    sync.Mutex
	seq   uint64
	err   error
	moved chan struct{} // closed at the next change of seq
}

func newProgress(feed string) progress { return progress{feed: feed, moved: make(chan struct{})} }

// at sets the sequence; it also goes back, when the projection is made anew.
func (p *progress) at(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.seq, p.err = seq, nil
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *progress) now() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seq
}

func (p *progress) fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.err = err
}

func (p *progress) trouble() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		return nil
	}
	return fmt.Errorf("catalog of %s stands at change %d: %w", p.feed, p.seq, p.err)
}

func (p *progress) wait(ctx context.Context, seq uint64) error {
	for {
		p.mu.Lock()
		now, moved, trouble := p.seq, p.moved, p.err
		p.mu.Unlock()
		if now >= seq {
			return nil
		}
		select {
		case <-moved:
		case <-ctx.Done():
			err := fmt.Errorf("catalog of %s stands at change %d of %d: %w", p.feed, now, seq, context.Cause(ctx))
			if trouble != nil {
				err = fmt.Errorf("%w (%w)", err, trouble)
			}
			return err
		}
	}
}
