package catalog

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"unique"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// LockReader reads a Lock from the store: see ReadLocks.
type LockReader func(ctx context.Context, d digest.Digest) (*recipe.Lock, error)

// ReadLocks reads Locks from a store.
func ReadLocks(store imagestore.Reader) LockReader {
	return func(ctx context.Context, d digest.Digest) (*recipe.Lock, error) {
		raw, err := imagestore.ReadAll(ctx, store, d, recipe.MaxLock)
		if err != nil {
			return nil, err
		}
		lock, err := recipe.DecodeLock(raw)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", imagestore.ErrCorrupt, err)
		}
		return lock, nil
	}
}

// versionChange is a change of a version with what was read for it.
type versionChange struct {
	key string
	v   *farm.Version // nil: deleted
	// lock is set if it had to be read: for what an older release has not put into the record, or a new set of packages.
	lock *recipe.Lock
}

func (c *Catalog) followVersions(ctx context.Context, read LockReader) error {
	return c.keep(ctx, feed{
		name: "versions", seen: &c.versionsSeen, identity: c.feeds.Versions.Identity, last: c.feeds.Versions.Last,
		reset:  c.resetVersions,
		follow: func(ctx context.Context, after, last uint64) error { return c.projectVersions(ctx, after, last, read) },
	})
}

func (c *Catalog) projectVersions(ctx context.Context, after, last uint64, read LockReader) error {
	coming := map[digest.Digest]bool{} // sets that a change before brings
	loading := newLoading()
	defer loading.wait()
	return inOrder(ctx, aheadFar, last, func(ctx context.Context, put func(*change[*versionChange]) error) error {
		return c.feeds.Versions.Follow(ctx, after, func(seq uint64, key string, v *farm.Version) error {
			ch := &change[*versionChange]{seq: seq, value: &versionChange{key: key, v: v}, ready: already}
			if v != nil && !c.toldAll(*v, coming) {
				var err error
				if ch.ready, err = loading.begin(ctx, func() { ch.value.lock = c.loadLock(ctx, *v, read) }); err != nil {
					return err
				}
			}
			return put(ch)
		})
	}, func(ctx context.Context, changes []*change[*versionChange]) error {
		if err := ctx.Err(); err != nil {
			return err // a Lock may be missing only because its loading was stopped
		}
		return c.applyVersions(ctx, changes, read)
	}, func(ch *versionChange) int { return 1 })
}

// toldAll reports whether the catalog knows everything about the version without reading its Lock.
func (c *Catalog) toldAll(v farm.Version, coming map[digest.Digest]bool) bool {
	if v.Contents == nil {
		return false
	}
	all := true
	for _, set := range v.Contents.Packages {
		if !coming[set] && !c.sets.has(set) {
			if len(coming) >= maxComing {
				clear(coming)
			}
			coming[set], all = true, false
		}
	}
	return all
}

// maxComing bounds what projectVersions remembers. What is forgotten is read once more.
const maxComing = 1 << 16

// loadLock reads a version's Lock, for as long as it takes. A version whose Lock is gone or broken is without contents:
// nothing else must wait for it.
func (c *Catalog) loadLock(ctx context.Context, v farm.Version, read LockReader) *recipe.Lock {
	if read == nil {
		return nil
	}
	for attempt := 0; ; attempt++ {
		lock, err := read(ctx, v.Lock)
		switch {
		case err == nil:
			return lock
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, imagestore.ErrNotFound), errors.Is(err, imagestore.ErrCorrupt):
			c.log.Warn("a version's Lock can't be read: the catalog does not know its packages", "name", v.Name, "version", v.Version, "err", err)
			return nil
		}
		c.versionsSeen.fail(err)
		c.log.Warn("catalog can't read a Lock: retrying", "name", v.Name, "version", v.Version, "err", err)
		if pause(ctx, attempt) != nil {
			return nil
		}
	}
}

// versionRow is how the file keeps a version: its record without what is looked up elsewhere, and the sets of packages of
// its images.
type versionRow struct {
	Version farm.Version `json:"version"`
	Sets    [][]uint32   `json:"sets"` // by image
}

