package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"

	"github.com/spf13/cobra"
)

// bakeResult is what `bake -o json` prints: a contract with scripts.
type bakeResult struct {
	Bake    string         `json:"bake"`
	Key     string         `json:"key"`
	Cached  bool           `json:"cached"`
	State   farm.BakeState `json:"state"`
	Version string         `json:"version"`
	Images  []api.Image    `json:"images"`
}

func resultOf(b api.Bake) bakeResult {
	r := bakeResult{b.ID, b.Key.String(), b.Cached, b.State, b.Version, b.Images}
	if r.Images == nil {
		r.Images = []api.Image{}
	}
	return r
}

func newBake(cli *cli) *cobra.Command {
	var flags recipeFlags
	var locks lockFlags
	var detach, rebake, background bool
	var requires []string
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "bake RECIPE",
		Short: "Bake a recipe: post it, follow it, print its images",
		Example: `  bakefarm bake examples/hello/bakefarm.yaml
  bakefarm bake app.yaml --context ./build --set config.env.PORT=9090 -o json`,
		Args: cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			started := time.Now()
			r, err := flags.read(cmd, args[0])
			if err != nil {
				return complain(cmd, err)
			}
			lock, err := locks.find(cmd, r, args[0])
			if err != nil {
				return err
			}
			for _, l := range requires {
				if err := farm.CheckLabel(l); err != nil {
					return usagef("--requires: %w", err)
				}
			}
			request := api.BakeRequest{Rebake: rebake, Background: background, Requires: requires, Lock: lock}
			if timeout != 0 {
				request.Timeout = timeout.String()
			}
			bake, err := bake(cmd, farmAPI, &flags, r, request, detach)
			if err != nil {
				return err
			}
			if cli.output == "json" {
				err = printJSON(cmd.OutOrStdout(), resultOf(bake))
			} else if detach {
				_, err = fmt.Fprintln(cmd.OutOrStdout(), bake.ID)
			} else if bake.State == farm.BakeDone {
				err = cli.print(cmd, nil, func(w *tabwriter.Writer) { imageTable(w, bake.Images) })
			}
			if err != nil {
				return err
			}
			return verdict(cmd, bake, time.Since(started))
		}),
	}
	flags.register(cmd, true)
	locks.register(cmd)
	cmd.Flags().BoolVarP(&detach, "detach", "d", false, "print the bake's ID and don't wait for it")
	cmd.Flags().BoolVar(&background, "background", false, "give way to other bakes: for what nobody waits for")
	cmd.Flags().StringSliceVar(&requires, "requires", nil, "labels that the workers must have which run it: gpu, region=eu")
	cmd.Flags().DurationVar(&timeout, "timeout", 0, "how long it may take, such as 30m (default: as long as the farm allows)")
	cmd.Flags().BoolVar(&rebake, "rebake", false, "keep the Lock, ignore the cache, and fail if other bytes come out")
	return cmd
}

// bake posts a recipe and, unless detached, follows the bake to its end.
func bake(cmd *cobra.Command, farm *client.Client, flags *recipeFlags, r *written, request api.BakeRequest, detach bool) (_ api.Bake, err error) {
	request.File, request.Recipe, request.Set = r.file, r.text, flags.set
	ctx := cmd.Context()
	progress := newProgress(cmd.ErrOrStderr())
	defer progress.close()
	var scan *client.Scan
	if len(r.App) > 0 || r.OS.Base != nil && r.OS.Base.InContext() {
		if scan, err = client.ScanContext(ctx, r.dir, r.App, r.OS.Base); err != nil {
			return api.Bake{}, err
		}
		defer scan.Close()
	}
	bake, err := farm.Post(ctx, request, scan, progress.sent)
	if err != nil || detach || bake.State.Finished() {
		return bake, err
	}
	if err := follow(ctx, farm, bake.ID, progress); err != nil {
		return bake, err
	}
	return farm.Outcome(ctx, bake.ID)
}

// follow shows a bake's progress until its end.
func follow(ctx context.Context, farm *client.Client, id string, progress progress) error {
	farm.Lost = func(err error, patience time.Duration) {
		progress.say(fmt.Sprintf("the farm does not answer; trying again for %s: %v", patience, err))
	}
	err := farm.Follow(ctx, id, progress.event)
	if errors.Is(err, context.Canceled) {
		return fmt.Errorf("interrupted; the bake goes on: follow it with \"bakefarm bakes logs -f %s\", stop it with \"bakefarm bakes cancel %s\"", id, id)
	}
	return err
}

// verdict says on stderr how a bake went, and makes what is not done a failure.
func verdict(cmd *cobra.Command, b api.Bake, d time.Duration) error {
	out := cmd.ErrOrStderr()
	switch b.State {
	case farm.BakeDone:
		how := "baked"
		if b.Cached {
			how = "cached"
		}
		fmt.Fprintf(out, "%s %s:%s in %s\n", how, b.Name, b.Version, took(d))
		if b.Published != nil {
			if b.Published.Error != "" {
				fmt.Fprintf(out, "warning: channel %s was not moved: %s\n", b.Published.Channel, b.Published.Error)
			} else {
				fmt.Fprintf(out, "channel %s points to it\n", b.Published.Channel)
			}
		}
		return nil
	case farm.BakeFailed:
		return fmt.Errorf("bake %s failed: %s", b.ID, b.Error)
	case farm.BakeCancelled:
		return fmt.Errorf("bake %s was cancelled", b.ID)
	}
	return nil // detached
}

func imageTable(w *tabwriter.Writer, images []api.Image) {
	row(w, "IMAGE", "KIND", "PLATFORM", "SIZE", "DIGEST")
	for _, i := range images {
		row(w, i.Ref, i.Kind, platform(i), size(i.Size), i.Digest)
	}
}

// platform says for people what an image is for.
func platform(i api.Image) string {
	if i.Platform == "" {
		return "index" // over all platforms
	}
	return i.Platform
}
