package vm

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"sync"
	"time"
)

// control talks to QEMU (QMP: docs/interop/qmp-spec). One command at a time.
type control struct {
	mu    sync.Mutex
	file  *os.File
	in    *bufio.Reader
	ready bool
}

// controlPatience bounds the wait for an answer: QEMU answers between two runs of the machine's processors.
const controlPatience = 20 * time.Second

func newControl(file *os.File) *control {
	return &control{file: file, in: bufio.NewReader(io.LimitReader(file, 64<<20))}
}

func (c *control) close() { c.file.Close() }

// do runs a command for people and returns what it prints.
func (c *control) do(command string) (string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.file.SetDeadline(time.Now().Add(controlPatience)); err != nil {
		return "", err
	}
	if !c.ready {
		if _, err := c.call(`{"execute":"qmp_capabilities"}`); err != nil {
			return "", err
		}
		c.ready = true
	}
	raw, err := json.Marshal(map[string]any{"execute": "human-monitor-command", "arguments": map[string]string{"command-line": command}})
	if err != nil {
		return "", err
	}
	return c.call(string(raw))
}

// call sends a command and waits for its answer, past the greeting and events.
func (c *control) call(command string) (string, error) {
	if _, err := io.WriteString(c.file, command+"\n"); err != nil {
		return "", fmt.Errorf("QEMU's monitor: %w", err)
	}
	for {
		line, err := c.in.ReadBytes('\n')
		if err != nil {
			return "", fmt.Errorf("QEMU's monitor: %w", err)
		}
		var answer struct {
			Return json.RawMessage `json:"return"`
			Error  *struct {
				Desc string `json:"desc"`
			} `json:"error"`
		}
		if err := json.Unmarshal(line, &answer); err != nil {
			return "", fmt.Errorf("QEMU's monitor: %w", err)
		}
		switch {
		case answer.Error != nil:
			return "", errors.New("QEMU's monitor: " + answer.Error.Desc)
		case answer.Return != nil:
			var text string
			if json.Unmarshal(answer.Return, &text) != nil {
				return "", nil // an object: that of qmp_capabilities
			}
			return text, nil
		}
	}
}

// connection is one that QEMU's network knows of ("info usernet"). Of those that it forwards it shows both ends of the
// way, and not whose connection it is: that is told by the descriptor, which is a new one.
type connection struct {
	state string // HOST_FORWARD: the port is listened on for the machine
	fd    int
	from  int // port here
	to    int // port of the machine
}

var usernet = regexp.MustCompile(`(?m)^\s*TCP\[([A-Z0-9_]+)\]\s+(\d+)\s+\S+\s+(\d+)\s+\S+\s+(\d+)\s`)

func parseUsernet(text string) []connection {
	var all []connection
	for _, m := range usernet.FindAllStringSubmatch(text, -1) {
		var n [3]int
		var err error
		for i := range n {
			if n[i], err = strconv.Atoi(m[i+2]); err != nil {
				break
			}
		}
		if err == nil {
			all = append(all, connection{m[1], n[0], n[1], n[2]})
		}
	}
	return all
}

// connections are those to a port of the machine, by descriptor, and the port here that leads to it.
func (c *control) connections(port int) (states map[int]string, forward int, err error) {
	text, err := c.do("info usernet")
	if err != nil {
		return nil, 0, err
	}
	states = make(map[int]string)
	for _, one := range parseUsernet(text) {
		switch {
		case one.to != port:
		case one.state == "HOST_FORWARD":
			forward = one.from
		default:
			states[one.fd] = one.state
		}
	}
	return states, forward, nil
}

// dialPatience is how long the machine has to accept: QEMU asks it again after some six seconds only.
const dialPatience = 5 * time.Second

// Dial connects to a port of the machine, one of Disk.Ports. QEMU accepts at once, whether or not anybody listens in the
// machine; so the connection counts when the machine has accepted it too. One after the other.
func (m *Machine) Dial(ctx context.Context, port int) (_ net.Conn, err error) {
	m.dialing.Lock()
	defer m.dialing.Unlock()
	ctx, cancel := context.WithTimeout(ctx, dialPatience)
	defer cancel()
	before, forward, err := m.control.connections(port)
	if err != nil {
		return nil, err
	}
	if forward == 0 {
		return nil, fmt.Errorf("port %d of the machine is not forwarded", port)
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(forward)))
	if err != nil {
		return nil, err
	}
	seen := 0
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, 200*time.Millisecond) {
		now, _, err := m.control.connections(port)
		if err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		waiting := false
		for fd, state := range now {
			switch {
			case before[fd] != "":
			case state == "SYN_SENT":
				waiting = true
			case state != "CLOSED":
				return conn, nil
			}
		}
		if seen++; !waiting && seen > 3 { // one that is refused may never be seen
			return nil, errors.Join(fmt.Errorf("port %d of the machine: connection refused", port), conn.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("port %d of the machine: no answer", port), conn.Close())
		case <-m.done:
			return nil, errors.Join(m.err, conn.Close())
		case <-time.After(pause):
		}
	}
}