// applyVersions replaces the rows of the changed versions, in the file and then in the index.
func (c *Catalog) applyVersions(ctx context.Context, changes []*change[*versionChange], read LockReader) error {
	latest := make(map[string]*versionChange, len(changes))
	for _, ch := range changes {
		latest[ch.value.key] = ch.value
	}
	tx, err := c.db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	// SQLite's driver sets a watch for every statement whose context can end: a batch is a moment's work, and there are many.
	batch := context.WithoutCancel(ctx)
	load := func(v farm.Version) (*recipe.Lock, error) { return c.loadLock(ctx, v, read), ctx.Err() }
	w := &versionWriter{c: c, tx: tx, sets: newSetWriter(tx, &c.sets), repos: map[string]*repo{}, made: map[string]*version{}}
	if err := w.prepare(batch); err != nil {
		return err
	}
	for _, ch := range changes {
		if latest[ch.value.key] != ch.value {
			continue
		}
		if err := w.replace(batch, ch.value, load); err != nil {
			return fmt.Errorf("version %s: %w", ch.value.key, err)
		}
	}
	if err := w.flushBlobs(batch); err != nil {
		return fmt.Errorf("blobs: %w", err)
	}
	if err := w.sets.flush(batch); err != nil {
		return fmt.Errorf("sets of packages: %w", err)
	}
	seq := changes[len(changes)-1].seq
	if err := setMeta(batch, tx, "versions.seq", seq); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	if w.sets.committed() {
		if err := c.sets.load(ctx, c.db.write); err != nil {
			return err
		}
	}
	c.index.mu.Lock()
	for name, r := range w.repos {
		c.index.repos[name] = r
	}
	c.index.replace(w.made)
	c.index.mu.Unlock()
	c.versionsSeen.at(seq)
	return nil
}

// versionWriter writes a batch of versions into the file. The index is read, and changed only after all of it: nobody
// else changes its versions and repositories.
type versionWriter struct {
	c     *Catalog
	tx    *sql.Tx
	sets  *setWriter
	repos map[string]*repo    // new ones
	made  map[string]*version // by key; nil: deleted
	blobs []repoBlob

	insertVersion *sql.Stmt // closed with the transaction
}

// lockLoader loads a version's Lock; nil when it is lost. It fails when it was stopped.
type lockLoader func(v farm.Version) (*recipe.Lock, error)

// repoBlob is a row of repo_blobs.
type repoBlob struct {
	repo    int64
	sum     imagestore.Sum
	version int64
}

func (w *versionWriter) prepare(ctx context.Context) (err error) {
	w.insertVersion, err = w.tx.PrepareContext(ctx, "INSERT INTO versions (key, row) VALUES (?, ?)")
	return err
}

// blobsAtOnce is how many rows one statement inserts: each costs more than its rows do.
const blobsAtOnce = 64

// flushBlobs writes the rows of repo_blobs, in the order in which the table has them: so a batch touches each of its pages once.
func (w *versionWriter) flushBlobs(ctx context.Context) error {
	slices.SortFunc(w.blobs, func(a, b repoBlob) int {
		return cmp.Or(cmp.Compare(a.repo, b.repo), bytes.Compare(a.sum[:], b.sum[:]), cmp.Compare(a.version, b.version))
	})
	insert := func(rows int) (*sql.Stmt, error) {
		return w.tx.PrepareContext(ctx, "INSERT OR IGNORE INTO repo_blobs (repo, digest, version) VALUES (?, ?, ?)"+strings.Repeat(", (?, ?, ?)", rows-1))
	}
	var many *sql.Stmt
	for rows := range slices.Chunk(w.blobs, blobsAtOnce) {
		if many == nil || len(rows) < blobsAtOnce {
			var err error
			if many, err = insert(len(rows)); err != nil {
				return err
			}
		}
		args := make([]any, 0, 3*blobsAtOnce)
		for n := range rows {
			args = append(args, rows[n].repo, rows[n].sum[:], rows[n].version)
		}
		if _, err := many.ExecContext(ctx, args...); err != nil {
			return err
		}
	}
	return nil
}

