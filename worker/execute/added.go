package execute

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/debian"
	"bakefarm/compose/rootfs"
	"bakefarm/plan"
)

// added makes the entries of the head of a layer of packages over a base: dpkg's database of all, what no script makes
// unless scripts run, and the packages' directories as far as the base has others. What the layers of packages below have,
// the first of them, is left out.
func (l *layer) added(ctx context.Context, os plan.AssembleOS, records []*deb.Record, outputs []plan.Member) ([]compose.File, error) {
	b := newBaseSystem(l.base)
	n := os.Below
	if os.Scripts {
		var err error
		if records, n, err = l.setAsideOver(b, records, n, outputs); err != nil {
			return nil, err
		}
	}
	below := slices.Clone(l.members[:n])
	whole, owned, there, err := l.systemOver(ctx, os, b, l.members, records)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		lower, _, _, err := l.systemOver(ctx, os, b, below, records[:n])
		if err != nil {
			return nil, err
		}
		there = overlaid(there, lower)
	}
	l.members = l.members[n:]
	return compose.Over(whole, there, owned, owned[n:]), nil
}

// overlaid is entries with others laid over them.
func overlaid(entries, over []compose.File) []compose.File {
	placed := make(map[string]bool, len(over))
	for _, f := range over {
		placed[f.Path] = true
	}
	return append(slices.DeleteFunc(entries, func(f compose.File) bool { return placed[f.Path] }), over...)
}

// baseSystem is a base as packages that are added see it.
type baseSystem struct {
	*rootfs.Record
	deb.System
	owners map[string]string // files that packages have, by path in the layer → the package; made when it is asked for
}

func newBaseSystem(r *rootfs.Record) *baseSystem {
	b := &baseSystem{Record: r, System: deb.System{Triggers: r.Triggers, Parted: r.Parted, Has: r.Has}}
	for _, p := range r.Installed {
		b.Packages = append(b.Packages, deb.SystemPackage{Name: p.Name, Version: p.Version, Arch: p.Arch, Status: p.Status})
	}
	return b
}

// names are those of the installed packages.
func (b *baseSystem) names() []string {
	names := make([]string, len(b.Packages))
	for i, p := range b.Packages {
		names[i] = p.Name
	}
	return names
}

// list is what a package has, as paths in layers: nil when the database does not say.
func (b *baseSystem) list(p deb.SystemPackage) []string {
	text, ok := b.Lists[p.Name+":"+p.Arch]
	if !ok {
		if text, ok = b.Lists[p.Name]; !ok {
			return nil
		}
	}
	var list []string
	for line := range strings.Lines(text) {
		if line = strings.TrimRight(line, "\n"); line != "/." && strings.HasPrefix(line, "/") {
			list = append(list, deb.MergedPath(line))
		}
	}
	return list
}

// owner is the package that has a file; empty when none has.
func (b *baseSystem) owner(p string) string {
	if b.owners == nil {
		b.owners = map[string]string{}
		for _, owner := range b.Packages {
			for _, f := range b.list(owner) {
				if b.Dir(f) == nil {
					b.owners[f] = owner.Name
				}
			}
		}
	}
	return b.owners[p]
}

// replaced is the installed package that one takes the place of; nil without.
func (b *baseSystem) replaced(by *deb.Record) *deb.SystemPackage {
	i := slices.IndexFunc(b.Packages, func(p deb.SystemPackage) bool { return p.Replaced(by) })
	if i < 0 {
		return nil
	}
	return &b.Packages[i]
}

// obstacle says what of the base keeps a package's files from being laid as they are, or "".
func (b *baseSystem) obstacle(r *deb.Record) string {
	for _, alias := range r.Aliases {
		if b.Dir(alias) != nil && b.filled(alias) {
			return fmt.Sprintf("has files for /%s, which is a directory of its own in the base and no link to usr/%[1]s: packages of suites with merged /usr need a base that has it too", alias)
		}
	}
	for _, p := range r.Inventory.Paths {
		if through := b.Through(p); through != "" {
			return fmt.Sprintf("has /%s, but /%s is no directory in the base", p, through)
		}
		if b.Dir(p) != nil {
			return fmt.Sprintf("has the file /%s, which is a directory in the base", p)
		}
		if !b.Record.Has(p) {
			continue
		}
		owner := b.owner(p)
		i := slices.IndexFunc(b.Packages, func(q deb.SystemPackage) bool { return q.Name == owner })
		if i < 0 || b.Packages[i].Replaced(r) {
			continue // nobody's, or its own former one's
		}
		if !replaces(r, &deb.Record{Package: owner, Version: b.Packages[i].Version}) {
			return fmt.Sprintf("trying to overwrite '/%s', which is also in package %s %s of the base", p, owner, b.Packages[i].Version)
		}
	}
	return ""
}

// filled reports whether a directory of the base has anything in it.
func (b *baseSystem) filled(dir string) bool {
	below := func(p string) bool { return strings.HasPrefix(p, dir+"/") }
	if slices.ContainsFunc(b.Files, below) || slices.ContainsFunc(b.Dirs, func(d compose.Entry) bool { return below(d.Path) }) {
		return true
	}
	for p := range b.Links {
		if below(p) {
			return true
		}
	}
	return false
}

