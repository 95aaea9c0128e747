package upkeep

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"

	"github.com/opencontainers/go-digest"
)

// Ages are how long records are kept that nothing else keeps. Zero values mean the default.
type Ages struct {
	Cache       time.Duration // an action cache entry of which no image has anything; default 14 days
	Bake        time.Duration // a finished bake whose version is gone, or that made none; default 30 days
	Context     time.Duration // the app's files as they were uploaded, after the bake's end; default 24 h
	Shard       time.Duration // a finished shard; default 24 h
	Observation time.Duration // what a mirror had; default 7 days
}

func (a *Ages) setDefaults() {
	const day = 24 * time.Hour
	for _, f := range []struct {
		age *time.Duration
		to  time.Duration
	}{{&a.Cache, 14 * day}, {&a.Bake, 30 * day}, {&a.Context, day}, {&a.Shard, day}, {&a.Observation, 7 * day}} {
		if *f.age == 0 {
			*f.age = f.to
		}
	}
}

// Collected is what a garbage collection has done, or would do.
type Collected struct {
	collect.Report
	Records map[string]int `json:"records"` // records that had expired and were deleted, by bucket
}

// tracing reads the farm's records for one mark: what they lead to is needed, and those that have expired are deleted.
//
// A reference moves from a bake to its shards, from these to the action cache, and on to a version. The buckets are read
// in this order, so that one that moves while they are read is seen before it moves, or after.
type tracing struct {
	u    *Upkeep
	m    *collect.Marker
	dry  bool
	gone map[string]int

	locks    map[digest.Digest]bool // of versions
	baked    map[string]bool        // bakes that committed a version
	running  map[string]bool        // bakes
	requests map[string]bool        // of bakes that are kept, hex
	wanted   map[string]bool        // shard IDs that unfinished bakes build upon
	old      []oldEntry             // of the action cache
}

type oldEntry struct {
	key      string
	revision uint64
	names    []imagestore.Sum
}

func (u *Upkeep) roots(dry bool, gone map[string]int) func(context.Context, *collect.Marker) error {
	return func(ctx context.Context, m *collect.Marker) error {
		t := &tracing{u: u, m: m, dry: dry, gone: gone, locks: map[digest.Digest]bool{}, baked: map[string]bool{},
			running: map[string]bool{}, requests: map[string]bool{}, wanted: map[string]bool{}}
		for _, step := range []func(context.Context) error{t.outline, t.bakes, t.shards, t.requestLocks, t.observations, t.actions, t.strangers, t.versions, t.cached} {
			if err := step(ctx); err != nil {
				return err
			}
		}
		return nil
	}
}

// outline notes what other records are kept for.
func (t *tracing) outline(ctx context.Context) error {
	return t.u.Bus.Versions.Each(ctx, "", func(_ string, _ uint64, _ []byte, v farm.Version) error {
		t.locks[v.Lock], t.baked[v.Bake] = true, true
		return nil
	})
}

// expire deletes a record, if it still stands as it was read.
func (t *tracing) expire(bucket string, del func() error) error {
	t.gone[bucket]++
	if t.dry {
		return nil
	}
	err := del()
	if errors.Is(err, bus.ErrConflict) || errors.Is(err, bus.ErrNotFound) {
		t.gone[bucket]--
		return nil
	}
	return err
}

func (t *tracing) older(at time.Time, age time.Duration) bool { return t.u.Now().Sub(at) > age }

func (t *tracing) bakes(ctx context.Context) error {
	b := t.u.Bus.Bakes
	return b.Each(ctx, "", func(key string, revision uint64, raw []byte, rec farm.Bake) error {
		if !rec.State.Finished() {
			t.running[rec.ID] = true
			t.requests[hexOf(rec.Request)] = true
			t.m.NeedAll(raw, 0)
			t.m.Need(rec.Context, 1) // its chunks
			t.m.Need(rec.Lock, 2)    // trees, and their chunks
			return t.plan(ctx, rec)
		}
		if !t.baked[rec.ID] && t.older(rec.DoneAt, t.u.Ages.Bake) {
			return t.expire("bakes", func() error { return b.Delete(ctx, key, revision) })
		}
		t.requests[hexOf(rec.Request)] = true
		if !t.older(rec.DoneAt, t.u.Ages.Context) {
			t.m.Need(rec.Context, 1)
		}
		rest, err := without(raw, "images") // those are the version's own
		if err != nil {
			return fmt.Errorf("bake %s: %w", key, err)
		}
		t.m.NeedAll(rest, 0)
		return nil
	})
}

