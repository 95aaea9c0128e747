package client

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"bakefarm/api"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// Times and bounds of sending a context.
const (
	uploadTries   = 6                      // requests for a bake that say that chunks are missing, or fail on the way, in a row
	uploadPause   = 250 * time.Millisecond // before the second of them; then twice as long each time
	uploadStreams = 4                      // requests that carry chunks at the same time
	uploadBytes   = 64 << 20               // in one request: what is sent again at most when a connection breaks
)

// Post posts a bake. What the farm lacks of the context is proven to be here or sent, and the bake is posted again. A
// connection that breaks meanwhile costs what was on its way: the farm keeps what has come, and is asked what is still missing.
// sent counts the bytes that had to travel; it may be nil, as may scan when the request has no context.
func (c *Client) Post(ctx context.Context, r api.BakeRequest, scan *Scan, sent func(bytes int64)) (api.Bake, error) {
	if scan != nil {
		r.Context = scan.Context
	}
	header := http.Header{"Idempotency-Key": {rand.Text()}}
	var failed error // of the last upload
	for tries, least := 1, 0; ; tries++ {
		var bake api.Bake
		err := c.call(ctx, http.MethodPost, "/v1/bakes", nil, header, r, &bake)
		var problem *Error
		switch {
		case err == nil:
			return bake, nil
		case errors.As(err, &problem) && problem.Type == api.ProblemMissing && scan != nil:
			if least == 0 || len(problem.Missing) < least { // it gets on
				least, tries = len(problem.Missing), 1
			} else if failed == nil && tries > uploadTries/2 {
				return bake, fmt.Errorf("the farm keeps asking for chunks that it was sent: %w", err)
			}
			if failed = c.upload(ctx, scan, r, problem, sent); failed == nil {
				continue
			}
			err = fmt.Errorf("send the context: %w", failed)
		case least == 0: // nothing has been sent: the first answer is the answer
			return bake, err
		default:
			failed = err
		}
		if tries >= uploadTries || ctx.Err() != nil || !passing(failed) {
			return bake, err
		}
		select {
		case <-ctx.Done():
			return bake, err
		case <-time.After(uploadPause << (tries - 1)):
		}
	}
}

// passing reports whether an error may be over soon: a connection that broke, a server that is away or busy.
func passing(err error) bool {
	var problem *Error
	if errors.As(err, &problem) {
		return problem.Status == http.StatusServiceUnavailable || problem.Status == http.StatusBadGateway || problem.Status == http.StatusGatewayTimeout
	}
	var failed *url.Error
	return errors.As(err, &failed) || errors.Is(err, ErrUnreachable) || errors.Is(err, io.ErrUnexpectedEOF)
}

// upload proves or sends the chunks that a problem lists, in several requests at a time.
func (c *Client) upload(ctx context.Context, scan *Scan, r api.BakeRequest, problem *Error, sent func(int64)) error {
	parsed, err := recipe.Parse(cmp.Or(r.File, "recipe"), []byte(r.Recipe), r.Set...)
	if err != nil {
		return err
	}
	missing, err := c.prove(ctx, scan, parsed.Name, problem)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploadStreams)
	for _, part := range scan.divide(missing, uploadStreams, uploadBytes) {
		group.Go(func() error { return c.send(ctx, scan, parsed.Name, part, sent) })
	}
	return group.Wait()
}

// divide cuts chunks into parts of at most most bytes, and into as many as streams when there is enough for each.
func (s *Scan) divide(chunks []digest.Digest, streams int, most int64) (parts [][]digest.Digest) {
	var total int64
	for _, d := range chunks {
		total += s.chunks[d].size
	}
	most = min(most, max(total/int64(streams), recipe.ChunkSize))
	first, held := 0, int64(0)
	for i, d := range chunks {
		size := s.chunks[d].size
		if i > first && held+size > most {
			parts, first, held = append(parts, chunks[first:i]), i, 0
		}
		held += size
	}
	if first < len(chunks) {
		parts = append(parts, chunks[first:])
	}
	return parts
}

// send streams chunks as one request.
func (c *Client) send(ctx context.Context, scan *Scan, name string, chunks []digest.Digest, sent func(int64)) error {
	reader, writer := io.Pipe()
	produced := make(chan error, 1)
	go func() {
		err := writeFrames(writer, scan, chunks, sent)
		writer.CloseWithError(err) // nil reads as the end
		produced <- err
	}()
	resp, err := c.request(ctx, http.MethodPost, "/v1/chunks", url.Values{"name": {name}}, http.Header{"Content-Type": {api.ChunksType}}, reader)
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
