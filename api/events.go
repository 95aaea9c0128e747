package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"bakefarm/farm"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
)

const (
	heartbeat    = 15 * time.Second // between comments that keep a silent stream alive
	sendPatience = 30 * time.Second // for a client to take what it is sent
	maxLogLine   = 1 << 20          // bytes of one event in a stored log
	logID        = "log-"           // begins the IDs of events from a stored log, which has no sequences: then the line's number
)

type eventsInput struct {
	BakePath
	Follow bool   `query:"follow" default:"true" doc:"false: end after what has happened until now"`
	Last   string `header:"Last-Event-ID" maxLength:"64" doc:"The stream goes on after this event"`
}

func (a *API) routeEvents() {
	op := get("follow-bake", "/v1/bakes/{id}/events", "bakes", "Follow what happens to a bake", 404, 422)
	op.Description = "Server-sent events: data is an event as JSON, event its type, id its place. After the bake's last event comes one of type end, and the stream is complete; a stream that ends without it was broken off: ask again with Last-Event-ID."
	op.Responses = map[string]*huma.Response{"200": {
		Description: "The events, from the first or from Last-Event-ID on",
		Content: map[string]*huma.MediaType{"text/event-stream": {Schema: &huma.Schema{
			Type: huma.TypeArray, Description: "The data of the events", Items: schemaOf[farm.Event](a),
		}}},
	}}
	route(a, op, a.followBake)
}

func (a *API) followBake(ctx context.Context, in *eventsInput) (*huma.StreamResponse, error) {
	b, err := a.bake(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	after, err := parsePlace(in.Last)
	if err != nil {
		return nil, err
	}
	return &huma.StreamResponse{Body: func(hc huma.Context) {
		r, w := humago.Unwrap(hc)
		ctx, s := r.Context(), openStream(w)
		var err error
		switch {
		case after.log:
			err = a.sendLog(ctx, s, b, after.place)
		case b.State.Finished() || !in.Follow:
			err = a.sendSoFar(ctx, s, b, after.place)
		default:
			err = a.sendLive(ctx, s, b.ID, after.place)
		}
		if err == nil {
			s.end()
		} else if ctx.Err() == nil {
			a.Log.Warn("events broken off", "bake", b.ID, "err", err) // the client sees that the end is missing
		}
	}}, nil
}

// place is where a stream goes on.
type place struct {
	log   bool   // in the stored log: place counts lines
	place uint64 // 0: at the beginning
}

func parsePlace(last string) (place, error) {
	if last == "" {
		return place{}, nil
	}
	number, log := strings.CutPrefix(last, logID)
	n, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return place{}, at("header.Last-Event-ID", fmt.Errorf("Last-Event-ID %q: want the ID of an event of this stream", last))
	}
	return place{log, n}, nil
}

// isFinal reports whether a bake's events end with e.
func isFinal(e farm.Event) bool { return e.Type == farm.EventBake && e.State.Finished() }

// finalEvent is what the last event says, made from the record: the event itself may be lost, or not published yet.
func finalEvent(b farm.Bake) farm.Event {
	return farm.Event{Schema: farm.Schema, Type: farm.EventBake, Bake: b.ID, At: b.DoneAt, State: b.State, Error: b.Error}
}

// errIncomplete: the first events of a bake have left the event stream.
var errIncomplete = errors.New("the first events are gone")

// sendSoFar sends what has happened until now. For a bake that has ended this includes its end, also when the event of it
// is not there.
func (a *API) sendSoFar(ctx context.Context, s *eventStream, b farm.Bake, after uint64) error {
	ended, first := false, true
	// The event at after has been sent before; it is looked at because it may be the end.
	err := a.Bus.EventsSoFar(ctx, b.ID, max(after, 1)-1, func(seq uint64, e farm.Event) error {
		ended = ended || isFinal(e)
		if seq <= after {
			return nil
		}
		if first && after == 0 && b.Log != "" && !(e.Type == farm.EventBake && e.State == farm.BakeAccepted) {
			return errIncomplete
		}
		first = false
		return s.send(strconv.FormatUint(seq, 10), e)
	})
	switch {
	case errors.Is(err, errIncomplete), err == nil && first && !ended && after == 0 && b.Log != "":
		return a.sendLog(ctx, s, b, 0)
	case err == nil && b.State.Finished() && !ended:
		return s.send("", finalEvent(b))
	}
	return err
}

