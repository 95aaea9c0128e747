package execute

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"bakefarm/compose/rootfs"
	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/plan"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// stored takes in a layer that the store has.
func (i *baseImport) stored(ctx context.Context, l remote.Layer) (err error) {
	blob, err := i.Store.Stat(ctx, l.Digest)
	if err != nil {
		return err
	}
	src, err := i.Store.Open(ctx, l.Digest, 0, -1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	out, err := i.lay(l, src)
	if err != nil {
		return err
	}
	out.Size = blob.Size // how many pieces it has is not the image's: two imports may cut it otherwise
	i.out.Layers = append(i.out.Layers, out)
	return nil
}

// layer takes in a layer of somebody else's as it is. It is read also when the store has a blob of its digest: to know a
// digest is not to have the content, which may be another team's.
func (i *baseImport) layer(ctx context.Context, l remote.Layer, open func(context.Context) (io.ReadCloser, error)) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	pieces := &pieceWriter{ctx: ctx, w: i.w, hash: sha256.New(), buf: make([]byte, 0, basePiece)}
	out, failed := i.lay(l, io.TeeReader(src, pieces))
	if failed != nil { // other bytes than were promised say more than what is wrong with them
		if _, err := io.Copy(pieces, src); err != nil {
			return failed
		}
	}
	if err := pieces.flush(); err != nil {
		return err
	}
	composed := imagestore.Blob{Digest: l.Digest, Size: pieces.size, Parts: pieces.parts}
	if got := digest.NewDigest(digest.SHA256, pieces.hash); got != l.Digest || l.Size >= 0 && pieces.size != l.Size {
		return fmt.Errorf("what came has the digest %s and %d bytes, the manifest says %d bytes: %w", got, pieces.size, l.Size, imagestore.ErrCorrupt)
	}
	if failed != nil {
		return failed
	}
	if err := i.w.Compose(ctx, composed); err != nil {
		return err
	}
	out.Size = composed.Size
	i.out.Layers = append(i.out.Layers, out)
	return nil
}

// lay reads a layer to its end: unpacks it, lays it over those before, and verifies the tar.
func (i *baseImport) lay(l remote.Layer, src io.Reader) (plan.Layer, error) {
	out := plan.Layer{Digest: l.Digest, DiffID: l.DiffID}
	packed := bufio.NewReaderSize(io.LimitReader(src, maxBlob+1), 1<<16)
	tar, mediaType, err := decompress(packed)
	if err != nil {
		return out, err
	}
	defer tar.Close()
	out.MediaType = mediaType
	plain := &counted{r: tar, hash: sha256.New(), room: i.room}
	if err := i.fs.Layer(plain); errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, rootfs.ErrLayer) {
		return out, fmt.Errorf("the compressed tar is damaged, or something follows its end: %w", err)
	} else if err != nil {
		return out, err
	}
	if n, err := io.Copy(io.Discard, packed); err != nil {
		return out, err
	} else if n > 0 && mediaType != v1.MediaTypeImageLayer {
		return out, fmt.Errorf("%d bytes follow the end of the compressed tar", n)
	}
	if got := digest.NewDigest(digest.SHA256, plain.hash); got != l.DiffID {
		return out, fmt.Errorf("it unpacks to %s, the image's configuration says %s: %w", got, l.DiffID, imagestore.ErrCorrupt)
	}
	i.room -= plain.n
	out.TarSize = plain.n
	return out, nil
}

// decompress finds out how a tar is compressed, by its first bytes: media types are often wrong.
func decompress(r *bufio.Reader) (io.ReadCloser, string, error) {
	magic, err := r.Peek(4)
	if err != nil && err != io.EOF {
		return nil, "", err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		z, err := gzip.NewReader(r)
		return z, v1.MediaTypeImageLayerGzip, err
	case bytes.HasPrefix(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(magic) == 4 && magic[0]&0xf0 == 0x50 && bytes.Equal(magic[1:], []byte{0x2a, 0x4d, 0x18}):
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, "", err
		}
		return z.IOReadCloser(), v1.MediaTypeImageLayerZstd, nil
	}
	return io.NopCloser(r), v1.MediaTypeImageLayer, nil
}

// counted hashes and counts what is read, up to a limit.
type counted struct {
	r    io.Reader
	hash hash.Hash
	n    int64
	room int64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.hash.Write(p[:n])
	if c.n += int64(n); c.n > c.room {
		return n, fmt.Errorf("the layers unpack to more than %d bytes: no system is that large", maxUnpacked)
	}
	return n, err
}

// pieceWriter cuts a blob into pieces and stores them.
type pieceWriter struct {
	ctx   context.Context
	w     imagestore.Writer
	hash  hash.Hash
	buf   []byte
	size  int64
	parts []imagestore.Part
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	w.hash.Write(p)
	if w.size += int64(len(p)); w.size > maxBlob {
		return 0, fmt.Errorf("it has more than %d bytes", int64(maxBlob))
	}
	for rest := p; len(rest) > 0; {
		n := min(len(rest), basePiece-len(w.buf))
		w.buf, rest = append(w.buf, rest[:n]...), rest[n:]
		if len(w.buf) == basePiece {
			if err := w.flush(); err != nil {
				return 0, err
			}
		}
	}
	return len(p), nil
}

func (w *pieceWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	part, err := w.w.Put(w.ctx, w.buf)
	w.parts, w.buf = append(w.parts, part), w.buf[:0]
	return err
}
