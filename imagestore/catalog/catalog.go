package catalog

import (
	"context"
	"database/sql"
	"fmt"
	"log/slog"
	"sync"

	"bakefarm/farm"
	"bakefarm/imagestore"

	"golang.org/x/sync/errgroup"
)

// Versions is the feed of committed bakes, with the rules of imagestore.Ledger's.
type Versions interface {
	// Follow calls fn for every version's latest change after the sequence given, in order, and then for new ones until
	// ctx ends or fn fails.
	Follow(ctx context.Context, after uint64, fn func(farm.VersionChange) error) error
	// Last is the sequence of the newest change.
	Last(ctx context.Context) (uint64, error)
	// Identity names this feed: a projection of another identity must be rebuilt.
	Identity(ctx context.Context) (string, error)
}

// IndexReader reads a pack's index from the store (s3store.Store.ReadIndex).
type IndexReader func(ctx context.Context, p farm.Pack) ([]imagestore.Entry, error)

// Catalog is the projection. Its methods may be called concurrently.
type Catalog struct {
	db       *database
	ledger   imagestore.Ledger
	versions Versions
	log      *slog.Logger

	locate *sql.Stmt

	writing sync.Mutex // one change of the packs at a time: in the file and then in memory
	dead    int64      // entries of deleted packs; guarded by writing

	mu        sync.RWMutex
	byNum     map[int64]*pack
	byID      map[string]*pack
	announced []*pack // by this process, oldest first
	recent    recent

	packsSeen, versionsSeen progress
}

var _ imagestore.Locator = (*Catalog)(nil)

// Open opens the catalog in the file of that path, making it if need be; with an empty path it is in memory. Without
// versions it knows packs only, which is what a worker needs. Nothing is followed until Run; the caller closes it after.
func Open(path string, ledger imagestore.Ledger, versions Versions, log *slog.Logger) (*Catalog, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	db, err := openDatabase(path)
	if err != nil {
		return nil, err
	}
	c := &Catalog{
		db: db, ledger: ledger, versions: versions, log: log,
		packsSeen:    newProgress("packs"),
		versionsSeen: newProgress("versions"),
	}
	if err := c.load(context.Background()); err != nil {
		db.Close()
		return nil, fmt.Errorf("catalog: %w", err)
	}
	return c, nil
}

// Close closes the file. Run must have returned.
func (c *Catalog) Close() error {
	c.locate.Close()
	return c.db.Close()
}

// load prepares statements and reads the packs' states.
func (c *Catalog) load(ctx context.Context) (err error) {
	if c.locate, err = c.db.read.PrepareContext(ctx, locateQuery); err != nil {
		return err
	}
	if err := getMeta(ctx, c.db.write, "dead", &c.dead); err != nil {
		return err
	}
	return c.loadPacks(ctx)
}

// Run follows the feeds until ctx ends, which is not an error. Trouble with a feed or the store is logged and retried.
func (c *Catalog) Run(ctx context.Context, readIndex IndexReader) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		return c.followPacks(ctx, readIndex)
	})
	if c.versions != nil {
		g.Go(func() error {
			return c.followVersions(ctx)
		})
	}
	return g.Wait()
}

// Ready is nil when nothing keeps the projection from following; else it says what does.
func (c *Catalog) Ready() error {
	if err := c.packsSeen.trouble(); err != nil {
		return err
	}
	return c.versionsSeen.trouble()
}

// CatchUp waits until the packs' ledger is projected up to its newest change.
func (c *Catalog) CatchUp(ctx context.Context) error {
	last, err := c.ledger.Last(ctx)
	if err != nil {
		return fmt.Errorf("catch up with packs: %w", err)
	}
	return c.packsSeen.wait(ctx, last)
}

// CatchUpVersions waits until the versions are projected up to the newest change: a bake that was committed before is
// in every answer after.
func (c *Catalog) CatchUpVersions(ctx context.Context) error {
	if c.versions == nil {
		return nil
	}
	last, err := c.versions.Last(ctx)
	if err != nil {
		return fmt.Errorf("catch up with versions: %w", err)
	}
	return c.versionsSeen.wait(ctx, last)
}
