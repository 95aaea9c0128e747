package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
)

// publishTimeout bounds the wait for the deploy role to move a channel.
const publishTimeout = 10 * time.Second

// release names the bake's images and moves the recipe's channel, also for a cached bake.
func (c *Coordinator) release(ctx context.Context, f *flight, b *farm.Bake) error {
	released := *b
	var published *farm.Published
	err := together(ctx,
		func(ctx context.Context) error { return c.tag(ctx, released, released.Version) },
		func(ctx context.Context) error { return c.tag(ctx, released, "latest") },
		func(ctx context.Context) error {
			if err := c.updateRegistries(ctx, f, released); err != nil {
				return err
			}
			published = c.publish(ctx, f, released)
			return nil
		})
	b.Published = published
	return err
}

// tag points a tag to the bake's first image. "latest" is what the name's last bake led to, cached or not.
func (c *Coordinator) tag(ctx context.Context, b farm.Bake, tag string) error {
	if c.Tags == nil || len(b.Images) == 0 {
		return nil
	}
	for range maxConflicts {
		was, revision, err := c.Tags.Tag(ctx, b.Name, tag)
		if err != nil && !errors.Is(err, imagestore.ErrNotFound) {
			return fmt.Errorf("tag %s:%s: %w", b.Name, tag, err)
		}
		if err == nil && was == b.Images[0].Digest {
			return nil
		}
		if _, err = c.Tags.SetTag(ctx, b.Name, tag, b.Images[0].Digest, revision); err == nil {
			return nil
		}
		if !errors.Is(err, imagestore.ErrConflict) {
			return fmt.Errorf("tag %s:%s: %w", b.Name, tag, err)
		}
	}
	return fmt.Errorf("tag %s:%s: %w", b.Name, tag, imagestore.ErrConflict)
}

// updateRegistries makes the version's record say what the recipe says now: publish is no part of the Lock. It also takes
// the version out of the trash.
func (c *Coordinator) updateRegistries(ctx context.Context, f *flight, b farm.Bake) error {
	if !b.Cached {
		return nil
	}
	for range maxConflicts {
		key := versionKey(b.Name, b.Version)
		v, revision, err := c.Bus.Versions.Get(ctx, key)
		if err != nil || slices.Equal(v.Registries, f.recipe.Publish.Registries) && v.Trash == nil {
			return err
		}
		v.Registries, v.Trash = f.recipe.Publish.Registries, nil // whoever bakes it again wants it
		if _, err = c.Bus.Versions.Update(ctx, key, v, revision); !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("version %s: %w", b.Version, bus.ErrConflict)
}

// publish asks the deploy role to point the recipe's channel to the bake's version. That it can't doesn't fail the bake:
// the images are there, and the channel can be moved by hand.
func (c *Coordinator) publish(ctx context.Context, f *flight, b farm.Bake) *farm.Published {
	channel := f.recipe.Publish.Channel
	if channel == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	moved, err := bus.Call[bus.PromoteRequest, farm.Channel](ctx, c.Bus, bus.Promote, bus.PromoteRequest{
		Schema: farm.Schema, Name: b.Name, Channel: channel, Version: b.Version, By: b.ID,
	})
	if err != nil {
		message := fmt.Sprintf("channel %s was not moved: %s", channel, err)
		c.Log.Warn("publish", "bake", b.ID, "name", b.Name, "err", message)
		c.note(ctx, b.ID, message)
		return &farm.Published{Channel: channel, Error: clip(err.Error(), maxError)}
	}
	return &farm.Published{Channel: channel, Move: moved.Move}
}
