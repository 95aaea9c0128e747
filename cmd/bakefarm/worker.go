package main

import (
	"fmt"

	"github.com/spf13/cobra"
)

func newWorker() *cobra.Command {
	var s settings
	cmd := &cobra.Command{
		Use:     "worker --nats URL --s3 URL",
		Short:   "Run one worker of a farm whose NATS and S3 are elsewhere",
		Example: "  bakefarm worker --nats nats://127.0.0.1:4222 --s3 http://KEY:SECRET@127.0.0.1:9000/bakefarm",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if s.nats == "" || s.s3 == "" {
				return usagef("a worker needs --nats URL and --s3 URL (or BAKEFARM_NATS and BAKEFARM_S3)")
			}
			return s.worker(cmd)
		},
	}
	s.common(cmd)
	return cmd
}

// worker runs one worker until the command's context ends.
func (s *settings) worker(cmd *cobra.Command) error {
	log, err := s.logger(cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	data, err := openDataDir(s.data)
	if err != nil {
		return err
	}
	defer data.Close()
	p := newProgram(cmd.Context(), log)
	err = func() error {
		c, err := s.connect(p, data, storage{url: s.s3}, false, func(string, ...any) {}, log)
		if err != nil {
			return err
		}
		return s.startWorkers(p, data, c, 1, log)
	}()
	if err != nil {
		p.stop()
		if cmd.Context().Err() != nil {
			return nil
		}
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "worker %s is ready\n", processName())
	return p.wait()
}
