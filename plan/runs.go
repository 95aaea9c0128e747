package plan

import (
	"crypto/sha256"
	"encoding/binary"
	"slices"

	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Sizes of runs: small enough that a changed file costs little, large enough that their number stays small and gzip has
// something to find.
const (
	maxRuns       = 128              // runs to aim at; there are more when the caps below say so
	minRunFiles   = 16               // files to expect in a run
	maxRunBytes   = 4 << 20          // content of a run
	maxRunEntries = 2048             // entries of a run
	ownRunBytes   = 1 << 20          // a file of this size is a run of its own
	segmentBytes  = recipe.ChunkSize // a file above it is cut into segments, one a chunk
)

// Runs cuts an app's entries into runs, each of which becomes one layer member. entries are sorted by path and no
// directories. The concatenation of the runs is entries; a file larger than a chunk takes one run for each.
//
// The cuts are where they are whatever the files hold: after a file when the hash of its path ends in enough zero bits,
// about every modulus-th file. So a file that changes costs its own run, and one that comes or goes costs the run that
// it is in, or the two that it parts. A stretch between two cuts that is over a cap is cut again with half the modulus,
// and so on; what its neighbours look like makes no difference to it. Only the number of all files, each time that it
// doubles beyond maxRuns·minRunFiles, moves cuts everywhere.
func Runs(entries []recipe.TreeEntry) []CutSpec {
	modulus := uint64(minRunFiles)
	for uint64(len(entries)) > maxRuns*modulus {
		modulus *= 2
	}
	var runs []CutSpec
	start := 0
	for i, e := range entries {
		if e.Size >= ownRunBytes {
			runs = stretch(runs, entries[start:i], modulus)
			runs = large(runs, e)
			start = i + 1
		}
	}
	return stretch(runs, entries[start:], modulus)
}

// stretch appends the runs of entries that all are below ownRunBytes.
func stretch(runs []CutSpec, entries []recipe.TreeEntry, modulus uint64) []CutSpec {
	start := 0
	var size int64
	for i, e := range entries {
		size += e.Size
		full := modulus == 1 && (i+1 == len(entries) || size+entries[i+1].Size > maxRunBytes || i+1-start == maxRunEntries)
		if !full && i+1 < len(entries) && (modulus == 1 || pathHash(e.Path)&(modulus-1) != 0) {
			continue
		}
		if run := entries[start : i+1]; modulus > 1 && (size > maxRunBytes || len(run) > maxRunEntries) {
			runs = stretch(runs, run, modulus/2)
		} else {
			runs = append(runs, CutSpec{Entries: slices.Clone(run)})
		}
		start, size = i+1, 0
	}
	return runs
}

// large appends the runs of one file of ownRunBytes or more.
func large(runs []CutSpec, e recipe.TreeEntry) []CutSpec {
	n := segments(e.Size)
	if n == 1 {
		return append(runs, CutSpec{Entries: []recipe.TreeEntry{e}})
	}
	for i := range n {
		part := e
		part.Chunks = []digest.Digest{e.Chunks[i]}
		runs = append(runs, CutSpec{Entries: []recipe.TreeEntry{part}, Segment: &Segment{Chunk: i, Last: i == n-1}})
	}
	return runs
}

// segments is the number of segments of a file of size bytes.
func segments(size int64) int { return int((size + segmentBytes - 1) / segmentBytes) }

// segmentSize is the size in bytes of a segment of a file of size bytes.
func segmentSize(size int64, index int) int64 {
	return min(segmentBytes, size-int64(index)*segmentBytes)
}

// pathHash is stable forever: every cut ever made depends on it.
func pathHash(path string) uint64 {
	sum := sha256.Sum256([]byte(path))
	return binary.BigEndian.Uint64(sum[:])
}
