package s3embed

import (
	"bufio"
	"bytes"
	"context"
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/minio/crc64nvme"
)

const (
	maxChunkLine = 4 << 10 // bytes in a chunk header or trailer line
	maxTrailer   = 8 << 10 // bytes in all trailer lines
)

// checksums are the x-amz-checksum-<name> algorithms of S3.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/checking-object-integrity.html
var checksums = map[string]func() hash.Hash{
	"crc32":     func() hash.Hash { return crc32.NewIEEE() },
	"crc32c":    func() hash.Hash { return crc32.New(castagnoli) },
	"crc64nvme": func() hash.Hash { return crc64nvme.New() },
	"sha1":      sha1.New,
	"sha256":    sha256.New,
}

const checksumPrefix = "X-Amz-Checksum-"

// payload is the body of a request as it was meant. Read fails, at the latest
// instead of io.EOF, when the body is not the one that was signed, summed and
// measured; what was read until then must be thrown away.
type payload struct {
	src    io.Reader
	alive  func() error // nil while the request may go on
	size   int64        // bytes to come in all; -1: not known
	n      int64        // bytes read
	checks []*check
	err    error

	// checksumName and checksumValue are the x-amz-checksum-* header to keep with
	// the object: known and verified at io.EOF; empty if none was sent.
	checksumName, checksumValue string
}

// check compares a digest of the body with what the client said it would be.
type check struct {
	header string // where it was said
	code   string // S3 error code if it does not match
	hash   hash.Hash
	want   func() (string, error) // called at the end of the body, in the encoding of sum
	sum    func([]byte) string
}

// newPayload makes the payload of r, whose signature is sig. Errors are *apiError.
func newPayload(r *http.Request, sig *signature) (*payload, error) {
	p := &payload{src: r.Body, size: r.ContentLength, alive: r.Context().Err}
	if r.Body == nil {
		p.src = http.NoBody
	}
	var trailer *chunkReader
	switch sig.payload {
	case unsignedPayload:
	case signedChunks, signedChunksTrailer, unsignedPayloadTrailer:
		size, err := strconv.ParseInt(r.Header.Get("X-Amz-Decoded-Content-Length"), 10, 64)
		if err != nil || size < 0 {
			return nil, apiErrorf(http.StatusLengthRequired, "MissingContentLength", "x-amz-decoded-content-length: want the length of the body without its chunk headers")
		}
		c := newChunkReader(p.src, sig, size)
		p.src, p.size = c, size
		if sig.payload != signedChunks {
			trailer = c
			if err := c.expect(r.Header.Values("X-Amz-Trailer")); err != nil {
				return nil, err
			}
		}
	default:
		if len(sig.payload) != 2*sha256.Size {
			return nil, apiErrorf(http.StatusBadRequest, "InvalidArgument", "x-amz-content-sha256 %q: want a SHA-256 in hex or one of the words of Signature Version 4", sig.payload)
		}
		p.checks = append(p.checks, &check{
			header: "x-amz-content-sha256", code: "XAmzContentSHA256Mismatch", hash: sha256.New(),
			want: given(strings.ToLower(sig.payload)), sum: hex.EncodeToString,
		})
	}
	if values, ok := r.Header["Content-Md5"]; ok {
		if b, err := base64.StdEncoding.DecodeString(values[0]); err != nil || len(b) != md5.Size {
			return nil, apiErrorf(http.StatusBadRequest, "InvalidDigest", "Content-MD5 %q: want 16 bytes in base64", values[0])
		}
		p.checks = append(p.checks, &check{
			header: "Content-MD5", code: "BadDigest", hash: md5.New(),
			want: given(values[0]), sum: base64.StdEncoding.EncodeToString,
		})
	}
	if r.Method == http.MethodPost && r.URL.Query().Has("uploadId") {
		return p, nil // the checksum of a CompleteMultipartUpload is the object's, not the body's
	}
	return p, p.addChecksum(r.Header, trailer)
}

func given(s string) func() (string, error) { return func() (string, error) { return s, nil } }

