package execute

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"bakefarm/compose/apt"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
)

// solve chooses the packages of an OS request out of observed indexes, or finds those that are chosen already.
func solve(ctx context.Context, j *job, spec plan.SolveSpec) (plan.SolveOutput, error) {
	indexes := make([]*apt.Index, len(spec.Indexes))
	for i, x := range spec.Indexes {
		var err error
		if indexes[i], err = j.index(ctx, x); err != nil {
			return plan.SolveOutput{}, fmt.Errorf("index %s %s of %s: %w", x.Suite, x.Component, x.Base, err)
		}
	}
	packages, err := j.choose(ctx, spec, indexes)
	if err != nil {
		return plan.SolveOutput{}, err
	}
	raw, err := json.Marshal(packages)
	if err != nil {
		return plan.SolveOutput{}, err
	}
	w := j.Store.Begin()
	part, err := w.Put(ctx, raw)
	if err != nil {
		return plan.SolveOutput{}, err
	}
	if err := w.Commit(ctx); err != nil {
		return plan.SolveOutput{}, err
	}
	var total int64
	for _, p := range packages {
		total += p.Size
	}
	j.say("%d packages, %s", len(packages), size(total))
	return plan.SolveOutput{Packages: part.Digest, Count: len(packages)}, nil
}

// choose runs the solver, which computes and takes a turn.
func (j *job) choose(ctx context.Context, spec plan.SolveSpec, indexes []*apt.Index) ([]plan.SolvedPackage, error) {
	req := request(spec)
	known, err := j.unlisted(ctx, spec, indexes)
	if err != nil {
		return nil, err
	}
	if known != nil {
		indexes, req.Archives = append(indexes, known), append(req.Archives, apt.Archive{NotAutomatic: true})
	}
	if spec.Installed != "" {
		there, err := j.installed(ctx, spec.Installed)
		if err != nil {
			return nil, err
		}
		indexes, req.Archives = append(indexes, there), append(req.Archives, apt.Archive{ButAutomaticUpgrades: true}) // priority 100
	}
	if err := j.Turns.take(ctx); err != nil {
		return nil, err
	}
	defer j.Turns.give()
	if len(spec.Locate) > 0 {
		return locate(spec, indexes)
	}
	solution, err := apt.Solve(req, indexes)
	if err != nil {
		return nil, err
	}
	packages := make([]plan.SolvedPackage, len(solution.Packages))
	for i, p := range solution.Packages {
		packages[i] = plan.SolvedPackage{
			LockedPackage: recipe.LockedPackage{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.Digest, Size: p.Size, Base: p.Base},
		}
		if slices.ContainsFunc(spec.Own, func(own plan.Own) bool { return own.SHA256 == p.Digest }) {
			packages[i].Own, packages[i].Base = true, false
		} else if p.Index < len(spec.Indexes) {
			setURL(&packages[i], spec.Indexes[p.Index], p.Filename)
		}
	}
	return packages, nil
}

// installed reads what a base has installed.
func (j *job) installed(ctx context.Context, status digest.Digest) (*apt.Index, error) {
	raw, err := j.piece(ctx, status, imagestore.MaxPiece)
	if err != nil {
		return nil, fmt.Errorf("packages of the base: %w", err)
	}
	x, err := apt.ParsePackages(bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("packages of the base: %w", err)
	}
	x.Installed = true
	return x, nil
}

// setURL says where a package of an index can be had.
func setURL(p *plan.SolvedPackage, x plan.Index, filename string) {
	p.URL = mirror.PackageURL(x.Base, filename)
	for _, base := range x.Also {
		p.Also = append(p.Also, mirror.PackageURL(base, filename))
	}
}

// request is what a spec asks of the solver.
func request(spec plan.SolveSpec) apt.Request {
	req := apt.Request{Arch: spec.Arch, Variant: spec.Debian.Variant, Packages: spec.Debian.Packages}
	for _, x := range spec.Indexes {
		req.Archives = append(req.Archives, mirror.Archive(x))
	}
	for _, p := range spec.Pins {
		req.Pins = append(req.Pins, apt.Pin(p))
	}
	for _, s := range spec.Stay {
		req.Stay = append(req.Stay, exact(s.LockedPackage))
	}
	for _, own := range spec.Own {
		req.Own = append(req.Own, exact(own.LockedPackage))
	}
	return req
}

// index returns a parsed index: of the process's memory, else parsed from its piece.
func (j *job) index(ctx context.Context, x plan.Index) (*apt.Index, error) {
	return j.Indexes.get(ctx, x.Packages, func() (*apt.Index, error) {
		rc, err := j.Store.Open(ctx, x.Packages, 0, -1)
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		return j.parse(ctx, x.Name, rc)
	})
}

// parse reads a Packages file of that name, which computes and takes a turn.
func (j *job) parse(ctx context.Context, name string, file io.Reader) (_ *apt.Index, err error) {
	if err := j.Turns.take(ctx); err != nil {
		return nil, err
	}
	defer j.Turns.give()
	text, err := mirror.Decompress(name, file)
	if err != nil {
		return nil, err
	}
	defer func() {
		if cerr := text.Close(); err == nil {
			err = cerr
		}
	}()
	return apt.ParsePackages(text)
}
