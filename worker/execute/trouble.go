package execute

import (
	"context"
	"errors"
	"io"
	"net"

	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/worker/cache"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
)

// MayPass reports whether what an executor failed with lies in the world (network, store, mirror) and not in the shard's
// inputs, so that another attempt may go well.
func MayPass(err error) bool {
	var outage *outage
	var network net.Error // includes *url.Error
	var asked *mirror.Error
	var image *remote.Error
	switch {
	case errors.As(err, &asked): // has looked at its causes itself
		return asked.Temporary
	case errors.As(err, &image):
		return image.Temporary
	case errors.As(err, &outage), errors.As(err, &network), errors.Is(err, cache.ErrCorrupt),
		errors.Is(err, context.DeadlineExceeded):
		return true
	}
	return false
}

// Outage reports whether an executor failed because the image store can't be used now. The same call, made again when the
// store is back, may go well on the same worker.
func Outage(err error) bool {
	var outage *outage
	return errors.As(err, &outage) && !errors.Is(err, imagestore.ErrCorrupt) && !errors.Is(err, imagestore.ErrConflict)
}

// outage is trouble with the image store that is not the caller's doing.
type outage struct{ err error }

func (o *outage) Error() string { return "image store: " + o.err.Error() }
func (o *outage) Unwrap() error { return o.err }

// trouble marks an error of the store, unless it says that something is not there, or is not what the caller takes it for: that
// does not pass by waiting.
func trouble(err error) error {
	if err == nil || errors.Is(err, imagestore.ErrNotFound) || errors.Is(err, imagestore.ErrSize) || errors.Is(err, context.Canceled) {
		return err
	}
	return &outage{err}
}

// watched is a store whose trouble is told from the shard's own.
type watched struct{ store Store }

var (
	_ Store                  = watched{}
	_ imagestore.PartsReader = watched{}
)

func (w watched) Have(ctx context.Context, digests []digest.Digest) ([]bool, error) {
	have, err := w.store.Have(ctx, digests)
	return have, trouble(err)
}

func (w watched) Stat(ctx context.Context, d digest.Digest) (imagestore.Blob, error) {
	b, err := w.store.Stat(ctx, d)
	return b, trouble(err)
}

func (w watched) Open(ctx context.Context, d digest.Digest, offset, n int64) (io.ReadCloser, error) {
	rc, err := w.store.Open(ctx, d, offset, n)
	if err != nil {
		return nil, trouble(err)
	}
	return watchedReader{rc}, nil
}

// OpenParts keeps what the store offers beside the interface.
func (w watched) OpenParts(ctx context.Context, parts []imagestore.Part) (io.ReadCloser, error) {
	rc, err := imagestore.OpenParts(ctx, w.store, parts)
	if err != nil {
		return nil, trouble(err)
	}
	return watchedReader{rc}, nil
}

func (w watched) Begin() imagestore.Writer { return watchedWriter{w.store.Begin()} }

type watchedReader struct{ rc io.ReadCloser }

func (r watchedReader) Read(p []byte) (int, error) {
	n, err := r.rc.Read(p)
	if err != io.EOF {
		err = trouble(err)
	}
	return n, err
}

// Len keeps what the reader offers to imagestore.ReadAll.
func (r watchedReader) Len() int64 {
	if sized, ok := r.rc.(imagestore.Sized); ok {
		return sized.Len()
	}
	return -1
}

func (r watchedReader) Close() error { return trouble(r.rc.Close()) }

type watchedWriter struct{ w imagestore.Writer }

func (w watchedWriter) Put(ctx context.Context, data []byte) (imagestore.Part, error) {
	part, err := w.w.Put(ctx, data)
	return part, trouble(err)
}

func (w watchedWriter) PutAs(ctx context.Context, d digest.Digest, data []byte) (imagestore.Part, error) {
	part, err := w.w.PutAs(ctx, d, data)
	return part, trouble(err)
}

func (w watchedWriter) Compose(ctx context.Context, b imagestore.Blob) error {
	return trouble(w.w.Compose(ctx, b))
}

func (w watchedWriter) Commit(ctx context.Context) error { return trouble(w.w.Commit(ctx)) }

// Held keeps what the writer offers to imagestore.PutManifest.
func (w watchedWriter) Held(d digest.Digest) (int64, bool) {
	if held, ok := w.w.(imagestore.Held); ok {
		return held.Held(d)
	}
	return 0, false
}
