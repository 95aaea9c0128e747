package main

import (
	"fmt"
	"os"
	"os/user"
	"strings"
	"text/tabwriter"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

// newChannels makes the commands about channels.
func newChannels(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "channels", Short: "List and show channels, promote and roll back"}
	cmd.AddCommand(newChannelsLs(cli), newChannelsShow(cli), newChannelsPromote(cli), newChannelsRollback(cli))
	return cmd
}

func newChannelsLs(cli *cli) *cobra.Command {
	var packages []string
	cmd := &cobra.Command{
		Use:     "ls [NAME]",
		Short:   "List channels, of one image name or of all",
		Args:    cobra.MaximumNArgs(1),
		Example: "  bakefarm channels ls --package 'openssl<3.0.15'",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			if len(packages) > 0 {
				affected, err := farm.Affected(cmd.Context(), strings.Join(args, ""), packages)
				if err != nil {
					return err
				}
				return cli.print(cmd, affected, func(w *tabwriter.Writer) { affectedTable(w, affected) })
			}
			channels, err := farm.Channels(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			return cli.print(cmd, channels, func(w *tabwriter.Writer) {
				row(w, "NAME", "CHANNEL", "VERSION", "MOVE", "MOVED", "BY")
				for _, c := range channels {
					row(w, c.Name, c.Channel.Channel, c.Version, c.Move, age(c.At), c.By)
				}
			})
		}),
	}
	cmd.Flags().StringArrayVar(&packages, "package", nil, "only what points to an image with this package, and what to bake anew, as \"images affected\" says it")
	return cmd
}

func newChannelsShow(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show NAME CHANNEL",
		Short: "Show a channel, its history and where it was published; NAME:CHANNEL will do too",
		Args:  cobra.RangeArgs(1, 2),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			name, channel, _, err := channelArgs(cmd, args, 0)
			if err != nil {
				return err
			}
			c, err := farm.Channel(cmd.Context(), name, channel)
			if err != nil {
				return err
			}
			return cli.print(cmd, c, func(w *tabwriter.Writer) { channelTable(w, c) })
		}),
	}
}

func channelTable(w *tabwriter.Writer, c api.Channel) {
	fmt.Fprintf(w, "%s %s → %s\n\n", c.Name, c.Channel.Channel, c.Version)
	w.Flush()
	row(w, "MOVE", "ACTION", "FROM", "TO", "WHEN", "BY")
	for _, m := range c.History {
		row(w, m.Move, m.Action, m.From, m.To, age(m.At), m.By)
	}
	if len(c.Publications) == 0 {
		return
	}
	fmt.Fprintln(w)
	w.Flush()
	row(w, "PUBLISHED", "VERSION", "STATE", "TRIES", "WHEN", "ERROR")
	for _, p := range c.Publications {
		row(w, p.Target, p.Version, p.State, p.Attempts, age(p.At), p.Error)
	}
}

func newChannelsPromote(cli *cli) *cobra.Command {
	var expect uint64
	cmd := &cobra.Command{
		Use:     "promote NAME CHANNEL VERSION",
		Short:   "Point a channel to a version, or to where another channel points",
		Args:    cobra.RangeArgs(2, 3),
		Example: "  bakefarm channels promote shop/checkout prod 0123456789abcdef\n  bakefarm channels promote shop/checkout prod staging",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			name, channel, rest, err := channelArgs(cmd, args, 1)
			if err != nil {
				return err
			}
			request := api.PromoteRequest{Version: rest[0], By: whoami()}
			if cmd.Flags().Changed("expect") {
				request.Expect = &expect
			}
			c, err := farm.Promote(cmd.Context(), name, channel, request)
			if err != nil {
				return err
			}
			return cli.printMoved(cmd, c)
		}),
	}
	cmd.Flags().Uint64Var(&expect, "expect", 0, "refuse when the channel's latest move is not this one (0: none yet)")
	return cmd
}

func newChannelsRollback(cli *cli) *cobra.Command {
	var to string
	cmd := &cobra.Command{
		Use:     "rollback NAME CHANNEL",
		Short:   "Point a channel back to where it pointed before",
		Args:    cobra.RangeArgs(1, 2),
		Example: "  bakefarm channels rollback shop/checkout prod",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			name, channel, _, err := channelArgs(cmd, args, 0)
			if err != nil {
				return err
			}
			c, err := farm.Rollback(cmd.Context(), name, channel, api.RollbackRequest{To: to, By: whoami()})
			if err != nil {
				return err
			}
			return cli.printMoved(cmd, c)
		}),
	}
	cmd.Flags().StringVar(&to, "to", "", "a version of the rollback window (default: the previous one)")
	return cmd
}

// printMoved shows where a channel points after a move.
func (c *cli) printMoved(cmd *cobra.Command, channel api.Channel) error {
	return c.print(cmd, channel, func(w *tabwriter.Writer) {
		fmt.Fprintf(w, "%s %s → %s (move %d)\n", channel.Name, channel.Channel.Channel, channel.Version, channel.Move)
	})
}

// channelArgs takes NAME CHANNEL or NAME:CHANNEL apart from the rest of the arguments, of which there are n.
func channelArgs(cmd *cobra.Command, args []string, n int) (name, channel string, rest []string, err error) {
	switch len(args) - n {
	case 2:
		return args[0], args[1], args[2:], nil
	case 1:
		name, channel, found := strings.Cut(args[0], ":")
		if !found {
			name, channel, found = strings.Cut(args[0], "@")
		}
		if found {
			return name, channel, args[1:], nil
		}
	}
	return "", "", nil, usagef("usage: %s", cmd.UseLine())
}

// whoami names the person at the terminal for a channel's history.
func whoami() string {
	name := os.Getenv("USER")
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil && name != "" {
		name += "@" + host
	}
	return name
}
