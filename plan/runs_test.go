package plan

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// makeFile returns an entry whose content follows from seed.
func makeFile(path string, size int64, seed string) recipe.TreeEntry {
	e := recipe.TreeEntry{Path: path, Type: recipe.TypeFile, Mode: 0o644, Size: size}
	for i := range segments(size) {
		e.Chunks = append(e.Chunks, digest.FromString(fmt.Sprintf("%s %s %d", path, seed, i)))
	}
	return e
}

// makeApp returns n files below size bytes each, sorted.
func makeApp(r *rand.Rand, n int, size int64) []recipe.TreeEntry {
	entries := make([]recipe.TreeEntry, n)
	for i := range entries {
		entries[i] = makeFile(fmt.Sprintf("opt/app/%03d/file-%d", i/40, i), r.Int64N(size), "")
	}
	return sortEntries(entries)
}

func sortEntries(entries []recipe.TreeEntry) []recipe.TreeEntry {
	slices.SortFunc(entries, func(a, b recipe.TreeEntry) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return entries
}

// keys returns the keys of the runs of entries; they must be different, as all test files are.
func keys(t *testing.T, entries []recipe.TreeEntry) map[digest.Digest]bool {
	t.Helper()
	set := make(map[digest.Digest]bool)
	runs := Runs(entries)
	for _, run := range runs {
		set[Cut(run).Key] = true
	}
	if len(set) != len(runs) {
		t.Fatalf("%d runs have %d keys", len(runs), len(set))
	}
	return set
}

// added counts the keys of after that before did not have: what a bake has to cut.
func added(before, after map[digest.Digest]bool) int {
	n := 0
	for k := range after {
		if !before[k] {
			n++
		}
	}
	return n
}

var shapes = []struct {
	name string
	n    int
	size int64 // of the largest file, exclusive
}{
	{"one", 1, 1000}, {"few", 10, 10_000}, {"web", 500, 40_000}, {"jars", 300, ownRunBytes},
	{"mixed", 200, 12 << 20}, {"many", 5000, 3000}, {"empty files", 3000, 1},
}

func TestRunsCoverEveryEntryOnceInOrder(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			entries := makeApp(rand.New(rand.NewPCG(1, 2)), shape.n, shape.size)
			entries[len(entries)/2] = recipe.TreeEntry{Path: entries[len(entries)/2].Path, Type: recipe.TypeLink, Mode: 0o777, Link: "x"}
			var got []recipe.TreeEntry
			for _, run := range Runs(entries) {
				if len(run.Entries) == 0 || len(run.Entries) > maxRunEntries {
					t.Fatalf("a run of %d entries", len(run.Entries))
				}
				var size int64
				for _, e := range run.Entries {
					size += e.Size
				}
				s := run.Segment
				if s == nil {
					if size > maxRunBytes {
						t.Fatalf("a run of %d bytes", size)
					}
					got = append(got, run.Entries...)
					continue
				}
				e := run.Entries[0]
				if len(run.Entries) != 1 || len(e.Chunks) != 1 || s.Last != (s.Chunk == segments(e.Size)-1) {
					t.Fatalf("segment %+v of %+v", s, e)
				}
				if s.Chunk == 0 {
					got = append(got, e)
					continue
				}
				last := &got[len(got)-1]
				if last.Path != e.Path || len(last.Chunks) != s.Chunk {
					t.Fatalf("segment %d of %s comes after %d of %s", s.Chunk, e.Path, len(last.Chunks), last.Path)
				}
				last.Chunks = append(last.Chunks, e.Chunks...)
			}
			if !slices.EqualFunc(got, entries, func(a, b recipe.TreeEntry) bool {
				return a.Path == b.Path && a.Size == b.Size && a.Link == b.Link && slices.Equal(a.Chunks, b.Chunks)
			}) {
				t.Fatalf("the runs hold %d entries, not the %d that went in", len(got), len(entries))
			}
		})
	}
}

func TestRunsAreFewAndNotTooFew(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, want := range []struct{ files, least, most int }{
		{1, 1, 1}, {2000, 80, 180}, {20_000, 60, 200}, {200_000, 80, 400},
	} {
		if n := len(Runs(makeApp(r, want.files, 500))); n < want.least || n > want.most {
			t.Errorf("%d small files make %d runs: want %d to %d", want.files, n, want.least, want.most)
		}
	}
}

