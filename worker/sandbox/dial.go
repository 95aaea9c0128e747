package sandbox

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Dialer connects to TCP ports that a command listens on, in the network of its own that it has. The helper there makes
// the connections and hands them over:
//
//	caller ── port ──▶ helper ── connect 127.0.0.1:port in its network namespace
//	       ◀── socket ──
//
// A Dialer is for one Run. The caller closes it.
type Dialer struct {
	mu   sync.Mutex
	near *net.UnixConn
	far  *os.File
}

// dialPatience bounds one connection, there: whoever listens on a loopback interface accepts at once.
const dialPatience = 3 * time.Second

// NewDialer makes a Dialer.
func NewDialer() (*Dialer, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("sandbox: %w", err)
	}
	near, far := os.NewFile(uintptr(fds[0]), "dialer"), os.NewFile(uintptr(fds[1]), "dialer")
	conn, err := net.FileConn(near)
	near.Close()
	if err != nil {
		return nil, errors.Join(err, far.Close())
	}
	return &Dialer{near: conn.(*net.UnixConn), far: far}, nil
}

// Close ends the Dialer. Connections that it has made stay.
func (d *Dialer) Close() error { return errors.Join(d.near.Close(), d.far.Close()) }

// Dial connects to a port. One after the other.
func (d *Dialer) Dial(ctx context.Context, port int) (net.Conn, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	// An answer is always waited for: a late one would be taken for the next one's.
	if err := d.near.SetDeadline(time.Now().Add(2 * dialPatience)); err != nil {
		return nil, err
	}
	if _, err := d.near.Write(binary.BigEndian.AppendUint16(nil, uint16(port))); err != nil {
		return nil, fmt.Errorf("port %d: nothing runs yet, or any more: %w", port, err)
	}
	text, rights := make([]byte, 512), make([]byte, unix.CmsgSpace(4))
	n, nr, _, _, err := d.near.ReadMsgUnix(text, rights)
	if err != nil {
		d.near.Close()
		return nil, fmt.Errorf("port %d: nothing runs yet, or any more: %w", port, err)
	}
	if nr == 0 {
		return nil, fmt.Errorf("port %d: %s", port, text[:n])
	}
	messages, err := unix.ParseSocketControlMessage(rights[:nr])
	if err != nil || len(messages) != 1 {
		return nil, fmt.Errorf("port %d: %d messages: %w", port, len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return nil, fmt.Errorf("port %d: %d sockets: %w", port, len(fds), err)
	}
	socket := os.NewFile(uintptr(fds[0]), "connection")
	defer socket.Close()
	return net.FileConn(socket)
}

// serveDialer is the helper's part, until its end.
func serveDialer(far *os.File) {
	conn, err := net.FileConn(far)
	if err != nil {
		return
	}
	answers := conn.(*net.UnixConn)
	for port := make([]byte, 2); ; {
		if _, err := io.ReadFull(answers, port); err != nil {
			return
		}
		text, rights := dialHere(binary.BigEndian.Uint16(port))
		if len(text) > 500 {
			text = text[:500]
		}
		if _, _, err := answers.WriteMsgUnix([]byte(text), rights.message, nil); err != nil {
			return
		}
		rights.close()
	}
}

// passed is a socket on its way.
type passed struct {
	message []byte
	close   func()
}

// dialHere connects to a port of this network namespace's loopback interface.
func dialHere(port uint16) (string, passed) {
	refused := func(err error) (string, passed) {
		var syscall *os.SyscallError
		if errors.As(err, &syscall) {
			err = syscall.Err
		}
		return err.Error(), passed{close: func() {}}
	}
	var conn net.Conn
	var err error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err = net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(port)), dialPatience)
		if err == nil {
			break
		}
	}
	if err != nil {
		return refused(err)
	}
	f, err := conn.(*net.TCPConn).File()
	conn.Close()
	if err != nil {
		return refused(err)
	}
	return "ok", passed{unix.UnixRights(int(f.Fd())), func() { f.Close() }}
}
