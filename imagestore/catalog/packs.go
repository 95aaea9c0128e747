package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
)

// The states of a pack in this projection. announced: by Add, not (yet) seen in the ledger; never in the file.
const (
	announced int32 = iota
	live
	condemned
	gone
)

type pack struct {
	id    string
	state atomic.Int32

	// Set once it is in the file.
	num     int64
	entries int

	announced []imagestore.Entry // until then, if this process has written it
}

// maxAnnounced is how many packs of this process are remembered until the ledger's change has come back. Of others the
// index is read from the store, like that of anybody's pack.
const maxAnnounced = 1024

// place is a Location without its strings.
type place struct {
	pack           *pack
	offset, length int64
	composite      bool
	piece          imagestore.Sum // composite
}

func (p place) location(sum imagestore.Sum, d digest.Digest) imagestore.Location {
	l := imagestore.Location{
		Pack: p.pack.id, Offset: p.offset, Length: p.length, Piece: d,
		Composite: p.composite, Condemned: p.pack.state.Load() == condemned,
	}
	if p.composite {
		l.Piece = p.piece.Digest()
	}
	return l
}

// better reports whether p is to be preferred to q: something to nothing, live to condemned, a piece to a composite.
func (p place) better(q place) bool {
	if q.pack == nil {
		return true
	}
	if ps, qs := p.pack.state.Load(), q.pack.state.Load(); ps != qs {
		return ps == live
	}
	return !p.composite && q.composite
}

// recent keeps the places that were asked for or added last, in two generations: when the young one is full, it becomes
// the old one, and what was in that is forgotten. Only a place in a live pack counts, so nothing has to be taken out.
type recent struct {
	mu         sync.RWMutex
	young, old map[imagestore.Sum]place
}

// generation bounds recent to about 20 MB.
const generation = 1 << 16

func (r *recent) get(sum imagestore.Sum) (place, bool) {
	r.mu.RLock()
	p, ok := r.young[sum]
	if !ok {
		p, ok = r.old[sum]
	}
	r.mu.RUnlock()
	return p, ok && p.pack.state.Load() == live
}

func (r *recent) add(sum imagestore.Sum, p place) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if had, ok := r.young[sum]; ok && had.pack.state.Load() == live && !had.composite {
		return
	}
	if len(r.young) >= generation {
		r.old, r.young = r.young, nil
	}
	if r.young == nil {
		r.young = make(map[imagestore.Sum]place)
	}
	r.young[sum] = p
}

// addAll adds the entries of a pack, as far as a generation takes them.
func (r *recent) addAll(p *pack, entries []imagestore.Entry) error {
	for _, e := range entries[:min(len(entries), generation)] {
		sum, err := imagestore.ParseDigest(e.Digest)
		if err != nil {
			return err
		}
		at := place{pack: p, offset: e.Offset, length: e.Length, composite: e.Piece != ""}
		if at.composite {
			if at.piece, err = imagestore.ParseDigest(e.Piece); err != nil {
				return err
			}
		}
		r.add(sum, at)
	}
	return nil
}

func (r *recent) clear() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.young, r.old = nil, nil
}

// locateQuery takes n digests as one blob of 32n bytes.
const locateQuery = `
WITH RECURSIVE asked(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM asked WHERE i + 1 < ?2)
SELECT asked.i, e.composite, e.pack, e.offset, e.length, e.piece
FROM asked CROSS JOIN entries e ON e.digest = substr(?1, asked.i * 32 + 1, 32)`

// Locate finds a pack for each digest: see imagestore.Locator.
func (c *Catalog) Locate(ctx context.Context, digests []digest.Digest) ([]imagestore.Location, error) {
	found := make([]imagestore.Location, len(digests))
	var asked []byte
	var index []int // of the digests in asked
	for i, d := range digests {
		sum, err := imagestore.ParseDigest(d)
		if err != nil {
			return nil, err
		}
		if p, ok := c.recent.get(sum); ok {
			found[i] = p.location(sum, d)
			if !p.composite {
				continue
			}
			// The digest may be that of a piece as well, which is preferred: the file knows.
		}
		asked = append(asked, sum[:]...)
		index = append(index, i)
	}
	if len(index) == 0 {
		return found, nil
	}
	best, err := c.query(ctx, asked, len(index))
	if err != nil {
		return nil, fmt.Errorf("locate %d digests: %w", len(index), c.noticed(err))
	}
	for k, p := range best {
		if p.pack == nil || p.composite && found[index[k]].Pack != "" {
			continue
		}
		sum := imagestore.Sum(asked[k*32:])
		found[index[k]] = p.location(sum, digests[index[k]])
		c.recent.add(sum, p)
	}
	return found, nil
}

