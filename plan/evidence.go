package plan

import (
	"time"

	"github.com/opencontainers/go-digest"
)

// Evidence is what stood behind a Lock when it was made, by platform. It is kept beside the Lock and is no part of the
// bake key: the same packages may be seen through other Release files.
type Evidence struct {
	Platforms map[string]Answer `json:"platforms"`
}

// Answer is what the world answered to a Question.
type Answer struct {
	Observed time.Time     `json:"observed"`
	Indexes  []Index       `json:"indexes"`
	Solved   digest.Digest `json:"solved"` // piece: SolveOutput.Packages
}
