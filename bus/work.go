package bus

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var className = regexp.MustCompile(`^[a-z0-9-]+\.[a-z0-9-]+$`)

// Enqueue says to the workers of a class that a shard wants running. It is a hint: saying it twice does no harm.
func (b *Bus) Enqueue(ctx context.Context, class, shardID string) error {
	return b.EnqueueAll(ctx, class, []string{shardID})
}

// EnqueueAll is Enqueue for many shards of a class, without waiting for one after the other. On an error some of them may
// be in the queue.
func (b *Bus) EnqueueAll(ctx context.Context, class string, shardIDs []string) error {
	if !className.MatchString(class) {
		return fmt.Errorf("enqueue: class %q: want <arch>.<kind>", class)
	}
	return publishAll(ctx, b, "hint", b.work.prefix+class, shardIDs, func(id string) (hint, string) { return hint{ShardID: id}, "" })
}

// publishAll publishes the messages that wrap makes of items, in order, with many on the way at a time, and waits until the
// stream has them all. wrap also names a message of which the stream shall take only one (within JetStream's window of two
// minutes); "" for any other.
func publishAll[I, M any](ctx context.Context, b *Bus, what, subject string, items []I, wrap func(I) (M, string)) error {
	pack := func(item I) ([]byte, []jetstream.PublishOpt, error) {
		message, id := wrap(item)
		data, err := encode(what, message, b.limit())
		var options []jetstream.PublishOpt
		if id != "" {
			options = append(options, jetstream.WithMsgID(id))
		}
		return data, options, err
	}
	if len(items) == 1 {
		data, options, err := pack(items[0])
		if err != nil {
			return err
		}
		return translate("publish "+what, b.insist(ctx, func() error {
			_, err := b.js.Publish(ctx, subject, data, options...)
			return err
		}))
	}
	var futures []jetstream.PubAckFuture
	var failed error
	for _, item := range items {
		data, options, err := pack(item)
		if err == nil {
			var future jetstream.PubAckFuture
			if future, err = b.js.PublishAsync(subject, data, append(options, jetstream.WithStallWait(apiTimeout))...); err == nil {
				futures = append(futures, future)
				continue
			}
		}
		failed = err
		break
	}
	timeout := time.After(apiTimeout)
	for _, future := range futures {
		select {
		case <-future.Ok():
		case err := <-future.Err():
			failed = errors.Join(failed, err)
		case <-timeout:
			return fmt.Errorf("publish %s: %w", what, nats.ErrTimeout)
		case <-ctx.Done():
			return fmt.Errorf("publish %s: %w", what, context.Cause(ctx))
		}
	}
	return translate("publish "+what, failed)
}

// Hints is how many hints of a class nobody has fetched.
func (b *Bus) Hints(ctx context.Context, class string) (int, error) {
	consumer, err := b.js.Consumer(ctx, b.work.name, durable(class))
	if errors.Is(err, jetstream.ErrConsumerNotFound) { // nobody has ever worked on it
		return b.hintsKept(ctx, class)
	}
	if err != nil {
		return 0, translate("work queue "+class, err)
	}
	return int(min(consumer.CachedInfo().NumPending, math.MaxInt32)), nil
}

// hintsKept is how many hints of a class there are.
func (b *Bus) hintsKept(ctx context.Context, class string) (int, error) {
	s, err := b.js.Stream(ctx, b.work.name)
	if err != nil {
		return 0, translate("work queue "+class, err)
	}
	info, err := s.Info(ctx, jetstream.WithSubjectFilter(b.work.prefix+class))
	if err != nil {
		return 0, translate("work queue "+class, err)
	}
	return int(min(info.State.Subjects[b.work.prefix+class], math.MaxInt32)), nil
}

// durable names the consumer of a class, which has no '_'.
func durable(class string) string { return strings.ReplaceAll(class, ".", "_") }

// Work is the queue of one class. A message goes to one of the processes that fetch.
type Work struct {
	b        *Bus
	class    string
	consumer jetstream.Consumer
}

