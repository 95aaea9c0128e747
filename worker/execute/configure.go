package execute

import (
	"archive/tar"
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"bakefarm/compose"
	"bakefarm/compose/deb"
	"bakefarm/compose/scripts"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/sandbox"

	"github.com/opencontainers/go-digest"
)

// Sandbox makes root filesystems in which code of images runs.
type Sandbox interface {
	// Root makes one of layers, the lowest first. The caller closes it.
	Root(ctx context.Context, lowers []sandbox.Layer) (*sandbox.Root, error)
}

// setAside splits off the packages that dpkg has to unpack itself, when the scripts run, and notes what these need to
// know. below is how many of the records a lower layer has, with them and without.
//
// there are the names of packages that a base has; with a base, otherwise says of a package why it can't be laid beside what that has.
func (l *layer) setAside(records []*deb.Record, below int, outputs []plan.Member, there []string, otherwise func(*deb.Record) string) (laid []*deb.Record, laidBelow int, err error) {
	if err := scripts.Check(records, there...); err != nil {
		return nil, 0, err
	}
	var members []compose.Member
	for i, r := range records {
		if scripts.Has(r) {
			l.out.Scripts++
		}
		l.out.Date = max(l.out.Date, r.Date)
		why := ""
		if scripts.Diverts(r) {
			why = "diverts files of other packages"
		} else if otherwise != nil {
			why = otherwise(r)
		}
		if why != "" {
			if i >= below {
				l.say("%s %s: dpkg unpacks it when the scripts run", r.Package, why)
				l.out.Unpack = append(l.out.Unpack, outputs[i])
			}
			continue
		}
		laid, members = append(laid, r), append(members, l.members[i])
		if i < below {
			laidBelow++
		}
	}
	l.members = members
	return laid, laidBelow, nil
}

// configure runs the maintainer scripts of a system, or of the packages over one that is configured, and makes a layer of
// what they changed.
func configure(ctx context.Context, j *job, spec plan.ConfigureSpec) (plan.Layer, error) {
	base, system, err := overBase[plan.Layer](j, spec.Base)
	if err != nil {
		return plan.Layer{}, err
	}
	if spec.Below < 0 || spec.Below >= len(system) {
		return plan.Layer{}, fmt.Errorf("spec: %d layers, %d of them configured", len(system), spec.Below)
	}
	if base != nil {
		system = slices.Concat(base.Layers, system)
		spec.Below += len(base.Layers)
	}
	c := &configuration{layer: &layer{job: j, w: j.Store.Begin(), own: map[digest.Digest][]byte{}}, system: system, base: base, ConfigureSpec: spec}
	some := 0
	for _, l := range system {
		some += l.Scripts
		c.date = max(c.date, l.Date)
	}
	if err := j.Turns.take(ctx); err != nil {
		return plan.Layer{}, err
	}
	defer j.Turns.give()
	changes := compose.Member{TarDigest: digest.FromBytes(nil)}
	if some > 0 {
		if changes, err = c.run(ctx); err != nil {
			return plan.Layer{}, err
		}
	}
	return c.finish(ctx, changes)
}

// configuration is a system on its way.
type configuration struct {
	*layer
	plan.ConfigureSpec
	base   *plan.Base   // the lowest of the system; nil without
	system []plan.Layer // the lowest first
	date   int64        // Unix seconds, of the newest package
}

