package catalog

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"

	"bakefarm/farm"
)

// Feed is a table of records by key whose changes are in a total order: bus.Bucket.
type Feed[T any] interface {
	// Follow calls fn for every record's latest change after the sequence given, in order, and then for new ones until
	// ctx ends or fn fails. The record is nil when it was deleted.
	Follow(ctx context.Context, after uint64, fn func(seq uint64, key string, record *T) error) error
	// Last is the sequence of the newest change.
	Last(ctx context.Context) (uint64, error)
	// Identity names this feed: a projection of another identity must be rebuilt.
	Identity(ctx context.Context) (string, error)
}

// Feeds are what is known of images. Versions must be there; without one of the others the catalog knows nothing of it.
type Feeds struct {
	Versions    Feed[farm.Version]    // by name@version
	Channels    Feed[farm.Channel]    // by name@channel
	Usage       Feed[farm.Usage]      // by name@version
	Deployments Feed[farm.Deployment] // by deployment ID
}

// Names of the feeds of small records, in the file and in messages.
const (
	feedChannels    = "channels"
	feedUsage       = "usage"
	feedDeployments = "deployments"
)

// records projects a feed whose records are kept as they are: all of them stand in the index.
type records[T any] struct {
	c    *Catalog
	feed Feed[T]
	name string
	seen *progress
	// take takes a record into the index; nil: it has gone. The index is locked.
	take func(ix *index, key string, record *T)
}

func (r *records[T]) run(ctx context.Context) error {
	return r.c.keep(ctx, feed{
		name: r.name, seen: r.seen, identity: r.feed.Identity, last: r.feed.Last, reset: r.reset,
		follow: r.project,
	})
}

// record is one change of a record.
type record[T any] struct {
	key   string
	value *T
}

func (r *records[T]) project(ctx context.Context, after, last uint64) error {
	return inOrder(ctx, aheadFar, last, func(ctx context.Context, put func(*change[record[T]]) error) error {
		return r.feed.Follow(ctx, after, func(seq uint64, key string, value *T) error {
			return put(&change[record[T]]{seq: seq, value: record[T]{key, value}, ready: already})
		})
	}, r.apply, func(record[T]) int { return 1 })
}

func (r *records[T]) apply(ctx context.Context, changes []*change[record[T]]) error {
	tx, err := r.c.db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	for _, ch := range changes {
		if ch.value.value == nil {
			_, err = tx.ExecContext(ctx, "DELETE FROM records WHERE feed = ? AND key = ?", r.name, ch.value.key)
		} else {
			var row []byte
			if row, err = json.Marshal(ch.value.value); err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, "INSERT OR REPLACE INTO records (feed, key, row) VALUES (?, ?, ?)", r.name, ch.value.key, string(row))
		}
		if err != nil {
			return err
		}
	}
	seq := changes[len(changes)-1].seq
	if err := setMeta(ctx, tx, r.name+".seq", seq); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	r.c.index.mu.Lock()
	for _, ch := range changes {
		r.take(r.c.index, ch.value.key, ch.value.value)
	}
	r.c.index.mu.Unlock()
	r.seen.at(seq)
	return nil
}

// load takes what the file has into the index.
func (r *records[T]) load(ctx context.Context) error {
	return r.each(ctx, func(key string, row []byte) error {
		var value T
		if err := json.Unmarshal(row, &value); err != nil {
			return fmt.Errorf("%s %s: %w", r.name, key, err)
		}
		r.take(r.c.index, key, &value)
		return nil
	})
}

func (r *records[T]) reset(ctx context.Context) error {
	var keys []string
	if err := r.each(ctx, func(key string, _ []byte) error { keys = append(keys, key); return nil }); err != nil {
		return err
	}
	if _, err := r.c.db.write.ExecContext(ctx, "DELETE FROM records WHERE feed = ?", r.name); err != nil {
		return err
	}
	r.c.index.mu.Lock()
	defer r.c.index.mu.Unlock()
	for _, key := range keys {
		r.take(r.c.index, key, nil)
	}
	return nil
}

func (r *records[T]) each(ctx context.Context, fn func(key string, row []byte) error) error {
	return eachRow(ctx, r.c.db.write, func(rows *sql.Rows) error {
		var key string
		var row []byte
		if err := rows.Scan(&key, &row); err != nil {
			return err
		}
		return fn(key, row)
	}, "SELECT key, row FROM records WHERE feed = ?", r.name)
}

// queryer is a database or a transaction.
type queryer interface {
	QueryContext(ctx context.Context, query string, args ...any) (*sql.Rows, error)
}

// eachRow calls fn for every row of a query's answer.
func eachRow(ctx context.Context, q queryer, fn func(*sql.Rows) error, query string, args ...any) error {
	rows, err := q.QueryContext(ctx, query, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := fn(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}
