package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"bakefarm/recipe"

	"github.com/spf13/cobra"
)

// recipeFlags name a recipe and what goes with it.
type recipeFlags struct {
	context string
	set     []string
}

func (f *recipeFlags) register(cmd *cobra.Command, context bool) {
	cmd.Flags().StringArrayVar(&f.set, "set", nil, "override a value of the recipe: config.env.PORT=9090 (may be repeated)")
	if context {
		cmd.Flags().StringVar(&f.context, "context", "", "directory that app items are copied from (default: the recipe's own)")
	}
}

// written is a recipe as it was found.
type written struct {
	file string // as the user named it
	text string
	dir  string // of the context
	*recipe.Recipe
}

// read reads and checks a recipe; "-" is standard input. A directory means the bakefarm.yaml in it.
func (f *recipeFlags) read(cmd *cobra.Command, file string) (*written, error) {
	if info, err := os.Stat(f.context); f.context != "" && (err != nil || !info.IsDir()) {
		return nil, usagef("--context %s: is no directory that can be read", f.context)
	}
	w := &written{file: file, dir: f.context}
	var in io.Reader
	if file == "-" {
		in, w.file = cmd.InOrStdin(), "stdin"
		if w.dir == "" {
			w.dir = "."
		}
	} else {
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			w.file = filepath.Join(file, "bakefarm.yaml")
		}
		opened, err := os.Open(w.file)
		if err != nil {
			return nil, usageError{err}
		}
		defer opened.Close()
		in = opened
		if w.dir == "" {
			w.dir = filepath.Dir(w.file)
		}
	}
	text, err := io.ReadAll(io.LimitReader(in, recipe.MaxRecipe+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", w.file, err)
	}
	w.text = string(text)
	w.Recipe, err = recipe.Parse(w.file, text, f.set...)
	return w, err
}

func newValidate() *cobra.Command {
	var flags recipeFlags
	cmd := &cobra.Command{
		Use:   "validate RECIPE",
		Short: "Check a recipe, offline; every error with its line and column",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := flags.read(cmd, args[0])
			if err != nil {
				return complain(cmd, err)
			}
			fmt.Fprintf(cmd.OutOrStdout(), "%s: %s is a valid recipe\n", r.file, r.Name)
			return nil
		},
	}
	flags.register(cmd, false)
	return cmd
}

// complain prints the errors of a recipe as editors and people read them, one a line and without a prefix.
func complain(cmd *cobra.Command, err error) error {
	if errs, ok := err.(recipe.Errors); ok {
		fmt.Fprintln(cmd.ErrOrStderr(), errs)
		return errSaid
	}
	return err
}
