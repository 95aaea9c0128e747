package execute

import (
	"bytes"
	"context"
	"fmt"

	"bakefarm/compose/apt"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/worker/mirror"

	"github.com/opencontainers/go-digest"
)

// Mirror asks the world. *mirror.Client is one.
type Mirror interface {
	Fetcher

	// Observe returns the verified package indexes that the mirrors of a suite have now for a Debian architecture.
	Observe(ctx context.Context, suite, arch, mirror, keyring string) (*mirror.Observation, error)
}

// asking makes what a mirror is asked again for heard of.
func (j *job) asking(ctx context.Context) context.Context {
	return mirror.WithNotes(ctx, func(note string) { j.say("%s", note) })
}

// observe asks the mirrors of a suite what they have, and keeps it. The same files as last time cost nothing more. New
// ones are parsed meanwhile, for the solve that follows.
func observe(ctx context.Context, j *job, spec plan.ObserveSpec) (plan.ObserveOutput, error) {
	if spec.Image != "" {
		return j.look(ctx, spec.Image)
	}
	seen, err := j.Mirror.Observe(j.asking(ctx), spec.Suite, spec.Arch, spec.Mirror, spec.Keyring)
	if err != nil {
		return plan.ObserveOutput{}, err
	}
	for _, note := range seen.Notes {
		j.say("%s", note)
	}
	files := make([]digest.Digest, len(seen.Indexes))
	for i, x := range seen.Indexes {
		if len(x.Data) > imagestore.MaxPiece {
			return plan.ObserveOutput{}, fmt.Errorf("mirror %s: %s of %s has %d bytes, the farm keeps at most %d",
				x.Base, x.Name, x.Suite, len(x.Data), imagestore.MaxPiece)
		}
		files[i] = x.Packages
	}
	have, err := j.Store.Have(ctx, files)
	if err != nil {
		return plan.ObserveOutput{}, err
	}
	w := j.Store.Begin()
	out := plan.ObserveOutput{Pins: seen.Pins}
	for i, x := range seen.Indexes {
		if !have[i] { // nothing was ever solved over it
			j.Indexes.begin(x.Packages, func() (*apt.Index, error) {
				return j.parse(context.WithoutCancel(ctx), x.Name, bytes.NewReader(x.Data))
			})
		}
		if _, err := w.PutAs(ctx, x.Packages, x.Data); err != nil {
			return plan.ObserveOutput{}, err
		}
		out.Indexes = append(out.Indexes, x.Index)
		j.say("%s %s: %s, signed by %s", x.Suite, x.Component, size(x.Size), x.SignedBy)
	}
	return out, w.Commit(ctx)
}
