package execute

import (
	"context"
	"runtime"
)

// Turns are turns on the processors: as many at a time as there are processors.
type Turns chan struct{}

// NewTurns makes n turns; n < 1 means as many as there are processors.
func NewTurns(n int) Turns {
	if n < 1 {
		n = runtime.GOMAXPROCS(0)
	}
	return make(Turns, n)
}

// take waits for a turn; give returns it.
func (t Turns) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t Turns) give() { <-t }