// setAsideOver is setAside for packages over a base: dpkg also unpacks those that take the place of an installed one, whose
// scripts it runs and whose files it removes, and those whose files can't just be laid over the base's.
func (l *layer) setAsideOver(b *baseSystem, records []*deb.Record, below int, outputs []plan.Member) ([]*deb.Record, int, error) {
	if b.Record.Parted {
		return nil, 0, errors.New("the base has no dpkg, as distroless images are made: maintainer scripts can't run in it; write scripts: skip")
	}
	return l.setAside(records, below, outputs, b.names(), func(r *deb.Record) string {
		if was := b.replaced(r); was != nil {
			return fmt.Sprintf("takes the place of %s %s of the base", was.Name, was.Version)
		}
		return b.obstacle(r)
	})
}

// systemOver makes the entries of the head of a layer that has the packages, over the base, and says who owns what in it;
// there are the base's own entries of the same paths. Members that lose paths to others are replaced in the slice.
func (l *layer) systemOver(ctx context.Context, os plan.AssembleOS, b *baseSystem, members []compose.Member, records []*deb.Record) (head []compose.File, owned []compose.Owned, there []compose.File, err error) {
	records = slices.Clone(records)
	if err := l.overwrite(ctx, members, records); err != nil {
		return nil, nil, nil, err
	}
	for _, r := range records {
		owned = append(owned, compose.Owned{Owner: r.Package + " " + r.Version, Inventory: r.Inventory})
	}
	made, err := deb.DatabaseOver(b.System, records, os.Arch)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, link := range deb.Links(records) {
		if _, has := b.Links[link]; !has {
			made = append(made, compose.Symlink(link, "usr/"+link), compose.File{Entry: compose.Dir("usr/" + link)})
		}
	}
	if !os.Scripts {
		configured, err := l.configuredOver(ctx, b, members, records, os.Arch)
		if err != nil {
			return nil, nil, nil, err
		}
		made = append(made, configured.Files...)
		for i := range owned {
			owned[i].Dirs = omit(owned[i].Dirs, configured.Dirs)
		}
		gone, err := b.goes(records)
		if err != nil {
			return nil, nil, nil, err
		}
		made = append(made, gone...)
	}
	whole, err := entries(owned, made)
	if err != nil {
		return nil, nil, nil, err
	}
	for _, f := range whole {
		if is := b.Dir(f.Path); is != nil && f.Type == is.Type {
			there = append(there, compose.File{Entry: *is})
			f = compose.File{Entry: *is} // as it is there
		} else if _, link := b.Links[f.Path]; link && isDirectory(f) {
			continue // dpkg leaves a link where a package has a directory
		}
		head = append(head, f)
	}
	return head, owned, there, nil
}

// configuredOver makes what no script makes of packages over a base. Their files must fit the base's.
func (l *layer) configuredOver(ctx context.Context, b *baseSystem, members []compose.Member, records []*deb.Record, arch string) (debian.Configured, error) {
	packages := make([]debian.Package, len(records))
	for i, r := range records {
		if why := b.obstacle(r); why != "" {
			return debian.Configured{}, fmt.Errorf("package %s %s: %s", r.Package, r.Version, why)
		}
		facts, err := l.facts(ctx, members[i], r)
		if err != nil {
			return debian.Configured{}, fmt.Errorf("package %s %s: %w", r.Package, r.Version, err)
		}
		packages[i] = debian.Package{Record: r, Facts: facts}
	}
	base := debian.Base{Facts: b.Facts}
	for p := range b.Links {
		base.Files = append(base.Files, p)
	}
	base.Files = append(base.Files, b.Files...)
	for _, d := range b.Dirs {
		base.Dirs = append(base.Dirs, d.Path)
	}
	for _, p := range b.Packages {
		if p.Name == "libc-bin" {
			base.Libc = p.Version
		}
	}
	return debian.ConfigureOver(base, packages, arch), nil
}

// goes makes whiteouts of what packages that take the place of installed ones do not have any more.
func (b *baseSystem) goes(records []*deb.Record) ([]compose.File, error) {
	var gone []compose.File
	stays := map[string]bool{}
	for _, r := range records {
		for _, p := range r.Inventory.Paths {
			stays[p] = true
		}
		for _, f := range r.Files {
			stays[infoPath(r.Package, r.Architecture, r.MultiArch == "same", f.Name)] = true
		}
		stays[infoPath(r.Package, r.Architecture, r.MultiArch == "same", "list")] = true
	}
	for _, r := range records {
		was := b.replaced(r)
		if was == nil {
			continue
		}
		old := b.list(*was)
		if old == nil {
			return nil, fmt.Errorf("package %s %s takes the place of %s %s of the base, whose database does not say which files that has: take a newer base, or leave the package out",
				r.Package, r.Version, was.Name, was.Version)
		}
		for _, stem := range []string{was.Name, was.Name + ":" + was.Arch} {
			for _, f := range b.Files {
				if rest, ok := strings.CutPrefix(f, "var/lib/dpkg/info/"+stem+"."); ok && !strings.Contains(rest, ".") {
					old = append(old, f)
				}
			}
		}
		for _, p := range old {
			if b.Record.Has(p) && !stays[p] && (b.owner(p) == was.Name || b.owner(p) == "") {
				stays[p] = true // once
				gone = append(gone, compose.Text(path.Join(path.Dir(p), ".wh."+path.Base(p)), 0o644, nil))
			}
		}
	}
	return gone, nil
}

// infoPath is the path of a package's file in dpkg's database.
func infoPath(name, arch string, same bool, file string) string {
	if same {
		name += ":" + arch
	}
	return "var/lib/dpkg/info/" + name + "." + file
}
