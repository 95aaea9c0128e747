package s3embed

import (
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/rclone/gofakes3"
)

const (
	maxObject   = 5 << 30 // bytes of a single PUT or part, as on S3
	maxKey      = 1024    // bytes
	maxMetadata = 2000    // bytes of names and values, as gofakes3 reads S3's "2 KB"
)

// putObject stores a body as an object. If-Match and If-None-Match are decided at
// the rename, so that of two writers with If-None-Match: * one wins.
func (s *Server) putObject(w http.ResponseWriter, r *http.Request, bucketName, key string, body *payload) error {
	b, err := s.store.bucket(bucketName)
	if err != nil {
		return err
	}
	info := &objectInfo{Key: key}
	if info.Headers, err = objectHeaders(r.Header); err != nil {
		return err
	}
	cond := writeCondition(r.Header)
	if cond != nil { // fail before the body, if it is already plain
		current, err := s.store.head(bucketName, key)
		if err != nil && !gofakes3.HasErrorCode(err, gofakes3.ErrNoSuchKey) {
			return err
		}
		if err := cond(current); err != nil {
			return err
		}
	}
	d, err := s.receive(r, body)
	if err != nil {
		return err
	}
	if body.checksumName != "" {
		info.Headers[body.checksumName] = body.checksumValue
		w.Header().Set(body.checksumName, body.checksumValue)
	}
	if err := s.store.put(b, d, info, cond); err != nil {
		return err
	}
	w.Header().Set("ETag", `"`+info.ETag+`"`)
	w.WriteHeader(http.StatusOK)
	return nil
}

// receive writes a body to a draft, which the caller must use up.
func (s *Server) receive(r *http.Request, body *payload) (*draft, error) {
	switch {
	case body.size < 0:
		return nil, apiErrorf(http.StatusLengthRequired, "MissingContentLength", "a body needs a Content-Length")
	case body.size > maxObject:
		return nil, apiErrorf(http.StatusBadRequest, "EntityTooLarge", "%d bytes exceed %d; use a multipart upload", body.size, int64(maxObject))
	}
	for name := range r.Header {
		if strings.HasPrefix(name, "X-Amz-Server-Side-Encryption") {
			return nil, apiErrorf(http.StatusNotImplemented, "NotImplemented", "%s: there is no encryption at rest here", strings.ToLower(name))
		}
	}
	d, err := s.store.newDraft(body.size)
	if err != nil {
		return nil, err
	}
	if err := d.fill(body); err != nil {
		d.discard()
		return nil, err
	}
	return d, nil
}

// writeCondition reads If-Match and If-None-Match of a write; nil if there are none.
// https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html
func writeCondition(h http.Header) condition {
	match, noneMatch := h.Get("If-Match"), h.Get("If-None-Match")
	if match == "" && noneMatch == "" {
		return nil
	}
	failed := apiErrorf(http.StatusPreconditionFailed, "PreconditionFailed", "the object is not the one that If-Match or If-None-Match asks for")
	return func(current *objectInfo) error {
		switch {
		case match != "" && current == nil:
			return gofakes3.ErrNoSuchKey
		case match != "" && !matchesETag(match, current.ETag):
			return failed
		case noneMatch != "" && current != nil && matchesETag(noneMatch, current.ETag):
			return failed
		}
		return nil
	}
}

func matchesETag(list, etag string) bool {
	for tag := range strings.SplitSeq(list, ",") {
		if tag = strings.TrimSpace(tag); tag == "*" || strings.Trim(strings.TrimPrefix(tag, "W/"), `"`) == etag {
			return true
		}
	}
	return false
}

// objectHeaders are the request headers that are kept with an object.
func objectHeaders(h http.Header) (map[string]string, error) {
	out, size := map[string]string{}, 0
	for name, values := range h {
		if !isObjectHeader(name) || len(values) == 0 {
			continue
		}
		value := values[0]
		if name == "Content-Encoding" {
			if value = withoutAWSChunked(value); value == "" {
				continue
			}
		}
		out[name] = value
		size += len(name) + len(value)
	}
	if size > maxMetadata {
		return nil, apiErrorf(http.StatusBadRequest, "MetadataTooLarge", "headers kept with the object are %d bytes, at most %d", size, maxMetadata)
	}
	return out, nil
}

func isObjectHeader(name string) bool {
	switch name {
	case "Cache-Control", "Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type", "Expires",
		"X-Amz-Storage-Class", "X-Amz-Website-Redirect-Location", gofakes3.TaggingMetadataKey:
		return true
	}
	return strings.HasPrefix(name, "X-Amz-Meta-")
}

// withoutAWSChunked removes the token that describes the request, not the object.
func withoutAWSChunked(v string) string {
	var keep []string
	for token := range strings.SplitSeq(v, ",") {
		if token = strings.TrimSpace(token); token != "" && !strings.EqualFold(token, "aws-chunked") {
			keep = append(keep, token)
		}
	}
	return strings.Join(keep, ", ")
}

func checkKey(key string) error {
	switch {
	case len(key) > maxKey:
		return apiErrorf(http.StatusBadRequest, "KeyTooLongError", "key of %d bytes, at most %d", len(key), maxKey)
	case !utf8.ValidString(key):
		return apiErrorf(http.StatusBadRequest, "InvalidURI", "key is not UTF-8")
	}
	return nil
}
