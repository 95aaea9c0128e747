package bus

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// maxPayload is the most that one message may carry, in bytes: the default of NATS, and so what an external server takes.
const maxPayload = 1 << 20

// embedded is a NATS server inside this process, with the lock on its directory.
type embedded struct {
	srv  *server.Server
	lock *os.File
}

// startServer starts a NATS server with JetStream in c.Dir. It has no signal handlers: stop must be called.
func startServer(ctx context.Context, c Config) (*embedded, error) {
	if c.Dir == "" {
		return nil, errors.New("bus: neither URL nor Dir is set: give the address of a NATS server or a directory for the embedded one")
	}
	opts := &server.Options{
		ServerName: c.Farm,
		DontListen: c.Listen == "",
		JetStream:  true,
		StoreDir:   c.Dir,
		SyncAlways: c.SyncAlways,
		MaxPayload: maxPayload,
		// By default JetStream reserves the streams' MaxBytes out of three quarters of the disk space that is free when it
		// starts, and fails on a disk that is merely rather full.
		JetStreamMaxStore: 1 << 50,
		NoSigs:            true,
	}
	if c.Secret != "" {
		opts.Username, opts.Password = natsUser, c.Secret
	}
	if c.Listen != "" {
		host, port, err := c.listenAddress(c.Listen)
		if err != nil {
			return nil, err
		}
		if err := advertised(c.Advertise); err != nil {
			return nil, err
		}
		opts.Host, opts.Port, opts.ClientAdvertise = host, port, c.Advertise
	}
	if err := c.joinCluster(opts); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("bus: make the directory of the embedded NATS server: %w", err)
	}
	lock, err := lockDir(c.Dir)
	if err != nil {
		return nil, err
	}
	if c.Cluster.on() {
		if opts.ServerName, err = nodeName(c.Dir); err != nil {
			return nil, errors.Join(err, lock.Close())
		}
	}
	srv, err := server.NewServer(opts)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("bus: embedded NATS server in %s: %w", c.Dir, err), lock.Close())
	}
	logger := &serverLog{log: c.Log}
	srv.SetLoggerV2(logger, false, false, false)
	e := &embedded{srv: srv, lock: lock}
	srv.Start()
	for !srv.ReadyForConnections(20*time.Millisecond) || !srv.JetStreamEnabled() {
		err := logger.failure()
		switch {
		case err != nil:
		case ctx.Err() != nil:
			err = context.Cause(ctx)
		case !srv.Running():
			err = errors.New("it stopped; its log says why")
		default:
			continue
		}
		return nil, errors.Join(fmt.Errorf("bus: embedded NATS server in %s did not start: %w", c.Dir, err), e.stop())
	}
	return e, nil
}

// stop waits until the server is down and the directory free.
func (e *embedded) stop() error {
	e.srv.Shutdown()
	e.srv.WaitForShutdown()
	return e.lock.Close()
}

// listenAddress splits host:port. Whoever reaches a server without a secret owns the farm: loopback only, unless the
// configuration says that the network is to be trusted.
func (c *Config) listenAddress(addr string) (host string, port int, err error) {
	host, p, err := net.SplitHostPort(addr)
	if err == nil {
		port, err = strconv.Atoi(p)
	}
	if err != nil || port < 0 || port > 65535 {
		return "", 0, fmt.Errorf("bus: listen address %q: want host:port, such as 127.0.0.1:4222", addr)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) && c.Secret == "" && !c.Trusting {
		return "", 0, fmt.Errorf("bus: listen address %q is not loopback, and the embedded NATS server has no authentication: say what others must know (Secret), or that the network is to be trusted", addr)
	}
	if port == 0 {
		port = server.RANDOM_PORT
	}
	return host, port, nil
}

// advertised checks the address that a server gives to others as its own; empty: the one on which it listens.
func advertised(addr string) error {
	if addr == "" {
		return nil
	}
	if host, port, err := net.SplitHostPort(addr); err != nil || host == "" || port == "" || port == "0" {
		return fmt.Errorf("bus: address to advertise %q: want host:port, such as c1.example:4222", addr)
	}
	return nil
}

// lockDir takes the lock on JetStream's directory: JetStream itself has none, and two servers on one directory destroy it.
// The kernel drops the lock with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("bus: lock the directory of the embedded NATS server: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("bus: directory %s is %w: stop it, or give this one a directory of its own", dir, ErrInUse)
		}
		return nil, fmt.Errorf("bus: lock %s: %w", f.Name(), err)
	}
	return f, nil
}
