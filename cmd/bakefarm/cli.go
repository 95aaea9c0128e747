package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"bakefarm/api/client"

	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"
)

// cli is what every client command shares: where the farm is and how results are printed.
type cli struct {
	server string
	token  string
	output string
}

func (c *cli) register(root *cobra.Command) {
	flags := root.PersistentFlags()
	flags.StringVar(&c.server, "server", envOr("BAKEFARM_SERVER", "http://127.0.0.1:7667"), "address of the farm's API (BAKEFARM_SERVER)")
	flags.StringVar(&c.token, "token", "", "token for the farm's API (BAKEFARM_TOKEN)")
	flags.StringVarP(&c.output, "output", "o", "table", "how to print results: table or json")
}

func (c *cli) validate() error {
	if c.output != "table" && c.output != "json" {
		return usagef("-o %s: want table or json", c.output)
	}
	if c.token == "" {
		c.token = os.Getenv("BAKEFARM_TOKEN") // not the flag's default: --help would print it
	}
	return nil
}

func envOr(key, otherwise string) string {
	if v := os.Getenv(key); v != "" {
		return v
	}
	return otherwise
}

// listOr is the comma-separated list in a variable of the environment.
func listOr(key string) []string {
	return strings.FieldsFunc(os.Getenv(key), func(r rune) bool { return r == ',' || r == ' ' })
}

// dial makes a client of the farm.
func (c *cli) dial() (*client.Client, error) {
	farm, err := client.New(c.server, c.token)
	if err != nil {
		return nil, usageError{err}
	}
	return farm, nil
}

// call makes the body of a command that talks to the farm.
func (c *cli) call(run func(*cobra.Command, []string, *client.Client) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		farm, err := c.dial()
		if err != nil {
			return err
		}
		defer farm.Close()
		return run(cmd, args, farm)
	}
}

// print writes a result: as JSON, or as table does.
func (c *cli) print(cmd *cobra.Command, result any, table func(*tabwriter.Writer)) error {
	if c.output == "json" {
		return printJSON(cmd.OutOrStdout(), result)
	}
	w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 8, 2, ' ', 0)
	table(w)
	return w.Flush()
}

func printJSON(w io.Writer, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(w, "%s\n", raw)
	return err
}

// row writes one line of a table.
func row(w *tabwriter.Writer, cells ...any) {
	for i, cell := range cells {
		if i > 0 {
			fmt.Fprint(w, "\t")
		}
		text := fmt.Sprint(cell)
		if text == "" {
			text = "-"
		}
		fmt.Fprint(w, strings.NewReplacer("\t", " ", "\n", " ").Replace(text))
	}
	fmt.Fprintln(w)
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// age says how long ago something was, in one unit.
func age(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return took(time.Since(t)) + " ago"
}

// took writes a length of time with about two digits. A negative one comes of clocks that differ, and means none.
func took(d time.Duration) string {
	d = max(d, 0)
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%.0f s", d.Seconds())
	case d < 2*time.Hour:
		return fmt.Sprintf("%.0f min", d.Minutes())
	case d < 48*time.Hour:
		return fmt.Sprintf("%.0f h", d.Hours())
	default:
		return fmt.Sprintf("%.0f d", d.Hours()/24)
	}
}
