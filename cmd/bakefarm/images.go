package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/imagestore/catalog"

	"github.com/spf13/cobra"
)

// newImages makes the commands about images.
func newImages(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "images", Short: "List, show and pull images"}
	cmd.AddCommand(newImagesLs(cli), newImagesCount(cli), newImagesShow(cli), newImagesPull(cli))
	cmd.AddCommand(newKeep(cli)...)
	cmd.AddCommand(newAttach(cli)...)
	cmd.AddCommand(newContents(cli)...)
	return cmd
}

func newImagesLs(cli *cli) *cobra.Command {
	var limit int
	var filter client.ImageFilter
	var order client.Order
	cmd := &cobra.Command{
		Use:   "ls [NAME]",
		Short: "List images, newest first; NAME is a glob: 'shop/*'",
		Args:  cobra.MaximumNArgs(1),
		Example: `  bakefarm images ls 'shop/*'
  bakefarm images ls --channel prod --package 'openssl<3.0.15'
  bakefarm images ls --label team=shop --pulled-before 90d --sort size`,
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			filter.Name = strings.Join(args, "")
			images, err := collect(limit, func(cursor string, limit int) (api.Page[api.CatalogImage], error) {
				return farm.Images(cmd.Context(), filter, order, cursor, limit)
			})
			if err != nil {
				return err
			}
			return cli.print(cmd, images, func(w *tabwriter.Writer) { imagesTable(w, images, filter, order) })
		}),
	}
	filterFlags(cmd, &filter)
	flags := cmd.Flags()
	flags.StringVar(&order.By, "sort", "created", "created, name, size, pulled or deployed")
	flags.BoolVar(&order.Reverse, "reverse", false, "the other way round")
	flags.IntVar(&limit, "limit", 50, "how many at the most; 0 for all")
	return cmd
}

// filterFlags are the flags by which images are chosen.
func filterFlags(cmd *cobra.Command, f *client.ImageFilter) {
	flags := cmd.Flags()
	flags.StringVar(&f.Kind, "kind", "", "oci or disk")
	flags.StringVar(&f.Platform, "platform", "", "linux/amd64; index for indexes over several platforms")
	flags.StringVar(&f.Format, "format", "", "format of the image")
	flags.StringVar(&f.Version, "version", "", "images of this version")
	flags.StringVar(&f.Channel, "channel", "", "what this channel points to; a glob")
	flags.StringArrayVar(&f.Labels, "label", nil, "KEY or KEY=VALUE, the value perhaps a glob; all of several")
	flags.StringVar(&f.Base, "base", "", "what it was built on, directly or not: debian:bookworm, a name or reference; a glob")
	flags.StringVar(&f.Parent, "parent", "", "what it was built on directly; a glob")
	flags.StringArrayVar(&f.Packages, "package", nil, "contains this package: openssl, 'openssl<3.0.15', 'libssl*:amd64>=3'; all of several")
	flags.StringVarP(&f.Text, "query", "q", "", "words that must all stand in name, version, digest, bake, base, labels or channels")
	flags.StringVar(&f.State, "state", "", "pinned: what is pinned or held; trash: what is to go")
	flags.BoolVar(&f.Running, "running", false, "only what a deployment reports to run")
	for _, t := range []struct {
		name, of      string
		after, before *string
	}{
		{"baked", "baked", &f.CreatedAfter, &f.CreatedBefore},
		{"pulled", "last pulled", &f.PulledAfter, &f.PulledBefore},
		{"resolved", "last found through a channel", &f.ResolvedAfter, &f.ResolvedBefore},
		{"deployed", "last reported to run", &f.DeployedAfter, &f.DeployedBefore},
	} {
		flags.StringVar(t.after, t.name+"-after", "", t.of+" since: 30d, 2026-01-31, or a time as in RFC 3339")
		flags.StringVar(t.before, t.name+"-before", "", t.of+" before then, or never")
	}
	flags.Lookup("baked-before").Usage = "baked before then"
}

