package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/worker/cache"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	maxInventory      = 16 << 20 // bytes, of a run
	inventoriesAtOnce = 16       // inventories and records that are read at a time
	piecesAhead       = 8        // pieces that are read ahead of the hashing: at most 4 MiB each, and as much unpacked
	hashAttempts      = 8        // how often a layer is read when entries of the cache turn out to be damaged
)

// A layer on its way.
type layer struct {
	*job
	w       imagestore.Writer
	members []compose.Member
	owned   []compose.Owned // by member
	made    []compose.File  // for the head
	// own are the head's bytes and the trailer's, compressed and not: nobody else has them yet.
	own map[digest.Digest][]byte
}

// assemble makes a layer: the head anew, everything else as it is.
func assemble(ctx context.Context, j *job, spec plan.AssembleSpec) (plan.Layer, error) {
	outputs, err := dependencies[plan.Member](j)
	if err != nil {
		return plan.Layer{}, err
	}
	l := &layer{job: j, w: j.Store.Begin(), own: make(map[digest.Digest][]byte)}
	for _, m := range outputs {
		member := compose.Member{TarSize: m.TarSize, TarDigest: m.TarDigest}
		for _, p := range m.Pieces {
			member.Pieces = append(member.Pieces, compose.Piece(p))
		}
		l.members = append(l.members, member)
	}
	described, err := l.described(ctx, outputs)
	if err != nil {
		return plan.Layer{}, err
	}
	if err := j.Turns.take(ctx); err != nil {
		return plan.Layer{}, err
	}
	composed, err := func() (compose.Layer, error) {
		defer j.Turns.give()
		if err := l.inventories(ctx, spec, described); err != nil {
			return compose.Layer{}, err
		}
		return l.compose(ctx)
	}()
	if err != nil {
		return plan.Layer{}, err
	}
	return l.commit(ctx, spec, composed)
}

// described reads what describes each member: an inventory, or a package's record.
func (l *layer) described(ctx context.Context, outputs []plan.Member) ([][]byte, error) {
	raw := make([][]byte, len(outputs))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inventoriesAtOnce)
	for i, m := range outputs {
		g.Go(func() (err error) {
			raw[i], err = l.piece(ctx, m.Inventory, deb.MaxRecord)
			if err != nil {
				return fmt.Errorf("member %d: inventory %s: %w", i, m.Inventory, err)
			}
			return nil
		})
	}
	return raw, g.Wait()
}

// inventories fills in what the layer's members hold and what its head is made of.
func (l *layer) inventories(ctx context.Context, spec plan.AssembleSpec, described [][]byte) error {
	switch {
	case spec.Role == plan.RoleOS && spec.OS != nil && len(spec.Dirs) == 0:
		return l.packages(ctx, *spec.OS, described)
	case spec.Role == plan.RoleApp && spec.OS == nil:
		return l.runs(spec, described)
	}
	return fmt.Errorf("spec: role %q (os: %t): want os with os, or app without", spec.Role, spec.OS != nil)
}

// runs is inventories of an app layer: the head is the tree's directories.
func (l *layer) runs(spec plan.AssembleSpec, described [][]byte) error {
	for _, d := range spec.Dirs {
		e, err := tarEntry(d)
		if err != nil {
			return err
		}
		l.made = append(l.made, compose.File{Entry: e})
	}
	for i, raw := range described {
		if len(raw) > maxInventory {
			return fmt.Errorf("run %d: inventory of %d bytes, at most %d are allowed", i, len(raw), maxInventory)
		}
		var inv compose.Inventory
		if err := json.Unmarshal(raw, &inv); err != nil {
			return fmt.Errorf("run %d: inventory: %w", i, err)
		}
		for _, p := range inv.Paths {
			if err := compose.ValidatePath(p); err != nil {
				return fmt.Errorf("run %d: inventory: %w", i, err)
			}
		}
		l.owned = append(l.owned, compose.Owned{Owner: fmt.Sprintf("run %d of the app", i), Inventory: inv})
	}
	return nil
}

