package main

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/deploy"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/faults"
	"bakefarm/imagestore/remote"
	"bakefarm/imagestore/s3store"
	"bakefarm/worker"
	"bakefarm/worker/bootkeys"
	"bakefarm/worker/mirror"
	"bakefarm/worker/sandbox"

	"github.com/dustin/go-humanize"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
)

// recentBytes is what a whole farm in a process remembers of the pieces that it has just written: an app's files on their way
// from the API to the workers beside it. A worker on its own has its cache.
const recentBytes = 24 << 20

// A role is which part of a farm a process runs.
type role string

const (
	roleWhole       role = "farm"
	roleCoordinator role = "coordinator"
	roleAPI         role = "api"
	roleWorker      role = "worker"
)

// writesLedger reports whether the role writes the packs' ledger itself, rather than asking a coordinator.
func (r role) writesLedger() bool { return r == roleWhole || r == roleCoordinator }

// listenFlag is the flag that says where the role listens.
func (r role) listenFlag() string {
	if r == roleAPI {
		return "listen"
	}
	return "health-listen"
}

// connections are what every role works with.
type connections struct {
	bus     *bus.Bus
	store   *s3store.Store
	catalog *catalog.Catalog
}

// reachable is nil when the S3 service answers within two seconds.
func (c *connections) reachable() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	return c.store.Ping(ctx)
}

// connect opens the bus, the catalog and the store. What can't be reached is tried again with back-off until the program
// stops; the log says each time which address and why, and waiting is told too. What refuses is a
// usageError at once.
func (s *settings) connect(p *program, data *dataDir, where storage, r role, waiting func(string, ...any), log *slog.Logger) (*connections, error) {
	ctx := p.ctx
	if s.nats == "" {
		waiting("the embedded NATS server is starting")
	} else {
		waiting("NATS at %s is not reached yet", bus.Redact(s.nats))
	}
	name := processName()
	b, err := bus.Open(ctx, bus.Config{
		URL: s.nats, Farm: s.farmName, Name: name, Replicas: s.replicas, Log: log,
		Dir: data.sub("nats"), Listen: s.natsListn, Advertise: s.natsShown, Secret: s.natsKey, Trusting: s.trusting,
		Cluster: bus.Cluster{Name: s.cluster, Listen: s.clusterAt, Advertise: s.routeAt, Routes: s.routes},
	})
	if errors.Is(err, bus.ErrInUse) {
		return nil, usageError{err}
	}
	if err != nil {
		return nil, err
	}
	p.closes("bus", b.Close)
	if url := b.ClientURL(); url != "" && s.natsListn != "" {
		log.Info("the embedded NATS server listens", "url", url)
	}

	var packs imagestore.Ledger = b.RemoteLedger()
	if r.writesLedger() {
		packs = b.Ledger()
	}
	packs = ledger{packs}
	var feeds *catalog.Feeds
	if r != roleWorker {
		feeds = &catalog.Feeds{Versions: b.Versions, Channels: b.Channels, Usage: b.Usage, Deployments: b.Deployments}
	}
	index, err := catalog.Open(data.sub("catalog.db"), packs, feeds, log)
	if err != nil {
		return nil, err
	}
	p.closes("catalog", index.Close)

	transport := where.transport
	if s.s3Faults != "" {
		schedule, err := faults.Parse(s.s3Faults)
		if err != nil {
			return nil, usagef("--s3-faults: %w", err)
		}
		if transport == nil {
			transport = http.DefaultTransport
		}
		transport = faults.New(transport, schedule...)
	}
	client, bucket, prefix, err := s3store.Dial(where.url, transport)
	if err != nil {
		return nil, usagef("--s3: %w", err)
	}
	sse, err := s3store.Encryption(where.url)
	if err != nil {
		return nil, usagef("--s3: %w", err)
	}
	checksum, err := s3store.ParseChecksum(where.url)
	if err != nil {
		return nil, usagef("--s3: %w", err)
	}
	waiting("S3 at %s is not reached yet", client.EndpointURL().Host)
	config := s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: packs, Locator: index, Writer: name, Log: log, Encryption: sse, Checksum: checksum}
	if r == roleWhole {
		config.Recent = recentBytes
	}
	store, err := s3store.Open(ctx, config)
	if errors.Is(err, s3store.ErrRefused) {
		return nil, usagef("--s3: %w", err)
	}
	if err != nil {
		return nil, err
	}
	p.closes("store", store.Close)
	if r.writesLedger() {
		if where.transport == nil { // a service that others have made
			err = store.Probe(ctx)
		}
		if err == nil {
			err = store.Claim(ctx, b.FarmID(), s.takeOver)
		}
		if errors.Is(err, s3store.ErrRefused) {
			return nil, usagef("--s3: %w", err)
		}
		if errors.Is(err, s3store.ErrForeign) {
			return nil, usagef("--s3: %w: give each farm a bucket or a prefix of its own (http://…/bucket/prefix). "+
				"If this farm's NATS was made anew and the images are to be its own from now on, say --take-over once: what no restored record names will be collected", err)
		}
		if err != nil {
			return nil, err
		}
	}
	p.runs("catalog", func(ctx context.Context) error { return index.Run(ctx, store.ReadIndex, catalog.ReadLocks(store)) })
	return &connections{b, store, index}, nil
}

