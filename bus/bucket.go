package bus

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Bucket is a set of records of one type by key, each changed by compare-and-set, all changes in one total order: the
// revision of a record is the sequence number of its latest change.
//
// A key is any string of at most MaxKey bytes. A deleted record leaves a marker, so that followers learn of it.
//
// Reads may be served by a replica that is a little behind; a compare-and-set on what they said then fails. That a record is
// not there is never such a replica's word alone.
type Bucket[T any] struct {
	b    *Bus
	name string // for people: "bakes"
	kv   jetstream.KeyValue
	str  stream
}

func openBucket[T any](ctx context.Context, b *Bus, name string, ttl lifetime) (*Bucket[T], error) {
	full := b.cfg.Farm + "_" + name
	kv, err := b.ensureBucket(ctx, full, ttl)
	if err != nil {
		return nil, err
	}
	b.known[name] = true
	return &Bucket[T]{b: b, name: name, kv: kv, str: stream{"KV_" + full, "$KV." + full + "."}}, nil
}

// Get reads a record and its revision. ErrNotFound.
func (k *Bucket[T]) Get(ctx context.Context, key string) (T, uint64, error) {
	var zero T
	if err := k.check(key); err != nil {
		return zero, 0, err
	}
	var data []byte
	var revision uint64
	err := k.b.insist(ctx, func() (err error) {
		data, revision, err = k.read(ctx, escapeKey(key))
		return err
	})
	if err != nil {
		return zero, 0, k.failed(key, err)
	}
	v, err := decode[T](k.what(key), data)
	return v, revision, err
}

// read reads a record from any replica, or from the leader where that one does not have it.
func (k *Bucket[T]) read(ctx context.Context, escaped string) (data []byte, revision uint64, err error) {
	entry, err := k.kv.Get(ctx, escaped)
	if err == nil {
		return entry.Value(), entry.Revision(), nil
	}
	if errors.Is(err, jetstream.ErrKeyNotFound) && k.b.replicated() {
		return k.b.fromLeader(ctx, k.str, escaped)
	}
	return nil, 0, err
}

// Create writes a record that must not exist, and returns its revision. ErrExists. Atomic.
func (k *Bucket[T]) Create(ctx context.Context, key string, v T) (uint64, error) {
	data, err := k.encode(key, v)
	if err != nil {
		return 0, err
	}
	var revision uint64
	err = k.b.insist(ctx, func() (err error) {
		revision, err = k.kv.Create(ctx, escapeKey(key), data)
		return err
	})
	if errors.Is(err, jetstream.ErrKeyExists) || wrongLastSequence(err) {
		return 0, fmt.Errorf("%s: %w", k.what(key), ErrExists)
	}
	return revision, k.failed(key, err)
}

// Update replaces a record that must still have the given revision, and returns the new one; revision 0 means that there
// must be none. ErrConflict. Atomic.
func (k *Bucket[T]) Update(ctx context.Context, key string, v T, revision uint64) (uint64, error) {
	if revision == 0 { // a marker of a deleted record would be in the way
		revision, err := k.Create(ctx, key, v)
		if errors.Is(err, ErrExists) {
			err = fmt.Errorf("%s: %w", k.what(key), ErrConflict)
		}
		return revision, err
	}
	data, err := k.encode(key, v)
	if err != nil {
		return 0, err
	}
	var now uint64
	err = k.b.insist(ctx, func() (err error) {
		now, err = k.kv.Update(ctx, escapeKey(key), data, revision)
		return err
	})
	return now, k.failed(key, err)
}

// Put writes a record whatever was there. It is for presence, where no truth is at stake.
func (k *Bucket[T]) Put(ctx context.Context, key string, v T) (uint64, error) {
	data, err := k.encode(key, v)
	if err != nil {
		return 0, err
	}
	var revision uint64
	err = k.b.insist(ctx, func() (err error) {
		revision, err = k.kv.Put(ctx, escapeKey(key), data)
		return err
	})
	return revision, k.failed(key, err)
}

// Delete removes a record that must still have the given revision; with revision 0, whatever it is, and it is no error if
// there is none. ErrConflict.
func (k *Bucket[T]) Delete(ctx context.Context, key string, revision uint64) error {
	if err := k.check(key); err != nil {
		return err
	}
	var opts []jetstream.KVDeleteOpt
	if revision != 0 {
		opts = append(opts, jetstream.LastRevision(revision))
	}
	return k.failed(key, k.b.insist(ctx, func() error { return k.kv.Delete(ctx, escapeKey(key), opts...) }))
}

