package main

import (
	"strings"
	"text/tabwriter"

	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

// newWorkers makes the commands about workers.
func newWorkers(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "workers", Short: "List the workers"}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List the workers that are present, and what each is running",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farm *client.Client) error {
			workers, err := farm.Workers(cmd.Context())
			if err != nil {
				return err
			}
			return cli.print(cmd, workers, func(w *tabwriter.Writer) {
				row(w, "WORKER", "HOST", "SLOTS", "DONE", "UP", "SEEN", "RUNNING")
				for _, k := range workers {
					row(w, k.ID, k.Host, k.Slots, k.Done, strings.TrimSuffix(age(k.Started), " ago"), age(k.Seen), strings.Join(k.Running, ", "))
				}
			})
		}),
	})
	return cmd
}
