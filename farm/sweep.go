package farm

import (
	"encoding/json"
	"fmt"
	"time"
)

// SweepKind is what a sweep of the store does.
type SweepKind string

// The kinds of sweep.
const (
	SweepCollect SweepKind = "gc"    // garbage collection
	SweepScrub   SweepKind = "scrub" // read and verify what is stored
)

// Validate checks a kind that came from outside.
func (k SweepKind) Validate() error {
	if k != SweepCollect && k != SweepScrub {
		return fmt.Errorf("sweep %q: want %s or %s", string(k), SweepCollect, SweepScrub)
	}
	return nil
}

// Sweep is the latest run of a kind of sweep: one at a time in the whole farm. Whoever wants one while one runs has that.
//
//	running ──▶ done | failed        running, not seen for SweepPatience ──▶ running, by another process
type Sweep struct {
	Schema int             `json:"schema"`
	Kind   SweepKind       `json:"kind"`
	ID     string          `json:"id"` // a ULID
	DryRun bool            `json:"dryRun,omitempty"`
	By     string          `json:"by"`
	Owner  string          `json:"owner"` // the process that runs it
	State  SweepState      `json:"state"`
	Began  time.Time       `json:"began"`
	Seen   time.Time       `json:"seen"` // the owner's latest sign of life
	Ended  time.Time       `json:"ended,omitzero"`
	Error  string          `json:"error,omitempty"`
	Result json.RawMessage `json:"result,omitempty"` // what was done so far: collect.Report, …
	Cursor string          `json:"cursor,omitempty"` // how far a scrub has come, which the next one goes on from
}

// SweepState is where a sweep stands.
type SweepState string

// The states of a sweep.
const (
	SweepRunning SweepState = "running"
	SweepDone    SweepState = "done"
	SweepFailed  SweepState = "failed"
)

// SweepPatience is how long a running sweep may give no sign of life before another process takes its place. (Safety does
// not depend on it: two at once do no harm.)
const SweepPatience = time.Minute

// Ended reports whether the sweep is over.
func (s SweepState) Ended() bool { return s == SweepDone || s == SweepFailed }

// SweepKey is the key of the latest run of a kind; trial runs have one of their own.
func SweepKey(kind SweepKind, dry bool) string {
	if dry {
		return string(kind) + "-dry"
	}
	return string(kind)
}
