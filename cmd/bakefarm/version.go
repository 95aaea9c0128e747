package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"

	"bakefarm/api"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

// release says which bakefarm this is.
func release() api.Release {
	r := api.Release{Version: version, Go: runtime.Version()}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				r.Commit = s.Value
			}
		}
	}
	return r
}

func newVersion(cli *cli) *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		RunE: func(cmd *cobra.Command, _ []string) error {
			r := release()
			if cli.output == "json" {
				return printJSON(cmd.OutOrStdout(), r)
			}
			line := "bakefarm " + r.Version
			if r.Commit != "" {
				line += " (" + r.Commit[:min(len(r.Commit), 12)] + ")"
			}
			_, err := fmt.Fprintln(cmd.OutOrStdout(), line, r.Go, runtime.GOOS+"/"+runtime.GOARCH)
			return err
		},
	}
}

func printJSONLine(w io.Writer, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", raw)
	return err
}

// writeResult writes a text to a file, or to standard output when file is empty. The file appears whole or not at all.
func writeResult(cmd *cobra.Command, file string, text []byte) error {
	if file == "" || file == "-" {
		_, err := cmd.OutOrStdout().Write(text)
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name())
	if _, err := temp.Write(text); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Chmod(0o644); err != nil {
		temp.Close()
		return err
	}
	if err := temp.Close(); err != nil {
		return err
	}
	return os.Rename(temp.Name(), file)
}
