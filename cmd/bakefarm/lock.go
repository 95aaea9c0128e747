package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/compose/apt"
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/spf13/cobra"
)

func newLock(cli *cli) *cobra.Command {
	var flags recipeFlags
	var file string
	var update, diff bool
	cmd := &cobra.Command{
		Use:   "lock RECIPE [--update [PACKAGE…]] [--diff [PACKAGE…]]",
		Short: "Resolve a recipe to its Lock, or keep the lock file beside it: every package and file by content",
		Example: `  bakefarm lock app                     print what the recipe means now
  bakefarm lock app --update            write it to app/bakefarm.lock, which "bakefarm bake app" then holds to
  bakefarm lock app --update openssl    choose openssl anew, leave the rest as it is
  bakefarm lock app --diff              what an update would change`,
		Args: cobra.MinimumNArgs(1),
		RunE: cli.call(func(cmd *cobra.Command, args []string, farmAPI *client.Client) error {
			r, err := flags.read(cmd, args[0])
			if err != nil {
				return complain(cmd, err)
			}
			names := args[1:]
			if !update && !diff {
				if len(names) > 0 {
					return usagef("%s: names of packages go with --update or --diff", strings.Join(names, " "))
				}
				lock, err := resolve(cmd, farmAPI, &flags, r, api.BakeRequest{})
				if err != nil {
					return err
				}
				return writeResult(cmd, file, lock.Encode())
			}
			path := cmp.Or(file, r.lockPath())
			if path == "" || path == "-" {
				return usagef("a recipe from standard input has no lock file beside it: name one with -f FILE")
			}
			was, raw, err := readLockFile(path)
			if errors.Is(err, fs.ErrNotExist) && update && !diff && len(names) == 0 {
				was, err = &recipe.LockFile{}, nil
			}
			if errors.Is(err, fs.ErrNotExist) {
				return usagef("there is no lock file %s; \"bakefarm lock %s --update\" makes one", path, args[0])
			}
			if err != nil {
				return err
			}
			request := api.BakeRequest{}
			if len(names) > 0 {
				request.Lock, request.Update = raw, names
			}
			lock, err := resolve(cmd, farmAPI, &flags, r, request)
			if err != nil {
				return err
			}
			changes := compareLocks(&was.Lock, &lock.Lock)
			if !diff {
				if err := writeResult(cmd, path, lock.Encode()); err != nil {
					return err
				}
			}
			if err := cli.print(cmd, changes, func(w *tabwriter.Writer) { changeTable(w, changes) }); err != nil {
				return err
			}
			fmt.Fprintln(cmd.ErrOrStderr(), lockVerdict(path, changes, diff))
			return nil
		}),
	}
	flags.register(cmd, true)
	cmd.Flags().StringVarP(&file, "file", "f", "", "write the Lock to a file instead of standard output; with --update and --diff: the lock file (default: the recipe's name with .lock)")
	cmd.Flags().BoolVar(&update, "update", false, "write the lock file anew; with names of packages only these are chosen anew, and what must change with them")
	cmd.Flags().BoolVar(&diff, "diff", false, "only say what --update would change")
	return cmd
}

// resolve has a recipe resolved, and returns what it came to as a lock file.
func resolve(cmd *cobra.Command, farmAPI *client.Client, flags *recipeFlags, r *written, request api.BakeRequest) (*recipe.LockFile, error) {
	request.LockOnly = true
	bake, err := bake(cmd, farmAPI, flags, r, request, false)
	if err != nil {
		return nil, err
	}
	if bake.State != farm.BakeDone {
		return nil, verdict(cmd, bake, 0)
	}
	lock, err := farmAPI.Lock(cmd.Context(), bake.ID)
	if err != nil {
		return nil, err
	}
	return recipe.NewLockFile(r.Recipe, lock), nil
}

// lockPath is where the recipe's lock file is by custom: beside it, with its name; "" for standard input.
func (w *written) lockPath() string {
	if w.file == "stdin" {
		return ""
	}
	return strings.TrimSuffix(w.file, filepath.Ext(w.file)) + ".lock"
}

// lockFlags say which lock file a bake holds to.
type lockFlags struct {
	file string
	none bool
}

func (f *lockFlags) register(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.file, "lock", "", "take the system from this lock file (default: the recipe's name with .lock, if there is one)")
	cmd.Flags().BoolVar(&f.none, "no-lock", false, "don't: resolve the recipe anew")
	cmd.MarkFlagsMutuallyExclusive("lock", "no-lock")
}

