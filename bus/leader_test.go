package bus

import (
	"context"
	"errors"
	"log/slog"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"bakefarm/farm"
)

// behind is a bucket of which a replica answers that has not heard of anything yet.
type behind struct{ jetstream.KeyValue }

func (behind) Get(context.Context, string) (jetstream.KeyValueEntry, error) {
	return nil, jetstream.ErrKeyNotFound
}

// What a replica that is behind does not have is asked of the leader, whose word counts.
func TestReplicaIsBehind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b, err := Open(ctx, Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	const key = "shop/checkout@1.0" // escaped on the wire
	revision, err := b.Shards.Create(ctx, key, farm.Shard{Label: "there"})
	if err != nil {
		t.Fatal(err)
	}
	b.Shards.kv = behind{b.Shards.kv}
	if _, _, err := b.Shards.Get(ctx, key); !errors.Is(err, ErrNotFound) {
		t.Errorf("the only server's word does not count: %v", err)
	}
	b.cfg.Replicas = 3
	if s, have, err := b.Shards.Get(ctx, key); err != nil || s.Label != "there" || have != revision {
		t.Errorf("Get: %+v, revision %d, %v; want revision %d", s, have, err, revision)
	}
	if _, _, err := b.Shards.Get(ctx, "another"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of what nobody has: %v", err)
	}
	if err := b.Shards.Delete(ctx, key, revision); err != nil {
		t.Fatal(err)
	}
	if _, _, err := b.Shards.Get(ctx, key); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of what was deleted: %v", err)
	}
}
