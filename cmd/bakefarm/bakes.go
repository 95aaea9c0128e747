package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"

	"github.com/spf13/cobra"
)

// newBakes makes the commands about bakes.
func newBakes(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "bakes", Short: "List, show, follow, cancel and retry bakes"}
	cmd.AddCommand(newBakesLs(cli), newBakesShow(cli), newBakesLogs(cli), newBakesCancel(cli), newBakesRetry(cli))
	return cmd
}

func newBakesLs(cli *cli) *cobra.Command {
	var name, state string
	var limit int
	cmd := &cobra.Command{
		Use:   "ls",
		Short: "List bakes, newest first",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farmAPI *client.Client) error {
			bakes, err := collect(limit, func(cursor string, limit int) (api.Page[api.Bake], error) {
				return farmAPI.Bakes(cmd.Context(), name, farm.BakeState(state), cursor, limit)
			})
			if err != nil {
				return err
			}
			return cli.print(cmd, bakes, func(w *tabwriter.Writer) {
				row(w, "BAKE", "NAME", "STATE", "CACHED", "VERSION", "ACCEPTED", "TOOK")
				for _, b := range bakes {
					row(w, b.ID, b.Name, b.State, yes(b.Cached), b.Version, age(b.AcceptedAt), duration(b))
				}
			})
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "only bakes of this image name")
	cmd.Flags().StringVar(&state, "state", "", "only bakes in this state: baking, done, failed …")
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at the most; 0 for all")
	return cmd
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func duration(b api.Bake) string {
	if b.DoneAt.IsZero() {
		return "-"
	}
	return took(b.DoneAt.Sub(b.AcceptedAt))
}

// collect follows the pages of a list until it has limit items; 0 means all.
func collect[T any](limit int, page func(cursor string, limit int) (api.Page[T], error)) ([]T, error) {
	const most = 200
	items := []T{}
	for cursor := ""; ; {
		want := most
		if limit > 0 {
			want = min(most, limit-len(items))
		}
		p, err := page(cursor, want)
		if err != nil {
			return nil, err
		}
		items = append(items, p.Items...)
		if cursor = p.Next; cursor == "" || (limit > 0 && len(items) >= limit) {
			return items, nil
		}
	}
}

func newBakesShow(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show BAKE",
		Short: "Show a bake",
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			b, err := farmAPI.Bake(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return cli.print(cmd, b, func(w *tabwriter.Writer) {
				row(w, "bake", b.ID)
				row(w, "name", b.Name)
				row(w, "state", b.State)
				if len(b.Requires) > 0 {
					row(w, "requires", strings.Join(b.Requires, ", "))
				}
				if b.Waiting != "" {
					row(w, "waiting for", b.Waiting)
				}
				if b.Error != "" {
					row(w, "error", b.Error)
				}
				row(w, "cached", yes(b.Cached))
				row(w, "version", b.Version)
				row(w, "key", b.Key)
				row(w, "lock", b.Lock)
				if b.From != "" {
					row(w, "baked by", b.From)
				}
				row(w, "accepted", b.AcceptedAt.Format(time.RFC3339))
				row(w, "took", duration(b))
				for _, t := range b.Tests {
					row(w, "test", testLine(t))
				}
				for _, i := range b.Images {
					row(w, "image", fmt.Sprintf("%s %s %s %s", i.Ref, platform(i), size(i.Size), i.Digest))
				}
			})
		}),
	}
}

// testLine says how the tests of one image went.
func testLine(t farm.ShardRef) string {
	switch {
	case t.State == farm.ShardDone && t.Source == farm.SourceHit:
		return t.Label + ": passed before: " + t.Reason
	case t.State == farm.ShardDone:
		return fmt.Sprintf("%s: passed in %s on %s", t.Label, took(t.Took), t.Worker)
	case t.State == farm.ShardFailed:
		return t.Label + ": failed on " + t.Worker
	}
	return t.Label + ": not passed"
}

func newBakesLogs(cli *cli) *cobra.Command {
	var followOn bool
	cmd := &cobra.Command{
		Use:   "logs BAKE",
		Short: "Print what happened to a bake; -f waits for more until it has ended",
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			ctx, out := cmd.Context(), cmd.OutOrStdout()
			bake, err := farmAPI.Bake(ctx, args[0])
			if err != nil {
				return err
			}
			print := func(e farm.Event) error {
				if cli.output == "json" {
					return printJSONLine(out, e)
				}
				if line := describe(e); line != "" {
					_, err := fmt.Fprintf(out, "%s %s\n", e.At.Local().Format("15:04:05.000"), line)
					return err
				}
				return nil
			}
			if followOn || bake.State.Finished() {
				return farmAPI.Follow(ctx, bake.ID, print)
			}
			return farmAPI.EventsSoFar(ctx, bake.ID, print)
		}),
	}
	cmd.Flags().BoolVarP(&followOn, "follow", "f", false, "wait for more until the bake has ended")
	return cmd
}

func newBakesCancel(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "cancel BAKE…",
		Short: "Cancel bakes; work that other bakes want goes on",
		Args:  cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			cancelled := []api.Bake{}
			for _, id := range args {
				b, err := farmAPI.Cancel(cmd.Context(), id)
				if err != nil {
					return fmt.Errorf("%s: %w", id, err)
				}
				cancelled = append(cancelled, b)
			}
			return cli.print(cmd, cancelled, func(w *tabwriter.Writer) {
				for _, b := range cancelled {
					row(w, b.ID, b.State)
				}
			})
		}),
	}
}

func newBakesRetry(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "retry BAKE…",
		Short: "Bake again what failed or was cancelled, from the recipe and context as they were; prints the new bakes' IDs",
		Args:  cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			again := []api.Bake{}
			for _, id := range args {
				b, err := farmAPI.Retry(cmd.Context(), id)
				if err != nil {
					return fmt.Errorf("%s: %w", id, err)
				}
				again = append(again, b)
			}
			return cli.print(cmd, again, func(w *tabwriter.Writer) {
				for _, b := range again {
					row(w, b.ID)
				}
			})
		}),
	}
}

func newExplain(cli *cli) *cobra.Command {
	var all bool
	cmd := &cobra.Command{
		Use:   "explain BAKE",
		Short: "Say why each shard of a bake was a hit or a miss",
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			shards, err := farmAPI.Explain(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return cli.print(cmd, shards, func(w *tabwriter.Writer) { explainTable(w, shards, all) })
		}),
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "list hits and pruned shards one by one too")
	return cmd
}

// explainTable lists what had to run, and counts the rest unless all is set.
func explainTable(w *tabwriter.Writer, shards []farm.ShardRef, all bool) {
	count := map[farm.Source]int{}
	row(w, "SHARD", "SOURCE", "TOOK", "WORKER", "WHY")
	for _, s := range shards {
		count[s.Source]++
		if all || s.Source == farm.SourceMiss || s.Source == farm.SourceShared {
			spent := ""
			if s.Took > 0 {
				spent = took(s.Took)
			}
			row(w, s.Label, s.Source, spent, s.Worker, s.Reason)
		}
	}
	w.Flush()
	fmt.Fprintf(w, "%d shards: %d run, %d shared with another bake, %d hits, %d not needed because of hits\n", len(shards),
		count[farm.SourceMiss], count[farm.SourceShared], count[farm.SourceHit], count[farm.SourcePruned])
}
