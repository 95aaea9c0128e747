package registry

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
)

// Wholes is a store that can keep a blob as one object too, for clients to fetch from the service itself: s3store.Store.
type Wholes interface {
	// Materialise makes the object. Idempotent.
	Materialise(ctx context.Context, d digest.Digest) error
	// Materialised reports whether there is one.
	Materialised(ctx context.Context, d digest.Digest) (bool, error)
	// Presign makes a URL that reads it without credentials for so long.
	Presign(ctx context.Context, d digest.Digest, valid time.Duration) (string, error)
}

const (
	hotWindow  = 24 * time.Hour   // within which pulls of a blob count
	hotMemory  = 10_000           // blobs that are counted
	hotQueue   = 256              // blobs that wait to be materialised
	hotSize    = 1 << 20          // bytes: a smaller blob is not worth a second connection
	hotBelieve = time.Minute      // how long it is believed that an object is there, or is not
	hotValid   = 15 * time.Minute // of a URL
)

// Hot sends clients to the S3 service for blobs that many of them ask for:
//
//	GET blob ──▶ asked for often? ──▶ queue ──▶ Run: Materialise
//	         └─▶ object there? ──▶ 307 to a URL that is good for a quarter of an hour
//
// What it knows is of this process, and lost with it: the objects stay, and are found again. Garbage collection removes those of
// blobs that no image has any more.
type Hot struct {
	store Wholes
	after int
	log   *slog.Logger
	queue chan digest.Digest

	mu    sync.Mutex
	blobs map[digest.Digest]*heat
}

// heat is what is known of one blob.
type heat struct {
	since  time.Time // of pulls
	pulls  int
	queued bool
	looked time.Time // at the service
	there  bool
}

// NewHot makes a Hot that materialises what is pulled so many times within a day; Run must run beside it.
func NewHot(store Wholes, after int, log *slog.Logger) *Hot {
	return &Hot{store: store, after: after, log: log, queue: make(chan digest.Digest, hotQueue), blobs: map[digest.Digest]*heat{}}
}

// Run materialises blobs, one after the other, until ctx ends; then it returns nil.
func (h *Hot) Run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case d := <-h.queue:
			err := h.store.Materialise(ctx, d)
			if err != nil && ctx.Err() == nil {
				h.log.Warn("a blob that many ask for could not be made one object", "digest", d, "err", err)
			}
			h.mu.Lock()
			if b := h.blobs[d]; b != nil {
				b.queued, b.there, b.looked = false, err == nil, time.Now()
				if err != nil {
					b.pulls = 0 // not again before it was asked for as often
				}
			}
			h.mu.Unlock()
		}
	}
}

// location is where to send a client for a blob, or "" to serve it from its pieces. It counts the request.
func (h *Hot) location(ctx context.Context, d digest.Digest, size int64) string {
	if h == nil || size < hotSize {
		return ""
	}
	now := time.Now()
	h.mu.Lock()
	b := h.blobs[d]
	if b == nil {
		if len(h.blobs) >= hotMemory {
			for old, of := range h.blobs {
				if !of.queued {
					delete(h.blobs, old)
					break
				}
			}
		}
		b = &heat{since: now}
		h.blobs[d] = b
	}
	if now.Sub(b.since) > hotWindow {
		b.since, b.pulls = now, 0
	}
	b.pulls++
	look := now.Sub(b.looked) > hotBelieve
	if look {
		b.looked = now
	}
	there := b.there
	h.mu.Unlock()
	if look {
		var err error
		if there, err = h.store.Materialised(ctx, d); err != nil {
			h.log.Warn("it is not known whether a blob is one object", "digest", d, "err", err)
		}
		h.mu.Lock()
		b.there = there
		h.mu.Unlock()
	}
	if !there {
		h.mu.Lock()
		defer h.mu.Unlock()
		if b.pulls >= h.after && !b.queued {
			select {
			case h.queue <- d:
				b.queued = true
			default: // there is enough to do
			}
		}
		return ""
	}
	url, err := h.store.Presign(ctx, d, hotValid)
	if err != nil {
		h.log.Warn("no URL for a blob that is one object", "digest", d, "err", err)
		return ""
	}
	return url
}