// List reads every record whose key begins with keyPrefix; "" is all. A prefix up to and with an '@' is selected by the
// server, any other costs reading the bucket. A record that changes meanwhile is seen before or after its change.
func (k *Bucket[T]) List(ctx context.Context, keyPrefix string) (map[string]T, error) {
	records := make(map[string]T)
	err := k.b.replay(ctx, k.str, reading{filters: prefixFilters(keyPrefix), once: true}, func(m delivery) error {
		key, err := unescapeKey(m.subject)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		if !strings.HasPrefix(key, keyPrefix) {
			return nil
		}
		if m.deleted {
			delete(records, key)
			return nil
		}
		records[key], err = decode[T](k.what(key), m.data)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", k.name, err)
	}
	return records, nil
}

// Each calls fn for every record whose key begins with keyPrefix, with its revision and its JSON as it is stored: what a
// later release has written into it is in that. A record that changes meanwhile is seen before its change, after it, or both.
func (k *Bucket[T]) Each(ctx context.Context, keyPrefix string, fn func(key string, revision uint64, raw []byte, v T) error) error {
	err := k.b.replay(ctx, k.str, reading{filters: prefixFilters(keyPrefix), once: true}, func(m delivery) error {
		key, err := unescapeKey(m.subject)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		if m.deleted || !strings.HasPrefix(key, keyPrefix) {
			return nil
		}
		v, err := decode[T](k.what(key), m.data)
		if err != nil {
			return err
		}
		return fn(key, m.seq, m.data, v)
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", k.name, err)
	}
	return nil
}

// Strangers calls fn for the JSON of every record in the farm's buckets that this release does not know: a later one has made
// them.
func (b *Bus) Strangers(ctx context.Context, fn func(raw []byte) error) error {
	names := b.js.KeyValueStoreNames(ctx)
	var all []string
	for name := range names.Name() {
		all = append(all, name)
	}
	if err := names.Error(); err != nil {
		return fmt.Errorf("list buckets: %w", err)
	}
	for _, full := range all {
		name, ours := strings.CutPrefix(full, b.cfg.Farm+"_")
		if !ours || b.known[name] {
			continue
		}
		str := stream{"KV_" + full, "$KV." + full + "."}
		err := b.replay(ctx, str, reading{filters: []string{">"}, once: true}, func(m delivery) error {
			if m.deleted {
				return nil
			}
			return fn(m.data)
		})
		if err != nil {
			return fmt.Errorf("read %s: %w", name, err)
		}
	}
	return nil
}

// Follow calls fn for the latest change of every record changed after the given sequence, in order, and then for each new
// change as it happens, until ctx ends or fn fails, and returns why. v is nil when the record was deleted or has expired.
// Every change that is the latest of its record is seen, none twice, also over lost connections and restarts of the server.
// fn returns ErrStop to end it without an error.
//
// Where records expire (workers, action cache entries), a deletion may be seen more than once, and whoever was away for longer
// than an hour may never see it.
//
// A record that this release does not read, a later one's or garbage, is passed over, with a line in the log, and counted
// (Unreadable); whoever gets or lists it is told what is wrong with it.
//
// ErrRewound: the bucket has not got as far as after: it is another one, or an older copy (compare Identity): whatever was
// projected from it must be built anew.
func (k *Bucket[T]) Follow(ctx context.Context, after uint64, fn func(seq uint64, key string, v *T) error) error {
	last, err := k.Last(ctx)
	if err != nil {
		return err
	}
	if after > last {
		return fmt.Errorf("follow %s after %d: the newest change is %d: %w", k.name, after, last, ErrRewound)
	}
	return k.b.replay(ctx, k.str, reading{after: after, filters: []string{">"}}, func(m delivery) error {
		key, err := unescapeKey(m.subject)
		if err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
		if m.deleted {
			return fn(m.seq, key, nil)
		}
		v, err := decode[T](k.what(key), m.data)
		if err != nil { // one such record must not stop those who follow, who would meet it again and again
			k.b.setAside(k.name, err)
			return nil
		}
		return fn(m.seq, key, &v)
	})
}

// Last is the sequence of the newest change: whoever follows and has seen it has seen everything until now. (Not so where
// records expire: there the newest change may have gone already.)
func (k *Bucket[T]) Last(ctx context.Context) (uint64, error) {
	info, err := k.b.streamInfo(ctx, k.str.name)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", k.name, err)
	}
	return info.State.LastSeq, nil
}

// Identity names this bucket in its present life: when it is made anew, even under the same name, it has another.
func (k *Bucket[T]) Identity(ctx context.Context) (string, error) {
	info, err := k.b.streamInfo(ctx, k.str.name)
	if err != nil {
		return "", fmt.Errorf("%s: %w", k.name, err)
	}
	return info.Config.Name + "@" + info.Created.UTC().Format(time.RFC3339Nano), nil
}

func (k *Bucket[T]) what(key string) string { return k.name + " " + key }

func (k *Bucket[T]) failed(key string, err error) error { return translate(k.what(key), err) }

func (k *Bucket[T]) check(key string) error {
	if len(key) > MaxKey {
		return fmt.Errorf("%s: key of %d bytes (%.40q…): %w: %d is the limit", k.name, len(key), key, ErrTooLarge, MaxKey)
	}
	return nil
}

func (k *Bucket[T]) encode(key string, v T) ([]byte, error) {
	if err := k.check(key); err != nil {
		return nil, err
	}
	return encode(k.what(key), v, k.b.limit())
}