// run makes a root of the system, runs the scripts in it and returns what they changed.
func (c *configuration) run(ctx context.Context) (changes compose.Member, err error) {
	if c.Sandbox == nil {
		return changes, errors.New("this worker has no sandbox for maintainer scripts")
	}
	began := time.Now()
	lowers := make([]sandbox.Layer, len(c.system))
	for i, l := range c.system {
		lowers[i] = sandbox.Layer{DiffID: l.DiffID, Open: func(ctx context.Context) (io.ReadCloser, error) { return c.openTarOf(ctx, l) }}
	}
	root, err := c.Sandbox.Root(ctx, lowers)
	if err != nil {
		return changes, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	unpacked := time.Now()
	if err := c.scripts(ctx, root); err != nil {
		return changes, err
	}
	ran := time.Now()
	count := 0
	if changes, err = c.changes(ctx, root, &count); err != nil {
		return changes, fmt.Errorf("what the scripts changed: %w", err)
	}
	c.say("%d changed files; %s to lay the system, %s for the scripts, %s to read the changes", count,
		unpacked.Sub(began).Round(time.Millisecond), ran.Sub(unpacked).Round(time.Millisecond), time.Since(ran).Round(time.Millisecond))
	return changes, nil
}

// open reads a layer's uncompressed bytes: as they were composed, or else piece by piece.
func (j *job) open(ctx context.Context, l plan.Layer) (io.ReadCloser, error) {
	if made := j.made(ctx, l.DiffID); made != nil {
		return made, nil
	}
	blob, err := j.Store.Stat(ctx, l.Digest)
	if err != nil {
		return nil, fmt.Errorf("layer %s: %w", l.Digest, err)
	}
	plain, _, err := decompress(bufio.NewReader(j.readParts(ctx, blob.Parts)))
	return plain, err
}

// scripts runs the scripts. Packages that divert are unpacked one by one, when the preinsts of the others have run and
// before anything is configured.
func (c *configuration) scripts(ctx context.Context, root *sandbox.Root) error {
	said := &scripts.Transcript{Say: func(line string) { c.say("%s", line) }}
	drive := func(in io.Reader, phases ...string) error {
		err := root.Run(ctx, sandbox.Command{
			Args: append([]string{"/bin/sh", "-c", scripts.Driver, "bakefarm"}, phases...),
			Env:  scripts.Environment(strconv.FormatInt(c.date, 10)), Stdin: in, Stdout: said,
		})
		said.Close()
		var exit *sandbox.ExitError
		if errors.As(err, &exit) || errors.Is(err, sandbox.ErrTimeout) || errors.Is(err, sandbox.ErrOutput) {
			return said.Failure(err)
		}
		return err
	}
	configured, err := c.configured(ctx)
	if err != nil {
		return err
	}
	before := []string{scripts.PhaseKeep, scripts.PhaseUnmark, scripts.PhasePreinst}
	after := []string{scripts.PhaseConfigure}
	if c.Variant {
		after = []string{scripts.PhaseIncomplete, scripts.PhaseConfigure}
	}
	var unpack []plan.Member
	for _, l := range c.system[c.Below:] {
		unpack = append(unpack, l.Unpack...)
	}
	if len(unpack) == 0 { // one container is enough
		return drive(strings.NewReader(configured), slices.Concat(before, after)...)
	}
	if err := drive(strings.NewReader(configured), before...); err != nil {
		return err
	}
	for _, m := range unpack {
		if err := c.unpack(ctx, m, drive); err != nil {
			return err
		}
	}
	return drive(nil, after...)
}

// configured is what the Driver has to know of the system that is configured already.
func (c *configuration) configured(ctx context.Context) (string, error) {
	if c.Below == 0 {
		return scripts.Configured(nil, nil), nil
	}
	var packages []recipe.LockedPackage
	for _, l := range c.system[:c.Below] {
		if l.Packages == "" {
			continue
		}
		raw, err := c.piece(ctx, l.Packages, maxSpec)
		if err == nil {
			packages = nil
			err = json.Unmarshal(raw, &packages)
		}
		if err != nil {
			return "", fmt.Errorf("packages of layer %s: %w", l.Digest, err)
		}
	}
	names := make([]string, len(packages))
	for i, p := range packages {
		names[i] = p.Name
	}
	if c.base != nil {
		there, err := c.basePackages(ctx, c.base)
		for _, p := range there {
			names = append(names, p.Name)
		}
		if c.Below == len(c.base.Layers) || err != nil {
			return scripts.Configured(names, nil), err // directories of the base are as they are there in all layers over it
		}
	}
	dirs, err := c.dirs(ctx, c.system[c.Below-1])
	return scripts.Configured(names, dirs), err
}

// dirs are the directories that a layer has entries of.
func (j *job) dirs(ctx context.Context, l plan.Layer) (dirs []compose.Entry, err error) {
	rc, err := j.open(ctx, l)
	if err != nil {
		return nil, err
	}
	for entries := tar.NewReader(rc); err == nil; {
		var h *tar.Header
		if h, err = entries.Next(); err == nil && h.Typeflag == tar.TypeDir {
			dirs = append(dirs, compose.EntryOf(h))
		}
	}
	if err != io.EOF {
		return nil, errors.Join(fmt.Errorf("layer %s: %w", l.Digest, err), rc.Close())
	}
	return dirs, rc.Close()
}

// unpack has dpkg unpack a package, which is made again of its record and its member.
func (c *configuration) unpack(ctx context.Context, m plan.Member, drive func(in io.Reader, phases ...string) error) error {
	r, err := c.record(ctx, m.Inventory)
	if err != nil {
		return fmt.Errorf("record %s: %w", m.Inventory, err)
	}
	read, write := io.Pipe()
	made := make(chan error, 1)
	go func() {
		err := deb.Repack(write, r, func() (io.ReadCloser, error) { return c.openMember(ctx, composed(m)) })
		write.CloseWithError(err) // io.EOF when nil
		made <- err
	}()
	err = drive(read, scripts.PhaseUnpack)
	read.CloseWithError(io.ErrClosedPipe) // dpkg may have given up before the end
	if failed := <-made; failed != nil && !errors.Is(failed, io.ErrClosedPipe) {
		return fmt.Errorf("package %s %s: %w", r.Package, r.Version, failed)
	}
	if err != nil {
		return fmt.Errorf("package %s %s: %w", r.Package, r.Version, err)
	}
	return nil
}

// changes makes a member of what the scripts changed.
func (c *configuration) changes(ctx context.Context, root *sandbox.Root, count *int) (compose.Member, error) {
	store := c.newMember(c.w)
	defer store.discard()
	return store.cut(ctx, func(w io.Writer) error {
		var above []compose.Entry // directories that stay if anything below them does
		return root.Changes(ctx, func(change sandbox.Change, content io.Reader) error {
			e, content, keep, err := scripts.Keep(change.Entry, content, c.date)
			if err != nil || !keep {
				return err
			}
			above = slices.DeleteFunc(above, func(dir compose.Entry) bool { return !strings.HasPrefix(e.Path, dir.Path+"/") })
			if change.Above {
				above = append(above, e)
				return nil
			}
			for _, dir := range above {
				if err := compose.WriteEntry(w, dir, nil); err != nil {
					return err
				}
			}
			above = above[:0]
			*count++
			return compose.WriteEntry(w, e, content)
		})
	})
}

// finish makes the layer of the changes.
func (c *configuration) finish(ctx context.Context, changes compose.Member) (plan.Layer, error) {
	_, end := compose.Trailer()
	part, err := c.w.Put(ctx, end)
	if err != nil {
		return plan.Layer{}, err
	}
	c.own[part.Digest] = end
	c.members = []compose.Member{changes}
	composed, err := c.hash(ctx, c.members)
	if err != nil {
		return plan.Layer{}, err
	}
	return c.commit(ctx, composed, nil)
}
