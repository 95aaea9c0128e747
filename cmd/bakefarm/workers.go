package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"bakefarm/api/client"
	"bakefarm/farm"

	"github.com/spf13/cobra"
)

// newWorkers makes the commands about workers.
func newWorkers(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "workers", Short: "List, drain and resume workers"}
	cmd.AddCommand(&cobra.Command{
		Use:   "ls",
		Short: "List the workers that are present, and what each is running",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farm *client.Client) error {
			workers, err := farm.Workers(cmd.Context())
			if err != nil {
				return err
			}
			return cli.print(cmd, workers, func(w *tabwriter.Writer) {
				row(w, "WORKER", "HOST", "STATE", "SLOTS", "LOAD", "CACHE", "DONE", "UP", "SEEN", "RUNNING")
				for _, k := range workers {
					row(w, k.ID, strings.Join(append([]string{k.Host}, k.Labels...), " "), workerState(k), fmt.Sprintf("%d/%d", len(k.Running), k.Slots), k.Load, size(k.Cache),
						k.Done, strings.TrimSuffix(age(k.Started), " ago"), age(k.Seen), strings.Join(k.Running, ", "))
				}
			})
		}),
	}, newDrain(cli, "drain", "Have workers finish what they run and take no more, until they are resumed or restarted", false),
		newDrain(cli, "resume", "Have drained workers take work again", true))
	return cmd
}

func workerState(w farm.Worker) string {
	switch {
	case w.Draining && len(w.Running) > 0:
		return "draining"
	case w.Draining:
		return "drained"
	}
	return "ready"
}

func newDrain(cli *cli, use, short string, resume bool) *cobra.Command {
	return &cobra.Command{
		Use:   use + " WORKER…",
		Short: short,
		Args:  cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, api *client.Client) error {
			workers := []farm.Worker{}
			for _, id := range args {
				w, err := api.Drain(cmd.Context(), id, resume)
				if err != nil {
					return err
				}
				workers = append(workers, w)
			}
			return cli.print(cmd, workers, func(w *tabwriter.Writer) {
				for _, k := range workers {
					fmt.Fprintf(w, "%s is %s\t%s\n", k.ID, workerState(k), strings.Join(k.Running, ", "))
				}
			})
		}),
	}
}
