package bus

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// Cluster says which embedded servers are one NATS: each process has its own directory, listens for the others, and knows
// where some of them are. JetStream keeps every record on a majority of them, so that of three one may be lost.
type Cluster struct {
	Name      string   // the same for all; empty: the farm's name
	Listen    string   // host:port for the other servers
	Advertise string   // host:port under which the other servers reach it, where that is not Listen
	Routes    []string // host:port of the other servers, or of all: a server finds out which one it is itself
}

const (
	clusterReplicas = 3
	natsUser        = "bakefarm" // who says the secret
	maxRoutes       = 64
)

// on reports whether there is a cluster to be formed.
func (c Cluster) on() bool { return c.Listen != "" || len(c.Routes) > 0 }

// joinCluster sets up the server's part in the cluster, if there is to be one.
func (c *Config) joinCluster(opts *server.Options) error {
	if !c.Cluster.on() {
		return nil
	}
	if c.Cluster.Listen == "" || len(c.Cluster.Routes) == 0 {
		return errors.New("bus: a cluster needs both: an address on which the other servers reach this one, and routes to them")
	}
	if len(c.Cluster.Routes) > maxRoutes {
		return fmt.Errorf("bus: %d routes: at most %d", len(c.Cluster.Routes), maxRoutes)
	}
	host, port, err := c.listenAddress(c.Cluster.Listen)
	if err != nil {
		return err
	}
	opts.Cluster = server.ClusterOpts{Name: c.Cluster.Name, Host: host, Port: port, Advertise: c.Cluster.Advertise}
	if err := advertised(c.Cluster.Advertise); err != nil {
		return err
	}
	if opts.Cluster.Name == "" {
		opts.Cluster.Name = c.Farm
	}
	if strings.ContainsAny(opts.Cluster.Name, " \t\n") {
		return fmt.Errorf("bus: cluster name %q: want no spaces", opts.Cluster.Name)
	}
	if c.Secret != "" {
		opts.Cluster.Username, opts.Cluster.Password = natsUser, c.Secret
	}
	for _, route := range c.Cluster.Routes {
		address := strings.TrimPrefix(route, "nats://")
		if host, port, err := net.SplitHostPort(address); err != nil || host == "" || port == "" {
			return fmt.Errorf("bus: route %q: want host:port, such as coordinator-1:6222", Redact(route))
		}
		u := &url.URL{Scheme: "nats", Host: address}
		if c.Secret != "" {
			u.User = url.UserPassword(natsUser, c.Secret)
		}
		opts.Routes = append(opts.Routes, u)
	}
	if opts.DontListen { // routing begins when clients are served: serve whoever is on this machine, and tell nobody
		opts.DontListen, opts.Host, opts.Port = false, "127.0.0.1", server.RANDOM_PORT
		opts.Cluster.NoAdvertise = true
	}
	// A server that is away must be noticed well within a lease.
	opts.Cluster.PingInterval, opts.Cluster.MaxPingsOut = 2*time.Second, 2
	return nil
}

// nodeName names the server in its cluster for as long as its directory lives: JetStream counts replicas by these names, and
// a host's name may change with each start.
func nodeName(dir string) (string, error) {
	file := filepath.Join(dir, "node")
	raw, err := os.ReadFile(file)
	if name := strings.TrimSpace(string(raw)); err == nil && name != "" {
		return name, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("bus: %w", err)
	}
	name := "node-" + strings.ToLower(rand.Text()[:12])
	if err := os.WriteFile(file, []byte(name+"\n"), 0o600); err != nil {
		return "", fmt.Errorf("bus: %w", err)
	}
	return name, nil
}
