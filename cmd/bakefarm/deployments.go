package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

// newDeployments makes the commands about what runs where.
func newDeployments(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "deployments", Short: "Report and list which instance runs which image"}
	cmd.AddCommand(newDeploymentsLs(cli), newDeploymentsPut(cli), newDeploymentsRm(cli))
	return cmd
}

func newDeploymentsLs(cli *cli) *cobra.Command {
	var filter client.DeploymentFilter
	var limit int
	cmd := &cobra.Command{
		Use:     "ls [NAME]",
		Short:   "List what runs, by ID; NAME is a glob over image names",
		Args:    cobra.MaximumNArgs(1),
		Example: "  bakefarm deployments ls --package 'openssl<3.0.15'",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			filter.Name = strings.Join(args, "")
			list, err := collect(limit, func(cursor string, limit int) (api.Page[api.Deployment], error) {
				return farm.Deployments(cmd.Context(), filter, cursor, limit)
			})
			if err != nil {
				return err
			}
			return cli.print(cmd, list, func(w *tabwriter.Writer) { deploymentTable(w, list, len(filter.Packages) > 0) })
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&filter.Version, "version", "", "only this version")
	flags.StringArrayVar(&filter.Packages, "package", nil, "only what runs an image with this package: 'openssl<3.0.15'; all of several")
	flags.BoolVar(&filter.Ended, "ended", false, "those whose lease has ended, in place of those that run")
	flags.IntVar(&limit, "limit", 50, "how many at the most; 0 for all")
	return cmd
}

func deploymentTable(w *tabwriter.Writer, list []api.Deployment, packages bool) {
	header := []any{"DEPLOYMENT", "NAME", "VERSION", "SINCE", "SEEN", "UNTIL", "BY", "NOTE"}
	if packages {
		header = append(header, "PACKAGES")
	}
	row(w, header...)
	for _, d := range list {
		cells := []any{d.ID, d.Name, d.Version, age(d.StartedAt), age(d.SeenAt), d.Until.Local().Format("2006-01-02 15:04"), d.By, d.Note}
		if packages {
			cells = append(cells, packageNames(d.Packages))
		}
		row(w, cells...)
	}
}

func newDeploymentsPut(cli *cli) *cobra.Command {
	request := api.DeploymentRequest{By: whoami()}
	cmd := &cobra.Command{
		Use:     "put ID REF",
		Short:   "Report that an instance runs an image, which does not expire before the lease ends; " + refHelp,
		Args:    cobra.ExactArgs(2),
		Example: "  bakefarm deployments put i-1 shop/checkout:prod --lease 12h",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			request.Image = args[1]
			d, err := farm.PutDeployment(cmd.Context(), args[0], request)
			if err != nil {
				return err
			}
			return cli.print(cmd, d, func(w *tabwriter.Writer) { deploymentTable(w, []api.Deployment{d}, false) })
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&request.Lease, "lease", "24h", "for how long, without another report, it is taken to run: 12h, 30d")
	flags.StringVar(&request.Note, "note", "", "anything that helps to find it")
	return cmd
}

func newDeploymentsRm(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "rm ID…",
		Short: "Report that instances have gone",
		Args:  cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			for _, id := range args {
				if err := farm.DeleteDeployment(cmd.Context(), id); err != nil {
					return err
				}
				fmt.Fprintf(cmd.ErrOrStderr(), "%s has gone\n", id)
			}
			return nil
		}),
	}
}
