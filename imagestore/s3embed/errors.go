package s3embed

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"syscall"

	"github.com/rclone/gofakes3"
)

// apiError is an S3 error response. Codes and statuses:
// https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
type apiError struct {
	status  int
	code    string
	message string
	region  string // the region to use instead, for AuthorizationHeaderMalformed
}

func (e *apiError) Error() string { return e.code + ": " + e.message }

func apiErrorf(status int, code, format string, args ...any) *apiError {
	return &apiError{status: status, code: code, message: fmt.Sprintf(format, args...)}
}

// asAPIError finds the response for any error of this package. What it does not
// know is an InternalError, whose details go to the log and not to the client.
func asAPIError(err error) *apiError {
	var api *apiError
	var s3 gofakes3.Error
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &s3):
		code := s3.ErrorCode()
		message := code.Message()
		if message == "" {
			message = s3.Error()
		}
		return &apiError{status: code.Status(), code: string(code), message: message}
	case isDiskFull(err):
		return diskFull(err.Error())
	case errors.Is(err, context.Canceled):
		return apiErrorf(http.StatusBadRequest, "RequestTimeout", "the request was given up")
	}
	return apiErrorf(http.StatusInternalServerError, "InternalError", "internal error; the server's log has the details")
}

// isDiskFull covers a full disk, an exhausted quota and a file size limit.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// diskFull is answered with 507, which clients do not retry: no retry makes room.
func diskFull(detail string) *apiError {
	return apiErrorf(http.StatusInsufficientStorage, "InsufficientStorage", "no room on the object store's disk: %s", detail)
}

// toBackend turns an error of the store into one that gofakes3 can answer.
func toBackend(err error) error {
	var s3 gofakes3.Error
	var api *apiError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &api):
		return gofakes3.ErrorMessage(gofakes3.ErrInternal, api.message)
	case errors.As(err, &s3):
		return s3
	case isDiskFull(err):
		return gofakes3.ErrorMessage(gofakes3.ErrInternal, asAPIError(err).message)
	}
	return err
}

// errorXML is the body of an error response.
type errorXML struct {
	XMLName   xml.Name `xml:"Error"`
	Code      string
	Message   string
	Resource  string
	Region    string `xml:",omitempty"`
	RequestID string `xml:"RequestId"`
}

// writeError answers with err; what is the server's own fault is logged.
func (s *Server) writeError(w http.ResponseWriter, r *http.Request, err error) {
	api := asAPIError(err)
	if api.status >= 500 {
		s.log.Error("s3 request failed", "method", r.Method, "path", r.URL.Path, "status", api.status, "error", err)
	} else {
		s.log.Debug("s3 request refused", "method", r.Method, "path", r.URL.Path, "status", api.status, "error", err)
	}
	if r.Method == http.MethodHead {
		w.WriteHeader(api.status)
		return
	}
	writeXML(w, api.status, errorXML{
		Code: api.code, Message: api.message, Resource: r.URL.Path, Region: api.region,
		RequestID: w.Header().Get("X-Amz-Request-Id"),
	})
}

func writeXML(w http.ResponseWriter, status int, v any) {
	body, err := xml.Marshal(v)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	// The response is on its way: a failed write can only be seen by the client.
	_, _ = io.WriteString(w, xml.Header)
	_, _ = w.Write(body)
}

// noSuchBucketIfGone: a missing directory under a write means that its bucket was
// deleted meanwhile.
func noSuchBucketIfGone(err error, bucket string) error {
	if errors.Is(err, fs.ErrNotExist) {
		return gofakes3.BucketNotFound(bucket)
	}
	return err
}