// packages is inventories of an OS layer: the head has the packages' directories, dpkg's database of them and the
// merged-/usr links.
func (l *layer) packages(ctx context.Context, os plan.AssembleOS, described [][]byte) error {
	if len(os.Packages) != len(described) {
		return fmt.Errorf("spec: %d packages, but %d members", len(os.Packages), len(described))
	}
	records := make([]*deb.Record, len(described))
	var g errgroup.Group
	g.SetLimit(cap(l.Turns))
	for i, raw := range described {
		g.Go(func() error {
			p := os.Packages[i]
			r, err := deb.DecodeRecord(raw)
			if err != nil {
				return fmt.Errorf("package %s %s: %w", p.Name, p.Version, err)
			}
			if r.Package != p.Name || r.Version != p.Version || r.Architecture != p.Arch {
				return fmt.Errorf("package %s %s (%s): the file says that it is %s %s (%s): the mirror's index is wrong about %s",
					p.Name, p.Version, p.Arch, r.Package, r.Version, r.Architecture, p.SHA256)
			}
			records[i] = r
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := l.overwrite(ctx, records); err != nil {
		return err
	}
	for _, r := range records {
		l.owned = append(l.owned, compose.Owned{Owner: r.Package + " " + r.Version, Inventory: r.Inventory})
	}
	database, err := deb.Database(records, os.Arch)
	if err != nil {
		return err
	}
	l.made = append(deb.MergedUsr(os.Suite, os.Arch, records), database...)
	return nil
}

// compose makes the head and computes the layer's digests.
func (l *layer) compose(ctx context.Context) (compose.Layer, error) {
	if err := compose.CheckUnique(l.made, l.owned); err != nil {
		return compose.Layer{}, err
	}
	dirs := make([][]compose.Entry, len(l.owned))
	for i, o := range l.owned {
		dirs[i] = o.Dirs
	}
	head, err := compose.Head(dirs, l.made)
	if err != nil {
		return compose.Layer{}, err
	}
	first, pieces, err := compose.Compressed(head)
	if err != nil {
		return compose.Layer{}, err
	}
	_, end := compose.Trailer()
	for _, data := range append(pieces, end) {
		part, err := l.w.Put(ctx, data)
		if err != nil {
			return compose.Layer{}, err
		}
		l.own[part.Digest] = data
	}
	l.own[first.TarDigest] = head
	return l.hash(ctx, append([]compose.Member{first}, l.members...))
}

// hash computes the layer's digests out of the cache as far as it goes. Damaged entries cost another attempt without them.
func (l *layer) hash(ctx context.Context, members []compose.Member) (compose.Layer, error) {
	a := compose.Assembler{Open: l.openPiece, Tar: l.openTarAhead(ctx), Parallel: piecesAhead}
	for attempt := 1; ; attempt++ {
		composed, err := a.Assemble(ctx, members)
		if err == nil || !isDamage(err) || attempt == hashAttempts {
			return composed, err
		}
		l.say("%v: reading again", err)
		if !errors.Is(err, cache.ErrCorrupt) { // else the entry has dropped itself
			a.Open, a.Tar = l.openStored, nil
		}
	}
}

// openPiece reads a compressed piece out of the cache, or out of the store and into the cache.
func (l *layer) openPiece(ctx context.Context, p compose.Piece) (io.ReadCloser, error) {
	if data, ok := l.own[p.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	if r, err := l.Cache.Open(p.Digest); err == nil {
		return r, nil
	}
	data, err := imagestore.ReadAll(ctx, l.Store, p.Digest, p.Size)
	if err != nil {
		return nil, err
	}
	l.keep(p.Digest, data)
	return io.NopCloser(bytes.NewReader(data)), nil
}

// openStored reads a compressed piece out of the store.
func (l *layer) openStored(ctx context.Context, p compose.Piece) (io.ReadCloser, error) {
	if data, ok := l.own[p.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return l.Store.Open(ctx, p.Digest, 0, -1)
}

// openTar reads a member's uncompressed bytes out of the cache, when it has them.
func (l *layer) openTar(m compose.Member) (io.ReadCloser, error) {
	if data, ok := l.own[m.TarDigest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	r, err := l.Cache.Open(m.TarDigest)
	if err != nil {
		return nil, nil
	}
	return r, nil
}

// openTarAhead is openTar for hashing, which is what a layer takes its time for: another processor reads the file.
func (l *layer) openTarAhead(ctx context.Context) func(compose.Member) (io.ReadCloser, error) {
	return func(m compose.Member) (io.ReadCloser, error) {
		r, err := l.openTar(m)
		if r == nil || m.TarSize <= aheadBuffer {
			return r, err
		}
		return readAhead(ctx, func(context.Context) (io.ReadCloser, error) { return r, nil })
	}
}

// commit stores the layer's blob and commits everything.
func (l *layer) commit(ctx context.Context, spec plan.AssembleSpec, composed compose.Layer) (plan.Layer, error) {
	out := plan.Layer{
		Digest: composed.Digest, Size: composed.Size,
		DiffID: composed.DiffID, TarSize: composed.TarSize,
		Pieces: len(composed.Pieces),
	}
	blob := imagestore.Blob{Digest: composed.Digest, Size: composed.Size}
	for _, p := range composed.Pieces {
		blob.Parts = append(blob.Parts, imagestore.Part{Digest: p.Digest, Size: p.Size})
	}
	if err := l.w.Compose(ctx, blob); err != nil {
		return plan.Layer{}, err
	}
	if spec.OS != nil {
		raw, err := json.Marshal(spec.OS.Packages)
		if err != nil {
			return plan.Layer{}, err
		}
		part, err := l.w.Put(ctx, raw)
		if err != nil {
			return plan.Layer{}, err
		}
		out.Packages = part.Digest
	}
	if err := l.w.Commit(ctx); err != nil {
		return plan.Layer{}, err
	}
	l.say("%s: %d members, %s, unpacked %s", out.Digest, len(l.members), size(out.Size), size(out.TarSize))
	return out, nil
}

// isDamage reports whether bytes of the worker's cache were not what they should be.
func isDamage(err error) bool {
	return errors.Is(err, compose.ErrTar) || errors.Is(err, compose.ErrPiece) || errors.Is(err, cache.ErrCorrupt)
}
