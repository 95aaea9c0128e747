package bus

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"bakefarm/farm"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
)

// Times and bounds of what JetStream keeps.
const (
	EventAge    = 48 * time.Hour   // events are dropped when older, or
	EventBytes  = 512 << 20        // when there are more of them
	HintAckWait = 30 * time.Second // a hint that was fetched and neither acked nor renewed comes again

	SubmissionTTL = 7 * 24 * time.Hour // how long the same Idempotency-Key means the same bake
	PossessionTTL = 48 * time.Hour     // how long it is remembered what a repository has shown to have

	workBytes  = 256 << 20       // hints; the oldest are dropped: coordinators re-send
	markerTTL  = time.Hour       // how long followers can learn that a record has expired
	apiTimeout = 5 * time.Second // of one JetStream request, where the caller's context has no deadline

	prepareTimeout = 30 * time.Second // for all streams and buckets
	answerTimeout  = 3 * time.Second  // for one of them
)

// errOther says that something else has one of our names.
var errOther = errors.New("exists with other settings than this farm's")

// stream is one of the farm's streams: its name, and the subject that its messages' subjects begin with.
type stream struct{ name, prefix string }

// identity is the farm's own record.
type identity struct {
	Schema    int       `json:"schema"`
	ID        string    `json:"id"`
	CreatedAt time.Time `json:"createdAt"`
}

func (i *identity) schema() *int { return &i.Schema }

// lifetime is how long records of a bucket live after they were written; 0 is for ever.
type lifetime struct {
	wanted  time.Duration // by this process's configuration; 0: as it is
	initial time.Duration // when the bucket is made and nothing is wanted
}

var forever = lifetime{}

// prepare makes every stream and bucket. It is idempotent, also against other processes that do the same now.
func (b *Bus) prepare(ctx context.Context) error {
	var err error
	b.work = stream{b.cfg.Farm + "_WORK", b.subject("work", "")}
	b.events = stream{b.cfg.Farm + "_EVENTS", b.subject("event", "")}
	b.channels = stream{b.cfg.Farm + "_CHANNELS", b.subject("channel", "")}
	err = errors.Join(
		b.ensureStream(ctx, jetstream.StreamConfig{
			Name: b.work.name, Subjects: []string{b.work.prefix + ">"}, Description: "hints: shards that may want running",
			Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardOld, MaxBytes: workBytes,
		}),
		b.ensureStream(ctx, jetstream.StreamConfig{
			Name: b.events.name, Subjects: []string{b.events.prefix + ">"}, Description: "what happened to bakes",
			Discard: jetstream.DiscardOld, MaxAge: EventAge, MaxBytes: EventBytes, AllowDirect: true,
		}),
		b.ensureStream(ctx, jetstream.StreamConfig{
			Name: b.channels.name, Subjects: []string{b.channels.prefix + ">"}, Description: "history of the channels, kept for ever",
			DenyDelete: true, DenyPurge: true,
		}),
	)
	if err != nil {
		return err
	}
	b.meta = must[identity](ctx, b, "meta", forever, &err)
	b.Bakes = must[farm.Bake](ctx, b, "bakes", forever, &err)
	b.Shards = must[farm.Shard](ctx, b, "shards", forever, &err)
	b.Actions = must[farm.ActionEntry](ctx, b, "actions", lifetime{wanted: b.cfg.ActionTTL}, &err)
	b.Observations = must[farm.Observation](ctx, b, "observations", forever, &err)
	b.Versions = must[farm.Version](ctx, b, "versions", forever, &err)
	b.Channels = must[farm.Channel](ctx, b, "channels", forever, &err)
	b.Publications = must[farm.Publication](ctx, b, "publications", forever, &err)
	b.Requests = must[farm.RequestLock](ctx, b, "requests", forever, &err)
	b.Submissions = must[farm.Submission](ctx, b, "submissions", lifetime{wanted: SubmissionTTL}, &err)
	b.Possessions = must[farm.Possession](ctx, b, "possessions", lifetime{wanted: PossessionTTL}, &err)
	b.Tags = must[farm.Tag](ctx, b, "tags", forever, &err)
	b.Workers = must[farm.Worker](ctx, b, "workers", lifetime{wanted: b.cfg.WorkerTTL, initial: 30 * time.Second}, &err)
	b.Packs = must[farm.Pack](ctx, b, "packs", forever, &err)
	b.Usage = must[farm.Usage](ctx, b, "usage", forever, &err)
	b.Deployments = must[farm.Deployment](ctx, b, "deployments", forever, &err)
	b.Sweeps = must[farm.Sweep](ctx, b, "sweeps", forever, &err)
	b.Policies = must[farm.RetentionPolicy](ctx, b, "policies", forever, &err)
	if err != nil {
		return err
	}
	return b.identify(ctx)
}

