package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/imagestore/retention"

	"github.com/spf13/cobra"
)

// newRetention makes the commands about retention.
func newRetention(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "retention", Short: "Say what is kept, and why; let the rest go"}
	cmd.AddCommand(newRetentionShow(cli), newRetentionSet(cli), newRetentionPlan(cli), newRetentionApply(cli), newRetentionImport(cli))
	return cmd
}

func newRetentionShow(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show",
		Short: "Print the farm's retention policy",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farm *client.Client) error {
			p, err := farm.Retention(cmd.Context())
			if err != nil {
				return err
			}
			return cli.print(cmd, p, func(w *tabwriter.Writer) {
				if p.Default {
					fmt.Fprintln(w, "# No policy was set: this one is shown by plan, and applied by hand only.")
				} else {
					fmt.Fprintf(w, "# %s, set %s by %s\n", p.File, age(p.At), p.By)
				}
				fmt.Fprintln(w, strings.TrimRight(p.Policy, "\n"))
			})
		}),
	}
}

func newRetentionSet(cli *cli) *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use:     "set POLICY",
		Short:   "Make a policy the farm's own; it is applied from then on, now and then",
		Args:    cobra.ExactArgs(1),
		Example: "  bakefarm retention plan -f policy.yaml\n  bakefarm retention set policy.yaml",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			text, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			p, err := farm.SetRetention(cmd.Context(), api.RetentionSet{File: args[0], Policy: text, Yes: yes, By: whoami()})
			if err != nil {
				return err
			}
			return cli.print(cmd, p, func(w *tabwriter.Writer) { fmt.Fprintf(w, "%s is the farm's retention policy\n", p.File) })
		}),
	}
	cmd.Flags().BoolVar(&yes, "yes", false, "also when it lets a large share of the versions expire")
	return cmd
}

// readPolicy reads a policy's text.
func readPolicy(file string) (string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", usageError{err}
	}
	if strings.TrimSpace(string(text)) == "" {
		return "", usagef("policy %s is empty: rules: [] keeps everything", file)
	}
	return string(text), nil
}

func newRetentionPlan(cli *cli) *cobra.Command {
	var file string
	var expiring bool
	cmd := &cobra.Command{
		Use:   "plan [-f POLICY]",
		Short: "List every version with the reasons to keep or expire it; nothing is deleted",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farm *client.Client) error {
			request := api.RetentionRequest{File: file}
			if file != "" {
				var err error
				if request.Policy, err = readPolicy(file); err != nil {
					return err
				}
			}
			plan, err := farm.RetentionPlan(cmd.Context(), request)
			if err != nil {
				return err
			}
			return cli.print(cmd, plan, func(w *tabwriter.Writer) { planTable(w, plan, expiring) })
		}),
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "a policy to try (default: the farm's own)")
	cmd.Flags().BoolVar(&expiring, "expiring", false, "only what would expire")
	return cmd
}

func newRetentionApply(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "apply",
		Short: "Move what the farm's policy lets expire to the trash, from which it can be restored for a while",
		RunE: cli.call(func(cmd *cobra.Command, _ []string, farm *client.Client) error {
			plan, err := farm.ApplyRetention(cmd.Context(), api.RetentionApply{By: whoami()})
			if err != nil {
				return err
			}
			return cli.print(cmd, plan, func(w *tabwriter.Writer) { planTable(w, plan, true) })
		}),
	}
}

func planTable(w *tabwriter.Writer, plan api.RetentionPlan, expiring bool) {
	row(w, "VERDICT", "IMAGE", "NR", "SIZE", "BAKED", "WHY")
	for _, v := range plan.Verdicts {
		verdict := "expire"
		if v.Keep {
			verdict = "keep"
			if expiring {
				continue
			}
		}
		row(w, verdict, v.Name+":"+v.Version, v.Sequence, size(v.Size), age(v.CreatedAt), v.Reasons[0])
		for _, reason := range v.Reasons[1:] {
			fmt.Fprintf(w, "\t\t\t\t\t%s\n", reason)
		}
	}
	for _, v := range plan.Trash {
		row(w, "trash", v.Name+":"+v.Version, "-", "-", "-", fmt.Sprintf("until %s: %s", v.Until.Format(time.RFC3339), v.Reason))
	}
	w.Flush()
	for _, warning := range plan.Warnings {
		fmt.Fprintf(w, "note: %s\n", warning)
	}
	fmt.Fprintf(w, "%d versions: keep %d, expire %d\n", plan.Keep+plan.Expire, plan.Keep, plan.Expire)
	if plan.Expire > 0 {
		fmt.Fprintf(w, "%s freed once they are gone: what others share is not counted\n", size(plan.Frees))
	}
	if plan.Applied {
		fmt.Fprintf(w, "%d went to the trash; images restore takes one out again\n", plan.Trashed)
	}
}

func newRetentionImport(cli *cli) *cobra.Command {
	var ecr, harbor, match, prefix string
	cmd := &cobra.Command{
		Use:   "import --ecr FILE | --harbor FILE",
		Short: "Translate another registry's retention rules into a policy, on stdout; what can't be translated goes to stderr",
		Example: `  bakefarm retention import --ecr lifecycle.json --match 'shop/**' > policy.yaml
  bakefarm retention import --harbor retention.json --prefix shop/ > policy.yaml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if (ecr == "") == (harbor == "") {
				return usagef("give one of --ecr FILE and --harbor FILE")
			}
			data, err := os.ReadFile(ecr + harbor)
			if err != nil {
				return usageError{err}
			}
			var in retention.Imported
			if ecr != "" {
				in, err = retention.ImportECR(match, data)
			} else {
				in, err = retention.ImportHarbor(prefix, data)
			}
			if err != nil {
				return err
			}
			if cli.output == "json" {
				return printJSON(cmd.OutOrStdout(), in)
			}
			for _, note := range in.Untranslated {
				fmt.Fprintf(cmd.ErrOrStderr(), "not translated: %s\n", note)
			}
			_, err = fmt.Fprint(cmd.OutOrStdout(), in.Text)
			return err
		},
	}
	cmd.Flags().StringVar(&ecr, "ecr", "", "a lifecycle policy of Amazon ECR, as aws ecr get-lifecycle-policy prints its text")
	cmd.Flags().StringVar(&harbor, "harbor", "", "a tag retention policy of Harbor, as its API gives it")
	cmd.Flags().StringVar(&match, "match", "**", "ECR: the image names that the policy is about")
	cmd.Flags().StringVar(&prefix, "prefix", "", "Harbor: what to put before the repositories' names, such as shop/")
	return cmd
}