// imagesTable lists images, with the columns that the question makes interesting.
func imagesTable(w *tabwriter.Writer, images []api.CatalogImage, f client.ImageFilter, o client.Order) {
	header := []any{"NAME", "VERSION", "NR", "KIND", "PLATFORM", "SIZE", "CHANNELS", "BAKED"}
	pulled := o.By == "pulled" || f.PulledAfter+f.PulledBefore != ""
	deployed := o.By == "deployed" || f.DeployedAfter+f.DeployedBefore != "" || f.Running
	for _, column := range []struct {
		shown bool
		name  string
	}{{pulled, "PULLED"}, {deployed, "DEPLOYED"}, {len(f.Packages) > 0, "PACKAGES"}, {true, "DIGEST"}} {
		if column.shown {
			header = append(header, column.name)
		}
	}
	row(w, header...)
	for _, i := range images {
		cells := []any{i.Name, i.Version, i.Sequence, i.Kind, platform(i.Image), size(i.Size), strings.Join(i.Channels, ","), age(i.CreatedAt)}
		if pulled {
			cells = append(cells, age(i.Usage.PulledAt))
		}
		if deployed {
			cells = append(cells, age(i.Usage.DeployedAt))
		}
		if len(f.Packages) > 0 {
			cells = append(cells, packageNames(i.Packages))
		}
		row(w, append(cells, i.Digest)...)
	}
}

// packageNames writes packages in one line.
func packageNames(packages []catalog.Package) string {
	var names []string
	for _, p := range packages {
		names = append(names, p.Name+" "+p.Version)
	}
	return strings.Join(slices.Compact(names), ", ")
}

func newImagesCount(cli *cli) *cobra.Command {
	var filter client.ImageFilter
	var by string
	cmd := &cobra.Command{
		Use:     "count [NAME]",
		Short:   "Count images, all or by what they have in common; NAME is a glob",
		Args:    cobra.MaximumNArgs(1),
		Example: "  bakefarm images count --by base\n  bakefarm images count 'shop/*' --by label:team --package 'openssl<3.0.15'",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			filter.Name = strings.Join(args, "")
			counts, err := farm.CountImages(cmd.Context(), filter, by)
			if err != nil {
				return err
			}
			return cli.print(cmd, counts, func(w *tabwriter.Writer) {
				if by != "" {
					row(w, strings.ToUpper(by), "IMAGES")
					groups := slices.SortedFunc(maps.Keys(counts.Groups), func(a, b string) int {
						return cmp.Or(counts.Groups[b]-counts.Groups[a], strings.Compare(a, b))
					})
					for _, g := range groups {
						row(w, g, counts.Groups[g])
					}
					w.Flush()
				}
				fmt.Fprintf(w, "%d images of %d versions\n", counts.Images, counts.Versions)
			})
		}),
	}
	filterFlags(cmd, &filter)
	cmd.Flags().StringVar(&by, "by", "", "name, kind, platform, format, base, channel or label:KEY")
	return cmd
}

const refHelp = "REF is name, name:version, name:channel or name@digest"

func newImagesShow(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show REF",
		Short: "Show the images of a version; " + refHelp,
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			images, err := farm.StoredImage(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return cli.print(cmd, images, func(w *tabwriter.Writer) {
				for n, i := range images {
					if n > 0 {
						fmt.Fprintln(w)
					}
					row(w, "image", i.Ref)
					row(w, "kind", i.Kind+" "+platform(i.Image))
					row(w, "digest", i.Digest)
					row(w, "size", size(i.Size))
					if s := i.Stored; s != nil {
						row(w, "stored", fmt.Sprintf("%s of its version's own, %s shared with other versions", size(s.Own), size(s.Shared)))
					}
					row(w, "number", i.Sequence)
					row(w, "channels", strings.Join(i.Channels, ", "))
					row(w, "baked", i.CreatedAt.Format(time.RFC3339))
					row(w, "bake", i.Bake)
					row(w, "key", i.Key)
					row(w, "built on", i.Base.Ref)
					for _, name := range slices.Sorted(maps.Keys(i.Labels)) {
						row(w, "label", name+"="+i.Labels[name])
					}
					row(w, "pulled", age(i.Usage.PulledAt))
					row(w, "resolved", age(i.Usage.ResolvedAt))
					row(w, "deployed", age(i.Usage.DeployedAt)+running(i.Usage.Deployments))
					if i.Kind == "disk" {
						row(w, "pull", "bakefarm images pull "+i.Ref+" --disk qcow2 -f disk.qcow2")
						continue
					}
					row(w, "pull", strings.TrimPrefix(strings.TrimPrefix(farm.Server(), "http://"), "https://")+"/"+i.Ref)
				}
			})
		}),
	}
}

