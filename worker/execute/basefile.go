package execute

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"bakefarm/compose"
	"bakefarm/compose/rootfs"
	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// archived takes in a layer of an archive, which holds plain tars: it is compressed here, since nobody else ever was sent
// other bytes of it.
func (i *baseImport) archived(ctx context.Context, l remote.Layer, open func(context.Context) (io.ReadCloser, error)) (err error) {
	src, err := open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	blob := imagestore.Blob{}
	whole := sha256.New()
	m := compose.NewMemberWriter(0, func(p compose.Piece, data []byte) error {
		whole.Write(data)
		part, err := i.w.PutAs(ctx, p.Digest, data)
		blob.Parts, blob.Size = append(blob.Parts, part), blob.Size+part.Size
		return err
	})
	defer m.Abort()
	out, err := i.lay(l, io.TeeReader(src, m))
	if err != nil {
		return err
	}
	if out.MediaType != v1.MediaTypeImageLayer {
		return errors.New("the layer in the archive is compressed twice")
	}
	if _, err := m.Close(); err != nil {
		return err
	}
	blob.Digest = digest.NewDigest(digest.SHA256, whole)
	if err := i.w.Compose(ctx, blob); err != nil {
		return err
	}
	out.Digest, out.Size, out.MediaType = blob.Digest, blob.Size, v1.MediaTypeImageLayerGzip
	i.out.Layers = append(i.out.Layers, out)
	return nil
}

// unpacked lays the files of the context out in a directory, where the library reads them.
func (i *baseImport) unpacked(ctx context.Context) (err error) {
	dir, err := os.MkdirTemp("", "bakefarm-base-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	source := i.spec.Source
	var total int64
	for _, f := range source.Files {
		if total += f.Size; total > maxContextIn {
			return fmt.Errorf("its files have more than %d bytes", int64(maxContextIn))
		}
		name := source.Inside(f.Path)
		if source.From == recipe.FromArchive {
			name = "archive.tar"
		}
		if err := root.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			return err
		}
		if err := i.writeFile(ctx, root, name, f); err != nil {
			return fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	at := remote.Place{Name: source.Name, Platform: i.spec.Platform, Layout: dir}
	if source.From == recipe.FromArchive {
		at.Layout, at.Archive = "", filepath.Join(dir, "archive.tar")
	}
	return i.image(ctx, at)
}

// writeFile writes a file of the context.
func (i *baseImport) writeFile(ctx context.Context, root *os.Root, name string, f recipe.ContextFile) error {
	out, err := root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, i.contextFile(ctx, f))
	return errors.Join(err, out.Close())
}

// contextFile reads a file of the context.
func (j *job) contextFile(ctx context.Context, f recipe.ContextFile) io.Reader {
	return j.file(ctx, plan.InspectSpec{File: f.Path, Size: f.Size, Chunks: f.Chunks})
}

// tar makes a layer of a tar, which is read twice: to settle which entries count, and to take them.
func (i *baseImport) tar(ctx context.Context) error {
	files := i.spec.Source.Files
	if len(files) != 1 || int64(len(files[0].Chunks)) != (files[0].Size+recipe.ChunkSize-1)/recipe.ChunkSize {
		return errors.New("spec: want one file")
	}
	f := files[0]
	if err := i.Turns.take(ctx); err != nil {
		return err
	}
	defer i.Turns.give()
	var contents *rootfs.Contents
	err := i.readTar(ctx, f, func(r io.Reader) (err error) {
		contents, err = rootfs.Scan(r)
		return err
	})
	if err != nil {
		return err
	}
	l := &layer{job: i.job, w: i.w, own: map[digest.Digest][]byte{}}
	store := i.newMember(i.w)
	defer store.discard()
	member, err := store.cut(ctx, func(w io.Writer) error {
		return i.readTar(ctx, f, func(r io.Reader) error { return contents.Write(w, r) })
	})
	if err != nil {
		return err
	}
	head, err := compose.Head([][]compose.Entry{contents.Dirs}, nil)
	if err != nil {
		return err
	}
	first, pieces, err := compose.Compressed(head)
	if err != nil {
		return err
	}
	_, end := compose.Trailer()
	for _, data := range append(pieces, end) {
		part, err := i.w.Put(ctx, data)
		if err != nil {
			return err
		}
		l.own[part.Digest] = data
	}
	l.own[first.TarDigest] = head
	l.members = []compose.Member{member}
	if err := i.w.Commit(ctx); err != nil { // what the cache does not take is read back
		return err
	}
	composed, err := l.hash(ctx, []compose.Member{first, member})
	if err != nil {
		return err
	}
	out, err := l.commit(ctx, composed, nil)
	if err != nil {
		return err
	}
	i.out.Layers = []plan.Layer{out}
	tar, err := i.openLayer(ctx, out.Digest)
	if err != nil {
		return err
	}
	err = i.fs.Layer(tar)
	if cerr := tar.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return i.config(ctx, []byte("{}"))
}

// readTar gives fn the uncompressed tar that a file of the context is.
func (i *baseImport) readTar(ctx context.Context, f recipe.ContextFile, fn func(io.Reader) error) error {
	packed := bufio.NewReaderSize(i.contextFile(ctx, f), 1<<16)
	name := ""
	magic, err := packed.Peek(6)
	if err != nil && err != io.EOF {
		return err
	}
	switch {
	case bytes.HasPrefix(magic, []byte("\xfd7zXZ\x00")):
		name = "rootfs.tar.xz"
	case bytes.HasPrefix(magic, []byte("BZh")):
		return fmt.Errorf("%w: bzip2 is not read: compress it with gzip, xz or zstd", rootfs.ErrTar)
	}
	var plain io.ReadCloser
	if name != "" {
		plain, err = mirror.Decompress(name, packed)
	} else {
		plain, _, err = decompress(packed)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", rootfs.ErrTar, err)
	}
	err = fn(plain)
	if cerr := plain.Close(); err == nil {
		err = cerr
	}
	return err
}
