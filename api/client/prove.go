package client

import (
	"context"
	"runtime"
	"slices"

	"bakefarm/api"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Bounds of proving.
const (
	proofWorth  = 1 << 20 // bytes that are missing, from which on it is asked whether the farm has them from somebody else
	proofSample = 16      // chunks to find that out with
)

// prove shows the farm that the missing chunks are here, and returns those that have to be sent all the same. A few of them come
// first: where the farm has none of these it hardly has the others, and they are not read twice for nothing.
func (c *Client) prove(ctx context.Context, from chunkSource, name string, problem *Error) ([]digest.Digest, error) {
	missing := problem.Missing
	var total int64
	for _, d := range missing {
		total += from.size(d)
	}
	if len(problem.Challenge) == 0 || total < proofWorth {
		return missing, nil
	}
	proven := make(map[digest.Digest]bool)
	claim := func(chunks []digest.Digest) error {
		for part := range slices.Chunk(chunks, api.MaxProofs) {
			claims, err := proofs(ctx, from, problem.Challenge, part)
			if err != nil {
				return err
			}
			answer, err := post[api.Proven](ctx, c, "/v1/proofs", api.ProofRequest{Name: name, Challenge: problem.Challenge, Proofs: claims})
			if err != nil {
				return err
			}
			for _, d := range answer.Proven {
				proven[d] = true
			}
		}
		return nil
	}
	step := (len(missing) + proofSample - 1) / proofSample
	var sample, others []digest.Digest
	for i, d := range missing {
		if i%step == 0 {
			sample = append(sample, d)
		} else {
			others = append(others, d)
		}
	}
	if err := claim(sample); err != nil {
		return nil, err
	}
	if len(proven) > 0 {
		if err := claim(others); err != nil {
			return nil, err
		}
	}
	return slices.DeleteFunc(slices.Clone(missing), func(d digest.Digest) bool { return proven[d] }), nil
}

// proofs computes the proofs of chunks, several at a time. A chunk that has changed since it was scanned proves nothing, and is
// found out when it is sent; a large
// one is not asked about.
func proofs(ctx context.Context, from chunkSource, challenge []byte, chunks []digest.Digest) ([]api.Proof, error) {
	list := make([]api.Proof, len(chunks))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for i, d := range chunks {
		group.Go(func() error {
			if n := from.size(d); n == 0 || n > recipe.ChunkSize || ctx.Err() != nil {
				return ctx.Err()
			}
			raw, err := from.read(d)
			list[i] = api.Proof{Chunk: d, MAC: api.Tag(challenge, raw)}
			return err
		})
	}
	err := group.Wait()
	return slices.DeleteFunc(list, func(p api.Proof) bool { return p.MAC == nil }), err
}