// processName tells this process from others in records and logs, also from one before it that had the same number: in a
// container each is number 1.
var processName = sync.OnceValue(func() string {
	host := hostName()
	return host[:min(len(host), 40)] + "-" + strconv.Itoa(os.Getpid()) + "-" + strings.ToLower(rand.Text()[:4])
})

// startWorkers starts n workers that share this host's cache and processors.
func (s *settings) startWorkers(p *program, data *dataDir, c *connections, n int, log *slog.Logger) error {
	for _, l := range s.labels {
		if err := farm.CheckLabel(l); err != nil {
			return usagef("--label: %w", err)
		}
	}
	has, err := s.has()
	if err != nil {
		return err
	}
	debian, err := mirror.New(p.ctx, mirror.Options{Cache: data.sub("mirror"), Log: log})
	if err != nil {
		return err
	}
	p.closes("mirror", func() error { debian.Close(); return nil })
	host, err := worker.OpenHost(data.sub("cache"), s.cache, has)
	if err != nil {
		return err
	}
	p.closes("workers' cache", host.Close)
	s.memoryUse.canSpare(host.Spare)
	host.Sandboxes = worker.OpenSandboxes(s.sandbox(data, log))
	p.closes("sandboxes", host.Sandboxes.Close)
	if host.Machines, err = worker.OpenMachines(data.sub("machines")); err != nil {
		return err
	}
	if host.BootKeys, err = bootkeys.Open(s.bootKeys); err != nil {
		return usagef("--boot-keys: %v", err)
	}
	labels := slices.Concat(s.labels, host.BootKeys.Labels())
	from := machineMirror{debian, os.Getenv("BAKEFARM_DEBIAN_MIRROR"), os.Getenv("BAKEFARM_DEBIAN_KEYRING")}
	ids := make([]string, n)
	for i := range ids {
		ids[i] = processName() + "-" + strconv.Itoa(i+1)
	}
	dead, err := data.succeed(ids)
	if err != nil {
		return err
	}
	// They stop together: one that stopped later would take what the others hand back.
	p.runs("workers", func(ctx context.Context) error {
		all, ctx := errgroup.WithContext(ctx)
		for i, id := range ids {
			config := worker.Config{
				Bus: c.bus, Store: c.store, Mirror: from, Images: s.registries(), ID: id, Slots: s.slots, Labels: labels,
				Host: host, Grace: s.drain, Patience: s.patience, Log: log,
			}
			if i == 0 {
				config.Succeeds = dead // one tells of them
			}
			all.Go(func() error { return worker.New(config).Run(ctx) })
		}
		return all.Wait()
	})
	return nil
}

// has is what the workers of this process have for shards, as far as it is said.
func (s *settings) has() (farm.Resources, error) {
	if s.cpus < 0 || s.cpus > 10_000 || s.cpus > 0 && s.cpus < 0.1 {
		return farm.Resources{}, usagef("--cpus %v: want a number of processors from 0.1, or 0 for all", s.cpus)
	}
	has := farm.Resources{CPU: int(s.cpus * 1000)}
	if s.memory != "" {
		n, err := humanize.ParseBytes(s.memory)
		if err != nil || n < 64<<20 || n > 1<<50 {
			return has, usagef("--memory %q: want a size from 64MiB, such as 4GiB", s.memory)
		}
		has.Memory = int64(n)
	}
	return has, nil
}

// sandbox is where code of images runs.
func (s *settings) sandbox(data *dataDir, log *slog.Logger) sandbox.Config {
	return sandbox.Config{Dir: data.sub("sandbox"), Runtime: os.Getenv("BAKEFARM_RUNTIME"), Log: log}
}

// registries is how registries are reached: to publish to, and for base images.
func (s *settings) registries() remote.Client {
	return remote.Client{Options: remote.Options{AuthFile: os.Getenv("REGISTRY_AUTH_FILE"), Insecure: s.insecure}}
}

// pusher publishes images of the store to other registries.
func (s *settings) pusher(store imagestore.Reader) deploy.PushFunc {
	options := s.registries().Options
	return func(ctx context.Context, manifest digest.Digest, target string) error {
		return remote.Push(ctx, store, manifest, target, options)
	}
}
