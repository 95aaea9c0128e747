package bus

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"
)

// Conditions that callers tell apart. Errors of this package wrap them.
var (
	ErrNotFound    = errors.New("not found")
	ErrExists      = errors.New("exists already")
	ErrConflict    = errors.New("changed by somebody else")
	ErrInvalid     = errors.New("invalid")      // a request that no retry makes right
	ErrTooLarge    = errors.New("too large")    // for a record or message
	ErrNoResponder = errors.New("nobody there") // no role serves the subject now, or the one that did has stopped
	ErrRewound     = errors.New("the records are older than what was seen of them before")
	ErrInUse       = errors.New("in use by another process")
)

// codes are the sentinels that travel in replies.
var codes = map[string]error{
	"not-found":   ErrNotFound,
	"exists":      ErrExists,
	"conflict":    ErrConflict,
	"invalid":     ErrInvalid,
	"too-large":   ErrTooLarge,
	"unavailable": ErrNoResponder,
	"deadline":    context.DeadlineExceeded,
}

// codeInternal is the code of an error that has no other.
const codeInternal = "internal"

// RemoteError is an error that a handler in another process returned. errors.Is matches it with the sentinel of its code.
type RemoteError struct {
	Code    string `json:"code"` // "not-found", "conflict", …; a handler may return a RemoteError with a code of its own
	Message string `json:"message"`
}

func (e *RemoteError) Error() string { return e.Message }

// Is reports whether target is the sentinel of the code.
func (e *RemoteError) Is(target error) bool {
	sentinel, ok := codes[e.Code]
	return ok && sentinel == target
}

// remoteError prepares a handler's error for travelling.
func remoteError(err error) *RemoteError {
	var own *RemoteError
	if errors.As(err, &own) {
		return &RemoteError{Code: own.Code, Message: err.Error()}
	}
	for code, sentinel := range codes {
		if errors.Is(err, sentinel) {
			return &RemoteError{Code: code, Message: err.Error()}
		}
	}
	if errors.Is(err, context.Canceled) { // by stop: the caller has not given up, and another process may serve it
		return &RemoteError{Code: "unavailable", Message: err.Error() + ": the process that was asked stops"}
	}
	return &RemoteError{Code: codeInternal, Message: err.Error()}
}

// translate gives a JetStream error the sentinel that callers know. what names the thing: "bakes: record 01J…".
func translate(what string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, jetstream.ErrKeyNotFound), errors.Is(err, jetstream.ErrKeyDeleted), errors.Is(err, jetstream.ErrMsgNotFound):
		return fmt.Errorf("%s: %w", what, ErrNotFound)
	case errors.Is(err, jetstream.ErrKeyRevisionMismatch), wrongLastSequence(err):
		return fmt.Errorf("%s: %w", what, ErrConflict)
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s: JetStream did not answer in time: %w", what, err)
	default:
		return fmt.Errorf("%s: %w", what, err)
	}
}

// wrongLastSequence reports whether a publish was refused because its expected last sequence is not the last. Replicated
// streams use a second code for it.
func wrongLastSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) &&
		(api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