// query finds the best place of each of the n sums.
func (c *Catalog) query(ctx context.Context, sums []byte, n int) ([]place, error) {
	rows, err := c.locate.QueryContext(ctx, sums, n)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	best := make([]place, n)
	c.mu.RLock()
	defer c.mu.RUnlock()
	for rows.Next() {
		var (
			i     int
			num   int64
			p     place
			piece sql.RawBytes
		)
		if err := rows.Scan(&i, &p.composite, &num, &p.offset, &p.length, &piece); err != nil {
			return nil, err
		}
		if p.pack = c.byNum[num]; p.pack == nil {
			continue
		}
		if s := p.pack.state.Load(); s != live && s != condemned {
			continue
		}
		if p.composite {
			copy(p.piece[:], piece)
		}
		if p.better(best[i]) {
			best[i] = p
		}
	}
	return best, rows.Err()
}

// Add remembers the entries of a pack that is about to be registered: see imagestore.Locator. They come into the file with
// the ledger's change; until then a piece may be forgotten (recent is bounded), and is found again after CatchUp.
func (c *Catalog) Add(ctx context.Context, p farm.Pack, entries []imagestore.Entry) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.byID[p.ID] != nil {
		return nil
	}
	added := &pack{id: p.ID, announced: entries}
	added.state.Store(announced)
	c.byID[p.ID] = added
	c.announced = append(c.announced, added)
	if len(c.announced) > maxAnnounced {
		if oldest := c.announced[0]; oldest.num == 0 && c.byID[oldest.id] == oldest {
			delete(c.byID, oldest.id)
		}
		c.announced = slices.Delete(c.announced, 0, 1)
	}
	return c.recent.addAll(added, entries)
}

// Registered says that the ledger has taken the pack: see imagestore.Locator. The file learns it from the ledger.
func (c *Catalog) Registered(ctx context.Context, id string) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p := c.byID[id]; p != nil {
		p.state.CompareAndSwap(announced, live)
	}
	return nil
}

// announcement finds a pack that is in the file, or was announced by this process: then with its entries.
func (c *Catalog) announcement(id string) (entries []imagestore.Entry, known bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p := c.byID[id]; p != nil {
		return p.announced, true
	}
	return nil, false
}

// packChange is what the ledger says of a pack. Its entries count if it is not in the file yet.
type packChange struct {
	id      string
	state   int32
	entries []imagestore.Entry
}

// apply makes the changes, first in the file and then in memory. seen is the ledger's sequence after them.
func (c *Catalog) apply(ctx context.Context, seen uint64, changes []packChange) error {
	c.writing.Lock()
	defer c.writing.Unlock()
	tx, err := c.db.write.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer tx.Rollback()
	var (
		filed = map[string]*pack{} // new in the file; nil: not any more
		after []func()
		dead  = c.dead
	)
	find := func(id string) *pack {
		if p, ok := filed[id]; ok {
			return p
		}
		c.mu.RLock()
		defer c.mu.RUnlock()
		if p := c.byID[id]; p != nil && p.num != 0 {
			return p
		}
		return nil
	}
	for _, ch := range changes {
		p := find(ch.id)
		switch {
		case p == nil && ch.state == gone:
			after = append(after, func() { c.forget(ch.id) })
		case p == nil:
			num, err := insertPack(ctx, tx, ch)
			if err != nil {
				return err
			}
			p = &pack{id: ch.id, num: num, entries: len(ch.entries)}
			filed[ch.id] = p
			after = append(after, func() { c.remember(p, ch) })
		case ch.state == gone:
			if _, err := tx.ExecContext(ctx, "DELETE FROM packs WHERE num = ?", p.num); err != nil {
				return err
			}
			dead += int64(p.entries)
			filed[ch.id] = nil
			after = append(after, func() { c.forget(ch.id) })
		default:
			if _, err := tx.ExecContext(ctx, "UPDATE packs SET state = ? WHERE num = ?", ch.state, p.num); err != nil {
				return err
			}
			after = append(after, func() { c.setState(ch.id, ch.state) })
		}
	}
	if dead > sweepAt {
		if _, err := tx.ExecContext(ctx, "DELETE FROM entries WHERE pack NOT IN (SELECT num FROM packs)"); err != nil {
			return err
		}
		dead = 0
	}
	if dead != c.dead {
		if err := setMeta(ctx, tx, "dead", dead); err != nil {
			return err
		}
	}
	if err := setMeta(ctx, tx, "packs.seq", seen); err != nil {
		return err
	}
	if err := tx.Commit(); err != nil {
		return err
	}
	c.dead = dead
	for _, f := range after {
		f()
	}
	return nil
}

