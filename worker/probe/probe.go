// Package probe asks a recipe's tests of something that runs: a virtual machine, a container.
//
// All tests are asked at the same time, again and again, each until it has passed or its time is over. Time begins when
// the thing itself does (Target.Begun): what starts it has its own patience.
package probe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"bakefarm/recipe"
)

// Target is what the tests are asked of.
type Target struct {
	// Dial connects to a TCP port of it.
	Dial func(ctx context.Context, port int) (net.Conn, error)
	// Output are the lines that it prints.
	Output *Output
	// Slow is by how much its processors are slower than this machine's own: the tests' times are that much longer. At
	// least 1.
	Slow int
	// Passed is told of each test that has passed, from several goroutines.
	Passed func(test recipe.Test, after time.Duration)
}

// Failure is a test that did not pass in its time.
type Failure struct {
	Test   recipe.Test
	Within time.Duration // that it had
	Slow   int           // times what the recipe says
	Last   error         // what the last try came to: no cause that another attempt might not have
}

func (e *Failure) Error() string {
	s := fmt.Sprintf("test %s: not within %s", e.Test, e.Within)
	if e.Slow > 1 {
		s += fmt.Sprintf(" (%s, %d times for an emulated processor)", e.Test.Within, e.Slow)
	}
	if e.Last != nil {
		s += ": " + e.Last.Error()
	}
	return s
}

const (
	tryAgain = 200 * time.Millisecond
	oneTry   = 10 * time.Second // of one try; times Slow
	maxBody  = 1 << 20
)

// All asks all tests and returns when all have passed, or with the first *Failure, or with ctx's cause.
func All(ctx context.Context, tests []recipe.Test, t Target) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	began := time.Now()
	var all sync.WaitGroup
	for _, test := range tests {
		all.Go(func() {
			if err := t.ask(ctx, test); err != nil {
				cancel(err)
				return
			}
			t.Passed(test, time.Since(began))
		})
	}
	all.Wait()
	return context.Cause(ctx)
}

// ask asks one test until it passes.
func (t Target) ask(ctx context.Context, test recipe.Test) error {
	within := test.Within * time.Duration(t.Slow)
	timed, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	var last error
	for {
		err := t.try(timed, test)
		if err == nil {
			return nil
		}
		if !errors.Is(err, context.DeadlineExceeded) || last == nil {
			last = err
		}
		select {
		case <-time.After(tryAgain):
			continue
		case <-timed.Done():
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return &Failure{test, within, t.Slow, last}
	}
}

// try asks once. Of the console it waits for as long as it may.
func (t Target) try(ctx context.Context, test recipe.Test) error {
	if test.Console != "" {
		return t.Output.await(ctx, test.Console)
	}
	ctx, cancel := context.WithTimeout(ctx, oneTry*time.Duration(t.Slow))
	defer cancel()
	switch {
	case test.HTTP != nil:
		return t.http(ctx, *test.HTTP)
	case test.TCP != nil:
		conn, err := t.Dial(ctx, test.TCP.Port)
		if err != nil {
			return err
		}
		return conn.Close()
	}
	return nil // boot: it has begun
}

// http asks over a connection of its own.
func (t Target) http(ctx context.Context, test recipe.HTTPTest) error {
	client := &http.Client{
		Transport: &http.Transport{
			DialContext:       func(ctx context.Context, _, _ string) (net.Conn, error) { return t.Dial(ctx, test.Port) },
			DisableKeepAlives: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://localhost:%d%s", test.Port, test.Path), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", "bakefarm")
	answer, err := client.Do(req)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(io.LimitReader(answer.Body, maxBody))
	switch {
	case test.Status != 0 && answer.StatusCode != test.Status, test.Status == 0 && (answer.StatusCode < 200 || answer.StatusCode > 399):
		return fmt.Errorf("it answers %s: %.200s", answer.Status, strings.TrimSpace(string(body)))
	case err != nil:
		return fmt.Errorf("answer: %w", err)
	case !bytes.Contains(body, []byte(test.Contains)):
		return fmt.Errorf("it answers without %q: %.200s", test.Contains, strings.TrimSpace(string(body)))
	}
	return nil
}

// Output is the lines that something prints: the last ones of them, and whoever waits for one.
type Output struct {
	mu      sync.Mutex
	lines   []string // the last keep
	waiting map[string]chan struct{}
	seen    map[string]bool
	texts   []string
}

// keep is how many lines stand in an error: the end says most.
const keep = 20

// NewOutput watches for the texts of tests.
func NewOutput(tests []recipe.Test) *Output {
	o := &Output{waiting: map[string]chan struct{}{}, seen: map[string]bool{}}
	for _, t := range tests {
		if t.Console != "" && o.waiting[t.Console] == nil {
			o.waiting[t.Console] = make(chan struct{})
			o.texts = append(o.texts, t.Console)
		}
	}
	return o
}

// Line takes a line.
func (o *Output) Line(line string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lines = append(o.lines, line)
	o.lines = o.lines[max(0, len(o.lines)-keep):]
	for _, text := range o.texts {
		if !o.seen[text] && strings.Contains(line, text) {
			o.seen[text] = true
			close(o.waiting[text])
		}
	}
}

// Tail are the last lines.
func (o *Output) Tail() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

func (o *Output) await(ctx context.Context, text string) error {
	select {
	case <-o.waiting[text]:
		return nil
	case <-ctx.Done():
		return errors.New("no line has it")
	}
}
