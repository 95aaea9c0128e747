package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"bakefarm/api/usage"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifest answers GET and HEAD of a manifest.
func (g *Registry) manifest(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	if strings.Contains(ref, ":") {
		if _, err := imagestore.ParseDigest(digest.Digest(ref)); err != nil {
			return refuse(http.StatusBadRequest, codeDigestInvalid, "%s", err)
		}
	}
	ctx := r.Context()
	row, err := g.find(ctx, repo, ref)
	if errors.Is(err, imagestore.ErrNotFound) {
		if _, err := g.known(ctx, repo); err != nil {
			return err
		}
		return refuse(http.StatusNotFound, codeManifestUnknown, "%s has no manifest %s", repo, ref)
	}
	if err != nil {
		return err
	}
	d, mediaType := row.Digest, row.MediaType
	if !accepts(r.Header.Values("Accept"), mediaType) {
		return refuse(http.StatusNotFound, codeManifestUnknown, "%s of %s is a %s, which the request does not accept", ref, repo, mediaType)
	}
	describe(w, d, mediaType)
	if notModified(w, r, d) {
		return nil
	}
	raw, err := imagestore.ReadAll(ctx, g.Store, d, imagestore.MaxManifest)
	if err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	if r.Method == http.MethodGet {
		g.Uses.Note(row.Name, row.Version, usage.Pulled)
		w.Write(raw) // a client that does not read it can't be helped
	}
	return nil
}

// find resolves a reference to a manifest: its digest and media type. One within an index that is no image of its own has
// nothing else.
func (g *Registry) find(ctx context.Context, repo, ref string) (catalog.ImageRow, error) {
	row, err := g.resolve(ctx, repo, ref)
	if err == nil || !errors.Is(err, imagestore.ErrNotFound) || !strings.Contains(ref, ":") {
		return row, err
	}
	// No image of its own, but perhaps the manifest of one platform within an index.
	d := digest.Digest(ref)
	if has, hasErr := g.has(ctx, repo, d); hasErr != nil || !has {
		return row, errors.Join(hasErr, err)
	}
	raw, readErr := imagestore.ReadAll(ctx, g.Store, d, imagestore.MaxManifest)
	if readErr != nil {
		return row, err // a layer
	}
	var head struct {
		MediaType string `json:"mediaType"`
	}
	if json.Unmarshal(raw, &head) != nil {
		return row, err
	}
	if _, refsErr := imagestore.ManifestRefs(head.MediaType, raw); refsErr != nil {
		return row, err // a blob of another kind
	}
	row.Digest, row.MediaType = d, head.MediaType
	return row, nil
}

// accepts reports whether one of the Accept headers takes the media type; without any, everything is taken (RFC 9110,
// section 12.5.1). Weights are not looked at: there is one representation only.
func accepts(headers []string, mediaType string) bool {
	asked := false
	for _, header := range headers {
		for item := range strings.SplitSeq(header, ",") {
			item, _, _ = strings.Cut(item, ";")
			item = strings.ToLower(strings.TrimSpace(item))
			if item == "" {
				continue
			}
			asked = true
			family, any := strings.CutSuffix(item, "/*")
			if item == mediaType || item == "*/*" || any && strings.HasPrefix(mediaType, family+"/") {
				return true
			}
		}
	}
	return !asked
}

// describe sets the headers of content that never changes.
func describe(w http.ResponseWriter, d digest.Digest, mediaType string) {
	header := w.Header()
	header.Set("Content-Type", mediaType)
	header.Set("Docker-Content-Digest", d.String())
	header.Set("ETag", etag(d))
}

func etag(d digest.Digest) string { return `"` + d.String() + `"` }

// notModified answers 304 to a client that has the content already.
func notModified(w http.ResponseWriter, r *http.Request, d digest.Digest) bool {
	for item := range strings.SplitSeq(r.Header.Get("If-None-Match"), ",") {
		if item = strings.TrimPrefix(strings.TrimSpace(item), "W/"); item == etag(d) || item == "*" {
			w.Header().Del("Content-Type")
			w.WriteHeader(http.StatusNotModified)
			return true
		}
	}
	return false
}

// blob answers GET and HEAD of a blob, whole or a range of it.
func (g *Registry) blob(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	d, ctx := digest.Digest(ref), r.Context()
	if _, err := imagestore.ParseDigest(d); err != nil {
		return refuse(http.StatusBadRequest, codeDigestInvalid, "%s", err)
	}
	has, err := g.has(ctx, repo, d)
	if err != nil {
		return err
	}
	if !has {
		if _, err := g.known(ctx, repo); err != nil {
			return err
		}
		return refuse(http.StatusNotFound, codeBlobUnknown, "%s has no blob %s", repo, d)
	}
	stat, err := g.Store.Stat(ctx, d)
	if errors.Is(err, imagestore.ErrNotFound) {
		return refuse(http.StatusNotFound, codeBlobUnknown, "blob %s of %s is not in the store", d, repo)
	}
	if err != nil {
		return err
	}
	describe(w, d, "application/octet-stream")
	w.Header().Set("Accept-Ranges", "bytes")
	w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
	if notModified(w, r, d) {
		return nil
	}
	if r.Method == http.MethodGet {
		if url := g.Hot.location(ctx, d, stat.Size); url != "" { // with its Range, which the service serves
			w.Header().Set("Location", url)
			w.Header().Set("Cache-Control", "no-store")
			w.WriteHeader(http.StatusTemporaryRedirect)
			return nil
		}
	}
	part, partial, err := parseRange(r.Header.Get("Range"), stat.Size)
	if err != nil {
		w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", stat.Size))
		return err
	}
	if condition := r.Header.Get("If-Range"); condition != "" && condition != etag(d) {
		part, partial = span{0, stat.Size}, false
	}
	w.Header().Set("Content-Length", strconv.FormatInt(part.length, 10))
	status := http.StatusOK
	if partial {
		status = http.StatusPartialContent
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", part.offset, part.offset+part.length-1, stat.Size))
	}
	if r.Method == http.MethodHead || part.length == 0 {
		w.WriteHeader(status)
		return nil
	}
	return g.send(ctx, w, d, part, status)
}