func TestChangedFileCostsItsOwnRun(t *testing.T) {
	for _, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(5, 6))
			entries := makeApp(r, shape.n, shape.size)
			before := keys(t, entries)
			for range 30 {
				i := r.IntN(len(entries))
				changed := slices.Clone(entries)
				e := &changed[i]
				if e.Size == 0 {
					e.Mode = 0o755
				} else { // one chunk of it
					e.Chunks = slices.Clone(e.Chunks)
					e.Chunks[r.IntN(len(e.Chunks))] = digest.FromString("changed")
				}
				if n := added(before, keys(t, changed)); n != 1 {
					t.Fatalf("changing %s (%d bytes) costs %d runs", e.Path, e.Size, n)
				}
			}
		})
	}
}

func TestGrownFileCostsItsOwnRun(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	entries := makeApp(r, 1000, 40_000) // runs stay far below the caps
	before := keys(t, entries)
	for i := 0; i < len(entries); i += 9 {
		changed := slices.Clone(entries)
		changed[i] = makeFile(entries[i].Path, entries[i].Size+1000, "grown")
		if n := added(before, keys(t, changed)); n != 1 {
			t.Fatalf("growing %s costs %d runs", entries[i].Path, n)
		}
	}
}

// Over the caps, a file that grows may move a cut, but only near itself.
func TestGrownFileNearTheCapsStaysLocal(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	entries := makeApp(r, 600, ownRunBytes)
	before := keys(t, entries)
	for range 100 {
		i := r.IntN(len(entries))
		changed := slices.Clone(entries)
		changed[i] = makeFile(entries[i].Path, r.Int64N(ownRunBytes), "grown")
		if n := added(before, keys(t, changed)); n < 1 || n > 6 {
			t.Fatalf("growing %s costs %d of %d runs", entries[i].Path, n, len(before))
		}
	}
}

func TestAddedFileCostsAtMostTwoRuns(t *testing.T) {
	r := rand.New(rand.NewPCG(11, 12))
	entries := makeApp(r, 1000, 40_000)
	before := keys(t, entries)
	parted := 0
	for i := range 200 {
		with := sortEntries(append(slices.Clone(entries), makeFile(fmt.Sprintf("opt/app/%03d/new-%d", r.IntN(25), i), 100, "")))
		n := added(before, keys(t, with))
		if n < 1 || n > 2 {
			t.Fatalf("adding a file costs %d runs", n)
		}
		if n == 2 {
			parted++
		}
		if n := added(keys(t, with), before); n > 1 {
			t.Fatalf("taking the file away again costs %d runs", n)
		}
	}
	if parted == 0 {
		t.Error("no added file ever made a cut of its own: the test does not see cuts")
	}
	// A large file stands alone, between the parts of the run that it lands in.
	large := sortEntries(append(slices.Clone(entries), makeFile("opt/app/010/large", 2<<20, "")))
	if n := added(before, keys(t, large)); n < 1 || n > 3 {
		t.Errorf("adding a large file costs %d runs", n)
	}
}

func TestMovedLargeFileCostsItsFirstSegment(t *testing.T) {
	file := makeFile("opt/app-1/model", 40<<20+5, "")
	moved := file
	moved.Path, moved.UID = "opt/app-2/model", 1000
	before, after := keys(t, []recipe.TreeEntry{file}), keys(t, []recipe.TreeEntry{moved})
	if n := added(before, after); len(before) != 11 || n != 1 {
		t.Errorf("moving a file of %d segments costs %d", len(before), n)
	}
	// The last segment is not the same as a middle one with the same bytes: the padding follows.
	whole := makeFile("a", 8<<20, "")
	whole.Chunks[1] = file.Chunks[1]
	for key := range keys(t, []recipe.TreeEntry{whole}) {
		if before[key] {
			t.Error("a last segment shares the key of a middle one")
		}
	}
}

func BenchmarkRuns(b *testing.B) {
	entries := makeApp(rand.New(rand.NewPCG(1, 2)), recipe.MaxContextFiles, 500)
	for b.Loop() {
		Runs(entries)
	}
}
