package farm

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// Channel is a named pointer from an image name to a version ("shop/checkout" → prod). It moves only by compare-and-set;
// its history is a stream of ChannelMoves of its own.
type Channel struct {
	Schema  int       `json:"schema"`
	Name    string    `json:"name"` // the image name
	Channel string    `json:"channel"`
	Version string    `json:"version"`
	Move    uint64    `json:"move"`   // counts the moves, from 1
	Recent  []string  `json:"recent"` // other versions that it pointed to before, in the order of rolling back, at most RollbackWindow
	Action  string    `json:"action"` // of the latest move, with From: what the history's newest entry says
	From    string    `json:"from,omitempty"`
	By      string    `json:"by"` // the bake or person that moved it
	At      time.Time `json:"at"`
}

// LastMove is the history's entry of the channel's latest move.
func (c Channel) LastMove() ChannelMove {
	return ChannelMove{Schema: c.Schema, Name: c.Name, Channel: c.Channel, Move: c.Move, Action: c.Action, From: c.From, To: c.Version, By: c.By, At: c.At}
}

// The actions that move a channel.
const (
	ActionPromote  = "promote"
	ActionRollback = "rollback"
)

// RollbackWindow is how many former versions a channel remembers and retention protects.
const RollbackWindow = 10

// ChannelMove is one entry of a channel's history.
type ChannelMove struct {
	Schema  int       `json:"schema"`
	Name    string    `json:"name"`
	Channel string    `json:"channel"`
	Move    uint64    `json:"move"`
	Action  string    `json:"action"` // "promote" or "rollback"
	From    string    `json:"from,omitempty"`
	To      string    `json:"to"`
	By      string    `json:"by"`
	At      time.Time `json:"at"`
}

// Publication is the state of pushing one version to one registry reference.
type Publication struct {
	Schema   int       `json:"schema"`
	Name     string    `json:"name"`
	Channel  string    `json:"channel"`
	Version  string    `json:"version"`
	Target   string    `json:"target"`       // docker reference, template filled in
	State    string    `json:"state"`        // PublicationPending, …
	By       string    `json:"by,omitempty"` // who moved the channel: a bake or a person
	Attempts int       `json:"attempts"`
	Error    string    `json:"error,omitempty"`
	At       time.Time `json:"at"`
}

// The states of a publication.
const (
	PublicationPending = "pending" // to be pushed, or to be tried again
	PublicationDone    = "done"
	PublicationFailed  = "failed" // given up: Error says why
	// PublicationSuperseded: the channel moved on before it was pushed, to a version with the same target.
	PublicationSuperseded = "superseded"
)

// Worker is a worker's presence: it renews the record, which vanishes when it no longer does.
type Worker struct {
	Schema  int      `json:"schema"`
	ID      string   `json:"id"`
	Host    string   `json:"host"`
	Classes []string `json:"classes"`
	// Lacks says for classes of foreign code that the worker does not take what this machine lacks, and how to mend it.
	Lacks   map[string]string `json:"lacks,omitempty"`
	Labels  []string          `json:"labels,omitempty"` // key=value
	Slots   int               `json:"slots"`
	Running []string          `json:"running"` // labels of the shards that it runs
	Done    int64             `json:"done"`    // shards since it started
	// Draining: it takes no more shards; what it runs it finishes, or hands back.
	Draining bool      `json:"draining,omitempty"`
	Cache    int64     `json:"cache,omitempty"`   // bytes of its host's cache
	CacheID  string    `json:"cacheID,omitempty"` // names that cache, also when another worker goes on with it
	Has      Resources `json:"has,omitzero"`      // what its host has for shards, which its workers share
	Load     float64   `json:"load,omitempty"`    // of its host: processes that run or want to, a processor, over the last minute
	Started  time.Time `json:"started"`
	Seen     time.Time `json:"seen"`
}

// nameComponent is a path component of the OCI distribution specification's <name>.
var nameComponent = regexp.MustCompile(`^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$`)

// ValidateName checks an image name: the <name> of the OCI distribution specification, at most 128 characters.
func ValidateName(name string) error {
	if name == "" || len(name) > 128 {
		return fmt.Errorf("name %q: want 1 to 128 characters, such as team/app", name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if !nameComponent.MatchString(part) {
			return fmt.Errorf("name %q: %q is no path component: lower-case letters and digits, separated by one of . _ __ -", name, part)
		}
	}
	return nil
}

var channelName = regexp.MustCompile(`^[a-zA-Z_][a-zA-Z0-9_-]{0,63}$`)

// ValidateChannel checks a channel's name: a letter or _, then letters, digits, _ and -, at most 64 characters. It is
// a valid tag, and can't be taken for a version because those begin with any hex digit but are 16 long.
func ValidateChannel(channel string) error {
	if !channelName.MatchString(channel) || versionLike.MatchString(channel) || channel == "latest" {
		return fmt.Errorf("channel %q: want a letter, then up to 63 letters, digits, _ or -; not 16 hex digits and not latest", channel)
	}
	return nil
}

// IsVersion reports whether a text has a version's form.
func IsVersion(s string) bool { return versionLike.MatchString(s) }

var versionLike = regexp.MustCompile(`^[0-9a-f]{16}$`)

// Tag is the value of the tags' bucket: a name for a manifest within a repository.
type Tag struct {
	Schema int       `json:"schema"`
	Digest string    `json:"digest"`
	At     time.Time `json:"at"`
}
