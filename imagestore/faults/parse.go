package faults

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Parse reads a schedule from a flag or the environment: faults separated by commas,
// each OP[@KEYPREFIX]:NTH:ACTION, for instance
//
//	put:3:tear=1000,get@packs/:1:fail=503,*:*:delay=20ms
//
// OP is get, head, put, post, delete or *; NTH counts the matching requests from 1, *
// is every one; ACTION is fail=STATUS, break, lose, tear=BYTES, delay=DURATION, dup or
// corrupt=OFFSET. An empty string is an empty schedule. An error names the fault.
func Parse(s string) ([]Fault, error) {
	if strings.TrimSpace(s) == "" {
		return nil, nil
	}
	var out []Fault
	for text := range strings.SplitSeq(s, ",") {
		f, err := parseFault(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("fault %q: %w", text, err)
		}
		out = append(out, f)
	}
	return out, nil
}

var methods = []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodPost, http.MethodDelete}

func parseFault(s string) (f Fault, err error) {
	// From the right, because a key may contain colons.
	rest, action, ok := cutLast(s, ":")
	if !ok {
		return f, fmt.Errorf("want OP[@KEYPREFIX]:NTH:ACTION")
	}
	rest, nth, ok := cutLast(rest, ":")
	if !ok {
		return f, fmt.Errorf("want OP[@KEYPREFIX]:NTH:ACTION")
	}
	op, prefix, _ := strings.Cut(rest, "@")
	f.Prefix = prefix
	if op != "*" {
		if f.Op = strings.ToUpper(op); !slices.Contains(methods, f.Op) {
			return f, fmt.Errorf("operation %q: want get, head, put, post, delete or *", op)
		}
	}
	if nth != "*" {
		if f.Nth, err = strconv.Atoi(nth); err != nil || f.Nth < 1 {
			return f, fmt.Errorf("count %q: want a number from 1, or *", nth)
		}
	}
	f.Action, err = parseAction(action)
	return f, err
}

func parseAction(s string) (Action, error) {
	name, value, hasValue := strings.Cut(s, "=")
	number := func(low, high int64) (int64, error) {
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil || n < low || n > high {
			return 0, fmt.Errorf("%s=%s: want a number from %d to %d", name, value, low, high)
		}
		return n, nil
	}
	const maxOffset = 1 << 50
	switch {
	case name == "fail":
		n, err := number(400, 599)
		return Fail(int(n)), err
	case name == "tear":
		n, err := number(0, maxOffset)
		return Tear(n), err
	case name == "corrupt":
		n, err := number(0, maxOffset)
		return Corrupt(n), err
	case name == "delay":
		d, err := time.ParseDuration(value)
		if err != nil || d < 0 {
			return Action{}, fmt.Errorf("delay=%s: want a duration, such as 20ms", value)
		}
		return Delay(d), nil
	case hasValue:
	case name == "break":
		return Break(), nil
	case name == "lose":
		return Lose(), nil
	case name == "dup":
		return Duplicate(), nil
	}
	return Action{}, fmt.Errorf("action %q: want fail=STATUS, break, lose, tear=BYTES, delay=DURATION, dup or corrupt=OFFSET", s)
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