// sweepAt is how many entries of deleted packs are borne before they are swept, which reads the whole table.
var sweepAt int64 = 100_000

func insertPack(ctx context.Context, tx *sql.Tx, ch packChange) (num int64, err error) {
	res, err := tx.ExecContext(ctx, "INSERT INTO packs (id, state, entries) VALUES (?, ?, ?)", ch.id, ch.state, len(ch.entries))
	if err != nil {
		return 0, err
	}
	if num, err = res.LastInsertId(); err != nil {
		return 0, err
	}
	insert, err := tx.PrepareContext(ctx, "INSERT OR IGNORE INTO entries (digest, composite, pack, offset, length, piece) VALUES (?, ?, ?, ?, ?, ?)")
	if err != nil {
		return 0, err
	}
	defer insert.Close()
	for _, e := range ch.entries {
		sum, err := imagestore.ParseDigest(e.Digest)
		if err != nil {
			return 0, err
		}
		var piece []byte
		if e.Piece != "" {
			s, err := imagestore.ParseDigest(e.Piece)
			if err != nil {
				return 0, err
			}
			piece = s[:]
		}
		if _, err := insert.ExecContext(ctx, sum[:], e.Piece != "", num, e.Offset, e.Length, piece); err != nil {
			return 0, err
		}
	}
	return num, nil
}

// remember takes a pack that is new in the file into memory, and its entries as the most recent ones. If it was announced,
// the places of its entries are known, and go on by the same pack.
func (c *Catalog) remember(p *pack, ch packChange) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p.state.Store(ch.state)
	if known := c.byID[p.id]; known != nil {
		known.num, known.entries, known.announced = p.num, p.entries, nil
		known.state.Store(ch.state)
		c.byNum[p.num] = known
		return
	}
	c.byNum[p.num], c.byID[p.id] = p, p
	_ = c.recent.addAll(p, ch.entries) // insertPack has parsed them
}

func (c *Catalog) setState(id string, state int32) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if p := c.byID[id]; p != nil {
		p.state.Store(state)
	}
}

func (c *Catalog) forget(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p := c.byID[id]; p != nil {
		p.state.Store(gone)
		delete(c.byNum, p.num)
		delete(c.byID, id)
	}
}

// loadPacks reads the packs' states from the file.
func (c *Catalog) loadPacks(ctx context.Context) error {
	byNum, byID := map[int64]*pack{}, map[string]*pack{}
	rows, err := c.db.write.QueryContext(ctx, "SELECT num, id, state, entries FROM packs")
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		p := new(pack)
		var state int32
		if err := rows.Scan(&p.num, &p.id, &state, &p.entries); err != nil {
			return err
		}
		p.state.Store(state)
		byNum[p.num], byID[p.id] = p, p
	}
	if err := rows.Err(); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.byID {
		if p.num == 0 && byID[id] == nil {
			byID[id] = p // announced: about to be registered
		}
	}
	c.byNum, c.byID = byNum, byID
	c.recent.clear()
	return nil
}
