package main

import (
	"fmt"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"

	"github.com/spf13/cobra"
)

// newImages makes the commands about images.
func newImages(cli *cli) *cobra.Command {
	cmd := &cobra.Command{Use: "images", Short: "List, show and pull images"}
	cmd.AddCommand(newImagesLs(cli), newImagesShow(cli), newImagesPull(cli))
	cmd.AddCommand(newKeep(cli)...)
	return cmd
}

func newImagesLs(cli *cli) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:     "ls [NAME]",
		Short:   "List images, newest first; NAME is a glob: 'shop/*'",
		Args:    cobra.MaximumNArgs(1),
		Example: "  bakefarm images ls 'shop/*'",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			images, err := collect(limit, func(cursor string, limit int) (api.Page[api.CatalogImage], error) {
				return farm.Images(cmd.Context(), strings.Join(args, ""), cursor, limit)
			})
			if err != nil {
				return err
			}
			return cli.print(cmd, images, func(w *tabwriter.Writer) {
				row(w, "NAME", "VERSION", "NR", "KIND", "PLATFORM", "SIZE", "CHANNELS", "BAKED", "DIGEST")
				for _, i := range images {
					row(w, i.Name, i.Version, i.Sequence, i.Kind, platform(i.Image), size(i.Size), strings.Join(i.Channels, ","), age(i.CreatedAt), i.Digest)
				}
			})
		}),
	}
	cmd.Flags().IntVar(&limit, "limit", 50, "how many at the most; 0 for all")
	return cmd
}

const refHelp = "REF is name, name:version, name:channel or name@digest"

func newImagesShow(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "show REF",
		Short: "Show the images of a version; " + refHelp,
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			images, err := farm.Image(cmd.Context(), args[0])
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
					row(w, "number", i.Sequence)
					row(w, "channels", strings.Join(i.Channels, ", "))
					row(w, "baked", i.CreatedAt.Format(time.RFC3339))
					row(w, "bake", i.Bake)
					row(w, "key", i.Key)
					row(w, "pull", strings.TrimPrefix(strings.TrimPrefix(farm.Server(), "http://"), "https://")+"/"+i.Ref)
				}
			})
		}),
	}
}

func newImagesPull(cli *cli) *cobra.Command {
	var dir, platform string
	cmd := &cobra.Command{
		Use:     "pull REF --oci DIR",
		Short:   "Copy an image into an OCI layout; " + refHelp,
		Args:    cobra.ExactArgs(1),
		Example: "  bakefarm images pull shop/checkout:prod --oci ./checkout",
		RunE: cli.call(func(cmd *cobra.Command, args []string, farm *client.Client) error {
			if dir == "" {
				return usagef("--oci DIR is missing: say where to put the OCI layout")
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
	return api.CatalogImage{}, fmt.Errorf("%s has no OCI image", ref)
}
