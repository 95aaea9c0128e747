package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
)

// PackageURL is the address of a package's file: base is that of an Index, filename the package's Filename field.
func PackageURL(base, filename string) string {
	return base + "/" + (&url.URL{Path: strings.TrimPrefix(filename, "./")}).EscapedPath()
}

// MismatchError says that a mirror has other bytes than it should.
type MismatchError struct {
	URL       string // without credentials
	Got, Want digest.Digest
	GotSize   int64 // when the size is wrong already; then Got is empty
	WantSize  int64
	Who       string // who says what it should be: "the signed Release"
}

func (e *MismatchError) Error() string {
	if e.Got == "" {
		return fmt.Sprintf("mirror %s: it has %d bytes but %s says %d", e.URL, e.GotSize, e.Who, e.WantSize)
	}
	return fmt.Sprintf("mirror %s: sha256 is %s but %s says %s", e.URL, e.Got.Encoded(), e.Who, e.Want.Encoded())
}

// preload is the size in bytes up to which a file is verified before the first byte is handed out, when there is another
// address to turn to.
const preload = 16 << 20

// Fetch returns the file of size bytes with digest sum from the first of urls that has it. Interrupted transfers are
// resumed, there or at the next address. The reader returns io.EOF only after size and digest proved right; bytes before
// that are unproven. The caller closes it; closing early is fine. Errors are *Error, *MismatchError or ctx's.
func (c *Client) Fetch(ctx context.Context, urls []string, size int64, sum digest.Digest) (io.ReadCloser, error) {
	return c.fetch(ctx, urls, size, sum, "the signed index")
}

func (c *Client) fetch(ctx context.Context, urls []string, size int64, sum digest.Digest, who string) (io.ReadCloser, error) {
	switch {
	case len(urls) == 0:
		return nil, errors.New("fetch: no address is given")
	case size < 0:
		return nil, fmt.Errorf("fetch %s: size %d is negative", urls[0], size)
	case sum.Validate() != nil || sum.Algorithm() != digest.SHA256:
		return nil, fmt.Errorf("fetch %s: %q is no sha256 digest", urls[0], sum)
	}
	if len(urls) == 1 || size > preload {
		return c.start(ctx, urls, size, sum, who)
	}
	raw, err := c.readFirst(ctx, urls, size, sum, who)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(bytes.NewReader(raw)), nil
}

