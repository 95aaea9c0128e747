// Package bustest stands on the wire between a process and its NATS server, and does to it what networks do.
//
//	process ──▶ Wire ──▶ NATS server          Cut     connections break, and none can be made
//	                                          Hold    nothing passes, and nobody is told: packets are lost
//	                                          Delay   everything comes later
//	                                          Twice   messages are published twice: at-least-once delivery
//	                                          After   something happens after the nth message to some subject was published
//
// The last two read what clients of NATS send (the client protocol: PUB and HPUB), so they are for clients; the others are for
// any TCP, also the routes between servers.
package bustest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// A Wire is a TCP proxy in front of an address. It lets everything through until it is told otherwise; what it is told holds
// for connections that are open too.
type Wire struct {
	listener net.Listener
	to       string

	mu        sync.Mutex
	changed   chan struct{} // closed and made anew when held changes
	cut       bool
	held      bool
	delay     time.Duration
	twice     int // every so many messages; 0: none
	published int
	after     int // messages that match are still to come
	match     func(subject string) bool
	then      func()
	open      map[net.Conn]bool
	carrying  sync.WaitGroup
}

// New stands in front of an address until the test ends.
func New(t testing.TB, to string) *Wire {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &Wire{listener: l, to: to, changed: make(chan struct{}), open: map[net.Conn]bool{}}
	w.carrying.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.carrying.Go(func() { w.carry(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.Hold(false)
		w.Cut(true)
		w.carrying.Wait()
	})
	return w
}

// Address is where the wire begins: host:port.
func (w *Wire) Address() string { return w.listener.Addr().String() }

// Cut breaks every connection and refuses new ones, or stops doing that.
func (w *Wire) Cut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = cut
	if cut {
		for c := range w.open {
			c.Close()
		}
	}
}

// Hold keeps back everything that is sent, on connections that stay open, or lets it all go.
func (w *Wire) Hold(held bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.held = held
	close(w.changed)
	w.changed = make(chan struct{})
}

// Delay has every piece of what is sent, in both directions, wait.
func (w *Wire) Delay(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.delay = d
}

// Twice has every nth message that is published arrive twice; 0: none.
func (w *Wire) Twice(nth int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.twice = nth
}

// Published is how many messages clients have published.
func (w *Wire) Published() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.published
}

// After has then called when n more messages have been published whose subjects match (nil: all do): the last of them has been
// sent on, and nothing later is before then returns.
func (w *Wire) After(n int, match func(subject string) bool, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.after, w.match, w.then = n, match, then
}

func (w *Wire) carry(c net.Conn) {
	defer c.Close()
	w.mu.Lock()
	cut := w.cut
	w.mu.Unlock()
	if cut {
		return
	}
	other, err := net.DialTimeout("tcp", w.to, 5*time.Second)
	if err != nil {
		return
	}
	defer other.Close()
	w.mu.Lock()
	if w.cut {
		w.mu.Unlock()
		return
	}
	w.open[c], w.open[other] = true, true
	w.mu.Unlock()
	var both sync.WaitGroup
	pass := func(copy func() error) {
		both.Go(func() {
			_ = copy() // it ends when either side does, which is no news
			c.Close()
			other.Close()
		})
	}
	pass(func() error { _, err := io.Copy(late{w, c}, other); return err })
	pass(func() error { return w.publishing(late{w, other}, c) })
	both.Wait()
	w.mu.Lock()
	delete(w.open, c)
	delete(w.open, other)
	w.mu.Unlock()
}

// late writes when the wire lets it.
type late struct {
	w  *Wire
	to io.Writer
}

func (l late) Write(b []byte) (int, error) {
	for {
		l.w.mu.Lock()
		held, changed, delay := l.w.held, l.w.changed, l.w.delay
		l.w.mu.Unlock()
		if held {
			<-changed
			continue
		}
		if delay > 0 {
			time.Sleep(delay)
		}
		return l.to.Write(b)
	}
}

// publishing copies what a client sends, and knows the messages in it. What is no NATS passes as it is.
func (w *Wire) publishing(to io.Writer, from io.Reader) error {
	in := bufio.NewReaderSize(from, 64<<10)
	if first, err := in.Peek(8); err != nil || string(first) != "CONNECT " || w.between(in) {
		_, err := in.WriteTo(to)
		return err
	}
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return err
		}
		line = bytes.Clone(line)
		if !bytes.HasPrefix(line, []byte("PUB ")) && !bytes.HasPrefix(line, []byte("HPUB ")) {
			if _, err := to.Write(line); err != nil {
				return err
			}
			continue
		}
		words := bytes.Fields(line)
		if len(words) < 3 {
			return fmt.Errorf("bustest: %q", line)
		}
		size, err := strconv.Atoi(string(words[len(words)-1]))
		if err != nil || size < 0 || size > 64<<20 {
			return fmt.Errorf("bustest: %q", line)
		}
		message := append(line, make([]byte, size+2)...) // with its end of line
		if _, err := io.ReadFull(in, message[len(line):]); err != nil {
			return err
		}
		copies, then := w.count(string(words[1]))
		for range copies {
			if _, err := to.Write(message); err != nil {
				return err
			}
		}
		if then != nil {
			then()
		}
	}
}

// between reports whether the CONNECT is a server's, which routes.
func (w *Wire) between(in *bufio.Reader) bool {
	line, _ := in.Peek(in.Buffered())
	line, _, _ = bytes.Cut(line, []byte("\n"))
	return !bytes.Contains(line, []byte(`"lang"`))
}

// count counts a message to a subject. It returns how often it is to be sent, and what then happens.
func (w *Wire) count(subject string) (copies int, then func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.published++
	copies = 1
	if w.twice > 0 && w.published%w.twice == 0 {
		copies = 2
	}
	if w.then != nil && (w.match == nil || w.match(subject)) {
		if w.after--; w.after == 0 {
			then, w.then = w.then, nil
		}
	}
	return copies, then
}