// without is a JSON object without one of its fields.
func without(raw []byte, field string) ([]byte, error) {
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, err
	}
	delete(fields, field)
	return json.Marshal(fields)
}

// maxShardList bounds a bake's list of shards, in bytes.
const maxShardList = 64 << 20

// plan notes the shards of an unfinished bake: it builds upon their outputs, hits among them, however old.
func (t *tracing) plan(ctx context.Context, rec farm.Bake) error {
	refs := rec.Shards
	if rec.ShardList != "" {
		raw, err := imagestore.ReadAll(ctx, t.u.Store, rec.ShardList, maxShardList)
		if err == nil {
			err = json.Unmarshal(raw, &refs)
		}
		if err != nil {
			return fmt.Errorf("shards of bake %s: %w", rec.ID, err)
		}
	}
	for _, r := range refs {
		t.wanted[r.ID] = true
	}
	return nil
}

func (t *tracing) shards(ctx context.Context) error {
	b := t.u.Bus.Shards
	return b.Each(ctx, "", func(key string, revision uint64, raw []byte, rec farm.Shard) error {
		live := slices.ContainsFunc(rec.Bakes, func(id string) bool { return t.running[id] })
		if !rec.State.Finished() || live {
			t.m.NeedAll(raw, 0)
			t.m.Need(rec.Spec.Piece, 1)
			for _, d := range rec.Deps {
				t.wanted[d] = true
			}
			return nil
		}
		ended := rec.DoneAt
		if ended.IsZero() {
			ended = rec.QueuedAt
		}
		if t.older(ended, t.u.Ages.Shard) {
			return t.expire("shards", func() error { return b.Delete(ctx, key, revision) })
		}
		return nil
	})
}

func (t *tracing) requestLocks(ctx context.Context) error {
	b := t.u.Bus.Requests
	return b.Each(ctx, "", func(key string, revision uint64, raw []byte, rec farm.RequestLock) error {
		if !t.requests[key] && !t.locks[rec.Lock] {
			return t.expire("requests", func() error { return b.Delete(ctx, key, revision) })
		}
		t.m.NeedAll(raw, 0)
		return nil
	})
}

func (t *tracing) observations(ctx context.Context) error {
	b := t.u.Bus.Observations
	return b.Each(ctx, "", func(key string, revision uint64, raw []byte, rec farm.Observation) error {
		if t.older(rec.At, t.u.Ages.Observation) {
			return t.expire("observations", func() error { return b.Delete(ctx, key, revision) })
		}
		t.m.NeedAll(raw, 0)
		return nil
	})
}

func (t *tracing) actions(ctx context.Context) error {
	return t.u.Bus.Actions.Each(ctx, "", func(key string, revision uint64, raw []byte, rec farm.ActionEntry) error {
		if !t.older(rec.At, t.u.Ages.Cache) || t.wanted[key] {
			t.m.NeedAll(withoutTars(raw), 0)
			return nil
		}
		e := oldEntry{key: key, revision: revision}
		collect.Names(withoutTars(rec.Output), func(s imagestore.Sum) { e.names = append(e.names, s) })
		t.old = append(t.old, e)
		return nil
	})
}

// tarName is the field of an output that names the uncompressed bytes of a member (plan.Member), which no store has.
var tarName = regexp.MustCompile(`"tarDigest"\s*:\s*"[^"]*"`)

// withoutTars is a record without the names of uncompressed bytes. Those of a later part of a large file are the chunk itself, as it
// was uploaded: it would be kept for as long as what was made of it.
func withoutTars(raw []byte) []byte { return tarName.ReplaceAll(raw, []byte(`"tarDigest":""`)) }

func (t *tracing) strangers(ctx context.Context) error {
	return t.u.Bus.Strangers(ctx, func(raw []byte) error {
		t.m.NeedAll(raw, 1)
		return nil
	})
}

func (t *tracing) versions(ctx context.Context) error {
	return t.u.Bus.Versions.Each(ctx, "", func(_ string, _ uint64, raw []byte, v farm.Version) error {
		needVersion(t.m, raw, v)
		return nil
	})
}

