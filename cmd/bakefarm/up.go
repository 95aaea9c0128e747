package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"bakefarm/api"
	"bakefarm/api/registry"
	"bakefarm/api/usage"
	"bakefarm/coordinator"
	"bakefarm/deploy"
	garbage "bakefarm/imagestore/collect"
	"bakefarm/imagestore/remote"
	"bakefarm/upkeep"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spf13/cobra"
)

func newUp() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run a whole farm in one process: NATS, S3, a coordinator, workers, the API",
		Example: `  bakefarm up
  bakefarm up --data /srv/bakefarm --workers 4 --s3 http://KEY:SECRET@s3.example:9000/images`,
		RunE: func(cmd *cobra.Command, _ []string) error { return s.up(cmd) },
	}
	s.whole(cmd)
	s.coordinates(cmd)
	s.works(cmd)
	s.serves(cmd)
	flags := cmd.Flags()
	flags.IntVar(&s.workers, "workers", 2, "workers in this process; 0 when others do the work")
	flags.StringVar(&s.s3Listen, "s3-listen", "", "address on which the embedded S3 server serves other processes too")
	s.profiled(cmd)
	return s.configured(cmd)
}

// up runs the farm until the command's context ends.
func (s *settings) up(cmd *cobra.Command) error {
	ctx := cmd.Context()
	log, err := s.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	if s.workers < 0 {
		return usagef("--workers %d: want 0 or more", s.workers)
	}
	listener, err := s.bind(s.listen, "--listen")
	if err != nil {
		return err
	}
	if err := s.natsFree(); err != nil {
		listener.Close()
		return err
	}
	data, err := openDataDir(s.data)
	if err != nil {
		listener.Close()
		return err
	}
	defer data.Close()

	// The API answers from here on: that the farm is not ready yet, and what it waits for.
	p := newProgram(ctx, log)
	p.patience = max(stopTime, s.drain+stopMore)
	if err := s.watchProcess(p, log); err != nil {
		listener.Close()
		return err
	}
	front := &gate{waiting: "the farm is starting"}
	p.runs("farm", func(ctx context.Context) error {
		return s.farm(ctx, data, listener.Addr(), front, log, cmd.OutOrStdout())
	})
	p.runs("api", func(ctx context.Context) error { return serve(ctx, listener, front) })
	return p.wait()
}

// farm starts everything behind the API, each part after what it depends on, and stops it in reverse.
func (s *settings) farm(ctx context.Context, data *dataDir, address net.Addr, front *gate, log *slog.Logger, out io.Writer) error {
	p := newProgram(ctx, log)
	p.patience = max(stopTime, s.drain+stopMore)
	if err := s.assemble(p, data, address, front, log, out); err != nil {
		p.stop()
		if ctx.Err() != nil {
			return nil // it was told to stop while it was starting
		}
		return err
	}
	return p.wait()
}

func (s *settings) assemble(p *program, data *dataDir, address net.Addr, front *gate, log *slog.Logger, out io.Writer) error {
	where := storage{url: s.s3}
	if s.s3 == "" {
		var err error
		if where, err = s.embedS3(p, data, log); err != nil {
			return err
		}
	}
	c, err := s.connect(p, data, where, roleWhole, front.wait, log)
	if err != nil {
		return err
	}
	measured := prometheus.NewRegistry()
	s.startCoordinator(p, c, measured, log)
	if s.workers > 0 {
		if err := s.startWorkers(p, data, c, s.workers, log); err != nil {
			return err
		}
	}
	if err := s.startAPI(p, c, front, measured, log); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "bakefarm is ready at http://%s (%d workers, data in %s)\n", address, s.workers, data.path)
	return err
}

// startCoordinator starts what decides: a coordinator, the moves of channels, and what keeps and lets go.
func (s *settings) startCoordinator(p *program, c *connections, measured *prometheus.Registry, log *slog.Logger) {
	decides := coordinator.New(coordinator.Config{
		Bus: c.bus, Store: c.store, Tags: tags{c.bus.Tags}, Log: log, Lease: s.lease, MaxAge: s.maxAge, MaxBake: s.maxBake, MaxShard: s.maxShard, MaxBakes: s.maxBakes, NoAffinity: s.noAffinity, Now: s.now,
	})
	measured.MustRegister(decides.Metrics())
	p.runs("coordinator", decides.Run)
	p.runs("deploy", deploy.New(deploy.Config{Bus: c.bus, Push: s.pusher(c.store), Final: remote.Final, Now: s.now, Log: log}).Run)
	collecting := s.collect
	collecting.MaxBake = s.maxBake
	p.runs("upkeep", upkeep.New(upkeep.Config{
		Bus: c.bus, Store: c.store, Index: c.catalog, Name: processName(), Ages: s.ages, Collect: collecting, GCEvery: s.gcEvery, Now: s.now, Log: log,
	}).Run)
}

// startAPI starts the API and has the gate hand requests to it.
func (s *settings) startAPI(p *program, c *connections, front *gate, measured *prometheus.Registry, log *slog.Logger) error {
	uses := usage.New(c.bus.Usage, log)
	p.runs("uses of images", uses.Run)
	pulls := registry.OnBus(c.bus, c.store, c.catalog, log)
	pulls.Uses = uses
	if s.redirectAfter > 0 {
		if strings.HasSuffix(c.store.Host(), ".invalid") {
			return usagef("--redirect-after: clients can't reach the embedded S3 server: give it an address with --s3-listen, or use --s3")
		}
		pulls.Hot = registry.NewHot(c.store, s.redirectAfter, log)
		p.runs("materialising", pulls.Hot.Run)
	}
	web, err := api.New(api.Config{
		Bus: c.bus, Store: c.store, Catalog: c.catalog, Uses: uses, Collector: garbage.New(garbage.Config{Index: c.catalog, Store: c.store}),
		Registry: registry.New(pulls), Release: release(), Ready: c.reachable, Metrics: measured, Log: log,
	})
	if err != nil {
		return err
	}
	p.runs("list of bakes", web.Run)
	front.open(web.Handler())
	return nil
}
