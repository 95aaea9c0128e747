// Command bakefarm is the farm and its command line in one binary. This package holds flags, configuration and wiring;
// everything else is in the rooms below.
//
//	main ─▶ Run ─▶ a command ─┬─ up, coordinator …      a program: parts that start in order and stop in reverse
//	                          └─ bake, images, …       api/client against --server
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"bakefarm/worker/sandbox"

	"github.com/spf13/cobra"
)

func main() {
	sandbox.Enter() // or this is one of its helpers
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	go func() {
		<-ctx.Done()
		stop() // a second signal ends the process at once
	}()
	os.Exit(Run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// Exit codes of every command.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2
)

// usageError is bad input that stood on the command line, or a place that the command was told to use and can't.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// Run runs one command and returns its exit code. Progress and errors go to stderr, results to stdout.
func Run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	command, err := root.ExecuteContextC(ctx)
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.Is(err, errSaid):
		return exitFailed
	case errors.As(err, &usage):
		fmt.Fprintf(stderr, "%s: %v\n", command.CommandPath(), err)
		return exitUsage
	default:
		fmt.Fprintf(stderr, "%s: %v\n", command.CommandPath(), err)
		return exitFailed
	}
}

// errSaid ends a command that has already told the user what failed.
var errSaid = errors.New("failed")

// newRoot makes the command tree.
func newRoot() *cobra.Command {
	var cli cli
	root := &cobra.Command{
		Use:           "bakefarm",
		Short:         "Bakes images on a farm: OS and app into OCI images, stored, kept and published",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return cli.validate() },
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usagef("%w (see %s --help)", err, cmd.CommandPath())
	})
	cli.register(root)
	root.AddGroup(
		&cobra.Group{ID: "farm", Title: "Run a farm:"},
		&cobra.Group{ID: "bake", Title: "Bake:"},
		&cobra.Group{ID: "look", Title: "Look and publish:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("farm", newUp(), newCoordinator(), newAPI(), newWorker(), newS3(), newWorkers(&cli), newDoctor(&cli))
	add("bake", newBake(&cli), newValidate(), newLock(&cli), newBakes(&cli), newExplain(&cli))
	add("look", newImages(&cli), newChannels(&cli), newDeployments(&cli), newRetention(&cli), newGC(&cli), newScrub(&cli))
	add("look", newExport(&cli), newImport(&cli))
	root.AddCommand(newVersion(&cli))
	refuseBadArgs(root)
	return root
}

// refuseBadArgs makes wrong arguments of every command a usage error, and an unknown sub-command an error at all.
func refuseBadArgs(cmd *cobra.Command) {
	check := cmd.Args
	cmd.Args = func(c *cobra.Command, args []string) error {
		if c.HasSubCommands() && len(args) > 0 {
			message := fmt.Sprintf("unknown command %q", args[0])
			c.SuggestionsMinimumDistance = 2
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				message += fmt.Sprintf(": did you mean %s?", strings.Join(near, " or "))
			}
			return usagef("%s (see %s --help)", message, c.CommandPath())
		}
		if check == nil {
			check = cobra.NoArgs
		}
		if err := check(c, args); err != nil {
			return usagef("%w: usage: %s", err, c.UseLine())
		}
		return nil
	}
	if cmd.HasSubCommands() && cmd.RunE == nil {
		cmd.RunE = func(c *cobra.Command, _ []string) error { return c.Help() }
	}
	for _, sub := range cmd.Commands() {
		refuseBadArgs(sub)
	}
}
