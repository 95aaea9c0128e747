package execute

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"

	"bakefarm/compose/apt"
	"bakefarm/compose/deb"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// inspect finds out what a .deb of the user's is, and makes its file a blob: from there on it is a package like those of
// a mirror, except that it is fetched from the store.
func inspect(ctx context.Context, j *job, spec plan.InspectSpec) (plan.Own, error) {
	own, err := j.inspect(ctx, spec)
	if err != nil {
		return plan.Own{}, fmt.Errorf("package ./%s: %w", spec.File, err)
	}
	j.say("%s %s (%s), %s", own.Name, own.Version, own.Arch, size(own.Size))
	return own, nil
}

func (j *job) inspect(ctx context.Context, spec plan.InspectSpec) (plan.Own, error) {
	if want := (spec.Size + recipe.ChunkSize - 1) / recipe.ChunkSize; spec.Size <= 0 || int64(len(spec.Chunks)) != want {
		return plan.Own{}, fmt.Errorf("spec: %d chunks of %d bytes", len(spec.Chunks), spec.Size)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, j.file(ctx, spec)); err != nil {
		return plan.Own{}, err
	}
	own := plan.Own{LockedPackage: recipe.LockedPackage{SHA256: digest.NewDigest(digest.SHA256, hash), Size: spec.Size, Own: true}}
	record, err := deb.Inspect(j.file(ctx, spec), spec.Size, own.SHA256, decompressors)
	if err != nil {
		return plan.Own{}, fmt.Errorf("is no Debian package that can be installed: %w", err)
	}
	own.Name, own.Version, own.Arch = record.Package, record.Version, record.Architecture
	if _, err := offer(record.Control, own.LockedPackage); err != nil {
		return plan.Own{}, err
	}
	w := j.Store.Begin()
	part, err := w.Put(ctx, record.Control)
	if err != nil {
		return plan.Own{}, err
	}
	own.Control = part.Digest
	if len(spec.Chunks) > 1 { // else the piece is the blob
		blob := imagestore.Blob{Digest: own.SHA256, Size: spec.Size}
		for i, d := range spec.Chunks {
			blob.Parts = append(blob.Parts, imagestore.Part{Digest: d, Size: chunkSize(spec, i)})
		}
		if err := w.Compose(ctx, blob); err != nil {
			return plan.Own{}, err
		}
	}
	return own, w.Commit(ctx)
}

// chunkSize is the size of the i-th chunk in bytes.
func chunkSize(spec plan.InspectSpec, i int) int64 {
	return min(recipe.ChunkSize, spec.Size-int64(i)*recipe.ChunkSize)
}

// file reads the chunks of a file one after the other.
func (j *job) file(ctx context.Context, spec plan.InspectSpec) io.Reader {
	readers := make([]io.Reader, len(spec.Chunks))
	for i, d := range spec.Chunks {
		readers[i] = &lazyChunk{load: func() ([]byte, error) {
			data, err := imagestore.ReadAll(ctx, j.Store, d, chunkSize(spec, i))
			if err == nil && int64(len(data)) != chunkSize(spec, i) {
				err = fmt.Errorf("chunk %s has %d bytes, the manifest says %d", d, len(data), chunkSize(spec, i))
			}
			return data, err
		}}
	}
	return io.MultiReader(readers...)
}

// lazyChunk reads a chunk when it is its turn.
type lazyChunk struct {
	load func() ([]byte, error)
	data *bytes.Reader
}

func (c *lazyChunk) Read(p []byte) (int, error) {
	if c.data == nil {
		data, err := c.load()
		if err != nil {
			return 0, err
		}
		c.data = bytes.NewReader(data)
	}
	return c.data.Read(p)
}

// offer makes of a package's control file what an archive's index would say about it.
func offer(control []byte, is recipe.LockedPackage) (*apt.Package, error) {
	x, err := apt.ParsePackages(bytes.NewReader(control))
	if err != nil {
		return nil, fmt.Errorf("control file: %w", err)
	}
	if len(x.Packages) != 1 {
		return nil, errors.New("control file: want one paragraph")
	}
	p := x.Packages[0]
	if p.Name != is.Name || p.Version != is.Version || p.Arch != is.Arch {
		return nil, fmt.Errorf("control file: it is that of %s %s (%s)", p.Name, p.Version, p.Arch)
	}
	p.SHA256, p.Size = is.SHA256.Encoded(), is.Size
	return p, nil
}
