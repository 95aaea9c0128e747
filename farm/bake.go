package farm

import (
	"cmp"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// BakeState is where a bake stands.
//
//	accepted ──▶ resolving ──▶ baking ──▶ committing ──▶ testing ──▶ done
//	    │            │            │            │            │
//	    └────────────┴────────────┴────────────┴────────────┴──▶ failed | cancelled
//
// A cached bake goes from accepted (or resolving) straight to committing; one that asks for the Lock only goes from
// there to done. One whose recipe has no tests goes from committing to done. While it is tested, and when it fails
// there, its images exist; what it does not do is publish them.
type BakeState string

// The states of a bake.
const (
	BakeAccepted   BakeState = "accepted"
	BakeResolving  BakeState = "resolving"
	BakeBaking     BakeState = "baking"
	BakeCommitting BakeState = "committing"
	BakeTesting    BakeState = "testing"
	BakeDone       BakeState = "done"
	BakeFailed     BakeState = "failed"
	BakeCancelled  BakeState = "cancelled"
)

var bakeMoves = map[BakeState][]BakeState{
	BakeAccepted:   {BakeResolving, BakeBaking, BakeCommitting, BakeDone, BakeFailed, BakeCancelled},
	BakeResolving:  {BakeBaking, BakeCommitting, BakeDone, BakeFailed, BakeCancelled},
	BakeBaking:     {BakeCommitting, BakeFailed, BakeCancelled},
	BakeCommitting: {BakeTesting, BakeDone, BakeFailed},
	BakeTesting:    {BakeDone, BakeFailed, BakeCancelled},
}

// CanMove reports whether a bake may go from s to next.
func (s BakeState) CanMove(next BakeState) bool { return slices.Contains(bakeMoves[s], next) }

// Finished reports whether the bake has reached its end.
func (s BakeState) Finished() bool { return s == BakeDone || s == BakeFailed || s == BakeCancelled }

// Bake is one request and what became of it.
type Bake struct {
	Schema  int           `json:"schema"`
	ID      string        `json:"id"` // a ULID: sorts by time of acceptance
	Name    string        `json:"name"`
	Recipe  digest.Digest `json:"recipe"`        // piece: the recipe's text, as posted
	File    string        `json:"file"`          // the recipe's file name, for error messages
	Context digest.Digest `json:"context"`       // piece: the context manifest; empty without one
	Set     []string      `json:"set,omitempty"` // overrides of the recipe, "path=value", in order
	Rebake  bool          `json:"rebake,omitempty"`
	// LockOnly: the bake is done when its Lock stands; it makes no images.
	LockOnly bool `json:"lockOnly,omitempty"`
	// Background: its shards give way to those of other bakes.
	Background bool `json:"background,omitempty"`
	// Requires are labels that the workers must have that run its shards. What exists already, or is being made for another
	// bake, is taken as it is.
	Requires []string      `json:"requires,omitempty"`
	Timeout  time.Duration `json:"timeout,omitempty"` // from acceptance to done; 0: as long as any bake may take
	// LockFile is the piece of the lock file that came with the request, and says what the system is, apart from the
	// packages of Update.
	LockFile digest.Digest `json:"lockFile,omitempty"`
	Update   []string      `json:"update,omitempty"`
	Request  digest.Digest `json:"request"` // of recipe, overrides, context and lock file: what --rebake keeps the Lock by

	State    BakeState     `json:"state"`
	Error    string        `json:"error,omitempty"`
	Waiting  string        `json:"waiting,omitempty"`  // what it can't go on without: "a worker with arch=arm64"; empty: it goes on
	Cached   bool          `json:"cached"`             // every image was in the catalog already
	Lock     digest.Digest `json:"lock,omitempty"`     // piece: the Lock, canonical JSON
	Evidence digest.Digest `json:"evidence,omitempty"` // piece: digests of the Release files behind the Lock
	Key      digest.Digest `json:"key,omitempty"`      // the bake key: the Lock's digest
	Version  string        `json:"version,omitempty"`
	Images   []Image       `json:"images,omitempty"`
	From     string        `json:"from,omitempty"`   // cached: the bake that committed the version
	Shards   []ShardRef    `json:"shards,omitempty"` // how each shard of the plan was come by: what explain prints
	// ShardList stands in for Shards when that would make the record large. Piece: JSON array of ShardRef.
	ShardList digest.Digest `json:"shardList,omitempty"`
	// Tests are the shards of the recipe's tests, once the images exist.
	Tests     []ShardRef `json:"tests,omitempty"`
	Published *Published `json:"published,omitempty"` // how the recipe's publish.channel went; nil without one
	// Log is a piece: the events of the finished bake, one JSON object a line. It is set shortly after the bake's end,
	// and stays empty for a bake that was done when it was accepted: nothing ran.
	Log digest.Digest `json:"log,omitempty"`

	AcceptedAt time.Time `json:"acceptedAt"`
	DoneAt     time.Time `json:"doneAt,omitzero"`
}

// Published says how moving the recipe's channel to the bake's version went. A failure here does not fail the bake.
type Published struct {
	Channel string `json:"channel"`
	Move    uint64 `json:"move,omitempty"` // the channel's move number; 0 when it failed
	Error   string `json:"error,omitempty"`
}

// Source is how a bake came by a shard's output.
type Source string

// The ways of coming by an output.
const (
	SourceHit    Source = "hit"    // the action cache had it
	SourceShared Source = "shared" // another bake was running it: waited for that one
	SourceMiss   Source = "miss"   // this bake had it run
	SourcePruned Source = "pruned" // not needed: everything that wanted it was a hit
)

// ShardRef is one shard in a bake's plan.
type ShardRef struct {
	ID     string        `json:"id"`
	Kind   Kind          `json:"kind"`
	Label  string        `json:"label"`
	Source Source        `json:"source"`
	Reason string        `json:"reason"` // for people: "no farm member has converted libc6 2.36-9 amd64 with format 1"
	Worker string        `json:"worker,omitempty"`
	Took   time.Duration `json:"took,omitempty"` // the worker's own time, for a miss
	State  ShardState    `json:"state,omitempty"`
}

// Image is one thing that a bake made: an OCI image or a disk, for one platform or an index over several.
type Image struct {
	Name      string        `json:"name"`
	Digest    digest.Digest `json:"digest"` // of the manifest or index
	MediaType string        `json:"mediaType"`
	Kind      string        `json:"kind"`     // ImageOCI or ImageDisk
	Platform  string        `json:"platform"` // "linux/amd64"; empty for an index
	Format    string        `json:"format"`   // "oci" for images, "raw" for disks: others are derived when pulled
	Size      int64         `json:"size"`     // compressed bytes: manifest, config and layers; of an index everything below it, once
	Ref       string        `json:"ref"`      // name:version
	// Blobs are the digests that the manifest refers to: what a reader of the repository may read.
	Blobs []digest.Digest `json:"blobs,omitempty"`
}

// The kinds of images.
const (
	ImageOCI  = "oci"  // OCI images and their indexes
	ImageDisk = "disk" // disks that machines start from, as OCI artifacts
)

// IsIndex reports whether the image is an OCI index: what stands for a version that has several platforms.
func (i Image) IsIndex() bool { return i.Kind == ImageOCI && i.Platform == "" }

// CompareImages orders the images of a version: an index first, then by kind and platform.
func CompareImages(a, b Image) int {
	if a.IsIndex() != b.IsIndex() {
		if a.IsIndex() {
			return -1
		}
		return 1
	}
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Platform, b.Platform))
}

