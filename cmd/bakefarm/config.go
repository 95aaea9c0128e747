package main

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"bakefarm/recipe/strict"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// configured gives a command's settings, where its flags do not say them, from the environment (BAKEFARM_ and the flag's name
// in capitals) and then from the file that --config names:
//
//	flag  >  environment  >  file  >  default
func (s *settings) configured(cmd *cobra.Command) *cobra.Command {
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := s.fromEnvironment(cmd); err != nil {
			return err
		}
		if err := s.fromFile(cmd); err != nil {
			return err
		}
		return run(cmd, args)
	}
	return cmd
}

// variable is the environment variable that stands for a flag.
func variable(flag string) string {
	return "BAKEFARM_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// own lists the flags that are a command's own.
func own(cmd *cobra.Command) (flags []*pflag.Flag) {
	cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" {
			flags = append(flags, f)
		}
	})
	return flags
}

func (s *settings) fromEnvironment(cmd *cobra.Command) error {
	for _, f := range own(cmd) {
		value := os.Getenv(variable(f.Name))
		if f.Changed || value == "" {
			continue
		}
		if err := cmd.Flags().Set(f.Name, value); err != nil {
			return usagef("%s: %w", variable(f.Name), plain(err))
		}
	}
	return nil
}

// configLanguage is what a file of settings looks like.
var configLanguage = strict.Language{
	Noun: "configuration", Plural: "configurations", Max: 64 << 10, Advice: "it holds a line for each flag",
	Begin: "a configuration such as \"log-level: debug\"",
}

func (s *settings) fromFile(cmd *cobra.Command) error {
	if s.config == "" {
		return nil
	}
	text, err := os.ReadFile(s.config)
	if err != nil {
		return usagef("--config: %w", err)
	}
	document, err := strict.Parse(configLanguage, s.config, text)
	if err != nil {
		return usageError{err}
	}
	byName := map[string]*pflag.Flag{}
	var names []string
	for _, f := range own(cmd) {
		if f.Name != "config" {
			byName[f.Name] = f
			names = append(names, f.Name)
		}
	}
	fields, ok := document.Root().Fields("log-level: debug", names...)
	for name, f := range byName {
		value, set := fields.Get(name)
		if !ok || !set || f.Changed || value.Refused() {
			continue
		}
		text, ok := settingText(value)
		if !ok {
			continue
		}
		if err := cmd.Flags().Set(name, text); err != nil {
			value.Refuse("%s", plain(err))
		}
	}
	if err := document.Err(); err != nil {
		return usageError{err}
	}
	return nil
}

// settingText is a setting as it would stand on the command line: a list is joined by commas.
func settingText(value strict.Value) (string, bool) {
	if value.IsList() {
		texts, _, ok := value.Texts("[a, b]")
		return strings.Join(texts, ","), ok
	}
	return value.Literally("a value")
}

// plain is what is wrong with a flag's value, without the words around it that belong on a command line.
func plain(err error) error {
	var value *pflag.InvalidValueError
	if errors.As(err, &value) {
		return fmt.Errorf("%q: %w", value.GetValue(), value.Unwrap())
	}
	return err
}