// needVersion marks what a version's record names, and what the manifests of its images do.
func needVersion(m *collect.Marker, raw []byte, v farm.Version) {
	m.NeedAll(raw, 0)
	for _, i := range v.Images {
		m.Need(i.Digest, 1)
	}
}

// cached decides about the old entries of the action cache: one stays for as long as something that is kept has a part of
// what it made, because then it costs nothing. Its record goes before its pieces do.
func (t *tracing) cached(ctx context.Context) error {
	if err := t.m.Expand(ctx); err != nil {
		return err
	}
	b := t.u.Bus.Actions
	for _, e := range t.old {
		if !slices.ContainsFunc(e.names, t.m.Needed) {
			if err := t.expire("actions", func() error { return b.Delete(ctx, e.key, e.revision) }); err != nil {
				return err
			}
			continue
		}
		for _, s := range e.names {
			t.m.Need(s.Digest(), 0)
		}
	}
	return nil
}

// packs are the records of packs as the collector wants them.
type packs struct{ bucket *bus.Bucket[farm.Pack] }

// List leaves the trailers out: there are many packs, and what is there tells of itself by its object, too.
func (p packs) List(ctx context.Context) (map[string]collect.Pack, error) {
	all := map[string]collect.Pack{}
	err := p.bucket.Each(ctx, "", func(key string, revision uint64, _ []byte, pack farm.Pack) error {
		pack.Trailer = nil
		all[key] = collect.Pack{Pack: pack, Revision: revision}
		return nil
	})
	return all, err
}

func (p packs) Update(ctx context.Context, pack farm.Pack, revision uint64) error {
	_, err := p.bucket.Update(ctx, pack.ID, pack, revision)
	return storeError(err)
}

func (p packs) Delete(ctx context.Context, id string, revision uint64) error {
	return storeError(p.bucket.Delete(ctx, id, revision))
}

// storeError gives the bus's conditions the image store's names.
func storeError(err error) error {
	switch {
	case errors.Is(err, bus.ErrNotFound):
		return fmt.Errorf("%w: %w", imagestore.ErrNotFound, err)
	case errors.Is(err, bus.ErrConflict):
		return fmt.Errorf("%w: %w", imagestore.ErrConflict, err)
	}
	return err
}

// Frees says how many bytes the store would have less without the given versions (and those in the trash).
func Frees(ctx context.Context, c *collect.Collector, facts Facts, expired []bus.KeepItem) (int64, error) {
	if len(expired) == 0 {
		return 0, nil
	}
	goes := make(map[string]bool, len(expired))
	for _, e := range expired {
		goes[versionKey(e.Name, e.Version)] = true
	}
	need := func(all bool) func(*collect.Marker) {
		return func(m *collect.Marker) {
			for key, v := range facts.Records {
				if v.Trash != nil || goes[key] && !all {
					continue
				}
				needImages(m, v)
				m.Need(v.Lock, 0)
			}
		}
	}
	return c.Frees(ctx, need(false), need(true))
}

// needImages marks what a version's images are made of.
func needImages(m *collect.Marker, v farm.Version) {
	for _, i := range v.Images {
		m.Need(i.Digest, 1)
		for _, b := range i.Blobs {
			m.Need(b, 0)
		}
	}
}

// Weigh says how many bytes a version's images take in the store: own ones, and those of pieces that images of other
// versions have as well. versions are all records, by name@version.
func Weigh(ctx context.Context, c *collect.Collector, versions map[string]farm.Version, name, version string) (own, shared int64, err error) {
	one := func(m *collect.Marker) { needImages(m, versions[versionKey(name, version)]) }
	others := func(m *collect.Marker) {
		for key, v := range versions {
			if key != versionKey(name, version) {
				needImages(m, v)
			}
		}
	}
	if own, err = c.Frees(ctx, others, func(m *collect.Marker) { others(m); one(m) }); err != nil {
		return 0, 0, err
	}
	total, err := c.Frees(ctx, func(*collect.Marker) {}, one)
	return own, total - own, err
}

// hexOf is a digest without its algorithm; records of other releases may lack it.
func hexOf(d digest.Digest) string { return strings.TrimPrefix(string(d), "sha256:") }
