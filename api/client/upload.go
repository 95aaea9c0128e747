package client

import (
	"bufio"
	"context"
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

// Times and bounds of sending content.
const (
	uploadTries   = 6                      // requests that say that something is missing, or fail on the way, in a row
	uploadPause   = 250 * time.Millisecond // before the second of them; then twice as long each time
	uploadStreams = 4                      // requests that carry chunks at the same time
	uploadBytes   = 64 << 20               // in one request: what is sent again at most when a connection breaks
)

// delivery is a request that the farm may answer with what it lacks.
type delivery[T any] struct {
	post func() (T, error)
	send func(missing *Error) error // nil: there is nothing to send
}

// deliver posts, sends what is missing, and posts again.
func deliver[T any](ctx context.Context, d delivery[T]) (T, error) {
	var failed error // of the last sending
	for tries, least := 1, 0; ; tries++ {
		answer, err := d.post()
		var problem *Error
		switch {
		case err == nil:
			return answer, nil
		case errors.As(err, &problem) && problem.Type == api.ProblemMissing && d.send != nil:
			if least == 0 || len(problem.Missing) < least { // it gets on
				least, tries = len(problem.Missing), 1
			} else if failed == nil && tries > uploadTries/2 {
				return answer, fmt.Errorf("the farm keeps asking for what it was sent: %w", err)
			}
			if failed = d.send(problem); failed == nil {
				continue
			}
			err = fmt.Errorf("send what is missing: %w", failed)
		case least == 0 && !later(err): // nothing has been sent: the first answer is the answer
			return answer, err
		default:
			failed = err
		}
		if tries >= uploadTries || ctx.Err() != nil || !passing(failed) {
			return answer, err
		}
		select {
		case <-ctx.Done():
			return answer, err
		case <-time.After(uploadPause << (tries - 1)):
		}
	}
}

// passing reports whether an error may be over soon: a connection that broke, a server that is away or busy.
func passing(err error) bool {
	var problem *Error
	if errors.As(err, &problem) {
		return later(err)
	}
	var failed *url.Error
	return errors.As(err, &failed) || errors.Is(err, ErrUnreachable) || errors.Is(err, io.ErrUnexpectedEOF)
}

// later reports whether a farm that was reached asks to come again: it is busy, or a part of it is away.
func later(err error) bool {
	var problem *Error
	return errors.As(err, &problem) && (problem.Status == http.StatusServiceUnavailable || problem.Status == http.StatusBadGateway || problem.Status == http.StatusGatewayTimeout)
}

// chunkSource is where chunks are that the farm may ask for. Its methods may be called concurrently.
type chunkSource interface {
	size(digest.Digest) int64               // 0 for one that is not there
	read(digest.Digest) ([]byte, error)     // as it stands there now
	verified(digest.Digest) ([]byte, error) // the same, if it has the digest
	large() bool                            // whether there are some of more than recipe.ChunkSize
}

// upload proves or sends the chunks that a problem lists, in several requests at a time.
func (c *Client) upload(ctx context.Context, from chunkSource, name string, problem *Error, sent func(int64)) error {
	missing, err := c.prove(ctx, from, name, problem)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(uploadStreams)
	for _, part := range divide(from, missing, uploadStreams, uploadBytes) {
		group.Go(func() error { return c.send(ctx, from, name, part, sent) })
	}
	return group.Wait()
}

// divide cuts chunks into parts of at most most bytes, and into as many as streams when there is enough for each.
func divide(from chunkSource, chunks []digest.Digest, streams int, most int64) (parts [][]digest.Digest) {
	var total int64
	for _, d := range chunks {
		total += from.size(d)
	}
	most = min(most, max(total/int64(streams), recipe.ChunkSize))
	first, held := 0, int64(0)
	for i, d := range chunks {
		size := from.size(d)
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
func (c *Client) send(ctx context.Context, from chunkSource, name string, chunks []digest.Digest, sent func(int64)) error {
	reader, writer := io.Pipe()
	produced := make(chan error, 1)
	go func() {
		err := writeFrames(writer, from, chunks, sent)
		writer.CloseWithError(err) // nil reads as the end
		produced <- err
	}()
	query := url.Values{"name": {name}}
	if from.large() {
		query.Set("large", "true")
	}
	resp, err := c.request(ctx, http.MethodPost, "/v1/chunks", query, http.Header{"Content-Type": {api.ChunksType}}, reader)
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

func writeFrames(w io.Writer, from chunkSource, chunks []digest.Digest, sent func(int64)) error {
	out := bufio.NewWriterSize(w, 256<<10)
	for _, d := range chunks {
		raw, err := from.verified(d)
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
