package client

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"bakefarm/api"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Post posts a bake. When the farm lacks chunks of the context they are sent from scan, and the bake is posted again.
// sent counts the bytes that had to travel; it may be nil, as may scan when the request has no context.
func (c *Client) Post(ctx context.Context, r api.BakeRequest, scan *Scan, sent func(bytes int64)) (api.Bake, error) {
	if scan != nil {
		r.Context = scan.Context
	}
	header := http.Header{"Idempotency-Key": {rand.Text()}}
	for tries := 0; ; tries++ {
		var bake api.Bake
		err := c.call(ctx, http.MethodPost, "/v1/bakes", nil, header, r, &bake)
		var problem *Error
		if err == nil || !errors.As(err, &problem) || problem.Type != api.ProblemMissing || scan == nil {
			return bake, err
		}
		// The farm may forget chunks between the two requests (garbage collection), but hardly twice.
		if tries == 3 {
			return bake, fmt.Errorf("the farm keeps asking for chunks that it was sent: %w", err)
		}
		if err := c.upload(ctx, scan, problem.Missing, sent); err != nil {
			return bake, fmt.Errorf("send the context: %w", err)
		}
	}
}

// uploadStreams is how many requests carry a large context at the same time.
const uploadStreams = 2

// upload sends chunks, in several streams when there are many.
func (c *Client) upload(ctx context.Context, scan *Scan, missing []digest.Digest, sent func(int64)) error {
	group, ctx := errgroup.WithContext(ctx)
	for part := range slices.Chunk(missing, (len(missing)+uploadStreams-1)/uploadStreams) {
		group.Go(func() error { return c.send(ctx, scan, part, sent) })
	}
	return group.Wait()
}

// send streams chunks as one request.
func (c *Client) send(ctx context.Context, scan *Scan, chunks []digest.Digest, sent func(int64)) error {
	reader, writer := io.Pipe()
	produced := make(chan error, 1)
	go func() {
		err := writeFrames(writer, scan, chunks, sent)
		writer.CloseWithError(err) // nil reads as the end
		produced <- err
	}()
	resp, err := c.request(ctx, http.MethodPost, "/v1/chunks", nil, http.Header{"Content-Type": {api.ChunksType}}, reader)
	reader.Close() // the farm may answer before it has read everything
	if failed := <-produced; failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		if err == nil {
			resp.Body.Close()
		}
		return failed // says more than the request that broke off because of it
	}
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

func writeFrames(w io.Writer, scan *Scan, chunks []digest.Digest, sent func(int64)) error {
	out := bufio.NewWriterSize(w, 256<<10)
	for _, d := range chunks {
		raw, err := scan.Chunk(d)
		if err != nil {
			return err
		}
		sum, err := hex.DecodeString(d.Encoded())
		if err != nil {
			return fmt.Errorf("chunk %q: %w", d, err)
		}
		head := binary.BigEndian.AppendUint32(sum, uint32(len(raw)))
		if _, err := out.Write(head); err != nil {
			return err
		}
		if _, err := out.Write(raw); err != nil {
			return err
		}
		if sent != nil {
			sent(int64(len(raw)))
		}
	}
	return out.Flush()
}
