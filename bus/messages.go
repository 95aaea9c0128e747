package bus

import (
	"encoding/json"
	"time"

	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

// Subject is a kind of request. It goes to one of the processes that handle it.
type Subject string

// The subjects, with their messages.
const (
	Claim         Subject = "claim"          // ClaimRequest → ClaimReply
	Beat          Subject = "beat"           // BeatRequest → BeatReply
	Report        Subject = "report"         // ReportRequest → ReportReply
	RegisterPack  Subject = "pack.register"  // farm.Pack → Empty; idempotent
	SubmitBake    Subject = "bake.submit"    // SubmitRequest → farm.Bake; idempotent by ID
	CancelBake    Subject = "bake.cancel"    // CancelRequest → farm.Bake; idempotent
	ImportVersion Subject = "version.import" // ImportRequest → ImportReply; idempotent
	Promote       Subject = "promote"        // PromoteRequest → farm.Channel
	Rollback      Subject = "rollback"       // RollbackRequest → farm.Channel
	Keep          Subject = "keep"           // KeepRequest → KeepReply; idempotent
	StartSweep    Subject = "sweep.start"    // SweepRequest → farm.Sweep: a new one, or the one that runs
	Attach        Subject = "attach"         // AttachRequest → AttachReply; idempotent
	SetPolicy     Subject = "policy.set"     // SetPolicyRequest → farm.RetentionPolicy
	WorkerGone    Subject = "worker.gone"    // WorkerGoneRequest → Empty; idempotent
)

// Drain is the subject of one worker: DrainRequest → farm.Worker; idempotent.
func Drain(worker string) Subject { return Subject("drain." + escapeKey(worker)) }

// Restore is the subject of one worker: RestoreRequest → RestoreReply; idempotent.
func Restore(worker string) Subject { return Subject("restore." + escapeKey(worker)) }

// MaxRestore is how many pieces a RestoreRequest may have.
const MaxRestore = 1000

// RestoreRequest asks a worker to put pieces that the store has lost back into it, as far as its cache has them.
type RestoreRequest struct {
	Schema int             `json:"schema"`
	Pieces []digest.Digest `json:"pieces"`
}

// RestoreReply lists those that the store has again.
type RestoreReply struct {
	Schema   int             `json:"schema"`
	Restored []digest.Digest `json:"restored,omitempty"`
}

// DrainRequest tells a worker to take no more shards, or to take some again. What it runs it finishes within its own
// drain timeout, or hands back.
type DrainRequest struct {
	Schema int  `json:"schema"`
	Resume bool `json:"resume,omitempty"`
}

// WorkerGoneRequest says that a worker has died for certain: whoever says it has its data directory. Its shards need not
// wait for their leases.
type WorkerGoneRequest struct {
	Schema int    `json:"schema"`
	Worker string `json:"worker"`
}

// Empty is a reply that says nothing but that it worked.
type Empty struct{}

// ClaimRequest asks to run a shard that a hint named.
type ClaimRequest struct {
	Schema  int    `json:"schema"`
	ShardID string `json:"shard"`
	Worker  string `json:"worker"` // ID
}

// ClaimReply grants it, or says why not.
type ClaimReply struct {
	Schema  int       `json:"schema"`
	Granted bool      `json:"granted"`
	Reason  string    `json:"reason,omitempty"` // for people, when not granted
	Gone    bool      `json:"gone,omitempty"`   // nothing is left to do: ack the hint; else hand it back
	Task    farm.Task `json:"task,omitzero"`    // when granted: of the hint's shard, or of a more urgent one of its class
}

// BeatRequest says that an attempt is alive, and what it has printed since the last one.
type BeatRequest struct {
	Schema  int      `json:"schema"`
	ShardID string   `json:"shard"`
	Token   string   `json:"token"`
	Worker  string   `json:"worker"`
	Lines   []string `json:"lines,omitempty"`
}

// BeatReply says whether to go on.
type BeatReply struct {
	Schema int    `json:"schema"`
	Stop   bool   `json:"stop,omitempty"` // the attempt is not wanted any more: drop it, report nothing
	Reason string `json:"reason,omitempty"`
}

// ReportRequest ends an attempt: with an Output, or with an Error.
type ReportRequest struct {
	Schema  int             `json:"schema"`
	ShardID string          `json:"shard"`
	Token   string          `json:"token"`
	Worker  string          `json:"worker"`
	Output  json.RawMessage `json:"output,omitempty"`
	Error   string          `json:"error,omitempty"`
	Retry   bool            `json:"retry,omitempty"` // the error may pass: another attempt makes sense
	// HandedBack: the worker stops, and the attempt says nothing about the shard. It doesn't count.
	HandedBack bool          `json:"handedBack,omitempty"`
	Took       time.Duration `json:"took"`
	Lines      []string      `json:"lines,omitempty"`
}

// ReportReply says whether the report counted.
type ReportReply struct {
	Schema   int    `json:"schema"`
	Accepted bool   `json:"accepted"`
	Reason   string `json:"reason,omitempty"`
}

// SubmitRequest asks for a bake. The recipe's text and the context manifest have been stored as pieces before.
type SubmitRequest struct {
	Schema  int           `json:"schema"`
	ID      string        `json:"id"`   // a ULID, made by the API: the same ID is the same request
	File    string        `json:"file"` // the recipe's file name, for error messages
	Recipe  digest.Digest `json:"recipe"`
	Context digest.Digest `json:"context,omitempty"`
	Set     []string      `json:"set,omitempty"` // overrides of the recipe, "path=value", in order
	Rebake  bool          `json:"rebake,omitempty"`
	// LockOnly: resolve, make the Lock, bake nothing.
	LockOnly bool `json:"lockOnly,omitempty"`
	// Lock is a piece, a recipe.LockFile: the system is the one that it has, apart from the packages of Update, which are
	// chosen anew.
	Lock digest.Digest `json:"lock,omitempty"`
	// Background: the bake's shards give way to those of others.
	Background bool          `json:"background,omitempty"`
	Update     []string      `json:"update,omitempty"`
	Requires   []string      `json:"requires,omitempty"` // labels that its workers must have
	Timeout    time.Duration `json:"timeout,omitempty"`  // from acceptance to done; 0: as long as any bake may take
}

// CancelRequest withdraws a bake.
type CancelRequest struct {
	Schema int    `json:"schema"`
	ID     string `json:"id"`
	By     string `json:"by,omitempty"`
}

// PromoteRequest points a channel to a version.
type PromoteRequest struct {
	Schema  int     `json:"schema"`
	Name    string  `json:"name"`
	Channel string  `json:"channel"`
	Version string  `json:"version"`
	By      string  `json:"by"`
	Expect  *uint64 `json:"expect,omitempty"` // move number that the channel must be at; 0: there is none yet
}

// RollbackRequest points a channel back.
type RollbackRequest struct {
	Schema  int    `json:"schema"`
	Name    string `json:"name"`
	Channel string `json:"channel"`
	To      string `json:"to,omitempty"` // version; empty: the one before
	By      string `json:"by"`
}

// PolicyKey is the key of the farm's retention policy.
const PolicyKey = "retention"

// The actions of a KeepRequest.
const (
	KeepPin     = "pin"     // keep the versions, whatever the policy says; with Hold, for a legal case
	KeepUnpin   = "unpin"   // take that back
	KeepTrash   = "trash"   // let them go: refused for what something else needs
	KeepRestore = "restore" // take them out of the trash
)

// MaxKeep is how many versions a KeepRequest may have.
const MaxKeep = 500

// KeepRequest changes what keeps versions, or lets them go. Each version is changed by itself.
type KeepRequest struct {
	Schema int           `json:"schema"`
	Action string        `json:"action"`
	Items  []KeepItem    `json:"items"`
	Hold   string        `json:"hold,omitempty"` // pin and unpin: the case of a legal hold
	By     string        `json:"by"`
	For    time.Duration `json:"for,omitempty"` // trash: how long they stay restorable; 0: what the farm's policy says
}

// KeepItem is one version of a KeepRequest.
type KeepItem struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Note    string `json:"note,omitempty"` // pin: what for; trash: the reason
}

