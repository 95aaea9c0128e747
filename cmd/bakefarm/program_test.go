package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// parts is a program of three parts that write down their ends.
type parts struct {
	*program
	ended []string
}

func newParts(ctx context.Context) *parts {
	p := &parts{program: newProgram(ctx, quiet())}
	p.closes("bus", func() error { p.ended = append(p.ended, "bus"); return nil })
	p.runs("worker", func(ctx context.Context) error {
		<-ctx.Done()
		time.Sleep(time.Second) // what it does last
		p.ended = append(p.ended, "worker")
		return ctx.Err()
	})
	p.runs("api", func(ctx context.Context) error {
		<-ctx.Done()
		p.ended = append(p.ended, "api")
		return nil
	})
	return p
}

func TestProgramStopsInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := newParts(ctx)
		time.AfterFunc(time.Hour, stop)
		started := time.Now()
		if err := p.wait(); err != nil {
			t.Errorf("asked to stop, it ended with %v", err)
		}
		if want := []string{"api", "worker", "bus"}; !slices.Equal(p.ended, want) {
			t.Errorf("stopped %v, want %v", p.ended, want)
		}
		if took := time.Since(started); took != time.Hour+time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestProgramEndsWithThePartThatFails(t *testing.T) {
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		run  func(context.Context) error
		want string
	}{
		"fails":   {func(context.Context) error { return broken }, "deploy: broken"},
		"returns": {func(context.Context) error { return nil }, "deploy: ended by itself"},
		// A context of its own that ends is no excuse.
		"cancelled": {func(context.Context) error { return context.Canceled }, "deploy: context canceled"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newParts(t.Context())
				p.runs("deploy", c.run)
				if err := p.wait(); err == nil || err.Error() != c.want {
					t.Errorf("got error %v, want %s", err, c.want)
				}
				if want := []string{"api", "worker", "bus"}; !slices.Equal(p.ended, want) {
					t.Errorf("stopped %v, want %v", p.ended, want)
				}
			})
		})
	}
}

// Whoever can't start all parts stops those that were.
func TestProgramThatFailsToStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newParts(t.Context())
		p.stop()
		if want := []string{"api", "worker", "bus"}; !slices.Equal(p.ended, want) {
			t.Errorf("stopped %v, want %v", p.ended, want)
		}
	})
}

func TestProgramDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, stop := context.WithCancel(t.Context())
		p := newParts(ctx)
		release := make(chan struct{})
		p.runs("stubborn", func(context.Context) error { <-release; return nil })
		stop()
		started := time.Now()
		if err := p.wait(); err != nil {
			t.Error(err)
		}
		if took := time.Since(started); took != stopTime {
			t.Errorf("it gave up after %v, want %v", took, stopTime)
		}
		close(release)
		time.Sleep(time.Minute) // for the rest of the parts
	})
}

// A server that stops lets short requests finish, and ends long ones.
func TestServe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	stopping := make(chan struct{})
	began := make(chan struct{}, 2)
	mux := http.NewServeMux()
	mux.HandleFunc("/short", func(w http.ResponseWriter, _ *http.Request) {
		began <- struct{}{}
		<-stopping
		io.WriteString(w, "done")
	})
	mux.HandleFunc("/stream", func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).Flush()
		began <- struct{}{}
		<-r.Context().Done()
		io.WriteString(w, "end")
	})
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error, 1)
	go func() { served <- serve(ctx, l, mux) }()

	answers := make(chan string, 2)
	for _, path := range []string{"/short", "/stream"} {
		go func() {
			resp, err := http.Get("http://" + l.Addr().String() + path)
			if err != nil {
				answers <- path + ": " + err.Error()
				return
			}
			defer resp.Body.Close()
			body, err := io.ReadAll(resp.Body)
			if err != nil {
				answers <- path + ": " + err.Error()
				return
			}
			answers <- path + ": " + string(body)
		}()
	}
	<-began
	<-began
	started := time.Now()
	stop()
	close(stopping)
	got := []string{<-answers, <-answers}
	slices.Sort(got)
	if want := []string{"/short: done", "/stream: end"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if took := time.Since(started); took > 3*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if _, err := net.Dial("tcp", l.Addr().String()); err == nil {
		t.Error("it still listens")
	}
}

func TestBindLoopback(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for address, want := range map[string]string{
		"":                      "want host:port",
		"127.0.0.1":             "want host:port",
		":7667":                 "only loopback addresses",
		"0.0.0.0:0":             "only loopback addresses",
		"[::]:0":                "only loopback addresses",
		"192.0.2.1:0":           "only loopback addresses",
		"example.org:80":        "only loopback addresses",
		"localhost.evil.org:80": "only loopback addresses",
		"127.0.0.1:99999":       "invalid port",
		taken.Addr().String():   "address already in use",
	} {
		l, err := bindLoopback(address, "--listen")
		if err == nil {
			l.Close()
			t.Errorf("%q: bound", address)
			continue
		}
		var usage usageError
		if !errors.As(err, &usage) || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "--listen ") {
			t.Errorf("%q: %v; want a usage error with %q", address, err, want)
		}
	}
	for _, address := range []string{"127.0.0.1:0", "127.8.8.8:0", "localhost:0"} {
		l, err := bindLoopback(address, "--listen")
		if err != nil {
			t.Errorf("%s: %v", address, err)
			continue
		}
		l.Close()
	}
}
