package api

import (
	"encoding/json"
	"time"

	"bakefarm/api/possession"
	"bakefarm/farm"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/compare"
	"bakefarm/imagestore/retention"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// BakeRequest is the body of POST /v1/bakes.
type BakeRequest struct {
	File       string          `json:"file" doc:"Name of the recipe's file, for error messages" maxLength:"1024"`
	Recipe     string          `json:"recipe" doc:"Text of the recipe (YAML)"`
	Set        []string        `json:"set,omitempty" doc:"Overrides of the recipe, path=value, in order" maxItems:"1000"`
	Context    *recipe.Context `json:"context,omitempty" doc:"Manifest of the context directory"`
	Rebake     bool            `json:"rebake,omitempty" doc:"Keep the Lock, ignore the cache, and fail if other bytes come out"`
	Background bool            `json:"background,omitempty" doc:"Give way to the shards of other bakes: for what nobody waits for"`
	Requires   []string        `json:"requires,omitempty" doc:"Labels that the workers must have which run its shards: gpu, region=eu" maxItems:"16"`
	Timeout    string          `json:"timeout,omitempty" doc:"How long the bake may take from now on, such as 30m; no longer than the farm allows"`
	LockOnly   bool            `json:"lockOnly,omitempty" doc:"Resolve the recipe to its Lock and stop"`
	Lock       json.RawMessage `json:"lock,omitempty" doc:"A lock file: the system is the one that it has, and is not resolved anew"`
	Update     []string        `json:"update,omitempty" doc:"With lock: packages that are resolved anew all the same" maxItems:"1000"`
}

// DrainRequest is the body of POST /v1/workers/{worker}/drain.
type DrainRequest struct {
	Resume bool `json:"resume,omitempty" doc:"Take shards again"`
}

// Bake is a bake as the API shows it. Its first seven fields are what `bakefarm bake -o json` prints.
type Bake struct {
	ID      string         `json:"bake"`
	Key     digest.Digest  `json:"key"`
	Cached  bool           `json:"cached"`
	State   farm.BakeState `json:"state"`
	Version string         `json:"version"`
	Images  []Image        `json:"images"`

	Name       string          `json:"name"`
	File       string          `json:"file,omitempty"`
	Rebake     bool            `json:"rebake,omitempty"`
	LockOnly   bool            `json:"lockOnly,omitempty"`
	Background bool            `json:"background,omitempty"`
	Requires   []string        `json:"requires,omitempty" doc:"Labels that its workers must have"`
	Timeout    string          `json:"timeout,omitempty" doc:"How long it may take from its acceptance, if it was asked to be quicker than the farm's own limit"`
	Error      string          `json:"error,omitempty"`
	Waiting    string          `json:"waiting,omitempty" doc:"What the bake can't go on without: a worker with arch=arm64"`
	Lock       digest.Digest   `json:"lock,omitempty"`
	From       string          `json:"from,omitempty" doc:"Cached: the bake that made the images"`
	Tests      []farm.ShardRef `json:"tests,omitempty" doc:"The recipe's tests, an item for each image: one that has passed is done"`
	Published  *farm.Published `json:"published,omitempty"`
	AcceptedAt time.Time       `json:"acceptedAt"`
	DoneAt     time.Time       `json:"doneAt,omitzero"`
}

// Image is an image as the API shows it.
type Image struct {
	Name     string        `json:"name"`
	Digest   digest.Digest `json:"digest"`
	Kind     string        `json:"kind" enum:"oci,disk"`
	Platform string        `json:"platform" doc:"linux/amd64; empty for the index over all platforms"`
	Format   string        `json:"format"`
	Size     int64         `json:"size" doc:"Compressed bytes: manifest, config and layers; for an index those of all its images, each blob once"`
	Ref      string        `json:"ref" doc:"name:version"`
}

// CatalogImage is an image in the catalog.
type CatalogImage struct {
	Image
	Version   string        `json:"version"`
	Sequence  uint64        `json:"sequence" doc:"Counts the versions of the name"`
	Key       digest.Digest `json:"key"`
	Lock      digest.Digest `json:"lock"`
	Bake      string        `json:"bake"`
	Channels  []string      `json:"channels" doc:"Channels that point to its version"`
	CreatedAt time.Time     `json:"createdAt"`

	Base     farm.Base         `json:"base" doc:"What it was built on"`
	Labels   map[string]string `json:"labels,omitempty"`
	Usage    Usage             `json:"usage"`
	Pins     []farm.Pin        `json:"pins,omitempty" doc:"What keeps it by hand"`
	Trash    *farm.Trash       `json:"trash,omitempty" doc:"It is to go: nothing resolves to it by a name any more"`
	Packages []catalog.Package `json:"packages,omitempty" doc:"Packages that the question was about"`
	Stored   *Stored           `json:"stored,omitempty" doc:"What the images of its version take in the store, where that was asked"`
}

// Stored says what the images of a version take in the store, in bytes. Each piece counts once.
type Stored struct {
	Own    int64 `json:"own" doc:"Of pieces that no other version's images have: what one would get back without it"`
	Shared int64 `json:"shared" doc:"Of pieces that other versions' images have as well"`
}

// Usage says how a version is used. It may lag a minute behind.
type Usage struct {
	PulledAt    time.Time `json:"pulledAt,omitzero" doc:"Last time that an image of it was downloaded"`
	ResolvedAt  time.Time `json:"resolvedAt,omitzero" doc:"Last time that a channel led somebody to it"`
	DeployedAt  time.Time `json:"deployedAt,omitzero" doc:"Last time that somebody reported to run it"`
	Deployments int       `json:"deployments" doc:"Instances that are reported to run it now"`
}

// Counts are numbers of images.
type Counts struct {
	Images   int            `json:"images"`
	Versions int            `json:"versions"`
	Groups   map[string]int `json:"groups,omitempty" doc:"Images by what was asked for; one may count in several"`
}

// Page is one page of a list. Next is the cursor of the following page; empty on the last.
type Page[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty"`
}

// Channel is a channel with its latest history and where its version was published.
type Channel struct {
	farm.Channel
	History      []farm.ChannelMove `json:"history,omitempty" doc:"Newest first"`
	Publications []farm.Publication `json:"publications,omitempty"`
}

// PromoteRequest is the body of POST /v1/channels/{name}/{channel}/promote.
type PromoteRequest struct {
	Version string  `json:"version" doc:"A version of the name, or another of its channels"`
	By      string  `json:"by,omitempty" maxLength:"256"`
	Expect  *uint64 `json:"expect,omitempty" doc:"Number of the channel's latest move: the request is refused when somebody else moved it since"`
}

// RollbackRequest is the body of POST /v1/channels/{name}/{channel}/rollback.
type RollbackRequest struct {
	To string `json:"to,omitempty" doc:"A version of the rollback window; the previous one by default"`
	By string `json:"by,omitempty" maxLength:"256"`
}

// RetentionRequest is the body of POST /v1/retention/plan.
type RetentionRequest struct {
	File   string `json:"file,omitempty" doc:"Name of the policy's file, for error messages" maxLength:"1024"`
	Policy string `json:"policy,omitempty" doc:"Text of the policy (YAML); the farm's own when empty"`
}

// RetentionSet is the body of PUT /v1/retention.
type RetentionSet struct {
	File   string `json:"file,omitempty" doc:"Name of the policy's file, for error messages" maxLength:"1024"`
	Policy string `json:"policy" doc:"Text of the policy (YAML)"`
	Yes    bool   `json:"yes,omitempty" doc:"Set it though it lets a large share of the versions expire"`
	By     string `json:"by,omitempty" maxLength:"256"`
}

// RetentionApply is the body of POST /v1/retention/apply.
type RetentionApply struct {
	By string `json:"by,omitempty" maxLength:"256"`
}

// RetentionPolicy is the farm's retention policy.
type RetentionPolicy struct {
	File    string    `json:"file"`
	Policy  string    `json:"policy" doc:"Text of the policy (YAML)"`
	Default bool      `json:"default" doc:"None was set: it is shown by plan, and applied by hand only"`
	By      string    `json:"by,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

// SweepRequest is the body of POST /v1/sweeps/{kind}.
type SweepRequest struct {
	DryRun bool   `json:"dryRun,omitempty" doc:"Say what would be done, and change nothing"`
	By     string `json:"by,omitempty" maxLength:"256"`
}

// TrashedVersion is a version in the trash.
type TrashedVersion struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	farm.Trash
}

// KeepRequest is the body of POST /v1/images/{ref}/pin, unpin, trash and restore.
type KeepRequest struct {
	Note string `json:"note,omitempty" maxLength:"1024" doc:"What for"`
	Hold string `json:"hold,omitempty" maxLength:"128" doc:"pin, unpin: the case of a legal hold"`
	For  string `json:"for,omitempty" maxLength:"32" doc:"trash: how long it can be restored, such as 72h; as the policy says when empty"`
	By   string `json:"by,omitempty" maxLength:"256"`
}

// AttachRequest is the body of POST /v1/images/{ref}/attachments.
type AttachRequest struct {
	Type        string            `json:"type" maxLength:"255" doc:"What it is, a media type: application/vnd.example.signature"`
	Content     []byte            `json:"content" doc:"The file, of at most 4 MiB"`
	MediaType   string            `json:"mediaType,omitempty" maxLength:"255" doc:"Of the file; type when empty"`
	Title       string            `json:"title,omitempty" maxLength:"255" doc:"Name of the file, for those who fetch it"`
	Annotations map[string]string `json:"annotations,omitempty"`
	By          string            `json:"by,omitempty" maxLength:"256"`
}

// KeptVersion is a version with what keeps it, or lets it go.
type KeptVersion struct {
	Name    string      `json:"name"`
	Version string      `json:"version"`
	Pins    []farm.Pin  `json:"pins"`
	Trash   *farm.Trash `json:"trash,omitempty"`
}

// RetentionPlan is what a policy would do now.
type RetentionPlan struct {
	Verdicts []retention.Verdict `json:"verdicts"`
	Keep     int                 `json:"keep"`
	Expire   int                 `json:"expire"`
	Trash    []TrashedVersion    `json:"trash" doc:"What is in the trash, restorable until its time is over"`
	Warnings []string            `json:"warnings" doc:"Quotas that can't be met, and what came into use while the policy was applied"`
	Applied  bool                `json:"applied"`
	Frees    int64               `json:"frees" doc:"Bytes that the store has less when what expires is gone from the trash and collected: what others share stays"`
	Trashed  int                 `json:"trashed" doc:"Versions that went to the trash just now"`
}

// Release says which bakefarm answers.
type Release struct {
	Version string `json:"version"`
	Commit  string `json:"commit,omitempty"`
	Go      string `json:"go"`
	Farm    string `json:"farm,omitempty" doc:"Identity of the farm"`
}

// Problem is an error in the form of RFC 9457, application/problem+json.
type Problem struct {
	Type    string          `json:"type,omitempty"`
	Title   string          `json:"title,omitempty"`
	Status  int             `json:"status,omitempty"`
	Detail  string          `json:"detail,omitempty"`
	Errors  []ProblemDetail `json:"errors,omitempty"`
	Missing []digest.Digest `json:"missing,omitempty"` // of type ProblemMissing: chunks to upload first
	// Of type ProblemMissing: with this, some of them may be proven to be there (POST /v1/proofs) instead of being sent.
	Challenge []byte `json:"challenge,omitempty"`
}

// ProblemDetail is one of several things that are wrong with a request.
type ProblemDetail struct {
	Message  string `json:"message,omitempty"`
	Location string `json:"location,omitempty"`
	Value    any    `json:"value,omitempty"`
}

// ProblemMissing is the type of the problem that POST /v1/bakes answers while there are chunks of the context that were not
// sent for the image's name, or that the store lacks. Upload the chunks that it lists with POST /v1/chunks?name=…, then post
// again with the same Idempotency-Key.
const ProblemMissing = "urn:bakefarm:problem:missing-chunks"

// ChunksType is the media type of POST /v1/chunks: any number of frames, each the 32 bytes of a chunk's sha256, its length
// as 4 bytes big-endian, and its bytes.
const ChunksType = "application/vnd.bakefarm.chunks"

// MaxProofs is how many proofs one POST /v1/proofs takes.
const MaxProofs = possession.MaxProofs

// ProofRequest is the body of POST /v1/proofs.
type ProofRequest struct {
	Name      string  `json:"name" maxLength:"512" doc:"Of the image whose bake needs the chunks"`
	Challenge []byte  `json:"challenge" maxLength:"256" doc:"From the answer that listed them as missing; good for an hour"`
	Proofs    []Proof `json:"proofs" maxItems:"10000"`
}

// Proof shows that its sender has a chunk: see Tag.
type Proof struct {
	Chunk digest.Digest `json:"chunk" maxLength:"71" doc:"sha256 of the chunk"`
	MAC   []byte        `json:"mac" maxLength:"64" doc:"HMAC-SHA256 of the chunk's bytes, with the challenge's 32 bytes as the key"`
}

// Proven is the answer of POST /v1/proofs.
type Proven struct {
	Proven []digest.Digest `json:"proven" doc:"Chunks that need not be sent. The others are not in the store, or their proofs are wrong"`
}

// Tag is the MAC that proves a chunk under a challenge.
func Tag(challenge, chunk []byte) []byte { return possession.Tag(challenge, chunk) }

// DeploymentRequest is the body of PUT /v1/deployments/{id}.
type DeploymentRequest struct {
	Image string    `json:"image" maxLength:"512" doc:"What the instance runs: name, name:version, name:channel or name@digest"`
	Lease string    `json:"lease,omitempty" maxLength:"16" doc:"For how long, without another report, it is taken to run: 12h, 30d. A day without lease and until"`
	Until time.Time `json:"until,omitzero" doc:"The same, as a time"`
	Note  string    `json:"note,omitempty" maxLength:"1024"`
	By    string    `json:"by,omitempty" maxLength:"256"`
}

// Deployment is an instance that somebody reported to run an image.
type Deployment struct {
	farm.Deployment
	Running  bool              `json:"running" doc:"Its lease has not ended"`
	Packages []catalog.Package `json:"packages,omitempty" doc:"Packages that the question was about"`
}

// ImagePackages are the packages of a version's images for one platform.
type ImagePackages struct {
	Ref      string                 `json:"ref"`
	Platform string                 `json:"platform"`
	Packages []recipe.LockedPackage `json:"packages"`
}

// ImageDiff says what differs between two images.
type ImageDiff struct {
	From     CatalogImage      `json:"from"`
	To       CatalogImage      `json:"to"`
	Size     int64             `json:"size" doc:"Compressed bytes that the second has more"`
	Packages PackageDiff       `json:"packages"`
	Config   []compare.Setting `json:"config"`
	Files    *compare.Files    `json:"files,omitempty" doc:"Of OCI images, where asked for"`
}

// PackageDiff says which packages differ.
type PackageDiff struct {
	Added   []catalog.Package `json:"added"`
	Removed []catalog.Package `json:"removed"`
	Changed []ChangedPackage  `json:"changed"`
}

// ChangedPackage is a package of which two images have different versions.
type ChangedPackage struct {
	Name      string `json:"name"`
	Arch      string `json:"arch"`
	From      string `json:"from"`
	To        string `json:"to"`
	Downgrade bool   `json:"downgrade,omitempty"`
}

// Ancestry is a version, what it was built on, and what was built on it.
type Ancestry struct {
	Relative
	Ancestors   []Relative `json:"ancestors" doc:"The nearest first"`
	Origin      string     `json:"origin" doc:"Where the line begins: debian:bookworm, scratch"`
	Descendants int        `json:"descendants"`
	More        bool       `json:"more,omitempty" doc:"There are more descendants, which are left out"`
}

// Relative is a version in an ancestry.
type Relative struct {
	Ref       string     `json:"ref"`
	Name      string     `json:"name"`
	Version   string     `json:"version"`
	Channels  []string   `json:"channels"`
	CreatedAt time.Time  `json:"createdAt"`
	Base      string     `json:"base"`
	Children  []Relative `json:"children,omitempty"`
}

// Affected says which channels point to images that contain what was asked for.
type Affected struct {
	Channels []AffectedChannel `json:"channels"`
	Rebake   []Rebake          `json:"rebake" doc:"What to bake anew, in this order: what others are built on comes first"`
}

// AffectedChannel is a channel that points to such an image.
type AffectedChannel struct {
	Name        string            `json:"name"`
	Channel     string            `json:"channel"`
	Version     string            `json:"version"`
	CreatedAt   time.Time         `json:"createdAt"`
	Base        string            `json:"base"`
	Bake        string            `json:"bake"`
	Deployments int               `json:"deployments" doc:"Instances that are reported to run it"`
	Packages    []catalog.Package `json:"packages"`
}

// Rebake is an image that should be baked anew.
type Rebake struct {
	Name     string   `json:"name"`
	File     string   `json:"file,omitempty" doc:"Of the recipe, as it was posted"`
	Bake     string   `json:"bake" doc:"That made the version"`
	Channels []string `json:"channels"`
}
