package disk

import (
	"context"

	"github.com/opencontainers/go-digest"
)

// foresee begins to find the digests of the layers that will have a copy of the superblock and zeros in them: some megabytes
// of zeros each, the same whatever the app. Whoever goes on with the system in this process knows them then. It ends when
// all are known, or when the chunks are closed; what has not been foreseen is hashed when it is there.
func (b *Builder) foresee() {
	if b.ReadOnly {
		return
	}
	pieces := map[digest.Digest][]byte{}
	copies := NewChunks(b.Size, func(data []byte) (digest.Digest, error) {
		d := digest.FromBytes(data)
		pieces[d] = append([]byte(nil), data...)
		return d, nil
	})
	var ctx context.Context
	ctx, b.chunks.stop = context.WithCancel(context.Background())
	err := b.root.Copies(offset{copies, rootStart})
	b.chunks.foreseen.Go(func() {
		defer copies.Close()
		if err != nil {
			return // Finish will say so
		}
		_, _ = copies.Layers(ctx, func(_ context.Context, p Part) ([]byte, error) { return pieces[p.Digest], nil })
	})
}