func (w *versionWriter) replace(ctx context.Context, ch *versionChange, load lockLoader) error {
	if old := w.c.index.versions[ch.key]; old != nil {
		for _, table := range []string{"versions WHERE num = ?", "repo_blobs WHERE version = ?"} {
			if _, err := w.tx.ExecContext(ctx, "DELETE FROM "+table, old.num); err != nil {
				return err
			}
		}
		w.made[ch.key] = nil
		for _, i := range old.images {
			w.sets.drop(i.sets())
		}
	}
	if ch.v == nil {
		return nil
	}
	row, blobs, err := w.describe(ctx, ch, load)
	if err != nil || len(row.Version.Images) == 0 {
		return err
	}
	text, err := json.Marshal(row)
	if err != nil {
		return err
	}
	result, err := w.insertVersion.ExecContext(ctx, ch.key, string(text))
	if err != nil {
		return err
	}
	num, err := result.LastInsertId()
	if err != nil {
		return err
	}
	r, err := w.repo(ctx, row.Version.Name)
	if err != nil {
		return err
	}
	for _, sum := range blobs {
		w.blobs = append(w.blobs, repoBlob{r.num, sum, num})
	}
	for _, sets := range row.Sets {
		w.sets.use(sets)
	}
	v, err := w.c.index.newVersion(num, ch.key, r, row)
	w.made[ch.key] = v
	return err
}

// describe makes the row of a version, and lists the blobs that its repository may give out.
func (w *versionWriter) describe(ctx context.Context, ch *versionChange, load lockLoader) (versionRow, []imagestore.Sum, error) {
	v := *ch.v
	v.Registries = nil
	sets, contents, err := w.contents(ctx, ch, load)
	if err != nil {
		return versionRow{}, nil, err
	}
	v.Contents = contents
	var images []farm.Image
	var blobs []imagestore.Sum
	for _, img := range v.Images {
		sum, err := imagestore.ParseDigest(img.Digest)
		if err != nil {
			w.c.log.Error("a version's image is left out of the catalog", "version", ch.key, "err", err)
			continue
		}
		blobs = append(blobs, sum)
		for _, d := range img.Blobs {
			sum, err := imagestore.ParseDigest(d)
			if err != nil {
				w.c.log.Error("a blob is left out of the catalog", "version", ch.key, "image", img.Digest, "err", err)
				continue
			}
			blobs = append(blobs, sum)
		}
		img.Name, img.Ref, img.Blobs = "", "", nil
		images = append(images, img)
	}
	slices.SortStableFunc(images, farm.CompareImages)
	for _, a := range v.Attached {
		for _, d := range append([]digest.Digest{a.Digest}, a.Blobs...) {
			if sum, err := imagestore.ParseDigest(d); err == nil {
				blobs = append(blobs, sum)
			}
		}
	}
	v.Images = images
	row := versionRow{Version: v, Sets: make([][]uint32, len(images))}
	for n, img := range images {
		for platform, set := range sets {
			if img.Platform == platform || img.IsIndex() {
				row.Sets[n] = append(row.Sets[n], set)
			}
		}
		slices.Sort(row.Sets[n])
		row.Sets[n] = slices.Compact(row.Sets[n])
	}
	return row, blobs, nil
}

// contents finds the numbers of the version's sets of packages by platform, writing those that are new.
func (w *versionWriter) contents(ctx context.Context, ch *versionChange, load lockLoader) (map[string]uint32, *farm.Contents, error) {
	contents := ch.v.Contents
	if ch.lock == nil && contents != nil {
		for _, set := range contents.Packages {
			if _, known := w.sets.number(set); !known { // whoever was to bring it could not
				var err error
				if ch.lock, err = load(*ch.v); err != nil {
					return nil, nil, err
				}
				break
			}
		}
	}
	if ch.lock != nil {
		contents = plan.Contents(ch.lock, "")
		if ch.v.Contents != nil {
			contents.Base = ch.v.Contents.Base
		}
	}
	if contents == nil {
		return nil, &farm.Contents{}, nil
	}
	sets := make(map[string]uint32, len(contents.Packages))
	for platform, set := range contents.Packages {
		number, known := w.sets.number(set)
		if !known && ch.lock != nil {
			var err error
			if number, err = w.sets.add(ctx, set, plan.Installed(ch.lock)[platform]); err != nil {
				return nil, nil, err
			}
			known = true
		}
		if known {
			sets[platform] = number
		}
	}
	return sets, contents, nil
}

