package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"bakefarm/bus"
	"bakefarm/farm"
)

// importVersion commits a version that another farm has baked, as createVersion does one of this farm's. The API has verified
// the images; here it counts that they are there. What the farm has under the same version stays, unless it is damaged.
func (c *Coordinator) importVersion(ctx context.Context, r bus.ImportRequest) (bus.ImportReply, error) {
	v := r.Version
	if v.Version != farm.VersionOf(v.Key) || len(v.Images) == 0 {
		return bus.ImportReply{}, fmt.Errorf("version %s of %s: no images, or not the version of %s: %w", v.Version, v.Name, v.Key, bus.ErrInvalid)
	}
	there, err := c.haveImages(ctx, v.Images)
	if err != nil {
		return bus.ImportReply{}, err
	}
	if !there {
		return bus.ImportReply{}, fmt.Errorf("%s:%s: something of its images has gone meanwhile: import it again: %w", v.Name, v.Version, bus.ErrConflict)
	}
	if r.Bake != nil {
		if _, err := c.Bus.Bakes.Create(ctx, r.Bake.ID, *r.Bake); err != nil && !errors.Is(err, bus.ErrExists) {
			return bus.ImportReply{}, err
		}
	}
	v.Sequence, v.Pins, v.Trash = c.versions.next(v.Name), nil, nil
	key := versionKey(v.Name, v.Version)
	for range maxConflicts {
		_, err := c.Bus.Versions.Create(ctx, key, v)
		if err == nil {
			c.versions.note(v.Name, v.Sequence)
			return bus.ImportReply{Version: v, Outcome: bus.Imported}, nil
		}
		if !errors.Is(err, bus.ErrExists) {
			return bus.ImportReply{}, err
		}
		was, revision, err := c.Bus.Versions.Get(ctx, key)
		if errors.Is(err, bus.ErrNotFound) {
			continue
		}
		if err != nil {
			return bus.ImportReply{}, err
		}
		reply, err := c.importOver(ctx, key, was, revision, v)
		if !errors.Is(err, bus.ErrConflict) || reply.Outcome == "" {
			return reply, err
		}
	}
	return bus.ImportReply{}, fmt.Errorf("version %s: %w", key, bus.ErrConflict)
}

// importOver imports a version that there is. A conflict with an outcome is one to try again.
func (c *Coordinator) importOver(ctx context.Context, key string, was farm.Version, revision uint64, v farm.Version) (bus.ImportReply, error) {
	same := was.Key == v.Key && slices.EqualFunc(was.Images, v.Images, func(x, y farm.Image) bool { return x.Digest == y.Digest })
	switch {
	case same && was.Trash == nil:
		return bus.ImportReply{Version: was, Outcome: bus.Present}, nil
	case same:
		was.Trash = nil
		_, err := c.Bus.Versions.Update(ctx, key, was, revision)
		return bus.ImportReply{Version: was, Outcome: bus.Restored}, err
	case was.Key != v.Key:
		return bus.ImportReply{}, fmt.Errorf("%w: %w", collision(was, v.Key), bus.ErrConflict)
	}
	whole, err := c.haveImages(ctx, was.Images)
	if err != nil {
		return bus.ImportReply{}, err
	}
	if whole {
		return bus.ImportReply{}, fmt.Errorf("%s:%s is here with other images, of bake %s: both farms have baked it, and not the same bytes: %w",
			v.Name, v.Version, was.Bake, bus.ErrConflict)
	}
	was.Images, was.Bake, was.Trash = v.Images, v.Bake, nil
	_, err = c.Bus.Versions.Update(ctx, key, was, revision)
	return bus.ImportReply{Version: was, Outcome: bus.Mended}, err
}
