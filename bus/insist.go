package bus

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// insistFor is how long an operation waits for a stream that has no leader: an election takes seconds after a server was
// killed.
const insistFor = 12 * time.Second

// insist calls op again while nobody was there to hear it, for at most insistFor. What may have been heard is not said twice.
func (b *Bus) insist(ctx context.Context, op func() error) error {
	begun := time.Now()
	for attempt := 0; ; attempt++ {
		err := op()
		if err == nil || !unheard(err) || time.Since(begun) > insistFor {
			return err
		}
		select {
		case <-time.After(backoff(attempt, 20*time.Millisecond, 500*time.Millisecond)):
		case <-ctx.Done():
			return err
		case <-b.closed:
			return err
		}
	}
}

// unheard reports whether an operation reached no stream: it has no leader at the moment, or says that it can't answer.
func unheard(err error) bool {
	if errors.Is(err, jetstream.ErrNoStreamResponse) || errors.Is(err, nats.ErrNoResponders) {
		return true
	}
	var api *jetstream.APIError
	return errors.As(err, &api) && api.Code == http.StatusServiceUnavailable
}
