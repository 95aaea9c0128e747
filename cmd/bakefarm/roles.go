package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/spf13/cobra"
)

func newCoordinator() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:   "coordinator --s3 URL",
		Short: "Run one coordinator of a farm, with its NATS server or beside others; any number may run",
		Example: `  bakefarm coordinator --s3 http://KEY:SECRET@s3.example:9000/images --nats nats://nats.example:4222
  bakefarm coordinator --s3 URL --nats-listen :4222 --cluster-listen :6222 --routes c1:6222,c2:6222,c3:6222`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.s3 == "" {
				return usagef("a coordinator needs --s3 URL (or BAKEFARM_S3): the other roles read what it writes there")
			}
			if s.nats == "" && s.natsListn == "" {
				return usagef("a coordinator needs --nats URL, or --nats-listen ADDR: else no other role reaches it")
			}
			if err := s.natsFree(); err != nil {
				return err
			}
			return s.role(cmd, roleCoordinator, func(p *program, _ *dataDir, c *connections, _ *gate, measured *prometheus.Registry, log *slog.Logger) error {
				s.startCoordinator(p, c, measured, log)
				return nil
			})
		},
	}
	s.whole(cmd)
	s.coordinates(cmd)
	s.probed(cmd)
	s.profiled(cmd)
	return s.configured(cmd)
}

func newAPI() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:     "api --nats URL --s3 URL",
		Short:   "Run one API and registry of a farm; any number may run",
		Example: "  bakefarm api --nats nats://127.0.0.1:4222 --s3 http://KEY:SECRET@127.0.0.1:9000/bakefarm --listen 127.0.0.1:7667",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.elsewhere("an API"); err != nil {
				return err
			}
			return s.role(cmd, roleAPI, func(p *program, _ *dataDir, c *connections, front *gate, measured *prometheus.Registry, log *slog.Logger) error {
				return s.startAPI(p, c, front, measured, log)
			})
		},
	}
	s.connected(cmd)
	s.serves(cmd)
	s.profiled(cmd)
	return s.configured(cmd)
}

func newWorker() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:     "worker --nats URL --s3 URL",
		Short:   "Run one worker of a farm; any number may run, and come and go",
		Example: "  bakefarm worker --nats nats://127.0.0.1:4222 --s3 http://KEY:SECRET@127.0.0.1:9000/bakefarm",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := s.elsewhere("a worker"); err != nil {
				return err
			}
			return s.role(cmd, roleWorker, func(p *program, data *dataDir, c *connections, _ *gate, _ *prometheus.Registry, log *slog.Logger) error {
				return s.startWorkers(p, data, c, 1, log)
			})
		},
	}
	s.connected(cmd)
	s.works(cmd)
	s.probed(cmd)
	s.profiled(cmd)
	return s.configured(cmd)
}

// elsewhere checks that NATS and S3 are given: the role has none of its own.
func (s *settings) elsewhere(role string) error {
	if s.nats == "" || s.s3 == "" {
		return usagef("%s needs --nats URL and --s3 URL (or BAKEFARM_NATS and BAKEFARM_S3)", role)
	}
	return nil
}

// role runs one part of a farm until the command's context ends: what begin starts on top of the connections.
func (s *settings) role(cmd *cobra.Command, r role, begin func(*program, *dataDir, *connections, *gate, *prometheus.Registry, *slog.Logger) error) error {
	log, err := s.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	var listener net.Listener
	if s.listen != "" {
		if listener, err = s.bind(s.listen, "--"+r.listenFlag()); err != nil {
			return err
		}
		defer listener.Close() // when serve has not got it yet
	}
	data, err := openDataDir(s.data)
	if err != nil {
		return err
	}
	defer data.Close()
	p := newProgram(cmd.Context(), log)
	p.patience = max(stopTime, s.drain+stopMore)
	if r == roleWorker {
		s.memoryUse.least = memoryLeast
	}
	if err := s.watchProcess(p, log); err != nil {
		return err
	}
	front := &gate{waiting: "the " + string(r) + " is starting"}
	if listener != nil {
		p.runs("listener", func(ctx context.Context) error { return serve(ctx, listener, front) })
	}
	err = func() error {
		c, err := s.connect(p, data, storage{url: s.s3}, r, front.wait, log)
		if err != nil {
			return err
		}
		measured := prometheus.NewRegistry()
		if err := begin(p, data, c, front, measured, log); err != nil {
			return err
		}
		if r != roleAPI {
			front.open(probes(c, measured))
		}
		return nil
	}()
	if err != nil {
		p.stop()
		if cmd.Context().Err() != nil {
			return nil // it was told to stop while it was starting
		}
		return err
	}
	at := ""
	if listener != nil {
		at = " at http://" + listener.Addr().String()
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s %s is ready%s\n", r, processName(), at)
	return p.wait()
}

// probes answers for a role that has no API: whether it lives, whether it reaches NATS and S3, and what it measures.
func probes(c *connections, measured *prometheus.Registry) http.Handler {
	measured.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		for part, check := range map[string]func() error{"bus": c.bus.Ready, "store": c.reachable} {
			if err := check(); err != nil {
				http.Error(w, part+": "+err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		fmt.Fprintln(w, "ok")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(measured, promhttp.HandlerOpts{}))
	return mux
}

func newS3() *cobra.Command {
	var s settings
	var keys s3Keys
	cmd := &cobra.Command{
		Use:     "s3",
		Short:   "Run the S3 server alone, for a farm on several machines that has no S3 service",
		Example: "  BAKEFARM_S3_ACCESS_KEY=farm BAKEFARM_S3_SECRET_KEY=… bakefarm s3 --listen 10.0.0.5:9000 --data /srv/s3",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (keys.AccessKey == "") != (keys.SecretKey == "") {
				return usagef("--s3-access-key and --s3-secret-key go together")
			}
			return s.onlyS3(cmd, keys)
		},
	}
	s.common(cmd)
	flags := cmd.Flags()
	flags.StringVar(&s.listen, "listen", "127.0.0.1:9000", "address of the S3 API; every request must be signed, so other machines may reach it")
	flags.StringVar(&keys.AccessKey, "s3-access-key", "", "access key (default: made at the first start, in s3.json in the data directory)")
	flags.StringVar(&keys.SecretKey, "s3-secret-key", "", "secret key; better in BAKEFARM_S3_SECRET_KEY")
	return s.configured(cmd)
}

// onlyS3 runs the S3 server until the command's context ends.
func (s *settings) onlyS3(cmd *cobra.Command, keys s3Keys) error {
	log, err := s.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	listener, err := bindAny(s.listen, "--listen")
	if err != nil {
		return err
	}
	defer listener.Close() // when serve has not got it yet
	data, err := openDataDir(s.data)
	if err != nil {
		return err
	}
	defer data.Close()
	p := newProgram(cmd.Context(), log)
	server, keys, err := openS3(p, data, keys, log)
	if err != nil {
		p.stop()
		return err
	}
	p.runs("s3 listener", func(ctx context.Context) error {
		return serve(ctx, listener, alive(server.Handler()))
	})
	fmt.Fprintf(cmd.OutOrStdout(), "s3 is ready at http://%s (bucket %s, access key %s, data in %s)\n", listener.Addr(), embeddedBucket, keys.AccessKey, data.path)
	return p.wait()
}

// alive answers /healthz, which needs no signature, before the S3 API.
func alive(s3 http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/healthz" {
			fmt.Fprintln(w, "ok")
			return
		}
		s3.ServeHTTP(w, r)
	})
}
