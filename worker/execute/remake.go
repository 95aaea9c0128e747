package execute

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"

	"bakefarm/compose"
	"bakefarm/imagestore"

	"github.com/klauspost/compress/gzip"
)

// without makes a member anew without some of its entries. The caller commits.
func (j *job) without(ctx context.Context, w imagestore.Writer, m compose.Member, lost map[string]bool) (compose.Member, error) {
	heir, err := j.heirs(ctx, m, lost)
	if err != nil {
		return compose.Member{}, err
	}
	store := j.newMember(w)
	defer store.discard()
	return store.cut(ctx, func(w io.Writer) error {
		return j.entries(ctx, m, func(e compose.Entry, content io.Reader) error {
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
}

// heirs finds for each lost file that has hard links to it the first link that stays: the content goes to it.
func (j *job) heirs(ctx context.Context, m compose.Member, lost map[string]bool) (map[string]string, error) {
	heir := map[string]string{}
	err := j.entries(ctx, m, func(e compose.Entry, _ io.Reader) error {
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
func (j *job) entries(ctx context.Context, m compose.Member, fn func(e compose.Entry, content io.Reader) error) error {
	rc, err := j.openMember(ctx, m)
	if err != nil {
		return err
	}
	defer rc.Close()
	verifier := m.TarDigest.Verifier()
	plain := io.TeeReader(io.LimitReader(rc, m.TarSize+1), verifier)
	for r := tar.NewReader(plain); err == nil; {
		var h *tar.Header
		if h, err = r.Next(); err == nil {
			err = fn(compose.EntryOf(h), r)
		}
	}
	if err == io.EOF {
		_, err = io.Copy(io.Discard, plain)
	}
	if err == nil && !verifier.Verified() {
		j.Cache.Drop(m.TarDigest)
		err = fmt.Errorf("member %s: %w", m.TarDigest, compose.ErrTar)
	}
	return err
}

// openMember reads a member's uncompressed bytes: those at hand, or its pieces unpacked.
func (j *job) openMember(ctx context.Context, m compose.Member) (io.ReadCloser, error) {
	if rc := j.openTar(m); rc != nil {
		return rc, nil
	}
	if len(m.Pieces) == 0 { // a head without anything in it
		return io.NopCloser(bytes.NewReader(nil)), nil
	}
	pieces := &pieceReader{job: j, ctx: ctx, pieces: m.Pieces}
	z, err := gzip.NewReader(bufio.NewReader(pieces))
	if err != nil {
		return nil, fmt.Errorf("member %s: %w", m.TarDigest, err)
	}
	return z, nil
}

// openTar reads a member's uncompressed bytes out of the cache: nil when it does not have them.
func (j *job) openTar(m compose.Member) io.ReadCloser {
	r, err := j.Cache.Open(m.TarDigest)
	if err != nil {
		return nil
	}
	return r
}

// pieceReader reads pieces one after the other.
type pieceReader struct {
	*job
	ctx    context.Context // of the shard: io.Reader has no place for it
	pieces []compose.Piece
	now    bytes.Reader
}

// readParts reads a blob's parts one after the other.
func (j *job) readParts(ctx context.Context, parts []imagestore.Part) *pieceReader {
	r := &pieceReader{job: j, ctx: ctx}
	for _, p := range parts {
		r.pieces = append(r.pieces, compose.Piece{Digest: p.Digest, Size: p.Size})
	}
	return r
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