// KeepReply says for each item, in order, what became of it.
type KeepReply struct {
	Schema  int          `json:"schema"`
	Results []KeepResult `json:"results"`
}

// KeepResult is what became of one version. Error is why it was not changed; Code is that of a RemoteError.
type KeepResult struct {
	Version farm.Version `json:"version"`
	Code    string       `json:"code,omitempty"`
	Error   string       `json:"error,omitempty"`
}

// AttachRequest attaches an artifact that the store has to a version, or detaches one.
type AttachRequest struct {
	Schema     int             `json:"schema"`
	Name       string          `json:"name"`
	Version    string          `json:"version"`
	Attachment farm.Attachment `json:"attachment,omitzero"`
	Detach     digest.Digest   `json:"detach,omitempty"` // the artifact to take away; else Attachment is added
}

// AttachReply has the version as it is then.
type AttachReply struct {
	Schema  int          `json:"schema"`
	Version farm.Version `json:"version"`
}

// SweepRequest asks for a sweep of the store.
type SweepRequest struct {
	Schema int            `json:"schema"`
	Kind   farm.SweepKind `json:"kind"`
	DryRun bool           `json:"dryRun,omitempty"`
	By     string         `json:"by"`
}

// ImportRequest makes a version of another farm's exist here. Everything that its images have is in the store.
type ImportRequest struct {
	Schema  int          `json:"schema"`
	Version farm.Version `json:"version"`        // its Sequence is given anew
	Bake    *farm.Bake   `json:"bake,omitempty"` // that made it there; nil: not known
}