// running says how many deployments there are, if any.
func running(n int) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprintf(", %d running", n)
}

func newImagesPull(cli *cli) *cobra.Command {
	var dir, platform string
	var disk diskFlags
	cmd := &cobra.Command{
		Use:   "pull REF --oci DIR | --disk FORMAT -f FILE",
		Short: "Copy an image into an OCI layout, or a disk into a file; " + refHelp,
		Args:  cobra.ExactArgs(1),
		Example: "  bakefarm images pull shop/checkout:prod --oci ./checkout\n" +
			"  bakefarm images pull shop/checkout:prod --disk qcow2 -f checkout.qcow2",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			if err := disk.check(dir); err != nil {
				return err
			}
			if disk.format != "" {
				return pullDisk(cli, cmd, farm, args[0], platform, disk)
			}
			images, err := farm.Image(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			image, err := choose(images, args[0], platform)
			if err != nil {
				return err
			}
			started := time.Now()
			var received atomic.Int64
			if err := farm.PullOCI(cmd.Context(), image, dir, func(n int64) { received.Add(n) }); err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "pulled %s in %s: %s received\n", image.Ref, took(time.Since(started)), size(received.Load()))
			return cli.print(cmd, image, func(w *tabwriter.Writer) { imageTable(w, []api.Image{image.Image}) })
		}),
	}
	cmd.Flags().StringVar(&dir, "oci", "", "directory of the OCI layout; made when it is not there")
	cmd.Flags().StringVar(&platform, "platform", "", "which image of several: linux/amd64; without it all of them, under their index")
	cmd.Flags().StringVar(&disk.format, "disk", "", "format of the disk: "+strings.Join(diskFormats, ", ")+"; all but raw and qcow2 want qemu-img")
	cmd.Flags().StringVarP(&disk.file, "file", "f", "", "file of the disk; what another attempt left in FILE.part is used")
	cmd.Flags().BoolVar(&disk.compress, "compress", false, "compress qcow2 with zstd")
	return cmd
}

// choose picks the OCI image that is meant: that of the platform, else the index over all, else the only one.
func choose(images []api.CatalogImage, ref, platform string) (api.CatalogImage, error) {
	var fit []api.CatalogImage
	var have []string
	for _, i := range images {
		if i.Kind != "oci" {
			continue
		}
		if i.Platform == "" {
			if platform == "" {
				return i, nil
			}
			continue
		}
		have = append(have, i.Platform)
		if platform == "" || i.Platform == platform {
			fit = append(fit, i)
		}
	}
	switch {
	case len(fit) == 1:
		return fit[0], nil
	case len(fit) > 1:
		return fit[0], usagef("%s has images for %s: choose one with --platform", ref, strings.Join(have, ", "))
	case platform != "" && len(have) > 0:
		return api.CatalogImage{}, usagef("%s has no image for %s, but for %s", ref, platform, strings.Join(have, ", "))
	}
	if len(images) > 0 {
		return api.CatalogImage{}, usagef("%s has no OCI image, but a disk: pull it with --disk qcow2 -f FILE", ref)
	}
	return api.CatalogImage{}, fmt.Errorf("%s has no OCI image", ref)
}