// addChecksum adds the check of the x-amz-checksum-* header or trailer, if any.
func (p *payload) addChecksum(h http.Header, trailer *chunkReader) error {
	var name string
	want := func() (string, error) { return h.Get(checksumPrefix + name), nil }
	for k := range h {
		if n, ok := strings.CutPrefix(k, checksumPrefix); ok && n != "Type" && n != "Mode" && n != "Algorithm" {
			if name != "" {
				return apiErrorf(http.StatusBadRequest, "InvalidRequest", "x-amz-checksum-*: more than one")
			}
			name = strings.ToLower(n)
		}
	}
	if name == "" && trailer != nil {
		for _, t := range trailer.names {
			if n, ok := strings.CutPrefix(t, strings.ToLower(checksumPrefix)); ok {
				name = n
				want = func() (string, error) { return trailer.values[t], nil }
			}
		}
	}
	if name == "" {
		return nil
	}
	newHash, ok := checksums[name]
	if !ok {
		return apiErrorf(http.StatusBadRequest, "InvalidRequest", "x-amz-checksum-%s: want crc32, crc32c, crc64nvme, sha1 or sha256", name)
	}
	p.checksumName = http.CanonicalHeaderKey(checksumPrefix + name)
	p.checks = append(p.checks, &check{
		header: "x-amz-checksum-" + name, code: "BadDigest", hash: newHash(), want: want,
		sum: func(b []byte) string {
			p.checksumValue = base64.StdEncoding.EncodeToString(b)
			return p.checksumValue
		},
	})
	return nil
}

func (p *payload) Read(b []byte) (int, error) {
	if p.err != nil {
		return 0, p.err
	}
	if err := p.alive(); err != nil {
		p.err = err
		return 0, err
	}
	n, err := p.src.Read(b)
	p.n += int64(n)
	for _, c := range p.checks {
		c.hash.Write(b[:n])
	}
	switch {
	case p.size >= 0 && p.n > p.size:
		err = apiErrorf(http.StatusBadRequest, "IncompleteBody", "the body is longer than the %d bytes announced", p.size)
	case err == io.EOF:
		err = p.finish()
	case err != nil:
		err = p.broken(err)
	}
	p.err = err
	return n, err
}

// broken makes a request error of what is wrong with the client's connection.
func (p *payload) broken(err error) error {
	var api *apiError
	switch {
	case errors.As(err, &api), errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return p.short()
	}
	return apiErrorf(http.StatusBadRequest, "IncompleteBody", "the body broke off after %d bytes: %v", p.n, err)
}

func (p *payload) short() error {
	return apiErrorf(http.StatusBadRequest, "IncompleteBody", "the body ended after %d of %d bytes", p.n, p.size)
}

func (p *payload) finish() error {
	if p.size >= 0 && p.n < p.size {
		return p.short()
	}
	for _, c := range p.checks {
		want, err := c.want()
		if err != nil {
			return err
		}
		if got := c.sum(c.hash.Sum(nil)); got != want {
			return apiErrorf(http.StatusBadRequest, c.code, "%s says %q, the body received has %q", c.header, want, got)
		}
	}
	return io.EOF
}

// chunkReader removes the aws-chunked framing:
//
//	SIZE[;chunk-signature=HEX]\r\n DATA \r\n … 0[;chunk-signature=HEX]\r\n [name:value\r\n …] \r\n
//
// verifying the chain of chunk signatures where the payload is signed, and keeping
// the trailers. minio-go puts empty lines around its trailer lines; they are skipped.
type chunkReader struct {
	r      *bufio.Reader
	sig    *signature // nil: unsigned chunks
	prev   string     // the chain's last signature
	left   int64      // bytes of the current chunk
	claim  string     // its signature as sent
	hash   hash.Hash  // of the current chunk
	begun  bool
	size   int64 // x-amz-decoded-content-length
	n      int64
	names  []string          // announced trailers, lower case
	values map[string]string // trailers received
	err    error
}

func newChunkReader(r io.Reader, sig *signature, size int64) *chunkReader {
	c := &chunkReader{r: bufio.NewReaderSize(r, 128<<10), size: size}
	if sig.payload != unsignedPayloadTrailer {
		c.sig, c.prev, c.hash = sig, sig.seed, sha256.New()
	}
	return c
}

// expect announces the trailers of the x-amz-trailer headers.
func (c *chunkReader) expect(headers []string) error {
	for _, h := range headers {
		for name := range strings.SplitSeq(h, ",") {
			if name = strings.ToLower(strings.TrimSpace(name)); name != "" {
				c.names = append(c.names, name)
			}
		}
	}
	if len(c.names) > 8 {
		return apiErrorf(http.StatusBadRequest, "InvalidRequest", "x-amz-trailer: more than 8 names")
	}
	c.values = map[string]string{}
	return nil
}

func (c *chunkReader) Read(p []byte) (int, error) {
	if c.err != nil || len(p) == 0 {
		return 0, c.err
	}
	if c.left == 0 {
		if c.err = c.nextChunk(); c.err != nil {
			return 0, c.err
		}
	}
	n, err := c.r.Read(p[:min(int64(len(p)), c.left)])
	c.left -= int64(n)
	c.n += int64(n)
	if c.sig != nil {
		c.hash.Write(p[:n])
	}
	if err == nil && c.left == 0 {
		if err = c.endData(); err == nil {
			err = c.verifyChunk()
		}
	}
	c.err = unexpected(err)
	return n, c.err
}

