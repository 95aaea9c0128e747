// Package imagestore is the contract of the image store: pieces, packs, composite blobs, manifests and tags.
//
//	image = manifest blob ─▶ config blob, layer blobs
//	blob  = composite: parts in order (pieces, and holes of zeros) whose concatenation has the blob's digest
//	piece = at most 64 MiB exactly as they stand in the blob, named by their sha256
//	pack  = one S3 object of many pieces and composite descriptors, its index at its end, its ID never reused
//
// A layer that shares nine tenths of its pieces with another costs a tenth. Truth about packs is a farm.Pack record
// (Ledger); where a piece lies is a projection of the packs' indexes (Locator) that may be thrown away and made again.
// Implementations: s3store over any S3-compatible service, and the decorators around it. Package storetest holds the
// conformance suite.
package imagestore

import (
	"context"
	"errors"
	"io"

	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

// Conditions that callers act on.
var (
	// ErrNotFound: no live pack has the piece or blob.
	ErrNotFound = errors.New("not in the store")
	// ErrCorrupt: bytes came back that do not have the digest they are stored under.
	ErrCorrupt = errors.New("stored bytes do not match their digest")
	// ErrSize: a piece is not as long as whoever asks for it says.
	ErrSize = errors.New("not of that size")
	// ErrConflict: a compare-and-set lost.
	ErrConflict = errors.New("changed by somebody else")
	// ErrAway: the store does not answer, or not sensibly, however often it is asked. It will, later.
	ErrAway = errors.New("the image store is away")
)

// MaxPiece is the size limit of a piece, in bytes.
const MaxPiece = 64 << 20

// MaxParts is how many parts a blob may have: bounds its descriptor to a few MiB.
const MaxParts = 1 << 16

// Part is a run of a blob: a piece, or a hole of zeros when Digest is empty.
type Part struct {
	Digest digest.Digest `json:"d,omitempty"`
	Size   int64         `json:"s"`
}

// Blob says what a blob is made of. A piece read as a blob has itself as its only part.
type Blob struct {
	Digest digest.Digest `json:"digest"`
	Size   int64         `json:"size"`
	Parts  []Part        `json:"parts"`
}

// Reader reads pieces and blobs. All methods may be called concurrently.
type Reader interface {
	// Have reports for each digest whether a live pack holds the piece or composite, in the order asked. A composite
	// counts only when all its pieces are there. It asks the projection, after letting it catch up with the ledger.
	Have(ctx context.Context, digests []digest.Digest) ([]bool, error)

	// Stat says what the blob is made of; ErrNotFound when it is not there.
	Stat(ctx context.Context, d digest.Digest) (Blob, error)

	// Open reads n bytes of a blob or piece from offset on; n < 0 reads to the end. Every piece is verified against its
	// digest before a byte of it is given out; ErrCorrupt otherwise. The caller closes.
	Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, error)
}

// Writer collects what one piece of work stores. It is used by one goroutine. Nothing is visible before Commit; a Writer
// that is dropped without it leaves nothing behind but, at worst, a pack object without a record.
type Writer interface {
	// Put stores data as a piece (unless the store has it) and names it. It keeps no reference to data after returning.
	// It may block while earlier packs upload: memory is bounded.
	Put(ctx context.Context, data []byte) (Part, error)

	// PutAs is Put for a caller who has just computed or verified d, the sha256 of data.
	PutAs(ctx context.Context, d digest.Digest, data []byte) (Part, error)

	// Compose stores the description of a blob whose parts the store has or this Writer has put. The caller vouches that
	// the concatenation has the blob's digest (it has just hashed it); sizes are checked here. Idempotent.
	Compose(ctx context.Context, b Blob) error

	// Commit returns when everything put and composed is durable and every member of the farm can read it. Writers that
	// commit at the same time share packs (group commit).
	Commit(ctx context.Context) error
}

// Store is an image store.
type Store interface {
	Reader
	// Begin starts a Writer.
	Begin() Writer
}

// Tags are names for manifests within a repository. Every write is a compare-and-set.
type Tags interface {
	// Tag resolves a tag to a manifest digest and its revision; ErrNotFound when there is none.
	Tag(ctx context.Context, repo, tag string) (digest.Digest, uint64, error)
	// SetTag points a tag to a manifest if its revision is still the given one (0: if there is none); ErrConflict otherwise.
	SetTag(ctx context.Context, repo, tag string, d digest.Digest, revision uint64) (uint64, error)
	// ListTags lists the tags of a repository, sorted.
	ListTags(ctx context.Context, repo string) ([]string, error)
}

// Ledger is the truth about packs: one record each, changed by compare-and-set, with the changes in a total order.
type Ledger interface {
	// Register makes a pack live. Idempotent for an equal record; ErrConflict when the ID is taken by another.
	Register(ctx context.Context, p farm.Pack) error
	// Follow calls fn for every pack's latest change after the sequence given, in order, and then for new ones until ctx
	// ends or fn fails.
	Follow(ctx context.Context, after uint64, fn func(farm.PackChange) error) error
	// Last is the sequence of the newest change.
	Last(ctx context.Context) (uint64, error)
	// Identity names this ledger: a projection of another identity must be rebuilt.
	Identity(ctx context.Context) (string, error)
}

// Location is where a piece or a composite's descriptor lies.
type Location struct {
	Pack      string
	Offset    int64
	Length    int64
	Piece     digest.Digest // of the bytes at that place: for a composite, of its descriptor
	Composite bool
	// Condemned: the pack will be deleted after a grace. Who decided on it before still reads it; "have?" says no.
	Condemned bool
}

// Entry is one entry of a pack's index.
type Entry struct {
	Digest digest.Digest `json:"d"`           // of the piece, or of the blob that the descriptor describes
	Piece  digest.Digest `json:"p,omitempty"` // of the descriptor's bytes, for a composite; else empty
	Offset int64         `json:"o"`
	Length int64         `json:"n"`
}

// Locator is the projection of the packs' indexes: it answers "where?". It is disposable.
type Locator interface {
	// Locate finds a pack for each digest, in the order asked: a live one if there is any, else a condemned one (and
	// says so), else the zero Location. Where the digest names a piece and a composite, the piece is preferred.
	Locate(ctx context.Context, digests []digest.Digest) ([]Location, error)
	// Add remembers the entries of a pack that is about to be registered, so that they need not be read back. They are
	// located only when the ledger's record has been seen, or Registered said so. Idempotent.
	Add(ctx context.Context, p farm.Pack, entries []Entry) error
	// Registered says that the ledger has taken the pack that Add announced: it is located from now on, without waiting
	// for the ledger's change to come back. A change that came first wins. Idempotent.
	Registered(ctx context.Context, pack string) error
	// CatchUp waits until the projection has seen the ledger's newest change.
	CatchUp(ctx context.Context) error
}
