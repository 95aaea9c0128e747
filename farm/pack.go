package farm

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// PackState is where a pack stands.
//
//	live ◀──▶ condemned ──grace──▶ (deleted: the record goes, the ID is never used again)
//
// A condemned pack becomes live again when something turns out to need most of it.
// Condemned means absent to "have?": nobody may decide to reuse its pieces, whoever decided before still finds them.
type PackState string

// The states of a pack.
const (
	PackLive      PackState = "live"
	PackCondemned PackState = "condemned"
)

// Pack is the truth about one pack object in S3: that its pieces exist. A pack without a record is an upload that never
// finished.
type Pack struct {
	Schema  int           `json:"schema"`
	ID      string        `json:"id"` // a ULID, never reused
	State   PackState     `json:"state"`
	Size    int64         `json:"size"`    // of the object, in bytes, index included
	Index   digest.Digest `json:"index"`   // of the index at the object's end
	IndexAt int64         `json:"indexAt"` // the index's offset in the object
	Entries int           `json:"entries"`
	Writer  string        `json:"writer"` // the process that wrote it, for people
	At      time.Time     `json:"at"`

	// Trailer is the object's end, index and footer, where that is short (MaxTrailer): who follows the packs of others need not
	// ask S3 for it. Index vouches for it.
	Trailer []byte `json:"trailer,omitempty"`

	CondemnedAt time.Time `json:"condemnedAt,omitzero"` // when it was condemned
}

// MaxTrailer is the size limit of a trailer in a pack's record, in bytes: some twenty entries. Packs of a small bake have
// fewer, and there are many of them; those of many entries are few.
const MaxTrailer = 1 << 10

// RegisterWithin is how long after it was uploaded a pack may get its record: an object without one that is older is
// nobody's. It must be longer than any bake, and than a client takes to upload its context.
const RegisterWithin = 24 * time.Hour

// PackChange is one change in the packs' bucket. Pack is nil when the record was deleted.
type PackChange struct {
	Seq  uint64
	ID   string
	Pack *Pack
}