// nextChunk reads a chunk header, and after the last chunk everything up to the end.
func (c *chunkReader) nextChunk() error {
	if !c.begun {
		c.begun = true
		if _, err := c.r.Peek(1); err == io.EOF && c.size == 0 {
			return io.EOF // an empty body without any framing; its length was signed
		}
	}
	line, err := c.line(maxChunkLine)
	if err != nil {
		return unexpected(err)
	}
	size, extension, _ := strings.Cut(line, ";")
	if c.left, err = strconv.ParseInt(size, 16, 63); err != nil || c.left < 0 {
		return apiErrorf(http.StatusBadRequest, "InvalidRequest", "aws-chunked: chunk size %.20q is not a hex number", size)
	}
	if c.left > c.size-c.n {
		return apiErrorf(http.StatusBadRequest, "IncompleteBody", "aws-chunked: chunks exceed x-amz-decoded-content-length %d", c.size)
	}
	c.claim, _ = strings.CutPrefix(extension, "chunk-signature=")
	if c.sig != nil {
		c.hash.Reset()
	}
	if c.left > 0 {
		return nil
	}
	if err := c.verifyChunk(); err != nil {
		return err
	}
	if err := c.readTrailer(); err != nil {
		return unexpected(err)
	}
	return io.EOF
}

// verifyChunk checks the signature of the chunk just read.
func (c *chunkReader) verifyChunk() error {
	if c.sig == nil {
		return nil
	}
	sum := c.sig.sign(algorithm+"-PAYLOAD", c.sig.time, c.sig.scope, c.prev, emptySHA256, hex.EncodeToString(c.hash.Sum(nil)))
	if !equalHex(sum, c.claim) {
		return signatureMismatch("chunk")
	}
	c.prev = sum
	return nil
}

// endData reads the line end after a chunk's data.
func (c *chunkReader) endData() error {
	var crlf [2]byte
	if _, err := io.ReadFull(c.r, crlf[:]); err != nil {
		return err
	}
	if string(crlf[:]) != "\r\n" {
		return apiErrorf(http.StatusBadRequest, "InvalidRequest", "aws-chunked: no line end after %d bytes of data", c.n)
	}
	return nil
}

// readTrailer reads what follows the last chunk, up to the end of the body.
func (c *chunkReader) readTrailer() error {
	var signed bytes.Buffer
	claim, total := "", 0
	for {
		line, err := c.line(maxTrailer)
		if err != nil && err != io.EOF {
			return err
		}
		if total += len(line); total > maxTrailer {
			return apiErrorf(http.StatusBadRequest, "InvalidRequest", "aws-chunked: trailers exceed %d bytes", maxTrailer)
		}
		if line != "" {
			name, value, _ := strings.Cut(line, ":")
			name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
			if name == "x-amz-trailer-signature" {
				claim = value
			} else if !slices.Contains(c.names, name) {
				return apiErrorf(http.StatusBadRequest, "InvalidRequest", "trailer %.40q is not announced in x-amz-trailer", name)
			} else {
				c.values[name] = value
				fmt.Fprintf(&signed, "%s:%s\n", name, value)
			}
		}
		if err == io.EOF {
			break
		}
	}
	for _, name := range c.names {
		if _, ok := c.values[name]; !ok {
			return apiErrorf(http.StatusBadRequest, "InvalidRequest", "trailer %q was announced and not sent", name)
		}
	}
	if c.sig == nil || c.sig.payload != signedChunksTrailer {
		return nil
	}
	sum := sha256.Sum256(signed.Bytes())
	if !equalHex(c.sig.sign(algorithm+"-TRAILER", c.sig.time, c.sig.scope, c.prev, hex.EncodeToString(sum[:])), claim) {
		return signatureMismatch("trailer")
	}
	return nil
}

// line reads a line without its end. A last line without an end comes with io.EOF.
func (c *chunkReader) line(limit int) (string, error) {
	b, err := c.r.ReadSlice('\n')
	if len(b) > limit || err == bufio.ErrBufferFull {
		return "", apiErrorf(http.StatusBadRequest, "InvalidRequest", "aws-chunked: line exceeds %d bytes", limit)
	}
	return strings.TrimRight(string(b), "\r\n"), err
}

// unexpected: the framing says when the body ends, so EOF before that is an error.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
