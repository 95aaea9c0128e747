package execute

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bakefarm/compose"
	"bakefarm/compose/disk"
	"bakefarm/compose/oci"
	"bakefarm/compose/rootfs"
	"bakefarm/imagestore"
	"bakefarm/imagestore/remote"
	"bakefarm/plan"
	"bakefarm/recipe"
)

// overBase splits off the base that the first of a job's dependencies made, if there is one.
func overBase[Output any](j *job, over bool) (*plan.Base, []Output, error) {
	if !over {
		outputs, err := dependencies[Output](j)
		return nil, outputs, err
	}
	raw, err := dependencies[json.RawMessage](j)
	if err != nil {
		return nil, nil, err
	}
	if len(raw) == 0 {
		return nil, nil, errors.New("spec: a base, but no dependency")
	}
	base := &plan.Base{}
	if err := json.Unmarshal(raw[0], base); err != nil || base.Record == "" {
		return nil, nil, fmt.Errorf("output of the base: %w", errors.Join(err, errors.New("it has no record")))
	}
	outputs := make([]Output, len(raw)-1)
	for i, r := range raw[1:] {
		if err := json.Unmarshal(r, &outputs[i]); err != nil {
			return nil, nil, fmt.Errorf("outputs of dependencies: %w", err)
		}
	}
	return base, outputs, nil
}

// rootfs reads what is known of a base.
func (j *job) rootfs(ctx context.Context, base *plan.Base) (*rootfs.Record, error) {
	raw, err := j.piece(ctx, base.Record, rootfs.MaxRecord)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	record, err := rootfs.DecodeRecord(raw)
	if err != nil {
		return nil, fmt.Errorf("base: %w", err)
	}
	return record, nil
}

// overConfig writes the configuration of an image over a base, and puts the base's layers below ours.
func (j *job) overConfig(ctx context.Context, base *plan.Base, wanted oci.Config, platform oci.Platform, layers []oci.Layer) ([]byte, []oci.Layer, error) {
	raw, err := imagestore.ReadAll(ctx, j.Store, base.Config, remote.MaxConfig)
	if err != nil {
		return nil, nil, fmt.Errorf("configuration of the base: %w", err)
	}
	var below []oci.Layer
	for _, l := range base.Layers {
		below = append(below, oci.Layer{Role: "base", Digest: l.Digest, Size: l.Size, DiffID: l.DiffID, MediaType: l.MediaType})
	}
	if n := len(below) + len(layers); n > plan.MaxLayers {
		return nil, nil, fmt.Errorf("the image would have %d layers, %d of them the base's: container engines take at most %d", n, len(below), plan.MaxLayers)
	}
	config, err := oci.NewConfigOver(raw, wanted, platform, below, layers)
	return config, append(below, layers...), err
}

// inherited is a recipe's configuration with that of the base where it says nothing.
func (j *job) inherited(ctx context.Context, base *plan.Base, c recipe.Config) (recipe.Config, error) {
	raw, err := imagestore.ReadAll(ctx, j.Store, base.Config, remote.MaxConfig)
	if err != nil {
		return c, fmt.Errorf("configuration of the base: %w", err)
	}
	is, err := oci.Inherit(raw, oci.Config{Entrypoint: c.Entrypoint, Cmd: c.Cmd, Env: c.Env, User: c.User, WorkingDir: c.WorkingDir,
		Ports: c.Ports, Volumes: c.Volumes, Labels: c.Labels, StopSignal: c.StopSignal})
	if err != nil {
		return c, fmt.Errorf("base: %w", err)
	}
	c.Entrypoint, c.Cmd, c.User, c.WorkingDir, c.StopSignal = is.Entrypoint, is.Cmd, is.User, is.WorkingDir, is.StopSignal
	c.Env = map[string]string{}
	for _, e := range is.Env {
		name, value, _ := strings.Cut(e, "=")
		c.Env[name] = value
	}
	return c, nil
}

// basePackages reads the list of a base's packages.
func (j *job) basePackages(ctx context.Context, base *plan.Base) ([]recipe.BasePackage, error) {
	raw, err := j.piece(ctx, base.Packages, maxSpec)
	if err != nil {
		return nil, fmt.Errorf("packages of the base: %w", err)
	}
	var list []recipe.BasePackage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fmt.Errorf("packages of the base: %w", err)
	}
	return list, nil
}

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
