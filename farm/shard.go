package farm

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
)

// Kind is what a shard does. A worker announces the kinds that it can run.
type Kind string

// The kinds of shard. Each has a format number in package plan: bytes that change raise it.
const (
	KindObserve  Kind = "observe"  // ask a Debian mirror what it has now, or a registry what a tag names; never in the action cache
	KindImport   Kind = "import"   // one platform of an image of others becomes layers to stand on
	KindSolve    Kind = "solve"    // OS request and observed indexes in, exact package list out
	KindInspect  Kind = "inspect"  // what a .deb of the user's is, and asks for
	KindConvert  Kind = "convert"  // one Debian package becomes one layer member
	KindTrim     Kind = "trim"     // a converted package without the files that a recipe excludes
	KindCut      Kind = "cut"      // one run of app files becomes one layer member
	KindAssemble Kind = "assemble" // head and members become a layer
	// KindConfigure: the maintainer scripts of an OS run, and what they change becomes a layer. It runs code of the image, so
	// its classes are the image's architectures, and not every worker takes them.
	KindConfigure Kind = "configure"
	KindImage     Kind = "image" // layers and configuration become an OCI image manifest
	KindIndex     Kind = "index" // the images of several platforms become one OCI image index
	KindRoot      Kind = "root"  // the layers of an OS become a disk without an app, to go on from
	KindDisk      Kind = "disk"  // that, an app's layer and configuration become a disk that a machine starts from
	// KindRun and KindBoot test what was made, before it is published: an OCI image as a container, a disk as a virtual
	// machine. Their classes are the image's architectures too.
	KindRun  Kind = "run"
	KindBoot Kind = "boot"
)

// Kinds lists every kind of this release, in the order in which a bake meets them.
var Kinds = []Kind{KindObserve, KindInspect, KindImport, KindSolve, KindConvert, KindTrim, KindCut, KindAssemble, KindConfigure, KindImage, KindIndex, KindRoot, KindDisk,
	KindRun, KindBoot}

// ShardState is where a shard stands.
//
//	queued ──claim──▶ claimed ──report──▶ done
//	  ▲                 │ │
//	  └── lease ran out ┘ └─▶ failed        queued, claimed ──▶ cancelled (no bake wants it)
//	failed, cancelled ──▶ queued            (wanted again: a failure is never cached)
type ShardState string

// The states of a shard.
const (
	ShardQueued    ShardState = "queued"
	ShardClaimed   ShardState = "claimed"
	ShardDone      ShardState = "done"
	ShardFailed    ShardState = "failed"
	ShardCancelled ShardState = "cancelled"
)

var shardMoves = map[ShardState][]ShardState{
	ShardQueued:    {ShardClaimed, ShardCancelled, ShardFailed},
	ShardClaimed:   {ShardQueued, ShardDone, ShardFailed, ShardCancelled},
	ShardFailed:    {ShardQueued},
	ShardCancelled: {ShardQueued},
	ShardDone:      {ShardQueued}, // its output has gone from the action cache, or a piece of it from the store
}

// CanMove reports whether a shard may go from s to next.
func (s ShardState) CanMove(next ShardState) bool { return slices.Contains(shardMoves[s], next) }

// Finished reports whether no worker has or will get the shard as things stand.
func (s ShardState) Finished() bool {
	return s == ShardDone || s == ShardFailed || s == ShardCancelled
}

