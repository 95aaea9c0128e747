package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"bakefarm/farm"
)

// patience is for how long Follow tries to reach a farm that has gone away, as one does that is restarted.
const patience = 2 * time.Minute

// soon is how long it may be away without a word.
const soon = time.Second

// maxEvent bounds one line of an event stream, in bytes.
const maxEvent = 1 << 20

// Follow calls fn for every event of a bake, from its first on, until the bake has ended, fn fails or ctx ends. A
// connection that breaks is taken up again after the last event that came; nothing is given twice.
func (c *Client) Follow(ctx context.Context, id string, fn func(farm.Event) error) error {
	return c.events(ctx, &eventStream{id: id, fn: fn})
}

// EventsSoFar calls fn for the events that a bake has had until now.
func (c *Client) EventsSoFar(ctx context.Context, id string, fn func(farm.Event) error) error {
	return c.events(ctx, &eventStream{id: id, fn: fn, query: url.Values{"follow": {"false"}}})
}

func (c *Client) events(ctx context.Context, s *eventStream) error {
	wait := 100 * time.Millisecond
	lost, told := time.Time{}, false
	for {
		last := s.last
		ended, err := c.follow(ctx, s)
		var refused *Error
		switch {
		case ended:
			return nil
		case s.failed != nil:
			return s.failed
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &refused) && refused.Status < 500:
			return err
		case s.last != last || lost.IsZero():
			wait, lost = 100*time.Millisecond, time.Now()
			told = false
		case !told && time.Since(lost) > soon: // a farm that restarts may be back before anybody wonders
			told = true
			if c.Lost != nil {
				c.Lost(err, patience)
			}
		case time.Since(lost) > patience:
			return fmt.Errorf("the bake's events broke off %s ago: %w", patience, err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		}
	}
}

// eventStream is what lasts from one connection to the next.
type eventStream struct {
	id     string
	query  url.Values
	fn     func(farm.Event) error
	last   string // ID of the last event
	failed error  // of fn
}

// follow reads one connection. ended is true after the farm has said that the stream is complete.
func (c *Client) follow(ctx context.Context, s *eventStream) (ended bool, err error) {
	header := http.Header{"Accept": {"text/event-stream"}}
	if s.last != "" {
		header.Set("Last-Event-ID", s.last)
	}
	resp, err := c.request(ctx, http.MethodGet, "/v1/bakes/"+segment(s.id)+"/events", s.query, header, nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()

	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(make([]byte, 0, 64<<10), maxEvent)
	var id, kind, data string
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimPrefix(value, " ")
		switch field {
		case "id":
			id = value
		case "event":
			kind = value
		case "data":
			data += value
		case "":
			if lines.Text() != "" {
				continue // a comment, which keeps the connection alive
			}
			if kind == "end" {
				return true, nil
			}
			if err := s.take(id, data); err != nil {
				return false, err
			}
			kind, data = "", ""
		}
	}
	if err := lines.Err(); err != nil {
		return false, err
	}
	return false, io.ErrUnexpectedEOF
}

// take gives one event to fn.
func (s *eventStream) take(id, data string) error {
	if data == "" {
		return nil
	}
	var event farm.Event
	if err := json.Unmarshal([]byte(data), &event); err != nil {
		return fmt.Errorf("event %s can't be read: %w", id, err)
	}
	if s.failed = s.fn(event); s.failed != nil {
		return s.failed
	}
	if id != "" {
		s.last = id
	}
	return nil
}