// find returns the text of the lock file that the recipe is to be baked with, nil without one. One that is not of the
// recipe is refused.
func (f *lockFlags) find(cmd *cobra.Command, r *written, asked string) ([]byte, error) {
	path := cmp.Or(f.file, r.lockPath())
	if f.none || path == "" {
		return nil, nil
	}
	lock, raw, err := readLockFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && f.file == "":
		return nil, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, usagef("--lock %s: there is no such file", path)
	case err != nil:
		return nil, err
	}
	if misfits := lock.Misfits(r.Recipe); len(misfits) > 0 {
		return nil, fmt.Errorf("%s is not the lock of %s:\n  %s\nbring it up to date with \"bakefarm lock %s --update\" (and names of packages, to leave all others as they are), or bake without it: --no-lock",
			path, r.file, strings.Join(misfits, "\n  "), asked)
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "the system is that of %s\n", path)
	return raw, nil
}

// readLockFile reads a lock file and its text.
func readLockFile(path string) (*recipe.LockFile, []byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > recipe.MaxLockFile {
		return nil, nil, fmt.Errorf("%s: is no file of at most %d bytes", path, recipe.MaxLockFile)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	lock, err := recipe.DecodeLockFile(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return lock, raw, nil
}

// lockChange is a package, or the base, that differs between two Locks. Its JSON is what scripts read.
type lockChange struct {
	Change   string `json:"change"` // added, removed, upgraded, downgraded, or rebuilt: the same version with other bytes; base: of that, another image
	Package  string `json:"package"`
	Arch     string `json:"arch"`
	From     string `json:"from,omitempty"` // version
	To       string `json:"to,omitempty"`
	Platform string `json:"platform"`
}

// compareLocks lists what has changed from one Lock to another, by platform, then by package.
func compareLocks(from, to *recipe.Lock) []lockChange {
	changes := []lockChange{}
	before, after := lockedPackages(from), lockedPackages(to)
	for key, is := range after {
		was, had := before[key]
		c := lockChange{Package: key.name, Arch: is.Arch, From: was.Version, To: is.Version, Platform: key.platform}
		switch order := apt.CompareVersions(was.Version, is.Version); {
		case !had:
			c.Change = "added"
		case was.SHA256 == is.SHA256 && was.Version == is.Version: // a base's have no digest
			continue
		case was.SHA256 == "" && was.Version == is.Version, is.SHA256 == "" && was.Version == is.Version:
			continue
		case order < 0:
			c.Change = "upgraded"
		case order > 0:
			c.Change = "downgraded"
		default:
			c.Change = "rebuilt"
		}
		changes = append(changes, c)
	}
	changes = append(changes, compareBases(from.OS.Base, to.OS.Base)...)
	for key, was := range before {
		if _, has := after[key]; !has {
			changes = append(changes, lockChange{Change: "removed", Package: key.name, Arch: was.Arch, From: was.Version, Platform: key.platform})
		}
	}
	slices.SortFunc(changes, func(a, b lockChange) int {
		return cmp.Or(cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Package, b.Package))
	})
	return changes
}

// compareBases lists the platforms that stand on another image.
func compareBases(from, to *recipe.LockedBase) (changes []lockChange) {
	if to == nil {
		return nil
	}
	label := func(b *recipe.LockedBase, platform string) string {
		switch image := b.Platforms[platform].Image; {
		case b.Version != "":
			return b.Version
		case image != "":
			return image.Encoded()[:16]
		}
		return ""
	}
	for platform, is := range to.Platforms {
		c := lockChange{Change: "base", Package: cmp.Or(to.Name, "image"), To: label(to, platform), Platform: platform}
		if from != nil {
			if from.Platforms[platform].Image == is.Image {
				continue
			}
			c.From = label(from, platform)
		}
		changes = append(changes, c)
	}
	return changes
}

type platformPackage struct{ platform, name string }

func lockedPackages(l *recipe.Lock) map[platformPackage]recipe.LockedPackage {
	all := map[platformPackage]recipe.LockedPackage{}
	for _, system := range l.Systems() {
		for _, p := range l.PackagesOf(system) {
			all[platformPackage{system, p.Name}] = p
		}
	}
	return all
}

func changeTable(w *tabwriter.Writer, changes []lockChange) {
	if len(changes) == 0 {
		return
	}
	row(w, "CHANGE", "PACKAGE", "FROM", "TO", "PLATFORM")
	for _, c := range changes {
		row(w, c.Change, c.Package, c.From, c.To, c.Platform)
	}
}

// lockVerdict says on stderr what became of a lock file.
func lockVerdict(path string, changes []lockChange, diff bool) string {
	switch {
	case diff && len(changes) == 0:
		return path + " is up to date"
	case diff:
		return fmt.Sprintf("%s would change in %d packages", path, len(changes))
	case len(changes) == 0:
		return path + " is written: no package has changed"
	}
	return fmt.Sprintf("%s is written: %d packages have changed", path, len(changes))
}