// copyBuffer is how much of a blob is on its way from the store to a client, in bytes.
const copyBuffer = 128 << 10

// send copies a part of a blob to the client. The status is not sent before the first bytes are there: what the store can't
// read from the start is an error, later it can only be a broken connection.
func (g *Registry) send(ctx context.Context, w http.ResponseWriter, d digest.Digest, part span, status int) (err error) {
	content, err := g.Store.Open(ctx, d, part.offset, part.length)
	if err != nil {
		return err
	}
	defer content.Close()
	buffer := make([]byte, copyBuffer)
	n, err := io.ReadAtLeast(content, buffer[:min(int64(len(buffer)), part.length)], 1)
	if err != nil {
		return fmt.Errorf("blob %s: %w", d, err)
	}
	w.WriteHeader(status)
	for left := part.length; ; {
		if _, err := w.Write(buffer[:n]); err != nil {
			panic(http.ErrAbortHandler) // the client has gone
		}
		if left -= int64(n); left == 0 {
			return nil
		}
		n, err = io.ReadAtLeast(content, buffer[:min(int64(len(buffer)), left)], 1)
		if err != nil {
			if ctx.Err() == nil {
				g.Log.Error("blob broken off", "digest", d, "at", part.offset+part.length-left, "err", err)
			}
			panic(http.ErrAbortHandler)
		}
	}
}

// span is a run of bytes of a blob.
type span struct{ offset, length int64 }

// parseRange reads a Range header (RFC 9110, section 14). partial is false when the whole is to be sent: without a header,
// and for what a server may ignore, which is other units, several ranges, and what can't be parsed.
func parseRange(header string, size int64) (s span, partial bool, err error) {
	whole := span{0, size}
	spec, ok := strings.CutPrefix(header, "bytes=")
	if !ok || strings.Contains(spec, ",") {
		return whole, false, nil
	}
	first, last, ok := strings.Cut(strings.TrimSpace(spec), "-")
	if !ok || !isDigits(first) || !isDigits(last) || first+last == "" {
		return whole, false, nil
	}
	from, fromErr := strconv.ParseInt(first, 10, 64)
	to, toErr := strconv.ParseInt(last, 10, 64)
	switch {
	case first == "": // the last bytes
		if toErr != nil || to > size {
			to = size
		}
		from, to = size-to, size-1
	case fromErr != nil:
		from = size // beyond every end
	case last == "" || toErr != nil || to >= size:
		to = size - 1
	case to < from:
		return whole, false, nil // invalid, and so ignored
	}
	if from >= size || to < from {
		return s, false, refuse(http.StatusRequestedRangeNotSatisfiable, codeRangeInvalid, "Range %.100q: the blob has %d bytes", header, size)
	}
	return span{from, to - from + 1}, true, nil
}

func isDigits(s string) bool {
	return !strings.ContainsFunc(s, func(c rune) bool { return c < '0' || c > '9' })
}

// referrers lists the artifacts that are about a manifest, all or those of one type. There are so few that one page has them.
func (g *Registry) referrers(w http.ResponseWriter, r *http.Request, repo, ref string) error {
	subject := digest.Digest(ref)
	if _, err := imagestore.ParseDigest(subject); err != nil {
		return refuse(http.StatusBadRequest, codeDigestInvalid, "%s", err)
	}
	if _, err := g.known(r.Context(), repo); err != nil {
		return err
	}
	attached, err := fresh(r.Context(), g, func() ([]farm.Attachment, error) { return g.Catalog.Referrers(r.Context(), repo, subject) },
		func(list []farm.Attachment, err error) bool { return err == nil && len(list) == 0 })
	if err != nil {
		return err
	}
	index := v1.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: v1.MediaTypeImageIndex, Manifests: []v1.Descriptor{}}
	only := r.URL.Query().Get("artifactType")
	if only != "" {
		w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	for _, a := range attached {
		if only == "" || only == a.Type {
			index.Manifests = append(index.Manifests, v1.Descriptor{
				MediaType: v1.MediaTypeImageManifest, Digest: a.Digest, Size: a.Size, ArtifactType: a.Type, Annotations: a.Annotations,
			})
		}
	}
	return writeJSON(w, v1.MediaTypeImageIndex, index)
}
