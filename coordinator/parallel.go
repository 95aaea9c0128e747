package coordinator

import (
	"context"

	"bakefarm/imagestore"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// parallel calls fn for 0 to n-1, askAtOnce at a time, and returns the first error.
func parallel(ctx context.Context, n int, fn func(ctx context.Context, i int) error) error {
	if n <= 1 {
		if n == 1 {
			return fn(ctx, 0)
		}
		return nil
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askAtOnce)
	for i := range n {
		g.Go(func() error { return fn(ctx, i) })
	}
	return g.Wait()
}

// together calls the functions at once, and returns the first error.
func together(ctx context.Context, fns ...func(context.Context) error) error {
	return parallel(ctx, len(fns), func(ctx context.Context, i int) error { return fns[i](ctx) })
}

// asking is a list of digests to ask the store about.
type asking []digest.Digest

// of asks which of them the store has. An empty list is not asked.
func (a asking) of(ctx context.Context, store imagestore.Reader) ([]bool, error) {
	if len(a) == 0 {
		return nil, nil
	}
	return store.Have(ctx, a)
}
