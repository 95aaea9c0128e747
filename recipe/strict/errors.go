package strict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// MaxErrors is how many errors one Errors reports; the last one then says how many more there were.
const MaxErrors = 100

// Error is one thing that is wrong in a text that a person wrote.
type Error struct {
	File    string `json:"file"`             // "bakefarm.yaml", or the flag: "--set name=X"
	Line    int    `json:"line,omitempty"`   // from 1; 0 for a flag
	Column  int    `json:"column,omitempty"` // in characters, from 1
	Field   string `json:"field,omitempty"`  // "app[0].copy"; empty when the text as a whole is meant
	Message string `json:"message"`          // what is wrong, and what to write instead
}

// Error returns "file:line:column: field: message".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", e.Line, e.Column)
	}
	if e.Field != "" {
		b.WriteString(": " + e.Field)
	}
	b.WriteString(": " + e.Message)
	return b.String()
}

// Errors is everything that is wrong in a text, in the order of the text; those of flags come last.
type Errors []*Error

// Error returns the errors, one a line.
func (e Errors) Error() string {
	lines := make([]string, len(e))
	for i, err := range e {
		lines[i] = err.Error()
	}
	return strings.Join(lines, "\n")
}

// Unwrap lets errors.As find a single Error.
func (e Errors) Unwrap() []error {
	errs := make([]error, len(e))
	for i, err := range e {
		errs[i] = err
	}
	return errs
}

// Err returns the errors in the order of the text, at most MaxErrors of them, or nil when there are none.
func (e Errors) Err() error {
	if len(e) == 0 {
		return nil
	}
	slices.SortStableFunc(e, func(a, b *Error) int {
		if flags := cmp.Compare(btoi(a.Line == 0), btoi(b.Line == 0)); flags != 0 {
			return flags
		}
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	if len(e) > MaxErrors {
		more := *e[MaxErrors-1]
		more.Field, more.Message = "", fmt.Sprintf("and %d more errors from here on", len(e)-MaxErrors+1)
		e = append(e[:MaxErrors-1:MaxErrors-1], &more)
	}
	return e
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}