// Work opens the queue of a class, and makes it when this is the first to ask. Every class is its own durable consumer:
// a work queue takes no two that overlap.
func (b *Bus) Work(ctx context.Context, class string) (*Work, error) {
	if !className.MatchString(class) {
		return nil, fmt.Errorf("work: class %q: want <arch>.<kind>", class)
	}
	consumer, err := b.js.CreateOrUpdateConsumer(ctx, b.work.name, jetstream.ConsumerConfig{
		Durable:       durable(class),
		FilterSubject: b.work.prefix + class,
		AckPolicy:     jetstream.AckExplicitPolicy,
		AckWait:       HintAckWait,
		MaxDeliver:    -1,      // the shard's record counts attempts, not the hint
		MaxAckPending: 100_000, // bounded by the workers' slots
		MaxWaiting:    4096,    // fetches that wait at a time: workers
	})
	if err != nil {
		return nil, fmt.Errorf("work queue %s: %w", class, err)
	}
	return &Work{b: b, class: class, consumer: consumer}, nil
}

// Fetch takes up to max hints, and waits for the first one as long as wait: it returns as soon as there is one, and
// nothing without an error when there was none. Never more than max are taken out of the queue, so a worker asks for as many
// as it has free slots. Each hint must be acked or handed back, else it comes again after HintAckWait.
func (w *Work) Fetch(ctx context.Context, max int, wait time.Duration) ([]Hint, error) {
	if max < 1 {
		return nil, fmt.Errorf("work queue %s: fetch of %d hints", w.class, max)
	}
	batch, err := w.consumer.FetchNoWait(max)
	if err != nil {
		return nil, w.failed(err)
	}
	hints, err := w.collect(ctx, batch)
	if len(hints) > 0 || err != nil || wait <= 0 {
		return hints, err
	}
	// Ask for one only: a larger request would stay open at the server after the first and take hints for nobody.
	waiting, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	batch, err = w.consumer.Fetch(1, jetstream.FetchContext(waiting))
	if err != nil {
		if waiting.Err() != nil && ctx.Err() == nil {
			return nil, nil
		}
		return nil, w.failed(err)
	}
	return w.collect(ctx, batch)
}

// collect reads a batch to its end. When ctx ends, what came is handed back.
func (w *Work) collect(ctx context.Context, batch jetstream.MessageBatch) ([]Hint, error) {
	var hints []Hint
	for m := range batch.Messages() {
		v, err := decode[hint]("hint", m.Data())
		if err != nil {
			w.b.setAside("hints", err)
			if err := m.Term(); err != nil {
				return hints, w.failed(err)
			}
			continue
		}
		hints = append(hints, Hint{ShardID: v.ShardID, m: m})
	}
	if err := context.Cause(ctx); err != nil {
		for _, h := range hints {
			h.Nak(0) // if this fails too, AckWait hands it back
		}
		return nil, err
	}
	err := batch.Error()
	if errors.Is(err, context.DeadlineExceeded) || len(hints) > 0 {
		err = nil
	}
	return hints, w.failed(err)
}

func (w *Work) failed(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("work queue %s: %w", w.class, err)
}

// Hint names a shard that may want running. One that an Offer was made of is in no queue.
type Hint struct {
	ShardID string
	m       jetstream.Msg
}

// Ack takes the hint out of the queue: after the shard's result is recorded, or when nothing is left to do.
func (h Hint) Ack() error {
	if h.m == nil { // an offer was never in it
		return nil
	}
	return h.m.Ack()
}

// Nak hands the hint back; somebody gets it after the delay.
func (h Hint) Nak(delay time.Duration) error {
	if h.m == nil {
		return nil
	}
	if delay <= 0 {
		return h.m.Nak()
	}
	return h.m.NakWithDelay(delay)
}

// InProgress keeps the hint for another HintAckWait.
func (h Hint) InProgress() error {
	if h.m == nil {
		return nil
	}
	return h.m.InProgress()
}
