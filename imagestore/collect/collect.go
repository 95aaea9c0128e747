package collect

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3store"

	"github.com/opencontainers/go-digest"
	"golang.org/x/time/rate"
)

// Packs are the records of packs. Errors: imagestore.ErrConflict when a compare-and-set lost, ErrNotFound.
type Packs interface {
	List(ctx context.Context) (map[string]Pack, error)
	Update(ctx context.Context, p farm.Pack, revision uint64) error
	Delete(ctx context.Context, id string, revision uint64) error
}

// Pack is a pack's record with its revision.
type Pack struct {
	farm.Pack
	Revision uint64
}

// Index is what garbage collection asks of a catalog.
type Index interface {
	CatchUp(ctx context.Context) error
	Survey(ctx context.Context, fn func(catalog.Held) error) error
	Refs(ctx context.Context, of imagestore.Sum) ([]imagestore.Sum, bool, error)
	NoteRefs(ctx context.Context, refs map[imagestore.Sum][]imagestore.Sum) error
	ForgetRefs(ctx context.Context, keep func(imagestore.Sum) bool) error
}

// Store is what it asks of the image store.
type Store interface {
	imagestore.Store
	// Describe reads the description of a composite without asking for its parts.
	Describe(ctx context.Context, d digest.Digest) (imagestore.Blob, error)
	Objects(ctx context.Context, fn func(s3store.Object) error) error
	Remove(ctx context.Context, pack string) error
	// Wholes and Dematerialise list and delete blobs that lie in the bucket as one object beside their pieces.
	Wholes(ctx context.Context, fn func(s3store.Whole) error) error
	Dematerialise(ctx context.Context, d digest.Digest) error
	// Verify reads a whole pack and lists its entries, and those of them that are damaged.
	Verify(ctx context.Context, p farm.Pack, pace func(int64) error) (entries, bad []imagestore.Entry, err error)
}

// Config says what is collected and how. Packs, Index, Store and Roots must be set; zero values elsewhere mean the default.
type Config struct {
	Packs Packs
	Index Index
	Store Store
	// Roots marks what the farm's records lead to. It reads the sources of a reference before its destinations: a bake
	// before its shards, these before the action cache, that before versions.
	Roots func(ctx context.Context, m *Marker) error

	MinAge time.Duration // a live pack is not condemned before; default farm.RegisterWithin
	Grace  time.Duration // from condemning to deleting: longer than a bake may take; default 3 h, or half as much again as MaxBake
	// MaxBake is how long a bake may take that began before a pack was condemned, and may build upon it.
	MaxBake time.Duration
	// RepackBelow is the share of a pack, in percent of its bytes, below which what is needed of it is copied and the rest
	// let go; default 30, negative: never.
	RepackBelow int
	// Waste is how much of what is stored, in percent, may be of no need to anything: beyond that the emptiest packs are repacked
	// as well, those below wasteBelow; default 8, negative: any.
	Waste  int
	Rate   int64 // bytes a second that are read from the service and copied, at most; default 64 MiB
	DryRun bool  // say what would be done
	Now    func() time.Time
	Log    *slog.Logger
	// Progress is told now and then how far the run is; nil: nobody is.
	Progress func(Report)
	// Step is called before every step that changes something, for tests; nil: nobody is.
	Step func(what string)
}

// Collector collects.
type Collector struct {
	Config
	limit *rate.Limiter
}

// Report is what a run has done, or with DryRun would do.
type Report struct {
	Marked    int   `json:"marked"`    // digests that something needs
	Entries   int   `json:"entries"`   // in all packs with a record
	Packs     int   `json:"packs"`     // with a record
	Stored    int64 `json:"stored"`    // bytes of these packs
	Needed    int64 `json:"needed"`    // bytes of their entries that something needs, each once
	Read      int   `json:"read"`      // descriptors and documents that were read, because they were new
	Condemned int   `json:"condemned"` // packs: live before
	Repacked  int   `json:"repacked"`  // of these, with something in them that was copied
	Revived   int   `json:"revived"`   // packs: condemned before, and live again
	Copied    int64 `json:"copied"`    // bytes that were copied out of condemned packs
	Deleted   int   `json:"deleted"`   // packs
	Freed     int64 `json:"freed"`     // bytes of objects that were deleted
	Waiting   int   `json:"waiting"`   // condemned packs whose grace is not over
	WaitBytes int64 `json:"waitBytes"` // of these
	Orphans   int   `json:"orphans"`   // objects without a record that were deleted
	Wholes    int   `json:"wholes"`    // blobs that were one object beside their pieces, and that nothing needs: deleted
	Lost      int   `json:"lost"`      // what is needed and can't be read: its pack stays, condemned
}

