package main

import (
	"context"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

// newKeep makes the commands that keep versions by hand, and let them go.
func newKeep(cli *cli) []*cobra.Command {
	return []*cobra.Command{newImagesPin(cli), newImagesUnpin(cli), newImagesRm(cli), newImagesRestore(cli)}
}

// keepEach makes the body of a command that changes each of the versions that its arguments mean. What can't be changed is
// told, and the rest goes on.
func keepEach(cli *cli, request *api.KeepRequest, change func(*client.Client, context.Context, string, api.KeepRequest) (api.KeptVersion, error), said func(api.KeptVersion) string) func(*cobra.Command, []string) error {
	return cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
		request.By = whoami()
		kept := []api.KeptVersion{}
		var failed []string
		for _, ref := range args {
			v, err := change(farm, cmd.Context(), ref, *request)
			if err != nil {
				failed = append(failed, err.Error())
				continue
			}
			kept = append(kept, v)
		}
		err := cli.print(cmd, kept, func(w *tabwriter.Writer) {
			for _, v := range kept {
				fmt.Fprintf(w, "%s:%s %s\n", v.Name, v.Version, said(v))
			}
		})
		if err == nil && len(failed) > 0 {
			err = fmt.Errorf("%s", strings.Join(failed, "\n"))
		}
		return err
	})
}

func newImagesPin(cli *cli) *cobra.Command {
	var request api.KeepRequest
	cmd := &cobra.Command{
		Use:     "pin REF…",
		Short:   "Keep versions whatever the retention policy says; " + refHelp,
		Args:    cobra.MinimumNArgs(1),
		Example: "  bakefarm images pin shop/checkout:prod --note 'the last one before the move'\n  bakefarm images pin shop/checkout:prod --hold case-4711",
		RunE: keepEach(cli, &request, (*client.Client).Pin, func(v api.KeptVersion) string {
			return fmt.Sprintf("is pinned (%d pins and holds)", len(v.Pins))
		}),
	}
	cmd.Flags().StringVar(&request.Note, "note", "", "what for")
	cmd.Flags().StringVar(&request.Hold, "hold", "", "a legal hold for this case; only unpin --hold with the same case ends it")
	return cmd
}

func newImagesUnpin(cli *cli) *cobra.Command {
	var request api.KeepRequest
	cmd := &cobra.Command{
		Use:   "unpin REF…",
		Short: "Take pins, or legal holds, out again",
		Args:  cobra.MinimumNArgs(1),
		RunE: keepEach(cli, &request, (*client.Client).Unpin, func(v api.KeptVersion) string {
			if len(v.Pins) == 0 {
				return "is not pinned any more"
			}
			return fmt.Sprintf("has %d other pins and holds", len(v.Pins))
		}),
	}
	cmd.Flags().StringVar(&request.Hold, "hold", "", "the case of a legal hold to release")
	return cmd
}

func newImagesRm(cli *cli) *cobra.Command {
	var request api.KeepRequest
	var stay time.Duration
	cmd := &cobra.Command{
		Use:     "rm REF…",
		Short:   "Move versions to the trash; refused for what a channel, a pin, a deployment or another image needs",
		Args:    cobra.MinimumNArgs(1),
		Example: "  bakefarm images rm shop/checkout:0123456789abcdef",
		PreRunE: func(*cobra.Command, []string) error {
			if stay < 0 {
				return usagef("--for %s: want a length of time", stay)
			}
			if stay > 0 {
				request.For = stay.String()
			}
			return nil
		},
		RunE: keepEach(cli, &request, (*client.Client).Trash, func(v api.KeptVersion) string {
			return "is in the trash until " + v.Trash.Until.Local().Format(time.DateTime) + "; images restore takes it out"
		}),
	}
	cmd.Flags().StringVar(&request.Note, "note", "", "why")
	cmd.Flags().DurationVar(&stay, "for", 0, "how long it can be restored, such as 72h (default: as the policy says, 7 days if it doesn't)")
	return cmd
}

func newImagesRestore(cli *cli) *cobra.Command {
	var request api.KeepRequest
	return &cobra.Command{
		Use:   "restore REF…",
		Short: "Take versions out of the trash: name:version or name@digest",
		Args:  cobra.MinimumNArgs(1),
		RunE:  keepEach(cli, &request, (*client.Client).Restore, func(api.KeptVersion) string { return "is back" }),
	}
}
