package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"

	"github.com/spf13/cobra"
)

// newAttach makes the commands for what is attached to images.
func newAttach(cli *cli) []*cobra.Command {
	return []*cobra.Command{newImagesAttach(cli), newImagesAttachments(cli), newImagesDetach(cli)}
}

// maxAttached is the size limit of an attached file, in bytes: the farm takes no larger one.
const maxAttached = 4 << 20

func newImagesAttach(cli *cli) *cobra.Command {
	var request api.AttachRequest
	var annotations []string
	cmd := &cobra.Command{
		Use:   "attach REF FILE --type TYPE",
		Short: "Attach a signature, an attestation or a report to an image, as an OCI artifact; " + refHelp,
		Args:  cobra.ExactArgs(2),
		Example: "  bakefarm images attach shop/checkout:prod checkout.sig --type application/vnd.example.signature\n" +
			"  bakefarm images attach shop/checkout:prod scan.json --type application/vnd.example.scan --annotation org.example.passed=true",
		PreRunE: func(*cobra.Command, []string) error {
			if request.Type == "" {
				return usagef("--type is missing: what the file is, a media type such as application/vnd.example.signature")
			}
			for _, a := range annotations {
				key, value, ok := strings.Cut(a, "=")
				if !ok || key == "" {
					return usagef("--annotation %s: want KEY=VALUE", a)
				}
				if request.Annotations == nil {
					request.Annotations = map[string]string{}
				}
				request.Annotations[key] = value
			}
			return nil
		},
		RunE: cli.call(func(cmd *cobra.Command, args []string, c *client.Client) error {
			f, err := os.Open(args[1])
			if err != nil {
				return err
			}
			defer f.Close()
			if request.Content, err = io.ReadAll(io.LimitReader(f, maxAttached+1)); err != nil {
				return err
			}
			if n := len(request.Content); n == 0 || n > maxAttached {
				return fmt.Errorf("%s: it is empty, or has more than %s", args[1], size(maxAttached))
			}
			request.Title, request.By = filepath.Base(args[1]), whoami()
			a, err := c.Attach(cmd.Context(), args[0], request)
			if err != nil {
				return err
			}
			return cli.print(cmd, a, func(w *tabwriter.Writer) { attachmentsTable(w, []farm.Attachment{a}) })
		}),
	}
	flags := cmd.Flags()
	flags.StringVar(&request.Type, "type", "", "what it is: a media type")
	flags.StringVar(&request.MediaType, "media-type", "", "of the file (default: as --type)")
	flags.StringArrayVar(&annotations, "annotation", nil, "KEY=VALUE, of the artifact; may be given several times")
	return cmd
}

func newImagesAttachments(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "attachments REF",
		Short: "List what is attached to the images of a version; " + refHelp,
		Args:  cobra.ExactArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, c *client.Client) error {
			list, err := c.Attachments(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return cli.print(cmd, list, func(w *tabwriter.Writer) { attachmentsTable(w, list) })
		}),
	}
}

func attachmentsTable(w *tabwriter.Writer, list []farm.Attachment) {
	row(w, "ARTIFACT", "TYPE", "ABOUT", "BY", "ATTACHED")
	for _, a := range list {
		row(w, a.Digest, a.Type, a.Subject, a.By, age(a.At))
	}
}

func newImagesDetach(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "detach REF ARTIFACT…",
		Short: "Take artifacts, by their digests, away from an image",
		Args:  cobra.MinimumNArgs(2),
		RunE: cli.call(func(cmd *cobra.Command, args []string, c *client.Client) error {
			for _, artifact := range args[1:] {
				if err := c.Detach(cmd.Context(), args[0], artifact); err != nil {
					return err
				}
			}
			return nil
		}),
	}
}