// New makes a Collector.
func New(c Config) *Collector {
	if c.MinAge == 0 {
		c.MinAge = farm.RegisterWithin
	}
	if c.Grace == 0 {
		c.Grace = max(3*time.Hour, c.MaxBake+c.MaxBake/2)
	}
	if c.RepackBelow == 0 {
		c.RepackBelow = 30
	}
	if c.Waste == 0 {
		c.Waste = 8
	}
	if c.Rate == 0 {
		c.Rate = 64 << 20
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Progress == nil {
		c.Progress = func(Report) {}
	}
	if c.Step == nil {
		c.Step = func(string) {}
	}
	return &Collector{c, rate.NewLimiter(rate.Limit(c.Rate), int(min(c.Rate, 1<<30)))}
}

// pace waits until n bytes more may be read.
func (c *Collector) pace(ctx context.Context, n int64) error {
	for n > 0 {
		part := min(n, int64(c.limit.Burst()))
		if err := c.limit.WaitN(ctx, int(part)); err != nil {
			return err
		}
		n -= part
	}
	return nil
}

// Run marks and sweeps once. What it has done until an error is in the report.
func (c *Collector) Run(ctx context.Context) (Report, error) {
	var r Report
	// The packs' records come first: a pack that is registered after is too young to be looked at.
	started := c.Now()
	packs, err := c.Packs.List(ctx)
	if err != nil {
		return r, err
	}
	m, err := c.Mark(ctx)
	if err != nil {
		return r, err
	}
	r.Marked, r.Read, r.Lost = len(m.marked), m.reads, len(m.lost)
	if r.Lost > 0 {
		// What these refer to is not known, and may be all that is left to heal them from.
		return r, fmt.Errorf("%d descriptors or documents that something needs can't be read, the first is %s: nothing is collected before that is mended (bakefarm scrub)", r.Lost, m.lost[0].Digest())
	}
	c.Progress(r)
	s := sweep{c: c, m: m, r: &r, started: started, packs: packs, use: map[string]*use{}}
	if err := s.survey(ctx); err != nil {
		return r, err
	}
	c.Progress(r)
	err = errors.Join(s.packsByUse(ctx), s.orphans(ctx), s.wholes(ctx))
	if !c.DryRun && err == nil {
		err = m.forget(ctx)
	}
	return r, err
}

// Mark finds everything that is needed now.
func (c *Collector) Mark(ctx context.Context) (*Marker, error) {
	if err := c.Index.CatchUp(ctx); err != nil {
		return nil, err
	}
	m, err := c.newMarker(ctx)
	if err != nil {
		return nil, err
	}
	c.Step("roots")
	if err := c.Roots(ctx, m); err != nil {
		return nil, fmt.Errorf("mark: %w", err)
	}
	if err := m.Expand(ctx); err != nil {
		return nil, err
	}
	return m, m.note(ctx)
}

// Frees says how many bytes are needed by something that all marks and kept doesn't: what would be freed, in the end, if
// only that were kept which kept marks. Bytes that lie in several packs count once.
func (c *Collector) Frees(ctx context.Context, kept, all func(*Marker)) (int64, error) {
	if err := c.Index.CatchUp(ctx); err != nil {
		return 0, err
	}
	marks := make([]*Marker, 2)
	for i, need := range []func(*Marker){kept, all} {
		m, err := c.newMarker(ctx)
		if err != nil {
			return 0, err
		}
		need(m)
		if err := errors.Join(m.Expand(ctx), m.note(ctx)); err != nil {
			return 0, err
		}
		marks[i] = m
	}
	var bytes int64
	var last catalog.Held
	err := c.Index.Survey(ctx, func(h catalog.Held) error {
		if h.Sum == last.Sum && h.Composite == last.Composite {
			return nil
		}
		last = h
		if marks[1].Needed(h.Sum) && !marks[0].Needed(h.Sum) {
			bytes += h.Length
		}
		return nil
	})
	return bytes, err
}
