package execute

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/apt"
	"bakefarm/compose/deb"

	"github.com/klauspost/compress/gzip"
)

// overwrite settles which package has a path that several bring, as dpkg does when it unpacks them in the set's order:
// a package that declares Replaces takes the path over from the other, whichever comes first; two that replace each
// other leave it to the later one. The loser's member is made anew without the path, and its record forgets it: both
// slices are changed. What no Replaces allows is refused in dpkg's words.
func (l *layer) overwrite(ctx context.Context, members []compose.Member, records []*deb.Record) error {
	lost, err := losses(records)
	if err != nil {
		return err
	}
	for _, i := range slices.Sorted(maps.Keys(lost)) {
		r := records[i]
		l.say("%s: %d paths are replaced by other packages", r.Package, len(lost[i]))
		member, err := l.without(ctx, members[i], lost[i])
		if err != nil {
			return fmt.Errorf("package %s %s without the paths that others replace: %w", r.Package, r.Version, err)
		}
		members[i], records[i] = member, forget(r, lost[i])
	}
	return nil
}

// losses finds the paths that each package loses to another.
func losses(records []*deb.Record) (map[int]map[string]bool, error) {
	lost := map[int]map[string]bool{}
	owner := map[string]int{}
	for i, r := range records {
		for _, p := range r.Inventory.Paths {
			first, taken := owner[p]
			if !taken {
				owner[p] = i
				continue
			}
			loser := first
			switch {
			case replaces(r, records[first]):
				owner[p] = i
			case replaces(records[first], r):
				loser = i
			default:
				return nil, fmt.Errorf("package %s %s: trying to overwrite '/%s', which is also in package %s %s",
					r.Package, r.Version, p, records[first].Package, records[first].Version)
			}
			if lost[loser] == nil {
				lost[loser] = map[string]bool{}
			}
			lost[loser][p] = true
		}
	}
	return lost, nil
}

// replaces reports whether a's Replaces field names b in its version (deb-control(5); virtual packages do not count).
func replaces(a, b *deb.Record) bool {
	fields, err := deb.ParseParagraph(a.Control)
	if err != nil {
		return false // can't be: the record was validated
	}
	for _, f := range fields {
		if !strings.EqualFold(f.Name, "Replaces") {
			continue
		}
		for relation := range strings.SplitSeq(f.Value, ",") {
			if names(relation, b) {
				return true
			}
		}
	}
	return false
}

// names reports whether a relation, such as "libfoo:any (<< 1.2)", is about the package in its version.
func names(relation string, r *deb.Record) bool {
	relation = strings.TrimSpace(relation)
	name, constraint, constrained := strings.Cut(relation, "(")
	name, _, _ = strings.Cut(strings.TrimSpace(name), ":")
	if name != r.Package {
		return false
	}
	if !constrained {
		return true
	}
	constraint = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(constraint), ")"))
	version := strings.TrimLeft(constraint, "<>=")
	order := apt.CompareVersions(r.Version, strings.TrimSpace(version))
	switch strings.TrimSuffix(constraint, version) {
	case "<<":
		return order < 0
	case "<=", "<": // deb-control(5): "<" is an old way to write "<="
		return order <= 0
	case "=":
		return order == 0
	case ">=", ">":
		return order >= 0
	case ">>":
		return order > 0
	}
	return false
}

// forget returns a record without paths that the package lost. As in dpkg's database, md5sums keeps their lines.
func forget(r *deb.Record, lost map[string]bool) *deb.Record {
	kept := *r
	kept.Inventory.Paths = slices.DeleteFunc(slices.Clone(r.Inventory.Paths), func(p string) bool { return lost[p] })
	gone := func(absolute string) bool {
		p := strings.TrimPrefix(absolute, "/")
		if top, _, below := strings.Cut(p, "/"); below && slices.Contains(r.Aliases, top) {
			p = "usr/" + p
		}
		return lost[p]
	}
	kept.List = slices.DeleteFunc(slices.Clone(r.List), gone)
	kept.Conffiles = slices.DeleteFunc(slices.Clone(r.Conffiles), func(c deb.Conffile) bool { return gone(c.Path) })
	return &kept
}

