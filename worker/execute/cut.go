package execute

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"bakefarm/compose"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// maxRunBytes bounds a cut. The plan's runs are below a quarter of it.
const maxRunBytes = 16 << 20

// cut makes a member of a run of app files.
func cut(ctx context.Context, j *job, spec plan.CutSpec) (plan.Member, error) {
	run, err := newRun(spec)
	if err != nil {
		return plan.Member{}, err
	}
	chunks, err := j.chunks(ctx, run.chunks)
	if err != nil {
		return plan.Member{}, err
	}
	if err := j.Turns.take(ctx); err != nil {
		return plan.Member{}, err
	}
	w := j.Store.Begin()
	store := j.newMember(w)
	defer store.discard()
	var inventory compose.Inventory
	member, err := store.cut(ctx, func(w io.Writer) error {
		inventory, err = run.write(w, chunks)
		return err
	})
	j.Turns.give()
	if err != nil {
		return plan.Member{}, err
	}
	return j.commitMember(ctx, w, member, inventory)
}

// commitMember stores a member's inventory and commits it all.
func (j *job) commitMember(ctx context.Context, w imagestore.Writer, member compose.Member, inventory compose.Inventory) (plan.Member, error) {
	raw, err := json.Marshal(inventory)
	if err != nil {
		return plan.Member{}, err
	}
	return j.commitDescribed(ctx, w, member, raw)
}

// commitDescribed stores what describes a member, an inventory or a record, and commits it all.
func (j *job) commitDescribed(ctx context.Context, w imagestore.Writer, member compose.Member, described []byte) (plan.Member, error) {
	part, err := w.Put(ctx, described)
	if err != nil {
		return plan.Member{}, err
	}
	j.keep(part.Digest, described)
	if err := w.Commit(ctx); err != nil {
		return plan.Member{}, err
	}
	out := plan.Member{TarSize: member.TarSize, TarDigest: member.TarDigest, Inventory: part.Digest}
	for _, p := range member.Pieces {
		out.Pieces = append(out.Pieces, plan.Piece(p))
	}
	return out, nil
}

// run is a CutSpec that was looked through.
type run struct {
	entries []compose.Entry
	first   []int // index of each entry's first chunk in chunks
	chunks  []chunk
	segment *compose.Segment
}

// chunk is a chunk of a file and what is left of the file from there on, which bounds it.
type chunk struct {
	digest digest.Digest
	path   string
	size   int64
}

// newRun checks a spec and lists its chunks.
func newRun(spec plan.CutSpec) (*run, error) {
	if len(spec.Entries) == 0 {
		return nil, errors.New("spec: no entries")
	}
	if spec.Segment != nil {
		return newSegment(spec)
	}
	var r run
	var total int64
	for _, e := range spec.Entries {
		entry, err := tarEntry(e)
		if err != nil {
			return nil, err
		}
		r.entries = append(r.entries, entry)
		r.first = append(r.first, len(r.chunks))
		if total += e.Size; e.Size < 0 || total > maxRunBytes {
			return nil, fmt.Errorf("spec: the run has more than %d bytes", maxRunBytes)
		}
		if want := (e.Size + recipe.ChunkSize - 1) / recipe.ChunkSize; int64(len(e.Chunks)) != want {
			return nil, fmt.Errorf("spec: %s: %d chunks, want %d for %d bytes", e.Path, len(e.Chunks), want, e.Size)
		}
		for i, d := range e.Chunks {
			r.chunks = append(r.chunks, chunk{d, e.Path, min(recipe.ChunkSize, e.Size-int64(i)*recipe.ChunkSize)})
		}
	}
	r.first = append(r.first, len(r.chunks))
	return &r, nil
}

// newSegment checks the spec of one segment of a large file.
func newSegment(spec plan.CutSpec) (*run, error) {
	if len(spec.Entries) != 1 || len(spec.Entries[0].Chunks) != 1 {
		return nil, errors.New("spec: a segment has one entry with one chunk")
	}
	e, s := spec.Entries[0], spec.Segment
	entry, err := tarEntry(e)
	if err != nil {
		return nil, err
	}
	offset := int64(s.Chunk) * recipe.ChunkSize
	n := min(recipe.ChunkSize, e.Size-offset)
	if s.Chunk < 0 || n <= 0 || s.Last != (offset+n == e.Size) {
		return nil, fmt.Errorf("spec: %s: chunk %d (last: %t) is no segment of %d bytes", e.Path, s.Chunk, s.Last, e.Size)
	}
	return &run{
		entries: []compose.Entry{entry},
		chunks:  []chunk{{e.Chunks[0], e.Path, n}},
		segment: &compose.Segment{Offset: offset, Size: n},
	}, nil
}

// tarEntry is an app's file or link as it stands in a layer.
func tarEntry(e recipe.TreeEntry) (compose.Entry, error) {
	entry := compose.Entry{Path: e.Path, Mode: int64(e.Mode), UID: e.UID, GID: e.GID, ModTime: compose.ModTime, Size: e.Size, Link: e.Link}
	switch e.Type {
	case recipe.TypeFile:
		entry.Type = tar.TypeReg
	case recipe.TypeLink:
		entry.Type = tar.TypeSymlink
	case recipe.TypeDir:
		entry.Type = tar.TypeDir
	default:
		return entry, fmt.Errorf("spec: %s: unknown type %q", e.Path, e.Type)
	}
	return entry, entry.Validate()
}

// write writes the run's entries, or its segment.
func (r *run) write(w io.Writer, chunks [][]byte) (compose.Inventory, error) {
	if r.segment != nil {
		return compose.CutSegment(w, r.entries[0], *r.segment, bytes.NewReader(chunks[0]))
	}
	return compose.CutFiles(w, r.entries, func(i int) (io.ReadCloser, error) {
		var content []io.Reader
		for _, c := range chunks[r.first[i]:r.first[i+1]] {
			content = append(content, bytes.NewReader(c))
		}
		return io.NopCloser(io.MultiReader(content...)), nil
	})
}

// chunks reads the chunks of files. Those of one upload lie side by side in the store, and a run of small files has one for each.
// They don't go through the cache: a chunk is wanted once, what was cut of it is what comes back.
func (j *job) chunks(ctx context.Context, want []chunk) ([][]byte, error) {
	parts := make([]imagestore.Part, len(want))
	for i, c := range want {
		parts[i] = imagestore.Part{Digest: c.digest, Size: c.size}
	}
	r, err := imagestore.OpenParts(ctx, j.Store, parts)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", of(want), err)
	}
	data := make([][]byte, len(want))
	for i, c := range want {
		data[i] = make([]byte, c.size)
		if _, err := io.ReadFull(r, data[i]); err != nil {
			return nil, errors.Join(fmt.Errorf("%s: chunk %s: %w", c.path, c.digest, err), r.Close())
		}
	}
	return data, r.Close()
}

// of names the files that chunks are of, for an error.
func of(chunks []chunk) string {
	if len(chunks) == 0 {
		return "no file"
	}
	first, last := chunks[0].path, chunks[len(chunks)-1].path
	if first == last {
		return first
	}
	return first + " to " + last
}
