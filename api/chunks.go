package api

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"bakefarm/api/possession"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Bounds of POST /v1/chunks.
const (
	chunkGroup    = 32 << 20       // bytes that are committed together
	chunkPatience = time.Minute    // for one chunk
	chunkRoom     = 2 * chunkGroup // bytes that one request may hold: a group being committed, and one being read
	frameHead     = 32 + 4         // bytes before a chunk's own
)

type chunksInput struct {
	Name  string `query:"name" maxLength:"512" doc:"Of the image whose bake needs the chunks: only bakes of this name may use them then"`
	Large bool   `query:"large" doc:"Chunks of up to 64 MiB instead of 4: pieces of images that are imported"`
	streamed
}

type nothing struct{}

func (a *API) routeChunks() {
	op := post("upload-chunks", "/v1/chunks", "bakes", "Upload chunks of a context", 400, 413, 415, 422)
	op.DefaultStatus = http.StatusNoContent
	op.Description = "Chunks are verified one by one and kept in groups, so that a request that breaks off has not been in vain: post the bake again to learn what is still missing."
	route(a, op, func(ctx context.Context, in *chunksInput) (*struct{}, error) { return nil, a.takeChunks(ctx, in) })
	describe[nothing](a, op, ChunksType, "Any number of frames: the 32 bytes of a chunk's sha256, its length as 4 bytes big-endian (1 to 4 MiB; with large, to 64), its bytes")

	op = post("prove-chunks", "/v1/proofs", "bakes", "Prove to have chunks that the store may have already", 422)
	op.MaxBodyBytes = 4 << 20
	op.Description = "Instead of sending them. What the store does not have, or what is proven wrongly, is not in the answer: send it."
	route(a, op, a.takeProofs)
}

// proofRoom is what the verification of one request's proofs may hold in memory.
const proofRoom = 4 * recipe.ChunkSize

func (a *API) takeProofs(ctx context.Context, in *struct{ Body ProofRequest }) (*body[Proven], error) {
	if err := farm.ValidateName(in.Body.Name); err != nil {
		return nil, at("body.name", err)
	}
	proofs := make([]possession.Proof, len(in.Body.Proofs))
	for i, p := range in.Body.Proofs {
		sum, err := imagestore.ParseDigest(p.Chunk)
		if err != nil {
			return nil, at(fmt.Sprintf("body.proofs[%d].chunk", i), err)
		}
		proofs[i] = possession.Proof{Chunk: sum, MAC: p.MAC}
	}
	if err := a.intake.Acquire(ctx, proofRoom); err != nil {
		return nil, err
	}
	defer a.intake.Release(proofRoom)
	proven, err := a.book.Prove(ctx, in.Body.Name, in.Body.Challenge, proofs)
	if errors.Is(err, possession.ErrChallenge) {
		return nil, at("body.challenge", err)
	}
	if err != nil {
		return nil, err
	}
	answer := Proven{Proven: make([]digest.Digest, len(proven))}
	for i, sum := range proven {
		answer.Proven[i] = sum.Digest()
	}
	return &body[Proven]{answer}, nil
}

// takeChunks stores the chunks of a request's body. While one group of them is being committed, the next is read.
func (a *API) takeChunks(ctx context.Context, in *chunksInput) (err error) {
	if err := farm.ValidateName(in.Name); err != nil {
		return at("query.name", fmt.Errorf("name: %w: it says for which image the chunks are, ?name=shop%%2Fcheckout", err))
	}
	body, err := in.open(ChunksType, recipe.MaxContextBytes)
	if err != nil {
		return err
	}
	room, most := int64(chunkRoom), recipe.ChunkSize
	if in.Large {
		room, most = room+imagestore.MaxPiece, imagestore.MaxPiece
	}
	if err := a.intake.Acquire(ctx, room); err != nil {
		return err
	}
	defer a.intake.Release(room)
	commits, ctx := errgroup.WithContext(ctx)
	commits.SetLimit(1)
	keep := context.WithoutCancel(ctx) // what has come is kept, also when the client goes: it need not send it again
	defer func() {                     // what is being committed is waited for, whatever happened
		if cerr := commits.Wait(); cerr != nil {
			err = cerr
		}
	}()
	reader := bufio.NewReaderSize(body, 64<<10)
	var chunk []byte // as large as the largest so far
	w, held := a.Store.Begin(), 0
	var sums []imagestore.Sum
	commit := func() {
		if held > 0 {
			full, sent := w, sums
			commits.Go(func() error {
				if err := full.Commit(keep); err != nil {
					return err
				}
				return a.book.Sent(keep, in.Name, sent)
			})
			w, held, sums = a.Store.Begin(), 0, nil
		}
	}
	for n := 0; ; n++ {
		in.patience(chunkPatience)
		sum, size, err := readFrame(reader, &chunk, most)
		in.patience(0)
		if errors.Is(err, io.EOF) {
			commit()
			return nil
		}
		if err != nil {
			commit() // the chunks before it were fine
			return asFrameError(n, err)
		}
		if _, err := w.PutAs(ctx, sum.Digest(), chunk[:size]); err != nil {
			return err
		}
		sums = append(sums, sum)
		if held += size; held >= chunkGroup {
			commit()
		}
	}
}

// readFrame reads one chunk of at most so many bytes into buf, which it makes larger when need be, and verifies that it has the sum; io.EOF when there is none.
func readFrame(r io.Reader, buf *[]byte, most int) (sum imagestore.Sum, size int, err error) {
	var head [frameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return sum, 0, err
	}
	sum = imagestore.Sum(head[:32])
	length := binary.BigEndian.Uint32(head[32:])
	if length == 0 || length > uint32(most) {
		return sum, 0, badFrame(fmt.Sprintf("%d bytes: a chunk has 1 to %d", length, most))
	}
	if int(length) > cap(*buf) {
		*buf = make([]byte, length)
	}
	chunk := (*buf)[:length]
	if _, err := io.ReadFull(r, chunk); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return sum, 0, err
	}
	if got := imagestore.SumOf(chunk); got != sum {
		return sum, 0, badFrame(fmt.Sprintf("says it is %s, but its bytes are %s", sum.Digest(), got.Digest()))
	}
	return sum, len(chunk), nil
}

// badFrame is what is wrong with a frame.
type badFrame string

func (b badFrame) Error() string { return string(b) }

func asFrameError(n int, err error) error {
	var bad badFrame
	switch {
	case errors.As(err, &bad):
		return at(fmt.Sprintf("body[%d]", n), fmt.Errorf("chunk %d: %w", n, bad))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return refuse(http.StatusBadRequest, "the body breaks off in the middle of chunk %d", n)
	}
	return asBodyError(err)
}
