package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// ErrStop ends the following of a bucket or of a bake's events without an error, when the function that follows returns it.
var ErrStop = errors.New("stop")

// reading says what to replay from a stream.
type reading struct {
	after   uint64   // only messages with a higher sequence
	filters []string // subjects, without the stream's prefix
	once    bool     // end with what is there now; else go on with what comes
}

// delivery is one message of a stream.
type delivery struct {
	seq     uint64
	subject string // without the stream's prefix
	data    []byte
	deleted bool // a marker: the key was deleted or has expired
}

// replayBatch is how many messages are on their way at most. With records of tens of KiB that is a few MiB.
const replayBatch = 256

// replay hands the messages of a stream to fn, in order and each once, until ctx ends, fn fails or, with once, the end is
// reached. A lost connection or a restarted server only delays it: it goes on after the last message that fn has seen. (With
// once it gives up after three attempts that brought nothing.)
//
// It is what nats.go calls an ordered consumer, but everything in it obeys ctx.
func (b *Bus) replay(ctx context.Context, s stream, r reading, fn func(delivery) error) error {
	for attempt := 0; ; attempt++ {
		before := r.after
		err := b.gather(ctx, s, &r, fn)
		if errors.Is(err, errNoGather) {
			err = b.replayOnce(ctx, s, &r, fn)
		}
		var stopped callerError
		switch {
		case err == nil:
			return nil
		case errors.As(err, &stopped):
			if errors.Is(stopped.error, ErrStop) {
				return nil
			}
			return stopped.error
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case b.nc.IsClosed():
			return fmt.Errorf("stream %s: %w", s.name, nats.ErrConnectionClosed)
		case errors.Is(err, jetstream.ErrStreamNotFound), r.once && attempt >= 2:
			return fmt.Errorf("stream %s: %w", s.name, err)
		}
		if r.after > before {
			attempt = 0
		}
		wait := backoff(attempt, 20*time.Millisecond, 2*time.Second)
		level := slog.LevelDebug
		if attempt >= 3 {
			level = slog.LevelWarn
		}
		b.log.Log(ctx, level, "replay interrupted, going on", "stream", s.name, "after", r.after, "err", err, "in", wait)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// callerError marks an error of the caller's own function: there's no trying again after it.
type callerError struct{ error }

// errGap says that messages were lost between the server and us.
var errGap = errors.New("gap in delivery")

// replayOnce reads through one consumer, and keeps r.after up to date.
func (b *Bus) replayOnce(ctx context.Context, s stream, r *reading, fn func(delivery) error) error {
	config := jetstream.ConsumerConfig{
		DeliverPolicy:     jetstream.DeliverByStartSequencePolicy,
		OptStartSeq:       r.after + 1,
		AckPolicy:         jetstream.AckNonePolicy,
		InactiveThreshold: time.Minute, // when we are gone, the server forgets it
		MemoryStorage:     true,
		Replicas:          1,
	}
	for _, filter := range r.filters {
		config.FilterSubjects = append(config.FilterSubjects, s.prefix+filter)
	}
	if len(config.FilterSubjects) == 1 {
		config.FilterSubject, config.FilterSubjects = config.FilterSubjects[0], nil
	}
	ctx, done := b.untilReconnect(ctx)
	defer done()
	consumer, err := b.js.CreateConsumer(ctx, s.name, config)
	if err != nil {
		return err
	}
	defer b.forget(s.name, consumer.CachedInfo().Name)
	if r.once && consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages(
		jetstream.PullMaxMessages(replayBatch),
		jetstream.PullHeartbeat(2*time.Second),
		jetstream.WithMessagesErrOnMissingHeartbeat(true))
	if err != nil {
		return err
	}
	defer messages.Stop()
	for delivered := uint64(1); ; delivered++ {
		m, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			return err
		}
		meta, err := m.Metadata()
		if err != nil {
			return err
		}
		if meta.Sequence.Consumer != delivered {
			return errGap
		}
		if err := fn(delivery{
			seq:     meta.Sequence.Stream,
			subject: strings.TrimPrefix(m.Subject(), s.prefix),
			data:    m.Data(),
			deleted: marker(m.Headers()),
		}); err != nil {
			return callerError{err}
		}
		r.after = meta.Sequence.Stream
		if r.once && meta.NumPending == 0 {
			return nil
		}
	}
}

// untilReconnect derives a context that also ends when the connection has been lost and is back: the consumer may have gone
// with the server that held it, and waiting for its missing heartbeats takes seconds.
func (b *Bus) untilReconnect(ctx context.Context) (_ context.Context, done func()) {
	ctx, cancel := context.WithCancel(ctx)
	b.replays.Store(&cancel, cancel)
	return ctx, func() {
		b.replays.Delete(&cancel)
		cancel()
	}
}

// forget removes a consumer that is not needed any more. The server would do it by itself after a while.
func (b *Bus) forget(stream, consumer string) {
	if !b.nc.IsConnected() {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if err := b.js.DeleteConsumer(ctx, stream, consumer); err != nil {
		b.log.Debug("consumer left to expire", "stream", stream, "err", err)
	}
}

// marker reports whether a message of a bucket says that its key is gone: deleted by a client (KV-Operation, ADR-8) or
// expired on the server (Nats-Marker-Reason, ADR-43).
func marker(h nats.Header) bool {
	return h.Get("KV-Operation") != "" || h.Get(jetstream.MarkerReasonHeader) != ""
}

// infoTimeout is how long one question about a stream waits: while there is no leader it is never answered.
const infoTimeout = time.Second

// streamInfo asks the stream's leader, again while there is none, until ctx ends: those who follow a stream begin with it, and must
// not end because NATS holds an election.
func (b *Bus) streamInfo(ctx context.Context, name string) (*jetstream.StreamInfo, error) {
	for attempt := 0; ; attempt++ {
		once, cancel := context.WithTimeout(ctx, infoTimeout)
		s, err := b.js.Stream(once, name)
		cancel()
		if err == nil {
			return s.CachedInfo(), nil
		}
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) && !unheard(err) {
			return nil, err
		}
		if attempt > 3 {
			b.log.Warn("a stream has no leader, asking again", "stream", name, "err", err)
		}
		select {
		case <-time.After(backoff(attempt, 20*time.Millisecond, 2*time.Second)):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-b.closed:
			return nil, err
		}
	}
}
