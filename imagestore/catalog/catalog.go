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

// IndexReader reads a pack's index from the store (s3store.Store.ReadIndex).
type IndexReader func(ctx context.Context, p farm.Pack) ([]imagestore.Entry, error)

// Catalog is the projection. Its methods may be called concurrently.
type Catalog struct {
	path   string // of the file; empty: in memory
	db     *database
	ledger imagestore.Ledger
	feeds  *Feeds // nil: it knows packs only
	log    *slog.Logger

	locate *sql.Stmt

	writing sync.Mutex // one change of the packs at a time: in the file and then in memory
	dead    int64      // entries of deleted packs; guarded by writing

	mu        sync.RWMutex
	byNum     map[int64]*pack
	byID      map[string]*pack
	announced []*pack // by this process, oldest first
	recent    recent

	index *index
	sets  packageSets

	ruin   sync.Once
	ruined chan error // see noticed

	packsSeen, versionsSeen                  progress
	channelsSeen, usageSeen, deploymentsSeen progress
}

var _ imagestore.Locator = (*Catalog)(nil)

// Open opens the catalog in the file of that path, making it if need be; with an empty path it is in memory. Without
// feeds it knows packs only, which is what a worker needs. A file that is damaged, or of another release, is made anew. Nothing
// is followed until Run; the caller closes it after.
func Open(path string, ledger imagestore.Ledger, feeds *Feeds, log *slog.Logger) (*Catalog, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c, err := open(path, ledger, feeds, log)
	if path == "" || !unusable(err) {
		return c, err
	}
	log.Warn("the catalog is damaged: it is made anew", "file", path, "err", err)
	if err := removeFile(path); err != nil {
		return nil, err
	}
	return open(path, ledger, feeds, log)
}

func open(path string, ledger imagestore.Ledger, feeds *Feeds, log *slog.Logger) (*Catalog, error) {
	db, err := openDatabase(path)
	if err != nil {
		return nil, err
	}
	c := &Catalog{
		path: path, db: db, ledger: ledger, feeds: feeds, log: log,
		index: newIndex(), sets: newPackageSets(), ruined: make(chan error, 1),
		packsSeen:       newProgress("packs"),
		versionsSeen:    newProgress("versions"),
		channelsSeen:    newProgress(feedChannels),
		usageSeen:       newProgress(feedUsage),
		deploymentsSeen: newProgress(feedDeployments),
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

// load prepares statements, and reads the packs' states and the rows of images.
func (c *Catalog) load(ctx context.Context) (err error) {
	if c.locate, err = c.db.read.PrepareContext(ctx, locateQuery); err != nil {
		return err
	}
	if err := getMeta(ctx, c.db.write, "dead", &c.dead); err != nil {
		return err
	}
	if err := c.loadPacks(ctx); err != nil || c.feeds == nil {
		return err
	}
	for _, r := range c.records() {
		if err := r.load(ctx); err != nil {
			return err
		}
	}
	return c.loadVersions(ctx)
}

// small is a feed of small records.
type small interface {
	load(ctx context.Context) error
	run(ctx context.Context) error
	catchUp(ctx context.Context) error
}

// records are the feeds beside versions that there are.
func (c *Catalog) records() (list []small) {
	if c.feeds.Channels != nil {
		list = append(list, &records[farm.Channel]{c, c.feeds.Channels, feedChannels, &c.channelsSeen, (*index).takeChannel})
	}
	if c.feeds.Usage != nil {
		list = append(list, &records[farm.Usage]{c, c.feeds.Usage, feedUsage, &c.usageSeen, (*index).takeUsage})
	}
	if c.feeds.Deployments != nil {
		list = append(list, &records[farm.Deployment]{c, c.feeds.Deployments, feedDeployments, &c.deploymentsSeen, (*index).takeDeployment})
	}
	return list
}

// Run follows the feeds until ctx ends, which is not an error. Trouble with a feed or the store is logged and retried; with a
// file that somebody has damaged, it ends. Without readLock the packages of images stay unknown.
func (c *Catalog) Run(ctx context.Context, readIndex IndexReader, readLock LockReader) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.watch(ctx) })
	g.Go(func() error {
		return c.followPacks(ctx, readIndex)
	})
	if c.feeds != nil {
		g.Go(func() error {
			return c.followVersions(ctx, readLock)
		})
		for _, r := range c.records() {
			g.Go(func() error { return r.run(ctx) })
		}
	}
	return g.Wait()
}

// Ready is nil when nothing keeps the projection from following; else it says what does.
func (c *Catalog) Ready() error {
	for _, p := range []*progress{&c.packsSeen, &c.versionsSeen, &c.channelsSeen, &c.usageSeen, &c.deploymentsSeen} {
		if err := p.trouble(); err != nil {
			return err
		}
	}
	return nil
}

// CatchUp waits until the packs' ledger is projected up to its newest change.
func (c *Catalog) CatchUp(ctx context.Context) error {
	return catchUp(ctx, c.ledger, &c.packsSeen)
}

// CatchUpVersions waits until the versions are projected up to the newest change: a bake that was committed before is
// in every answer after.
func (c *Catalog) CatchUpVersions(ctx context.Context) error {
	if c.feeds == nil {
		return nil
	}
	return catchUp(ctx, c.feeds.Versions, &c.versionsSeen)
}

// CatchUpImages waits until everything about images is projected: versions, channels, usage and deployments.
func (c *Catalog) CatchUpImages(ctx context.Context) error {
	if c.feeds == nil {
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return c.CatchUpVersions(ctx) })
	for _, r := range c.records() {
		g.Go(func() error { return r.catchUp(ctx) })
	}
	return g.Wait()
}

func (r *records[T]) catchUp(ctx context.Context) error { return catchUp(ctx, r.feed, r.seen) }

func catchUp(ctx context.Context, of interface {
	Last(ctx context.Context) (uint64, error)
}, seen *progress) error {
	last, err := of.Last(ctx)
	if err != nil {
		return fmt.Errorf("catch up with %s: %w", seen.feed, err)
	}
	return seen.wait(ctx, last)
}
