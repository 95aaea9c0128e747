package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"bakefarm/api/client"
	"bakefarm/farm"
	"bakefarm/upkeep"

	"github.com/spf13/cobra"
)

func newGC(cli *cli) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "gc",
		Short: "Collect what nothing needs any more, while the farm works; it also does so by itself",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, c *client.Client) error {
			s, err := cli.sweep(cmd, c, farm.SweepCollect, dry)
			if err != nil {
				return err
			}
			var r upkeep.Collected
			if err := json.Unmarshal(s.Result, &r); err != nil && s.State != farm.SweepFailed {
				return fmt.Errorf("the sweep's result can't be read: %w", err)
			}
			return cli.printSweep(cmd, s, func(w *tabwriter.Writer) { collectedTable(w, r, dry) })
		}),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "say what would be done, and change nothing")
	return cmd
}

// sweep runs a sweep, or joins the one that runs, and tells on stderr how it goes.
func (c *cli) sweep(cmd *cobra.Command, farmClient *client.Client, kind farm.SweepKind, dry bool) (farm.Sweep, error) {
	began := time.Now()
	var told time.Time
	return farmClient.Sweep(cmd.Context(), kind, dry, whoami(), func(s farm.Sweep) {
		if s.Began.Before(began.Add(-time.Second)) && told.IsZero() {
			fmt.Fprintf(cmd.ErrOrStderr(), "one that %s began %s runs already: waiting for that\n", s.By, age(s.Began))
			told = time.Now()
		}
		if time.Since(told) > 5*time.Second && time.Since(began) > 5*time.Second {
			told = time.Now()
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: running for %s\n", kind, took(time.Since(s.Began)))
		}
	})
}

// printSweep prints a sweep's result, and fails when it has.
func (c *cli) printSweep(cmd *cobra.Command, s farm.Sweep, table func(*tabwriter.Writer)) error {
	if err := c.print(cmd, s, table); err != nil {
		return err
	}
	if s.State == farm.SweepFailed {
		return fmt.Errorf("%s: %s", s.Kind, s.Error)
	}
	return nil
}

func collectedTable(w *tabwriter.Writer, r upkeep.Collected, dry bool) {
	row(w, "stored", fmt.Sprintf("%s in %d packs, of which %s is needed", size(r.Stored), r.Packs, size(r.Needed)))
	for _, bucket := range slices.Sorted(maps.Keys(r.Records)) {
		if n := r.Records[bucket]; n > 0 {
			row(w, "expired", fmt.Sprintf("%d records of %s", n, bucket))
		}
	}
	row(w, "condemned", fmt.Sprintf("%d packs, %d of them with something in them that is copied (%s)", r.Condemned, r.Repacked, size(r.Copied)))
	if r.Revived > 0 {
		row(w, "revived", fmt.Sprintf("%d packs that turned out to be needed", r.Revived))
	}
	row(w, "waiting", fmt.Sprintf("%d packs (%s) until their grace is over", r.Waiting, size(r.WaitBytes)))
	row(w, "deleted", fmt.Sprintf("%d packs, %d uploads that nothing came of", r.Deleted, r.Orphans))
	if r.Wholes > 0 {
		row(w, "deleted", fmt.Sprintf("%d blobs that were one object beside their pieces", r.Wholes))
	}
	row(w, "freed", size(r.Freed))
	if dry {
		w.Flush()
		fmt.Fprintln(w, "this was a trial run: nothing was changed")
	}
}

func newScrub(cli *cli) *cobra.Command {
	var dry bool
	cmd := &cobra.Command{
		Use:   "scrub",
		Short: "Read and verify everything that is stored, and put what is damaged aside; it goes on where the last one was stopped",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, c *client.Client) error {
			s, err := cli.sweep(cmd, c, farm.SweepScrub, dry)
			if err != nil {
				return err
			}
			var r upkeep.Scrubbed
			if err := json.Unmarshal(s.Result, &r); err != nil && s.State != farm.SweepFailed {
				return fmt.Errorf("the sweep's result can't be read: %w", err)
			}
			if err := cli.printSweep(cmd, s, func(w *tabwriter.Writer) { scrubbedTable(w, r, dry) }); err != nil {
				return err
			}
			if len(r.Hurt) > 0 {
				return hurtError(len(r.Hurt), dry)
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&dry, "dry-run", false, "only tell what is damaged")
	return cmd
}

// hurtError says that versions are hurt, and what to do.
func hurtError(n int, dry bool) error {
	if dry {
		return fmt.Errorf("%d versions are hurt: bakefarm scrub, without --dry-run, mends what it can", n)
	}
	return fmt.Errorf("%d versions are hurt: bake them again, which makes what is damaged anew", n)
}

func scrubbedTable(w *tabwriter.Writer, r upkeep.Scrubbed, dry bool) {
	row(w, "read", fmt.Sprintf("%d of %d packs, %s, %d entries", r.Packs, r.Of, size(r.Bytes), r.Entries))
	for _, d := range r.Damage {
		what := strings.TrimPrefix(d.What, "index of pack "+d.Pack+": ")
		if d.Digest != "" {
			what = fmt.Sprintf("%s at %d: %s", d.Digest, d.Offset, d.What)
		}
		if d.Healed {
			what += " (it is stored whole elsewhere)"
		}
		row(w, "damaged", "pack "+d.Pack+": "+what)
	}
	if !dry {
		row(w, "quarantined", fmt.Sprintf("%d packs", r.Quarantined))
	}
	for _, worker := range slices.Sorted(maps.Keys(r.Restored)) {
		row(w, "restored", fmt.Sprintf("%d pieces out of the cache of worker %s", r.Restored[worker], worker))
	}
	for _, m := range r.Mended {
		if m.Error == "" {
			row(w, "mended", m.Version+": bake "+m.Bake+" has made it whole")
		}
	}
	for _, v := range r.Hurt {
		why := ""
		for _, m := range r.Mended {
			if m.Version == v {
				why = ": " + m.Error
			}
		}
		row(w, "hurt", v+why)
	}
}