// The outcomes of an ImportRequest.
const (
	Imported = "imported"
	Present  = "present"  // it was there already
	Restored = "restored" // it was there, in the trash
	Mended   = "mended"   // it was there, and some of it was lost
)

// ImportReply says what became of an ImportRequest.
type ImportReply struct {
	Schema  int          `json:"schema"`
	Version farm.Version `json:"version"`
	Outcome string       `json:"outcome"`
}

// SetPolicyRequest makes a policy the farm's own.
type SetPolicyRequest struct {
	Schema   int    `json:"schema"`
	File     string `json:"file"`
	Text     string `json:"text"`
	By       string `json:"by"`
	Revision uint64 `json:"revision"` // of the policy that it replaces; 0: there is none
}

// CancelShard is broadcast to every worker: whoever runs this attempt stops. A worker that misses it is told at its next beat.
type CancelShard struct {
	Schema  int    `json:"schema"`
	ShardID string `json:"shard"`
	Token   string `json:"token"`
}

// Offer is a hint for one worker, which has what the shard needs at hand: it claims the shard at once, if it has room. An offer
// that nobody hears is nothing lost: the shard goes into its class's queue soon after.
type Offer struct {
	Schema  int    `json:"schema"`
	ShardID string `json:"shard"`
	Class   string `json:"class"`
}

// hint is the payload of the work queue.
type hint struct {
	Schema  int    `json:"schema"`
	ShardID string `json:"shard"`
}

func (m *ClaimRequest) schema() *int      { return &m.Schema }
func (m *ClaimReply) schema() *int        { return &m.Schema }
func (m *BeatRequest) schema() *int       { return &m.Schema }
func (m *BeatReply) schema() *int         { return &m.Schema }
func (m *ReportRequest) schema() *int     { return &m.Schema }
func (m *ReportReply) schema() *int       { return &m.Schema }
func (m *SubmitRequest) schema() *int     { return &m.Schema }
func (m *KeepRequest) schema() *int       { return &m.Schema }
func (m *KeepReply) schema() *int         { return &m.Schema }
func (m *ImportRequest) schema() *int     { return &m.Schema }
func (m *ImportReply) schema() *int       { return &m.Schema }
func (m *SetPolicyRequest) schema() *int  { return &m.Schema }
func (m *DrainRequest) schema() *int      { return &m.Schema }
func (m *WorkerGoneRequest) schema() *int { return &m.Schema }
func (m *CancelRequest) schema() *int     { return &m.Schema }
func (m *PromoteRequest) schema() *int    { return &m.Schema }
func (m *RollbackRequest) schema() *int   { return &m.Schema }
func (m *CancelShard) schema() *int       { return &m.Schema }
func (m *Offer) schema() *int             { return &m.Schema }
func (m *hint) schema() *int              { return &m.Schema }
func (m *SweepRequest) schema() *int      { return &m.Schema }
func (m *AttachRequest) schema() *int     { return &m.Schema }
func (m *AttachReply) schema() *int       { return &m.Schema }
func (m *RestoreRequest) schema() *int    { return &m.Schema }
func (m *RestoreReply) schema() *int      { return &m.Schema }
