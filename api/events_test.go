package api_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/api/client"
	"bakefarm/farm"
)

// sent is one server-sent event.
type sent struct{ id, kind, data string }

// events reads a bake's events to the end of the answer.
func (s *service) events(id, last, query string) []sent {
	s.t.Helper()
	header := []string{}
	if last != "" {
		header = append(header, "Last-Event-ID", last)
	}
	a := s.send("GET", "/v1/bakes/"+id+"/events"+query, nil, header...)
	if a.status != 200 || a.header.Get("Content-Type") != "text/event-stream" {
		s.t.Fatalf("%d %v %s", a.status, a.header, a.raw)
	}
	return parseEvents(s.t, a.raw)
}

func parseEvents(t testing.TB, raw []byte) []sent {
	t.Helper()
	var all []sent
	var e sent
	lines := bufio.NewScanner(bytes.NewReader(raw))
	for lines.Scan() {
		field, value, _ := strings.Cut(lines.Text(), ": ")
		switch field {
		case "id":
			e.id = value
		case "event":
			e.kind = value
		case "data":
			e.data = value
		case "":
			if e.kind != "" {
				all = append(all, e)
			}
			e = sent{}
		default:
			t.Fatalf("line %q", lines.Text())
		}
	}
	return all
}

// words says of each event what it is: "accepted", "log hello", "end".
func words(t testing.TB, events []sent) []string {
	t.Helper()
	list := []string{}
	for _, s := range events {
		if s.kind == "end" {
			list = append(list, "end")
			continue
		}
		var e farm.Event
		if err := json.Unmarshal([]byte(s.data), &e); err != nil || string(e.Type) != s.kind {
			t.Errorf("%+v: %v", s, err)
		}
		list = append(list, word(e))
	}
	return list
}

func word(e farm.Event) string {
	if e.Type == farm.EventBake {
		return string(e.State)
	}
	return string(e.Type) + " " + e.Line
}

func line(id, text string) farm.Event {
	return farm.Event{Type: farm.EventLog, Bake: id, Line: text}
}

func state(id string, s farm.BakeState) farm.Event {
	return farm.Event{Type: farm.EventBake, Bake: id, State: s}
}

func want(t testing.TB, got []string, want ...string) {
	t.Helper()
	if !slices.Equal(got, want) {
		t.Errorf("got %q\nwant %q", got, want)
	}
}

func TestEventsLive(t *testing.T) {
	s := serve(t)
	s.bake(farm.Bake{ID: "01A", State: farm.BakeAccepted})
	s.event(state("01A", farm.BakeAccepted))
	s.event(line("01OTHER", "of another bake"))
	s.event(line("01A", "one"))
	resp, err := http.Get(s.server.URL + "/v1/bakes/01A/events")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	arrived := make(chan string)
	go func() {
		defer close(arrived)
		lines := bufio.NewScanner(resp.Body)
		for lines.Scan() {
			if data, ok := strings.CutPrefix(lines.Text(), "data: "); ok {
				arrived <- data
			}
		}
	}()
	next := func() string {
		select {
		case data := <-arrived:
			var e farm.Event
			if err := json.Unmarshal([]byte(data), &e); err != nil {
				t.Fatal(err)
			}
			return word(e)
		case <-time.After(10 * time.Second):
			t.Fatal("no event")
			return ""
		}
	}
	want(t, []string{next(), next()}, "accepted", "log one")
	s.event(line("01A", "two")) // each arrives when it happens, not later
	want(t, []string{next()}, "log two")
	s.event(state("01A", farm.BakeBaking))
	want(t, []string{next()}, "baking")
	s.event(state("01A", farm.BakeFailed))
	want(t, []string{next(), next()}, "failed", " ")
	if data, ok := <-arrived; ok {
		t.Errorf("after the end: %s", data)
	}
}

func TestEventsResume(t *testing.T) {
	s := serve(t)
	s.bake(farm.Bake{ID: "01A", State: farm.BakeDone, DoneAt: time.Now()})
	for _, e := range []farm.Event{state("01A", farm.BakeAccepted), line("01A", "one"), line("01A", "two"), state("01A", farm.BakeDone)} {
		s.event(e)
	}
	all := s.events("01A", "", "")
	want(t, words(t, all), "accepted", "log one", "log two", "done", "end")
	for i, e := range all[:4] {
		if e.id == "" || i > 0 && e.id <= all[i-1].id {
			t.Errorf("event %d has ID %q", i, e.id)
		}
		rest := []string{"log one", "log two", "done", "end"}[i:]
		want(t, words(t, s.events("01A", e.id, "")), rest...)
	}
	for _, bad := range []string{"x", "-1", "log-", "log-x", "99999999999999999999"} {
		if a := s.send("GET", "/v1/bakes/01A/events", nil, "Last-Event-ID", bad); a.status != 422 {
			t.Errorf("Last-Event-ID %q: %d %s", bad, a.status, a.raw)
		}
	}
	if a := s.send("GET", "/v1/bakes/01A/events?follow=perhaps", nil); a.status != 422 {
		t.Errorf("follow=perhaps: %d %s", a.status, a.raw)
	}
}

func TestEventsSoFar(t *testing.T) {
	s := serve(t)
	s.bake(farm.Bake{ID: "01A", State: farm.BakeBaking})
	want(t, words(t, s.events("01A", "", "?follow=false")), "end")
	s.event(state("01A", farm.BakeAccepted))
	s.event(line("01A", "one"))
	want(t, words(t, s.events("01A", "", "?follow=false")), "accepted", "log one", "end")
}