// readFirst reads and verifies the file from the first address that has it right.
func (c *Client) readFirst(ctx context.Context, urls []string, size int64, sum digest.Digest, who string) ([]byte, error) {
	var failed error
	for i := range urls {
		raw, err := c.readAll(ctx, urls[i:i+1], size, sum, who)
		if err == nil {
			return raw, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		failed = worse(failed, err)
	}
	return nil, failed
}

// worse chooses the error to report of several addresses: the first that is more than "not found".
func worse(a, b error) error {
	if a == nil || (notFound(a) && !notFound(b)) {
		return b
	}
	return a
}

func (c *Client) readAll(ctx context.Context, urls []string, size int64, sum digest.Digest, who string) ([]byte, error) {
	r, err := c.start(ctx, urls, size, sum, who)
	if err != nil {
		return nil, err
	}
	b := bytes.NewBuffer(make([]byte, 0, size+bytes.MinRead)) // ReadFrom wants room to see the end
	_, err = b.ReadFrom(r)
	if closeErr := r.Close(); err == nil {
		err = closeErr
	}
	return b.Bytes(), err
}

func (c *Client) start(ctx context.Context, urls []string, size int64, sum digest.Digest, who string) (io.ReadCloser, error) {
	t := &transfer{c: c, ctx: ctx, urls: urls, size: size, sum: sum, who: who, hash: sha256.New()}
	if err := t.connect(); err != nil {
		return nil, err
	}
	return t, nil
}

// transfer is a file on its way, over as many connections as it takes.
type transfer struct {
	c    *Client
	ctx  context.Context
	urls []string // those not given up yet
	size int64
	sum  digest.Digest
	who  string

	attempts int   // at urls[0], since the last real progress
	mark     int64 // offset at which the attempts began to count
	body     io.ReadCloser
	offset   int64     // bytes handed out
	hash     hash.Hash // of these
	err      error     // final, io.EOF included
}

// progress is how many bytes must have come before the attempts are counted from zero again.
const progress = 1 << 20

// connect opens the current address at the offset, and goes to the next one when there is no use in trying again.
func (t *transfer) connect() error {
	var failed error
	for {
		if t.offset-t.mark >= progress {
			t.attempts, t.mark = 0, t.offset
		}
		t.attempts++
		if err := t.c.pause(t.ctx, t.attempts, failed); err != nil {
			return err
		}
		err := t.open(t.urls[0])
		if err == nil {
			return nil
		}
		if t.ctx.Err() != nil {
			return t.ctx.Err()
		}
		failed = worse(failed, err)
		if err := t.giveUp(err); err != nil {
			return failed
		}
	}
}

// giveUp decides after a failure at the current address: nil to try on, there or at the next one, or the failure.
func (t *transfer) giveUp(err error) error {
	attempts := t.c.attempts(err)
	if len(t.urls) > 1 {
		attempts = min(attempts, 2) // the next one is the better try
	}
	var e *Error
	if errors.As(err, &e) && e.Temporary && t.attempts < attempts {
		return nil
	}
	if len(t.urls) == 1 {
		return err
	}
	t.urls, t.attempts, t.mark = t.urls[1:], 0, t.offset
	return nil
}

// open requests the rest of the file from one address.
func (t *transfer) open(address string) error {
	header := http.Header{}
	if t.offset > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(t.offset, 10)+"-")
	}
	resp, err := t.c.open(t.ctx, address, header)
	if err != nil {
		return err
	}
	total, skip := resp.ContentLength, t.offset
	if resp.StatusCode == http.StatusPartialContent {
		// Content-Range is checked, not trusted: a wrong one would show in the digest, but late.
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(t.offset, 10)+"-") {
			_ = resp.Body.Close()
			return &Error{URL: redact(address), Temporary: true, Err: fmt.Errorf("asked for the bytes from %d on, got %.60q", t.offset, resp.Header.Get("Content-Range"))}
		}
		if total >= 0 {
			total += t.offset
		}
		skip = 0
	}
	if total >= 0 && total != t.size {
		_ = resp.Body.Close()
		return &MismatchError{URL: redact(address), GotSize: total, WantSize: t.size, Who: t.who}
	}
	if _, err := io.CopyN(io.Discard, resp.Body, skip); err != nil {
		_ = resp.Body.Close()
		return &Error{URL: redact(address), Temporary: true, Err: err}
	}
	t.body = resp.Body
	return nil
}

func (t *transfer) Read(p []byte) (int, error) {
	for t.err == nil {
		if len(p) == 0 {
			return 0, nil
		}
		n, err := t.body.Read(p)
		if over := t.offset + int64(n) - t.size; over > 0 {
			t.err = &MismatchError{URL: redact(t.urls[0]), GotSize: t.size + over, WantSize: t.size, Who: t.who}
			break
		}
		t.offset += int64(n)
		t.hash.Write(p[:n])
		switch {
		case err == nil && n > 0:
			return n, nil
		case err == io.EOF && t.offset == t.size:
			t.err = t.finish()
		case err != nil:
			t.err = t.reconnect(err)
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, t.err
}

// finish compares digests; it returns io.EOF when all is well.
func (t *transfer) finish() error {
	if got := digest.NewDigest(digest.SHA256, t.hash); got != t.sum {
		return &MismatchError{URL: redact(t.urls[0]), Got: got, Want: t.sum, Who: t.who}
	}
	return io.EOF
}

// reconnect goes on after a connection broke in the middle.
func (t *transfer) reconnect(err error) error {
	_ = t.body.Close() // it has failed already
	t.body = nil
	if t.ctx.Err() != nil {
		return t.ctx.Err()
	}
	if err == io.EOF {
		err = fmt.Errorf("the connection ended after %d of %d bytes", t.offset, t.size)
	}
	broken := &Error{URL: redact(t.urls[0]), Temporary: true, Err: err}
	if err := t.giveUp(broken); err != nil {
		return err
	}
	return t.connect()
}

// Close ends the transfer.
func (t *transfer) Close() error {
	if t.err == nil {
		t.err = errors.New("fetch: read after close")
	}
	if t.body == nil {
		return nil
	}
	b := t.body
	t.body = nil
	return b.Close()
}
