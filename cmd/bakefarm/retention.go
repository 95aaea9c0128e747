package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

// newRetention makes the commands about retention.
func newRetention(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "retention", Short: "Say what a retention policy keeps, and why"}
	cmd.AddCommand(newRetentionPlan(cli))
	return cmd
}

func newRetentionPlan(cli *cli) *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "plan [-f POLICY]",
		Short: "List every version with the reasons to keep or expire it; nothing is deleted",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farm *client.Client) error {
			request := api.RetentionRequest{File: file}
			if file != "" {
				text, err := os.ReadFile(file)
				if err != nil {
					return usageError{err}
				}
				if request.Policy = string(text); strings.TrimSpace(request.Policy) == "" {
					return usagef("policy %s is empty; leave -f out for the farm's own", file)
				}
			}
			plan, err := farm.RetentionPlan(cmd.Context(), request)
			if err != nil {
				return err
			}
			return cli.print(cmd, plan, func(w *tabwriter.Writer) { planTable(w, plan) })
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "a policy to try (default: the farm's own)")
	return cmd
}

func planTable(w *tabwriter.Writer, plan api.RetentionPlan) {
	row(w, "VERDICT", "IMAGE", "NR", "SIZE", "BAKED", "WHY")
	for _, v := range plan.Verdicts {
		verdict := "expire"
		if v.Keep {
			verdict = "keep"
		}
		row(w, verdict, v.Name+":"+v.Version, v.Sequence, size(v.Size), age(v.CreatedAt), v.Reasons[0])
		for _, reason := range v.Reasons[1:] {
			fmt.Fprintf(w, "\t\t\t\t\t%s\n", reason)
		}
	}
	w.Flush()
	fmt.Fprintf(w, "%d versions: keep %d, expire %d\n", plan.Keep+plan.Expire, plan.Keep, plan.Expire)
}