// must opens a bucket unless an earlier one failed.
func must[T any](ctx context.Context, b *Bus, name string, ttl lifetime, err *error) *Bucket[T] {
	if *err != nil {
		return nil
	}
	var k *Bucket[T]
	*err = ask(ctx, func(ctx context.Context) (err error) {
		k, err = openBucket[T](ctx, b, name, ttl)
		return err
	})
	return k
}

// ask asks the servers for something that may be asked for twice, again and again until they answer: of clients that ask a
// cluster for the same new stream at the same time, not all are answered.
func ask(ctx context.Context, attempt func(context.Context) error) error {
	for {
		short, cancel := context.WithTimeout(ctx, answerTimeout)
		err := attempt(short)
		cancel()
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
	}
}

// identify reads the farm's identity; the first one to come makes it.
func (b *Bus) identify(ctx context.Context) error {
	const key = "farm"
	_, err := b.meta.Create(ctx, key, identity{ID: ulid.Make().String(), CreatedAt: time.Now().UTC()})
	if err == nil || errors.Is(err, ErrExists) {
		b.id, _, err = b.meta.Get(ctx, key)
	}
	return err
}

// ensureStream makes a stream, or brings its bounds up to date.
func (b *Bus) ensureStream(ctx context.Context, want jetstream.StreamConfig) error {
	return ask(ctx, func(ctx context.Context) error { return b.makeStream(ctx, want) })
}

func (b *Bus) makeStream(ctx context.Context, want jetstream.StreamConfig) error {
	want.Storage = jetstream.FileStorage
	want.Replicas = max(1, b.cfg.Replicas)
	s, err := b.js.Stream(ctx, want.Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		if _, err = b.js.CreateStream(ctx, want); errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) {
			s, err = b.js.Stream(ctx, want.Name) // somebody else was faster
		}
	}
	if err != nil {
		return fmt.Errorf("stream %s: %w", want.Name, err)
	}
	if s == nil {
		return nil
	}
	have := s.CachedInfo().Config
	if have.Retention != want.Retention || have.Storage != want.Storage || len(have.Subjects) != 1 || have.Subjects[0] != want.Subjects[0] {
		return fmt.Errorf("stream %s %w: choose another farm name, or remove it", want.Name, errOther)
	}
	update := have
	update.MaxAge, update.MaxBytes = want.MaxAge, want.MaxBytes
	if want.MaxBytes == 0 {
		update.MaxBytes = have.MaxBytes // unlimited reads back as -1
	}
	if b.cfg.Replicas > 0 {
		update.Replicas = b.cfg.Replicas
	}
	if update.MaxAge == have.MaxAge && update.MaxBytes == have.MaxBytes && update.Replicas == have.Replicas {
		return nil
	}
	if _, err := b.js.UpdateStream(ctx, update); err != nil {
		return fmt.Errorf("stream %s: change its bounds: %w", want.Name, err)
	}
	return nil
}

// ensureBucket makes a key-value bucket, or brings its settings up to date.
func (b *Bus) ensureBucket(ctx context.Context, name string, ttl lifetime) (jetstream.KeyValue, error) {
	want := jetstream.KeyValueConfig{
		Bucket:   name,
		History:  1, // Follow depends on it
		TTL:      cmp.Or(ttl.wanted, ttl.initial),
		Storage:  jetstream.FileStorage,
		Replicas: max(1, b.cfg.Replicas),
	}
	if want.TTL > 0 {
		want.LimitMarkerTTL = markerTTL // so that Follow sees records expire
	}
	kv, err := b.js.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		if kv, err = b.js.CreateKeyValue(ctx, want); errors.Is(err, jetstream.ErrBucketExists) {
			kv, err = b.js.KeyValue(ctx, name)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", name, err)
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, fmt.Errorf("bucket %s: %w", name, err)
	}
	have := status.Config()
	if have.History != 1 || have.Storage != jetstream.FileStorage {
		return nil, fmt.Errorf("bucket %s %w: choose another farm name, or remove it", name, errOther)
	}
	update := have
	if ttl.wanted > 0 {
		update.TTL, update.LimitMarkerTTL = want.TTL, want.LimitMarkerTTL
	}
	if b.cfg.Replicas > 0 {
		update.Replicas = b.cfg.Replicas
	}
	if update.TTL == have.TTL && update.LimitMarkerTTL == have.LimitMarkerTTL && update.Replicas == have.Replicas {
		return kv, nil
	}
	if kv, err = b.js.UpdateKeyValue(ctx, update); err != nil {
		return nil, fmt.Errorf("bucket %s: change its settings: %w", name, err)
	}
	return kv, nil
}
