package execute

import (
	"archive/tar"
	"context"
	"encoding/json"
	"fmt"
	"slices"

	"bakefarm/compose"
	"bakefarm/compose/disk"
	"bakefarm/compose/rootfs"
	"bakefarm/plan"
	"bakefarm/recipe"
)

// overApp makes the head of a layer of app files over a base: directories that are there stay as they are, unless the app
// gives them to somebody, and only what is new or other is in the layer, with the directories above it.
func overApp(base *rootfs.Record, whole []compose.File, members []compose.Owned) ([]compose.File, error) {
	var below []compose.File
	for i, f := range whole {
		if base.Has(f.Path) {
			return nil, inTheWay(base, f.Path, f.Path)
		}
		if through := base.Through(f.Path); through != "" {
			return nil, inTheWay(base, f.Path, through)
		}
		is := base.Dir(f.Path)
		if is == nil {
			continue
		}
		below = append(below, compose.File{Entry: *is})
		if f.UID == 0 && (f.GID == 0 || slices.Contains(groupDirs, f.Path)) {
			whole[i] = compose.File{Entry: *is}
		}
	}
	for _, m := range members {
		for _, p := range m.Paths {
			if through := base.Through(p); through != "" {
				return nil, inTheWay(base, p, through)
			}
			if base.Dir(p) != nil {
				return nil, fmt.Errorf("app: /%s is a file, and a directory in the base: copy it elsewhere", p)
			}
		}
	}
	return compose.Over(whole, below, members, members), nil
}

func isDirectory(f compose.File) bool { return f.Type == tar.TypeDir }

// groupDirs are directories that a system gives to a group of its own, and a copy leaves as they are.
var groupDirs = []string{"var/local", "var/mail"}

// inTheWay says that something of the base is no directory where the app has one.
func inTheWay(base *rootfs.Record, p, at string) error {
	if target, link := base.Links[at]; link {
		return fmt.Errorf("app: /%s can't be laid: /%s is a link to %s in the base; copy it to where that leads", p, at, target)
	}
	return fmt.Errorf("app: /%s can't be laid: /%s is a file in the base; copy it elsewhere", p, at)
}

// startsMachines refuses a base that nothing starts on a machine: images of containers have no init, as a rule.
func (j *job) startsMachines(ctx context.Context, base *plan.Base, over []plan.Layer) error {
	record, err := j.rootfs(ctx, base)
	if err != nil {
		return err
	}
	for _, init := range []string{"sbin/init", "usr/sbin/init"} {
		if record.Has(init) {
			return nil
		}
	}
	for _, l := range over {
		if l.Packages == "" {
			continue
		}
		raw, err := j.piece(ctx, l.Packages, maxSpec)
		if err != nil {
			return err
		}
		var packages []recipe.LockedPackage
		if err := json.Unmarshal(raw, &packages); err != nil {
			return fmt.Errorf("packages of layer %s: %w", l.Digest, err)
		}
		if slices.ContainsFunc(packages, func(p recipe.LockedPackage) bool { return slices.Contains(plan.Inits, p.Name) }) {
			return nil
		}
	}
	return &disk.BootError{What: "the base is a container's: it has no init (/sbin/init); have Debian's added with packages: [] beside its reference, or take a base that is a machine's"}
}