// without makes a member anew without some of its entries. It is committed on its own: the layer reads it back like any
// other member.
func (l *layer) without(ctx context.Context, m compose.Member, lost map[string]bool) (compose.Member, error) {
	heir, err := l.heirs(ctx, m, lost)
	if err != nil {
		return compose.Member{}, err
	}
	w := l.Store.Begin()
	store := l.newMember(w)
	defer store.discard()
	made, err := store.cut(ctx, func(w io.Writer) error {
		return l.entries(ctx, m, func(e compose.Entry, content io.Reader) error {
			switch first := heir[e.Path]; {
			case first != "": // lost, but other names of the same file stay
				e.Path = first
			case lost[e.Path] || inherits(heir, e):
				return nil
			case e.Type == tar.TypeLink && heir[e.Link] != "":
				e.Link = heir[e.Link]
			}
			return compose.WriteEntry(w, e, content)
		})
	})
	if err != nil {
		return compose.Member{}, err
	}
	return made, w.Commit(ctx)
}

// heirs finds for each lost file that has hard links to it the first link that stays: the content goes to it.
func (l *layer) heirs(ctx context.Context, m compose.Member, lost map[string]bool) (map[string]string, error) {
	heir := map[string]string{}
	err := l.entries(ctx, m, func(e compose.Entry, _ io.Reader) error {
		if e.Type == tar.TypeLink && lost[e.Link] && !lost[e.Path] && heir[e.Link] == "" {
			heir[e.Link] = e.Path
		}
		return nil
	})
	return heir, err
}

// inherits reports whether the entry is a link that has become the file itself.
func inherits(heir map[string]string, e compose.Entry) bool {
	return e.Type == tar.TypeLink && heir[e.Link] == e.Path
}

// entries calls fn for each entry of a member. Its bytes are verified once more as a whole.
func (l *layer) entries(ctx context.Context, m compose.Member, fn func(e compose.Entry, content io.Reader) error) error {
	rc, err := l.openMember(ctx, m)
	if err != nil {
		return err
	}
	defer rc.Close()
	verifier := m.TarDigest.Verifier()
	plain := io.TeeReader(io.LimitReader(rc, m.TarSize+1), verifier)
	for r := tar.NewReader(plain); err == nil; {
		var h *tar.Header
		if h, err = r.Next(); err == nil {
			err = fn(tarEntryOf(h), r)
		}
	}
	if err == io.EOF {
		_, err = io.Copy(io.Discard, plain)
	}
	if err == nil && !verifier.Verified() {
		l.Cache.Drop(m.TarDigest)
		err = fmt.Errorf("member %s: %w", m.TarDigest, compose.ErrTar)
	}
	return err
}

// openMember reads a member's uncompressed bytes: those at hand, or its pieces unpacked.
func (l *layer) openMember(ctx context.Context, m compose.Member) (io.ReadCloser, error) {
	if rc, _ := l.openTar(m); rc != nil {
		return rc, nil
	}
	pieces := &pieceReader{layer: l, ctx: ctx, pieces: m.Pieces}
	z, err := gzip.NewReader(bufio.NewReader(pieces))
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m.TarDigest, err)
	}
	return z, nil
}

// pieceReader reads pieces one after the other.
type pieceReader struct {
	*layer
	ctx    context.Context // of the shard: io.Reader has no place for it
	pieces []compose.Piece
	now    bytes.Reader
}

func (r *pieceReader) Read(p []byte) (int, error) {
	for r.now.Len() == 0 {
		if len(r.pieces) == 0 {
			return 0, io.EOF
		}
		data, err := r.piece(r.ctx, r.pieces[0].Digest, compose.MaxPiece)
		if err != nil {
			return 0, err
		}
		r.pieces = r.pieces[1:]
		r.now.Reset(data)
	}
	return r.now.Read(p)
}

// tarEntryOf is the entry that a header of a member says: the inverse of compose.Entry.Header.
func tarEntryOf(h *tar.Header) compose.Entry {
	e := compose.Entry{
		Path: h.Name, Type: h.Typeflag, Mode: h.Mode, UID: h.Uid, GID: h.Gid, ModTime: h.ModTime.Unix(),
		Size: h.Size, Link: h.Linkname, Major: h.Devmajor, Minor: h.Devminor,
	}
	for k, v := range h.PAXRecords {
		if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if e.Xattrs == nil {
				e.Xattrs = map[string]string{}
			}
			e.Xattrs[name] = v
		}
	}
	return e
}