func (w *versionWriter) repo(ctx context.Context, name string) (*repo, error) {
	if r := w.c.index.repos[name]; r != nil {
		return r, nil
	}
	if r := w.repos[name]; r != nil {
		return r, nil
	}
	result, err := w.tx.ExecContext(ctx, "INSERT INTO repos (name) VALUES (?)", name)
	if err != nil {
		return nil, err
	}
	num, err := result.LastInsertId()
	r := &repo{num: num, name: name}
	w.repos[name] = r
	return r, err
}

// intern returns one copy of a text that many rows have.
func intern(s string) string { return unique.Make(s).Value() }

// kinds are all the kinds of images that were met. There are a few dozen, or as many as somebody's imports have: they stay.
var kinds sync.Map // kind → *kind

func internKind(k kind) *kind {
	if known, ok := kinds.Load(k); ok {
		return known.(*kind)
	}
	known, _ := kinds.LoadOrStore(k, &k)
	return known.(*kind)
}

// newVersion makes the index's form of a row.
func (x *index) newVersion(num int64, key string, r *repo, row versionRow) (*version, error) {
	f := row.Version
	v := &version{
		num: num, key: key, repo: r, name: r.name, version: f.Version, created: nanos(f.CreatedAt), sequence: f.Sequence,
		bake: f.Bake, bakeKey: f.Key, lock: f.Lock, pins: f.Pins, trash: f.Trash, attached: f.Attached,
	}
	if f.Lock == f.Key {
		v.lock = v.bakeKey
	}
	c := f.Contents
	if c == nil {
		c = &farm.Contents{}
	}
	if r.labels == nil || !maps.Equal(r.labels, c.Labels) {
		r.labels = c.Labels
	}
	if r.base == nil || *r.base != c.Base {
		r.base = &farm.Base{Ref: intern(c.Base.Ref), Name: intern(c.Base.Name), Version: intern(c.Base.Version)}
	}
	v.base, v.labels = r.base, r.labels
	if len(row.Sets) != len(f.Images) {
		return nil, fmt.Errorf("version %s: %d images, packages of %d", key, len(f.Images), len(row.Sets))
	}
	text := searchText(v)
	for n, i := range f.Images {
		sum, err := imagestore.ParseDigest(i.Digest)
		if err != nil {
			return nil, err
		}
		made := image{
			of: v, repo: r, base: v.base, labels: v.labels, created: v.created, text: text, trashed: v.trash != nil,
			rank: int32(n), sum: sum, size: i.Size, kind: internKind(kind{i.Kind, i.Platform, i.Format, i.MediaType}),
		}
		if sets := row.Sets[n]; len(sets) == 1 {
			made.set = sets[0]
		} else if len(sets) > 1 {
			made.many = sets
		}
		v.images = append(v.images, made)
	}
	return v, nil
}

// loadVersions takes what the file has into the index.
func (c *Catalog) loadVersions(ctx context.Context) error {
	x := c.index
	if err := eachRow(ctx, c.db.write, func(rows *sql.Rows) error {
		var r repo
		err := rows.Scan(&r.num, &r.name)
		x.repos[r.name] = &r
		return err
	}, "SELECT num, name FROM repos"); err != nil {
		return err
	}
	if err := c.sets.load(ctx, c.db.write); err != nil {
		return err
	}
	made := map[string]*version{}
	err := eachRow(ctx, c.db.write, func(rows *sql.Rows) error {
		var num int64
		var key string
		var text []byte
		if err := rows.Scan(&num, &key, &text); err != nil {
			return err
		}
		var row versionRow
		if err := json.Unmarshal(text, &row); err != nil {
			return fmt.Errorf("version %s: %w", key, err)
		}
		r := x.repos[row.Version.Name]
		if r == nil {
			return fmt.Errorf("version %s: its name has no repository", key)
		}
		v, err := x.newVersion(num, key, r, row)
		if err != nil {
			return err
		}
		for _, sets := range row.Sets {
			c.sets.refer(sets)
		}
		made[key] = v
		return nil
	}, "SELECT num, key, row FROM versions")
	x.replace(made)
	return err
}

func (c *Catalog) resetVersions(ctx context.Context) error {
	if _, err := c.db.write.ExecContext(ctx, `DELETE FROM versions; DELETE FROM repo_blobs; DELETE FROM repos;
		DELETE FROM package_sets; DELETE FROM packages;`); err != nil {
		return err
	}
	c.sets.reset()
	c.index.mu.Lock()
	defer c.index.mu.Unlock()
	c.index.forgetVersions()
	return nil
}
