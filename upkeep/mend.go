package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/oklog/ulid/v2"
)

// Mending is a version that was hurt, and what was done about it.
type Mending struct {
	Version string `json:"version"`
	Bake    string `json:"bake,omitempty"`  // that makes what is damaged anew
	Error   string `json:"error,omitempty"` // why it is not whole
}

// Bounds of mending.
const (
	maxMendings  = 200
	mendAtOnce   = 4
	mendPatience = 10 * time.Minute // for all of them
	mendLook     = 500 * time.Millisecond
)

// mend bakes versions again that are hurt, by the recipe, context and Lock that they were baked from: same Lock, same shards, same
// bytes. Outputs that are whole are hits, those that have lost pieces are made anew, and channels and registries are not touched.
// What was baked too long ago for its context to be there is for whoever has that.
func (u *Upkeep) mend(ctx context.Context, hurt []string) []Mending {
	ctx, cancel := context.WithTimeout(ctx, mendPatience)
	defer cancel()
	done := make([]Mending, min(len(hurt), maxMendings))
	for first := 0; first < len(done); first += mendAtOnce {
		part := done[first:min(first+mendAtOnce, len(done))]
		for i := range part {
			part[i].Version = hurt[first+i]
			bake, err := u.mendOne(ctx, hurt[first+i])
			if part[i].Bake = bake; err != nil {
				part[i].Error = err.Error()
			}
		}
		for i := range part {
			if part[i].Error == "" {
				part[i].Error = u.mended(ctx, part[i].Bake)
			}
		}
	}
	return done
}

// mendOne asks for the bake.
func (u *Upkeep) mendOne(ctx context.Context, version string) (bake string, err error) {
	v, _, err := u.Bus.Versions.Get(ctx, strings.Replace(version, ":", "@", 1))
	if err != nil {
		return "", err
	}
	made, _, err := u.Bus.Bakes.Get(ctx, v.Bake)
	if errors.Is(err, bus.ErrNotFound) {
		return "", errors.New("the bake that made it is forgotten: bake its recipe again")
	}
	if err != nil {
		return "", err
	}
	b, err := bus.Call[bus.SubmitRequest, farm.Bake](ctx, u.Bus, bus.SubmitBake, bus.SubmitRequest{
		ID: ulid.Make().String(), File: made.File, Recipe: made.Recipe, Context: made.Context,
		Set: append(slices.Clip(made.Set), "publish={}"), Lock: v.Lock, Background: true,
	})
	if err != nil {
		return "", fmt.Errorf("bake it again from where its files are: %w", err)
	}
	return b.ID, nil
}

// mended waits for a bake and says why it has not helped.
func (u *Upkeep) mended(ctx context.Context, bake string) string {
	tick := time.NewTicker(mendLook)
	defer tick.Stop()
	for {
		b, _, err := u.Bus.Bakes.Get(ctx, bake)
		switch {
		case err != nil:
			return err.Error()
		case b.State == farm.BakeDone:
			return ""
		case b.State.Finished():
			return "bake " + bake + ": " + b.Error
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return "bake " + bake + " is still under way"
		}
	}
}
