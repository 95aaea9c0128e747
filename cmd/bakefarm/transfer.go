package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

func newExport(cli *cli) *cobra.Command {
	var target string
	cmd := &cobra.Command{
		Use:   "export REF… -f FILE.tar|DIR",
		Short: "Write versions with everything that the catalog knows of them into an OCI layout, for another farm; " + refHelp,
		Long: "Writes versions, each with all its platforms and disks, and what the catalog knows of it (packages, Lock, recipe, labels, what it was\n" +
			"built on, channels), into an OCI image layout: a tar when the name ends in .tar, else a directory, to which it adds. Other tools\n" +
			"read the images there as NAME:VERSION; bakefarm import reads everything.",
		Example: "  bakefarm export shop/checkout:prod base/debian:prod -f images.tar\n" +
			"  skopeo copy oci-archive:images.tar:shop/checkout:0123456789abcdef docker://registry.example/checkout:1",
		Args: cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			if target == "" {
				return usagef("-f says where to: a directory, or a file that ends in .tar")
			}
			started := time.Now()
			var received atomic.Int64
			done, err := farm.Export(cmd.Context(), args, target, func(n int64) { received.Add(n) })
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "exported to %s in %s: %s received\n", target, took(time.Since(started)), size(received.Load()))
			return cli.print(cmd, done, func(w *tabwriter.Writer) {
				row(w, "NAME", "VERSION", "BLOBS", "SIZE", "SKIPPED")
				for _, e := range done {
					row(w, e.Name, e.Version, e.Blobs, size(e.Size), e.Skipped)
				}
			})
		}),
	}
	cmd.Flags().StringVarP(&target, "file", "f", "", "file that ends in .tar, or directory: of the layout")
	return cmd
}

func newImport(cli *cli) *cobra.Command {
	var o client.ImportOptions
	cmd := &cobra.Command{
		Use:   "import FILE.tar|DIR [NAME[:VERSION]…]",
		Short: "Take versions in that another farm has exported",
		Long: "Reads what bakefarm export has written and gives the farm what it lacks of it; NAME and VERSION may be globs. Every blob is\n" +
			"verified. What is there is skipped, so that an import that broke off goes on where it was when it is run again.",
		Example: "  bakefarm import images.tar\n  bakefarm import images.tar 'shop/*' --channels",
		Args:    cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			o.Only = args[1:]
			started := time.Now()
			results, err := farm.Import(cmd.Context(), args[0], o)
			if err == nil && len(results) == 0 {
				err = fmt.Errorf("%s has no version of %s", args[0], strings.Join(o.Only, " or "))
			}
			var bytes int64
			for _, r := range results {
				bytes += r.Bytes
			}
			if len(results) > 0 {
				fmt.Fprintf(cmd.ErrOrStderr(), "%d versions in %s: %s sent\n", len(results), took(time.Since(started)), size(bytes))
				if printed := cli.print(cmd, results, func(w *tabwriter.Writer) {
					row(w, "NAME", "VERSION", "OUTCOME", "PIECES", "SENT", "BYTES", "CHANNELS")
					for _, r := range results {
						row(w, r.Name, r.Version, r.Outcome, r.Pieces, r.Sent, size(r.Bytes), strings.Join(r.Channels, " "))
					}
				}); err == nil {
					err = printed
				}
			}
			return err
		}),
	}
	cmd.Flags().BoolVar(&o.Channels, "channels", false, "point the channels to the versions that they pointed to there")
	return cmd
}