// sendLog sends the events of a finished bake from its stored log, without the first skip of them.
func (a *API) sendLog(ctx context.Context, s *eventStream, b farm.Bake, skip uint64) error {
	if b.Log == "" {
		return s.send("", finalEvent(b))
	}
	log, err := a.Store.Open(ctx, b.Log, 0, -1)
	if err != nil {
		return fmt.Errorf("log of bake %s: %w", b.ID, err)
	}
	defer log.Close()
	lines := bufio.NewScanner(log)
	lines.Buffer(make([]byte, 0, 64<<10), maxLogLine)
	for n := uint64(1); lines.Scan(); n++ {
		if n <= skip {
			continue
		}
		var e farm.Event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("log of bake %s: line %d: %w", b.ID, n, err)
		}
		if err := s.send(logID+strconv.FormatUint(n, 10), e); err != nil {
			return err
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("log of bake %s: %w", b.ID, err)
	}
	return nil
}

// sendLive sends events as they happen, until the bake has ended.
func (a *API) sendLive(ctx context.Context, s *eventStream, id string, after uint64) error {
	type numbered struct {
		seq   uint64
		event farm.Event
	}
	events, failed := make(chan numbered), make(chan error, 1)
	ctx, cancel := context.WithCancel(ctx)
	var reader sync.WaitGroup
	defer reader.Wait()
	defer cancel()
	reader.Go(func() {
		failed <- a.Bus.Events(ctx, id, after, func(seq uint64, e farm.Event) error {
			select {
			case events <- numbered{seq, e}:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	})
	tick := time.NewTicker(heartbeat)
	defer tick.Stop()
	overdue := false // the record says that the bake has ended, and so it did one heartbeat ago
	for {
		select {
		case e := <-events:
			if err := s.send(strconv.FormatUint(e.seq, 10), e.event); err != nil || isFinal(e.event) {
				return err
			}
		case err := <-failed:
			return err
		case <-tick.C:
			if err := s.beat(); err != nil {
				return err
			}
			b, err := a.bake(ctx, id)
			if err != nil {
				return err
			}
			if overdue {
				return s.send("", finalEvent(b))
			}
			overdue = b.State.Finished()
		}
	}
}

// eventStream writes server-sent events (WHATWG HTML, section 9.2).
type eventStream struct {
	w       http.ResponseWriter
	control *http.ResponseController
}

func openStream(w http.ResponseWriter) *eventStream {
	header := w.Header()
	header.Set("Content-Type", "text/event-stream")
	header.Set("Cache-Control", "no-store")
	header.Set("X-Accel-Buffering", "no") // nginx would hold events back
	s := &eventStream{w, http.NewResponseController(w)}
	w.WriteHeader(http.StatusOK)
	s.control.Flush()
	return s
}

// send writes one event; id is empty for one that the stream can't be resumed after.
func (s *eventStream) send(id string, e farm.Event) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	var head string
	if id != "" {
		head = "id: " + id + "\n"
	}
	return s.write(fmt.Sprintf("%sevent: %s\ndata: %s\n\n", head, e.Type, data))
}

// beat writes a comment: proxies and clients see that the stream is alive.
func (s *eventStream) beat() error { return s.write(": still here\n\n") }

// end says that the stream is complete.
func (s *eventStream) end() { s.write("event: end\ndata: {}\n\n") } // a client that has gone needs no end

func (s *eventStream) write(text string) error {
	s.control.SetWriteDeadline(time.Now().Add(sendPatience))
	if _, err := s.w.Write([]byte(text)); err != nil {
		return err
	}
	return s.control.Flush()
}
