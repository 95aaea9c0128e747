package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"bakefarm/compose"
	"bakefarm/compose/rootfs"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/cache"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

const (
	maxInventory      = 16 << 20 // bytes, of a run
	inventoriesAtOnce = 16       // inventories and records that are read at a time
	piecesAhead       = 4        // pieces that are read ahead of the hashing: at most 4 MiB each, and as much unpacked
	hashAttempts      = 8        // how often a layer is read when entries of the cache turn out to be damaged
)

// A layer on its way.
type layer struct {
	*job
	w       imagestore.Writer
	members []compose.Member
	out     plan.Layer // what is known before the layer is made
	// own are the head's bytes and the trailer's, compressed and not: nobody else has them yet.
	own  map[digest.Digest][]byte
	base *rootfs.Record // of what the layer lies over; nil: nothing of others
}

// assemble makes a layer: the head anew, everything else as it is.
func assemble(ctx context.Context, j *job, spec plan.AssembleSpec) (plan.Layer, error) {
	base, outputs, err := overBase[plan.Member](j, spec.Base)
	if err != nil {
		return plan.Layer{}, err
	}
	l := &layer{job: j, w: j.Store.Begin(), own: make(map[digest.Digest][]byte)}
	if base != nil {
		if l.base, err = j.rootfs(ctx, base); err != nil {
			return plan.Layer{}, err
		}
	}
	for _, m := range outputs {
		l.members = append(l.members, composed(m))
	}
	var head func() ([]compose.File, error)
	switch system := spec.OS != nil && len(spec.Dirs) == 0; {
	case spec.Role == plan.RoleOS && system && spec.OS.Below == 0 && !spec.Base,
		slices.Contains([]string{plan.RolePackages, plan.RoleOwn}, spec.Role) && system && (spec.OS.Below > 0 || spec.Base):
		head, err = l.packages(ctx, *spec.OS, outputs)
	case spec.Role == plan.RoleApp && spec.OS == nil:
		head, err = l.runs(ctx, spec.Dirs, outputs)
	default:
		err = fmt.Errorf("spec: role %q (os: %t): want os or packages with os, or app without", spec.Role, spec.OS != nil)
	}
	if err != nil {
		return plan.Layer{}, err
	}
	composed, err := l.compose(ctx, head)
	if err != nil {
		return plan.Layer{}, err
	}
	var packages []recipe.LockedPackage
	if spec.OS != nil {
		packages = sorted(spec.OS.Packages)
	}
	return l.commit(ctx, composed, packages)
}

// composed is a member as package compose knows it.
func composed(m plan.Member) compose.Member {
	member := compose.Member{TarSize: m.TarSize, TarDigest: m.TarDigest}
	for _, p := range m.Pieces {
		member.Pieces = append(member.Pieces, compose.Piece(p))
	}
	return member
}

// each calls fn for every member with what describes it, several at a time.
func (l *layer) each(ctx context.Context, outputs []plan.Member, fn func(ctx context.Context, i int, m plan.Member) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(inventoriesAtOnce)
	for i, m := range outputs {
		g.Go(func() error { return fn(ctx, i, m) })
	}
	return g.Wait()
}

// runs reads what the runs of an app layer hold. What it returns makes the head's entries: the tree's directories.
func (l *layer) runs(ctx context.Context, dirs []recipe.TreeEntry, outputs []plan.Member) (func() ([]compose.File, error), error) {
	owned := make([]compose.Owned, len(outputs))
	err := l.each(ctx, outputs, func(ctx context.Context, i int, m plan.Member) error {
		o := &owned[i]
		o.Owner = fmt.Sprintf("run %d of the app", i)
		raw, err := l.piece(ctx, m.Inventory, maxInventory)
		if err == nil {
			err = json.Unmarshal(raw, &o.Inventory)
		}
		if err != nil {
			return fmt.Errorf("%s: inventory %s: %w", o.Owner, m.Inventory, err)
		}
		for _, p := range o.Paths {
			if err := compose.ValidatePath(p); err != nil {
				return fmt.Errorf("%s: inventory %s: %w", o.Owner, m.Inventory, err)
			}
		}
		return nil
	})
	return func() ([]compose.File, error) {
		var made []compose.File
		for _, d := range dirs {
			e, err := tarEntry(d)
			if err != nil {
				return nil, err
			}
			made = append(made, compose.File{Entry: e})
		}
		whole, err := entries(owned, made)
		if err != nil || l.base == nil {
			return whole, err
		}
		return overApp(l.base, whole, owned)
	}, err
}

// entries are those of a head.
func entries(owned []compose.Owned, made []compose.File) ([]compose.File, error) {
	if err := compose.CheckUnique(made, owned); err != nil {
		return nil, err
	}
	dirs := make([][]compose.Entry, len(owned))
	for i, o := range owned {
		dirs[i] = o.Dirs
	}
	return compose.Entries(dirs, made)
}

// compose makes the head of its entries and computes the layer's digests. What makes the entries may change the members.
func (l *layer) compose(ctx context.Context, described func() ([]compose.File, error)) (compose.Layer, error) {
	if err := l.Turns.take(ctx); err != nil {
		return compose.Layer{}, err
	}
	defer l.Turns.give()
	made, err := described()
	if err != nil {
		return compose.Layer{}, err
	}
	head, err := compose.Head(nil, made)
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
		if err == nil {
			l.remember(composed, members)
			return composed, nil
		}
		if !isDamage(err) || attempt == hashAttempts {
			return compose.Layer{}, err
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

// openTarAhead reads a member's uncompressed bytes for hashing, which is what a layer takes its time for: another
// processor reads the file.
func (l *layer) openTarAhead(ctx context.Context) func(compose.Member) (io.ReadCloser, error) {
	return func(m compose.Member) (io.ReadCloser, error) {
		if data, ok := l.own[m.TarDigest]; ok {
			return io.NopCloser(bytes.NewReader(data)), nil
		}
		r := l.openTar(m)
		if r == nil || m.TarSize <= aheadBuffer {
			return r, nil
		}
		return readAhead(ctx, func(context.Context) (io.ReadCloser, error) { return r, nil })
	}
}

// commit stores the layer's blob, with the list of its packages if it has one, and commits everything.
func (l *layer) commit(ctx context.Context, composed compose.Layer, packages []recipe.LockedPackage) (plan.Layer, error) {
	out := l.out
	out.Digest, out.Size = composed.Digest, composed.Size
	out.DiffID, out.TarSize = composed.DiffID, composed.TarSize
	out.Pieces = len(composed.Pieces)
	blob := imagestore.Blob{Digest: composed.Digest, Size: composed.Size}
	for _, p := range composed.Pieces {
		blob.Parts = append(blob.Parts, imagestore.Part{Digest: p.Digest, Size: p.Size})
	}
	if err := l.w.Compose(ctx, blob); err != nil {
		return plan.Layer{}, err
	}
	if packages != nil {
		raw, err := json.Marshal(packages)
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