// Shard is the truth about one unit of work. Queue messages that name it are hints; this record, changed only by
// compare-and-set, says who may run it.
type Shard struct {
	Schema   int           `json:"schema"`
	ID       string        `json:"id"`  // the key's hex; for a re-bake with "~" and the bake's ID, so that it shares nothing
	Key      digest.Digest `json:"key"` // digest of the kind, its format number and its inputs
	Kind     Kind          `json:"kind"`
	Class    string        `json:"class"`              // capability class: the queue that it waits in, "<arch>.<kind>"
	Work     int64         `json:"work,omitempty"`     // about how much its worker has to go through, in bytes: of a bake's shards the largest are first
	Requires []string      `json:"requires,omitempty"` // labels that its worker must have: those of the bakes that wanted it before it was claimed
	Label    string        `json:"label"`              // for people: "convert libc6 2.36-9 amd64"

	Spec Payload  `json:"spec"` // the kind's spec (package plan), JSON
	Deps []string `json:"deps"` // IDs of the shards whose outputs the spec refers to, in the spec's order

	State    ShardState      `json:"state"`
	Bakes    []string        `json:"bakes"`             // IDs of the bakes that want it
	Attempt  int             `json:"attempt"`           // counts claims that were not handed back, from 1
	Failed   int             `json:"failed,omitempty"`  // how many of them ended with an error
	Lost     int             `json:"lost,omitempty"`    // how many ended with their worker, which has not been heard of since
	Token    string          `json:"token,omitempty"`   // of the running attempt; a report must carry it
	Worker   string          `json:"worker,omitempty"`  // who runs or ran it
	Cache    string          `json:"cache,omitempty"`   // CacheID of that worker: what the shard needed and made is in it
	Lease    time.Duration   `json:"lease,omitempty"`   // the claim is void when the record has not changed for so long
	Beat     int             `json:"beat,omitempty"`    // heartbeats of this attempt: a beat changes the record
	Error    string          `json:"error,omitempty"`   // of the last failed attempt
	History  []Attempt       `json:"history,omitempty"` // failed and lost attempts, oldest first, at most MaxHistory
	Output   json.RawMessage `json:"output,omitempty"`  // the kind's output (package plan), when done
	QueuedAt time.Time       `json:"queuedAt"`          // for people and metrics: no decision depends on it
	Took     time.Duration   `json:"took,omitempty"`    // the worker's own time, when done
	DoneAt   time.Time       `json:"doneAt,omitzero"`
}

// Foreign reports whether shards of the kind run code of images: their classes are architectures, and not every worker
// takes them.
func (k Kind) Foreign() bool { return k == KindConfigure || k == KindRun || k == KindBoot }

// MaxHistory bounds Shard.History.
const MaxHistory = 8

// Attempt says how one attempt at a shard ended without a result.
type Attempt struct {
	Number int       `json:"number"`
	Worker string    `json:"worker"`
	Reason string    `json:"reason"` // "lease ran out", or the worker's error
	At     time.Time `json:"at"`
	Lost   bool      `json:"lost,omitempty"`  // its lease ran out, or its worker died; what is not lost has failed
	Lived  bool      `json:"lived,omitempty"` // lost, and its worker was heard of later: it was cut off or paused, and this shard did not kill it
}

// MaxSuspicion is how many workers a shard may have outlived before it is run with care: no two such shards on one machine.
const MaxSuspicion = 2

// Class names the capability class of a kind for an architecture ("any" when the work does not run foreign code).
func Class(arch string, kind Kind) string { return arch + "." + string(kind) }

// Payload is JSON that stands inline when it is small and as a piece in the image store when it is not, so that records
// and messages stay far below the 1 MiB that NATS takes.
type Payload struct {
	Inline json.RawMessage `json:"inline,omitempty"`
	Piece  digest.Digest   `json:"piece,omitempty"`
	Size   int64           `json:"size,omitempty"` // of the piece, in bytes
}

// MaxInline is the size in bytes above which a payload becomes a piece.
const MaxInline = 48 << 10

// Task is what a worker gets for a granted claim: everything that it needs to run the shard, and nothing else.
type Task struct {
	Schema  int           `json:"schema"`
	ShardID string        `json:"shard"`
	Key     digest.Digest `json:"key"`
	Kind    Kind          `json:"kind"`
	Label   string        `json:"label"`
	Token   string        `json:"token"`
	Attempt int           `json:"attempt"`
	Lease   time.Duration `json:"lease"`   // heartbeat at a third of it
	Spec    Payload       `json:"spec"`    // the kind's spec
	Outputs Payload       `json:"outputs"` // JSON array: the outputs of the shard's dependencies, in their order
}

// ActionEntry is the value of the action cache: what a finished shard's key maps to.
type ActionEntry struct {
	Schema int             `json:"schema"`
	Key    digest.Digest   `json:"key"`
	Kind   Kind            `json:"kind"`
	Output json.RawMessage `json:"output"`
	Worker string          `json:"worker"`
	Took   time.Duration   `json:"took"` // the worker's own time
	At     time.Time       `json:"at"`
}

// Observation is what a mirror had at a time: shared by the farm until it is older than the maximum age that a bake accepts.
type Observation struct {
	Schema int             `json:"schema"`
	Key    digest.Digest   `json:"key"` // of the observe spec
	Output json.RawMessage `json:"output"`
	At     time.Time       `json:"at"`
	Took   time.Duration   `json:"took,omitempty"` // from the beginning of the observation until it was recorded
}

func (k Kind) String() string { return string(k) }

// Validate checks a kind that came from outside.
func (k Kind) Validate() error {
	if !slices.Contains(Kinds, k) {
		return fmt.Errorf("unknown shard kind %q", string(k))
	}
	return nil
}
