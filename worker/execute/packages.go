package execute

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/debian"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// packages reads the records of the packages of an OS. What it returns makes the head's entries: the packages'
// directories, dpkg's database of them, the merged-/usr links and what no script makes, unless scripts run. Over a layer of some of the
// packages, what that has is left out, and so are their members.
func (l *layer) packages(ctx context.Context, os plan.AssembleOS, outputs []plan.Member) (func() ([]compose.File, error), error) {
	if len(os.Packages) != len(outputs) || os.Below >= len(outputs) && os.Below > 0 {
		return nil, fmt.Errorf("spec: %d packages, %d of them below, but %d members", len(os.Packages), os.Below, len(outputs))
	}
	records := make([]*deb.Record, len(outputs))
	err := l.each(ctx, outputs, func(ctx context.Context, i int, m plan.Member) error {
		p := os.Packages[i]
		r, err := l.record(ctx, m.Inventory)
		if err != nil {
			return fmt.Errorf("package %s %s: record %s: %w", p.Name, p.Version, m.Inventory, err)
		}
		if r.Package != p.Name || r.Version != p.Version || r.Architecture != p.Arch {
			return fmt.Errorf("package %s %s (%s): the file says that it is %s %s (%s): the mirror's index is wrong about %s",
				p.Name, p.Version, p.Arch, r.Package, r.Version, r.Architecture, p.SHA256)
		}
		records[i] = r
		return nil
	})
	return func() ([]compose.File, error) {
		if l.base != nil {
			return l.added(ctx, os, records, outputs)
		}
		n := os.Below
		if os.Scripts {
			if records, n, err = l.setAside(records, n, outputs, nil, nil); err != nil {
				return nil, err
			}
		}
		below := slices.Clone(l.members[:n])
		whole, owned, err := l.system(ctx, os, l.members, records)
		if err != nil || n == 0 {
			return whole, err
		}
		lower, _, err := l.system(ctx, os, below, records[:n])
		if err != nil {
			return nil, err
		}
		l.members = l.members[n:]
		return compose.Over(whole, lower, owned, owned[n:]), nil
	}, err
}

// system makes the entries of the head of a layer that has the packages and nothing else, and says who owns what in it.
// Members that lose paths to others are replaced in the slice.
func (l *layer) system(ctx context.Context, os plan.AssembleOS, members []compose.Member, records []*deb.Record) ([]compose.File, []compose.Owned, error) {
	records = slices.Clone(records)
	if err := l.overwrite(ctx, members, records); err != nil {
		return nil, nil, err
	}
	owned := make([]compose.Owned, len(records))
	for i, r := range records {
		owned[i] = compose.Owned{Owner: r.Package + " " + r.Version, Inventory: r.Inventory}
	}
	database, err := deb.Database(records, os.Arch)
	if err != nil {
		return nil, nil, err
	}
	var configured debian.Configured
	if !os.Scripts {
		if configured, err = l.withoutScripts(ctx, members, records, os.Arch); err != nil {
			return nil, nil, err
		}
	}
	for i := range owned { // the records that the inventories are of are shared: nothing in them changes
		owned[i].Dirs = omit(owned[i].Dirs, configured.Dirs)
	}
	made := slices.Concat(deb.MergedUsr(os.Suite, os.Arch, records), database, configured.Files, deb.Excluding(os.Exclude, records))
	head, err := entries(owned, made)
	return head, owned, err
}

// omit returns the directories but those of the paths.
func omit(dirs []compose.Entry, paths []string) []compose.Entry {
	if len(paths) == 0 {
		return dirs
	}
	return slices.DeleteFunc(slices.Clone(dirs), func(d compose.Entry) bool { return slices.Contains(paths, d.Path) })
}

// record returns a package's record: of the process's memory, else decoded from its piece.
func (j *job) record(ctx context.Context, d digest.Digest) (*deb.Record, error) {
	if r := j.Records.get(d); r != nil {
		return r, nil
	}
	raw, err := j.piece(ctx, d, deb.MaxRecord)
	if err != nil {
		return nil, err
	}
	r, err := deb.DecodeRecord(raw)
	if err != nil {
		return nil, err
	}
	j.Records.put(d, r)
	return r, nil
}

// sorted returns packages in the order of a Lock.
func sorted(packages []recipe.LockedPackage) []recipe.LockedPackage {
	return slices.SortedFunc(slices.Values(packages), func(a, b recipe.LockedPackage) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Arch, b.Arch))
	})
}
