package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// newContents makes the commands about what images contain and descend from.
func newContents(cli *cli) []*cobra.Command {
	return []*cobra.Command{newImagesPackages(cli), newImagesDiff(cli), newImagesAncestry(cli), newImagesAffected(cli)}
}

func newImagesPackages(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "packages REF",
		Short: "List the packages of an image; " + refHelp,
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			images, err := farm.Packages(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return cli.print(cmd, images, func(w *tabwriter.Writer) {
				row(w, "PACKAGE", "VERSION", "ARCH", "PLATFORM", "SIZE")
				for _, i := range images {
					for _, p := range i.Packages {
						row(w, p.Name, p.Version, p.Arch, i.Platform, size(p.Size))
					}
				}
			})
		}),
	}
}

func newImagesDiff(cli *cli) *cobra.Command {
	var platform string
	var noFiles bool
	cmd := &cobra.Command{
		Use:     "diff REF REF",
		Short:   "Say what differs between two images: packages, configuration, files, size; " + refHelp,
		Args:    cobra.ExactArgs(2),
		Example: "  bakefarm images diff shop/checkout:prod shop/checkout:dev",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			d, err := farm.Diff(cmd.Context(), args[0], args[1], platform, !noFiles)
			if err != nil {
				return err
			}
			return cli.print(cmd, d, func(w *tabwriter.Writer) { diffTable(w, d) })
		}),
	}
	cmd.Flags().StringVar(&platform, "platform", "", "of several platforms that both have")
	cmd.Flags().BoolVar(&noFiles, "no-files", false, "don't read the layers to say which files differ")
	return cmd
}

func diffTable(w *tabwriter.Writer, d api.ImageDiff) {
	sign := "+"
	if d.Size < 0 {
		sign = "-"
	}
	fmt.Fprintf(w, "%s → %s %s: %s%s\n", d.From.Ref, d.To.Ref, d.To.Platform, sign, humanize.IBytes(uint64(max(d.Size, -d.Size))))
	p := d.Packages
	if len(p.Added)+len(p.Removed)+len(p.Changed) > 0 {
		fmt.Fprintln(w)
		w.Flush()
		row(w, "PACKAGE", "FROM", "TO")
		for _, c := range p.Changed {
			row(w, c.Name+":"+c.Arch, c.From, c.To)
		}
		for _, a := range p.Added {
			row(w, a.Name+":"+a.Arch, "", a.Version)
		}
		for _, r := range p.Removed {
			row(w, r.Name+":"+r.Arch, r.Version, "")
		}
	}
	if len(d.Config) > 0 {
		fmt.Fprintln(w)
		w.Flush()
		row(w, "SETTING", "FROM", "TO")
		for _, s := range d.Config {
			row(w, s.Name, s.From, s.To)
		}
	}
	if f := d.Files; f != nil && len(f.Added)+len(f.Removed)+len(f.Changed) > 0 {
		w.Flush()
		fmt.Fprintf(w, "\nfiles: %d added, %d removed, %d changed\n", len(f.Added), len(f.Removed), len(f.Changed))
		for _, list := range []struct {
			mark  string
			paths []string
		}{{"+", f.Added}, {"-", f.Removed}, {"~", f.Changed}} {
			for _, path := range list.paths {
				fmt.Fprintf(w, "%s /%s\n", list.mark, path)
			}
		}
		if f.More > 0 {
			fmt.Fprintf(w, "and %d more\n", f.More)
		}
	}
}

func newImagesAncestry(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "ancestry REF",
		Short: "Show as a tree what an image was built on, and what was built on it; " + refHelp,
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			a, err := farm.Ancestry(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return cli.print(cmd, a, func(w *tabwriter.Writer) { ancestryTree(w, a) })
		}),
	}
}

// ancestryTree draws the line down to the image, which is marked, and everything below it.
func ancestryTree(w io.Writer, a api.Ancestry) {
	fmt.Fprintln(w, orDash(a.Origin))
	indent := ""
	for i := len(a.Ancestors) - 1; i >= 0; i-- {
		fmt.Fprintf(w, "%s└─ %s\n", indent, relative(a.Ancestors[i]))
		indent += "   "
	}
	fmt.Fprintf(w, "%s└─ %s  ◀\n", indent, relative(a.Relative))
	drawChildren(w, indent+"   ", a.Children)
	if a.More {
		fmt.Fprintf(w, "and more than these %d descendants\n", a.Descendants)
	}
}

func drawChildren(w io.Writer, indent string, children []api.Relative) {
	for i, c := range children {
		branch, below := "├─ ", "│  "
		if i == len(children)-1 {
			branch, below = "└─ ", "   "
		}
		fmt.Fprintf(w, "%s%s%s\n", indent, branch, relative(c))
		drawChildren(w, indent+below, c.Children)
	}
}

// relative is one line of the tree.
func relative(r api.Relative) string {
	line := r.Ref + "  " + age(r.CreatedAt)
	if len(r.Channels) > 0 {
		line += "  [" + strings.Join(r.Channels, ", ") + "]"
	}
	return line
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func newImagesAffected(cli *cli) *cobra.Command {
	var name string
	cmd := &cobra.Command{
		Use:     "affected PACKAGE…",
		Short:   "List the channels that point to images with such packages, and what to bake anew",
		Args:    cobra.MinimumNArgs(1),
		Example: "  bakefarm images affected 'openssl<3.0.15'",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			affected, err := farm.Affected(cmd.Context(), name, args)
			if err != nil {
				return err
			}
			return cli.print(cmd, affected, func(w *tabwriter.Writer) { affectedTable(w, affected) })
		}),
	}
	cmd.Flags().StringVar(&name, "name", "", "only images of this name; a glob")
	return cmd
}

func affectedTable(w *tabwriter.Writer, a api.Affected) {
	row(w, "NAME", "CHANNEL", "VERSION", "BAKED", "RUNNING", "PACKAGES")
	for _, c := range a.Channels {
		row(w, c.Name, c.Channel, c.Version, age(c.CreatedAt), c.Deployments, packageNames(c.Packages))
	}
	if len(a.Rebake) == 0 {
		return
	}
	fmt.Fprintln(w)
	w.Flush()
	row(w, "BAKE ANEW", "FOR", "RECIPE", "LAST BAKE")
	for _, r := range a.Rebake {
		row(w, r.Name, strings.Join(r.Channels, ","), r.File, r.Bake)
	}
}