// Version commits a bake: its creation makes the images exist, everything else about them is a projection of it.
// Its key in the bucket is the name and the version.
type Version struct {
	Schema     int           `json:"schema"`
	Name       string        `json:"name"`
	Version    string        `json:"version"`
	Key        digest.Digest `json:"key"`
	Lock       digest.Digest `json:"lock"`
	Bake       string        `json:"bake"`                 // that committed it
	Sequence   uint64        `json:"sequence"`             // for display: how many versions the name had, this one included
	Images     []Image       `json:"images"`               // the index first, if there is one
	Registries []string      `json:"registries,omitempty"` // templates of the recipe's publish.registries
	Contents   *Contents     `json:"contents,omitempty"`   // nil in records of older releases: the Lock tells
	CreatedAt  time.Time     `json:"createdAt"`
	Pins       []Pin         `json:"pins,omitempty"`     // what keeps it by hand
	Trash      *Trash        `json:"trash,omitempty"`    // nil: it is there
	Attached   []Attachment  `json:"attached,omitempty"` // artifacts about its images, in the order of their coming
}

// VersionOf derives the version from the bake key: the first 16 hex digits (64 bits).
func VersionOf(key digest.Digest) string { return key.Encoded()[:16] }

// RequestLock remembers the Lock that a request (recipe text and context) resolved to last: what --rebake keeps.
type RequestLock struct {
	Schema   int           `json:"schema"`
	Lock     digest.Digest `json:"lock"`
	Evidence digest.Digest `json:"evidence,omitempty"`
}

// Submission remembers under which bake a client's request was accepted, for as long as the client may send it again. Its
// key is of the client's own making (Idempotency-Key).
type Submission struct {
	Schema  int           `json:"schema"`
	Bake    string        `json:"bake"`    // ID
	Request digest.Digest `json:"request"` // of everything the client asked for: the same key with another request is a mistake
	At      time.Time     `json:"at"`
}

// Possession is something of what a repository has shown to have, so that it need not be sent or proven again. Which fields
// are set depends on the record's key: package api/possession.
type Possession struct {
	Schema    int             `json:"schema"`
	Manifests []digest.Digest `json:"manifests,omitempty"` // pieces: context manifests that it had every chunk of, the latest first
	Chunks    []byte          `json:"chunks,omitempty"`    // sha256 sums in a row
	At        time.Time       `json:"at"`
}
