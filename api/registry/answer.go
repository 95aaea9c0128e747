package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"bakefarm/imagestore"
)

// Bounds of an answer.
const (
	maxPage     = 1000            // names in one page of a list
	catchUpTime = 5 * time.Second // for the catalog, when it does not know what is asked for
)

// Error codes of the distribution specification, and UNAVAILABLE, which registries use beside them.
const (
	codeBlobUnknown     = "BLOB_UNKNOWN"
	codeDigestInvalid   = "DIGEST_INVALID"
	codeManifestUnknown = "MANIFEST_UNKNOWN"
	codeNameInvalid     = "NAME_INVALID"
	codeNameUnknown     = "NAME_UNKNOWN"
	codePageInvalid     = "PAGINATION_NUMBER_INVALID"
	codeRangeInvalid    = "RANGE_INVALID"
	codeUnavailable     = "UNAVAILABLE"
	codeUnknown         = "UNKNOWN"
	codeUnsupported     = "UNSUPPORTED"
)

// refusal is an error in the form of the distribution specification.
type refusal struct {
	status  int
	code    string
	message string
}

func (r *refusal) Error() string { return r.message }

func refuse(status int, code, format string, args ...any) error {
	return &refusal{status, code, fmt.Sprintf(format, args...)}
}

// unavailable is the error of what can't be asked now.
func unavailable(err error) error {
	return refuse(http.StatusServiceUnavailable, codeUnavailable, "%s", err)
}

// fail answers with an error. Nothing has been written of the answer.
func (g *Registry) fail(w http.ResponseWriter, r *http.Request, err error) {
	var told *refusal
	switch {
	case errors.As(err, &told):
	case errors.Is(err, imagestore.ErrNotFound):
		told = &refusal{http.StatusNotFound, codeManifestUnknown, err.Error()}
	case r.Context().Err() != nil:
		told = &refusal{http.StatusServiceUnavailable, codeUnavailable, err.Error()}
	default:
		told = &refusal{http.StatusInternalServerError, codeUnknown, err.Error()}
		g.Log.Error("registry request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	header := w.Header()
	for _, h := range []string{"Content-Length", "ETag", "Docker-Content-Digest", "Cache-Control", "Accept-Ranges"} {
		header.Del(h) // of the answer that it would have been
	}
	if told.status == http.StatusServiceUnavailable {
		header.Set("Retry-After", "1")
	}
	header.Set("Content-Type", "application/json")
	w.WriteHeader(told.status)
	if r.Method == http.MethodHead {
		return
	}
	type entry struct {
		Code    string `json:"code"`
		Message string `json:"message"`
	}
	json.NewEncoder(w).Encode(map[string][]entry{"errors": {{told.code, told.message}}}) // a client that does not read it can't be helped
}

// writeJSON answers with v.
func writeJSON(w http.ResponseWriter, contentType string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	w.Write(raw) // a client that does not read it can't be helped
	return nil
}

// paginate picks the page of sorted names that the request asks for with n and last, and links to the next.
func paginate(w http.ResponseWriter, r *http.Request, names []string) ([]string, error) {
	query := r.URL.Query()
	n := maxPage
	if query.Has("n") {
		asked, err := strconv.Atoi(query.Get("n"))
		if err != nil || asked < 0 {
			return nil, refuse(http.StatusBadRequest, codePageInvalid, "n=%.20q: want a number from 0 on", query.Get("n"))
		}
		n = min(asked, maxPage)
	}
	if last := query.Get("last"); last != "" {
		at, found := slices.BinarySearch(names, last)
		if found {
			at++
		}
		names = names[at:]
	}
	page := append([]string{}, names[:min(n, len(names))]...) // [] and not null
	if len(page) > 0 && len(page) < len(names) {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {page[len(page)-1]}}
		w.Header().Set("Link", fmt.Sprintf("<%s?%s>; rel=\"next\"", r.URL.EscapedPath(), next.Encode()))
	}
	return page, nil
}
