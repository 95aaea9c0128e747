package main

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/pprof"
	"runtime"

	"github.com/spf13/cobra"
)

// profiled defines the flag that has a process show what it does.
func (s *settings) profiled(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&s.pprof, "pprof", "", "loopback address that serves profiles of this process, for go tool pprof")
	if err := flags.MarkHidden("pprof"); err != nil {
		panic(err)
	}
}

// watchProcess bounds the process's memory, and serves its profiles if it is to.
func (s *settings) watchProcess(p *program, log *slog.Logger) error {
	p.runs("memory", func(ctx context.Context) error {
		s.memoryUse.bound(ctx)
		return nil
	})
	if s.pprof == "" {
		return nil
	}
	listener, err := bindLoopback(s.pprof, "--pprof")
	if err != nil {
		p.stop()
		return err
	}
	log.Info("profiles are served", "url", "http://"+listener.Addr().String()+"/debug/pprof/")
	p.runs("profiles", func(ctx context.Context) error { return serve(ctx, listener, profiles()) })
	return nil
}

// profiles serves the process's profiles to `go tool pprof`, on an address of their own: whoever sees them sees much.
func profiles() http.Handler {
	runtime.SetBlockProfileRate(100_000) // one sample for 0.1 ms of waiting: cheap, and whatever matters is seen
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return mux
}
