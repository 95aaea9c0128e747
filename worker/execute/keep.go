package execute

import (
	"context"
	"fmt"
	"io"

	"bakefarm/compose"
	"bakefarm/imagestore"
	"bakefarm/worker/cache"

	"github.com/opencontainers/go-digest"
)

// piece returns a piece of at most limit bytes, out of the worker's cache or the store. The caller must not change it.
func (j *job) piece(ctx context.Context, d digest.Digest, limit int64) ([]byte, error) {
	if data, err := j.Cache.Get(d, limit); err == nil {
		return data, nil // a damaged entry has been dropped; the store has the piece
	}
	data, err := imagestore.ReadAll(ctx, j.Store, d, limit)
	if err != nil {
		return nil, err
	}
	j.keep(d, data)
	return data, nil
}

// keep puts bytes that have the digest into the cache. What can't be kept is had again from the store.
func (j *job) keep(d digest.Digest, data []byte) { _ = j.Cache.Put(d, data) }

// A memberStore takes a member as it is made: its pieces to a Writer and the cache, its uncompressed bytes to the cache.
type memberStore struct {
	job *job
	w   imagestore.Writer
	tar *cache.Writer // nil: the cache does not take it
}

func (j *job) newMember(w imagestore.Writer) *memberStore {
	return &memberStore{job: j, w: w, tar: j.Cache.Create()}
}

// put takes the member's next piece. It keeps no reference to its bytes.
func (m *memberStore) put(ctx context.Context, p compose.Piece, data []byte) error {
	if _, err := m.w.PutAs(ctx, p.Digest, data); err != nil {
		return err
	}
	m.job.keep(p.Digest, data)
	return nil
}

// Write takes the member's uncompressed bytes. It never fails: a cache that can't take them is none of the shard's
// business.
func (m *memberStore) Write(p []byte) (int, error) {
	if m.tar != nil {
		if _, err := m.tar.Write(p); err != nil {
			m.discard()
		}
	}
	return len(p), nil
}

// done makes the uncompressed bytes available, once they are known to be right.
func (m *memberStore) done(member compose.Member) {
	if m.tar != nil {
		_ = m.tar.Commit(member.TarDigest)
	}
	m.discard()
}

// discard drops the uncompressed bytes, unless they are done.
func (m *memberStore) discard() {
	if m.tar != nil {
		m.tar.Discard()
		m.tar = nil
	}
}

// cut makes a member of what fill writes.
func (m *memberStore) cut(ctx context.Context, fill func(w io.Writer) error) (compose.Member, error) {
	w := compose.NewMemberWriter(0, func(p compose.Piece, data []byte) error { return m.put(ctx, p, data) })
	defer w.Abort()
	if err := fill(io.MultiWriter(w, m)); err != nil {
		return compose.Member{}, err
	}
	member, err := w.Close()
	if err != nil {
		return compose.Member{}, err
	}
	m.done(member)
	return member, nil
}

// size writes a number of bytes for people.
func size(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 1_000_000:
		return fmt.Sprintf("%d kB", n/1000)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
