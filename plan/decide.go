package plan

import (
	"fmt"
	"strings"

	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

// Decision says how a bake comes by one shard's output.
type Decision struct {
	Source farm.Source // SourceHit, SourceMiss or SourcePruned
	Reason string      // for people
}

// Decide says for every shard of the plan, in its order, whether it is a hit, must run, or is not needed, given what the
// action cache has. have is asked once for each shard that is needed, from the images down, and for no other: below a
// hit nothing is needed.
func (p *Plan) Decide(have func(key digest.Digest) bool) []Decision {
	needed := make(map[digest.Digest]bool, len(p.Shards))
	for _, image := range p.Images {
		needed[image.Shard] = true
	}
	decisions := make([]Decision, len(p.Shards))
	for i := len(p.Shards) - 1; i >= 0; i-- { // whoever needs a shard stands behind it
		s := &p.Shards[i]
		source := farm.SourceMiss
		switch {
		case !needed[s.Key]:
			source = farm.SourcePruned
		case have(s.Key):
			source = farm.SourceHit
		default:
			for _, dep := range s.Deps {
				needed[dep] = true
			}
		}
		decisions[i] = Decision{source, s.Reason(source)}
	}
	return decisions
}

// done are the kinds' verbs in the past.
var done = map[farm.Kind]string{
	farm.KindObserve:   "observed",
	farm.KindInspect:   "inspected",
	farm.KindImport:    "imported",
	farm.KindSolve:     "solved",
	farm.KindConvert:   "converted",
	farm.KindTrim:      "trimmed",
	farm.KindCut:       "cut",
	farm.KindAssemble:  "assembled",
	farm.KindConfigure: "configured",
	farm.KindImage:     "made the image",
	farm.KindIndex:     "made the index over",
	farm.KindRoot:      "made the system of the disk for",
	farm.KindDisk:      "made the disk for",
	farm.KindRun:       "tested the container for",
	farm.KindBoot:      "tested the disk for",
}

// with are the inputs that a kind's label does not name in full.
var with = map[farm.Kind]string{
	farm.KindSolve:     " for this request and these indexes",
	farm.KindInspect:   " with this content",
	farm.KindImport:    " with this digest",
	farm.KindTrim:      " by these patterns",
	farm.KindCut:       " with this content",
	farm.KindAssemble:  " of these members",
	farm.KindConfigure: " of these layers",
	farm.KindImage:     " of these layers and this configuration",
	farm.KindIndex:     " of these images",
	farm.KindRoot:      " of these layers",
	farm.KindDisk:      " of this system, app and configuration",
	farm.KindRun:       " with these tests",
	farm.KindBoot:      " with these tests",
}

// Reason says for people why the shard's output came from source.
func (s *Shard) Reason(source farm.Source) string {
	what := fmt.Sprintf("%s %s%s", done[s.Kind], strings.TrimPrefix(s.Label, string(s.Kind)+" "), with[s.Kind])
	format := Formats[s.Kind]
	switch source {
	case farm.SourceHit:
		return fmt.Sprintf("a farm member has %s with format %d before", what, format)
	case farm.SourceShared:
		return fmt.Sprintf("another bake was having it done: %s with format %d", what, format)
	case farm.SourcePruned:
		return "not needed: everything that wants it was found"
	}
	return fmt.Sprintf("no farm member has %s with format %d", what, format)
}
