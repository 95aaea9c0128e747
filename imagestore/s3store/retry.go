package s3store

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"bakefarm/imagestore"

	"github.com/minio/minio-go/v7"
)

const (
	attempts   = 5
	retryFirst = 50 * time.Millisecond
	retryMost  = 2 * time.Second
)

// errGone: the object is not there, though the locator says so.
var errGone = errors.New("the pack's object is gone")

// retry calls fn until it succeeds, fails for good, or has failed attempts times.
func retry(ctx context.Context, fn func() error) error {
	var err error
	for attempt := range attempts {
		if err = fn(); err == nil || !transient(err) {
			return err
		}
		if ctx.Err() != nil {
			return givenUp(ctx, err)
		}
		if attempt == attempts-1 {
			break
		}
		wait := min(retryMost, retryFirst<<attempt)
		if sleep(ctx, wait/2+rand.N(wait/2+1)) != nil {
			return givenUp(ctx, err)
		}
	}
	return away{fmt.Errorf("%w (tried %d times)", err, attempts)}
}

// givenUp is the error of what was not tried again because ctx ended: that it did, and what the last attempt had come to.
func givenUp(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// away is an error of a service that was asked often enough: imagestore.ErrAway, which says nothing that it does not.
type away struct{ error }

func (a away) Unwrap() error        { return a.error }
func (a away) Is(target error) bool { return target == imagestore.ErrAway }

// transient reports whether trying again may help: not when the service has understood and refused.
func transient(err error) bool {
	switch {
	case errors.Is(err, errGone), errors.Is(err, imagestore.ErrConflict), errors.Is(err, imagestore.ErrNotFound):
		return false
	}
	var res minio.ErrorResponse
	if errors.As(err, &res) && (res.StatusCode >= 400 && res.StatusCode < 500 || res.StatusCode == http.StatusNotImplemented) {
		switch res.StatusCode {
		case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusConflict:
			return true
		case http.StatusForbidden: // the next request is signed by the service's clock
			return res.Code == "RequestTimeTooSkewed"
		case http.StatusBadRequest: // what came was not what was sent
			return res.Code == "IncompleteBody" || res.Code == "RequestTimeout" || res.Code == "BadDigest" || res.Code == "XAmzContentChecksumMismatch"
		}
		return false
	}
	return true
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