// A bake that was done when it was accepted says so at once, whether or not its events have been published yet.
func TestEventsOfCachedBake(t *testing.T) {
	s := serve(t)
	now := time.Now()
	s.bake(farm.Bake{ID: "01A", State: farm.BakeDone, Cached: true, AcceptedAt: now, DoneAt: now})
	want(t, words(t, s.events("01A", "", "")), "done", "end")
	s.event(state("01A", farm.BakeAccepted))
	want(t, words(t, s.events("01A", "", "")), "accepted", "done", "end")
	s.event(state("01A", farm.BakeDone))
	want(t, words(t, s.events("01A", "", "")), "accepted", "done", "end")
}

// When the events have left the stream, the stored log has them.
func TestEventsFromLog(t *testing.T) {
	s := serve(t)
	var log []byte
	for _, e := range []farm.Event{state("01A", farm.BakeAccepted), line("01A", "one"), line("01A", "two"), state("01A", farm.BakeDone)} {
		raw, err := json.Marshal(e)
		if err != nil {
			t.Fatal(err)
		}
		log = append(append(log, raw...), '\n')
	}
	s.bake(farm.Bake{ID: "01A", State: farm.BakeDone, DoneAt: time.Now(), Log: s.Put(t, log)[0]})
	all := s.events("01A", "", "")
	want(t, words(t, all), "accepted", "log one", "log two", "done", "end")
	want(t, words(t, s.events("01A", all[1].id, "")), "log two", "done", "end")
	want(t, words(t, s.events("01A", all[3].id, "")), "end")
	// The end of the story is still in the stream, its beginning is not.
	s.event(line("01A", "two"))
	s.event(state("01A", farm.BakeDone))
	want(t, words(t, s.events("01A", "", "")), "accepted", "log one", "log two", "done", "end")
	// Whoever has followed the stream so far goes on in it.
	live := s.events("01A", "1", "")
	want(t, words(t, live), "done", "end")
}

// proxy hands requests on to the API and cuts each event stream after some bytes.
func (s *service) proxy(cut int) *client.Client {
	return s.through(func(w http.ResponseWriter, r *http.Request, hand http.Handler) {
		if strings.HasSuffix(r.URL.Path, "/events") {
			w = &cutWriter{w, cut}
		}
		hand.ServeHTTP(w, r)
	})
}

// through is a client whose requests pass through serve on their way to the API, hand.
func (s *service) through(serve func(w http.ResponseWriter, r *http.Request, hand http.Handler)) *client.Client {
	s.t.Helper()
	target, err := url.Parse(s.server.URL)
	if err != nil {
		s.t.Fatal(err)
	}
	hand := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { serve(w, r, hand) }))
	s.t.Cleanup(server.Close)
	c, err := client.New(server.URL, "")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(c.Close)
	return c
}

type cutWriter struct {
	http.ResponseWriter
	left int
}

func (w *cutWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		http.NewResponseController(w.ResponseWriter).Flush()
		panic(http.ErrAbortHandler)
	}
	return w.ResponseWriter.Write(p)
}

// The Go client follows a bake over connections that break again and again: every event once, in order.
func TestFollowOverBrokenConnections(t *testing.T) {
	s := serve(t)
	s.bake(farm.Bake{ID: "01A", State: farm.BakeBaking})
	s.event(state("01A", farm.BakeAccepted))
	const n = 60
	expected := []string{"accepted"}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for i := range n {
			if err := s.Bus.PublishEvent(context.Background(), line("01A", fmt.Sprint(i))); err != nil {
				t.Error(err)
			}
		}
		if err := s.Bus.PublishEvent(context.Background(), state("01A", farm.BakeDone)); err != nil {
			t.Error(err)
		}
	}()
	for i := range n {
		expected = append(expected, fmt.Sprint("log ", i))
	}
	expected = append(expected, "done")
	var got []string
	if err := s.proxy(2500).Follow(t.Context(), "01A", func(e farm.Event) error {
		got = append(got, word(e))
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	<-done
	want(t, got, expected...)
	stop := errors.New("enough")
	if err := s.client.Follow(t.Context(), "01A", func(farm.Event) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
	got = nil
	if err := s.client.EventsSoFar(t.Context(), "01A", func(e farm.Event) error { got = append(got, word(e)); return nil }); err != nil {
		t.Error(err)
	}
	want(t, got, expected...)
}

// A client that goes away, or a server that stops, leaves no one behind: goleak looks at the end.
func TestFollowerGone(t *testing.T) {
	s := serve(t)
	s.bake(farm.Bake{ID: "01A", State: farm.BakeBaking})
	s.event(state("01A", farm.BakeAccepted))
	ctx, cancel := context.WithCancel(t.Context())
	if err := s.client.Follow(ctx, "01A", func(farm.Event) error { cancel(); return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

// Who waits for a farm that has gone away is told so.
func TestFollowerIsToldOfSilence(t *testing.T) {
	silent := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusBadGateway) }))
	defer silent.Close()
	c, err := client.New(silent.URL, "")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	told := 0
	c.Lost = func(err error, patience time.Duration) {
		if err == nil || patience < time.Minute {
			t.Errorf("%v for %v", err, patience)
		}
		told++
		time.AfterFunc(2*time.Second, cancel)
	}
	if err := c.Follow(ctx, "01A", func(farm.Event) error { return nil }); !errors.Is(err, context.Canceled) || told != 1 {
		t.Errorf("told %d times, %v", told, err)
	}
}
