package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"

	"github.com/opencontainers/go-digest"
)

// publishTimeout bounds the wait for the deploy role to move a channel.
const publishTimeout = 10 * time.Second

// maxReplans bounds how often one process starts a bake's plan over because outputs went while it was under way.
const maxReplans = 3

// cachedAtOnce fills in b if everything that it leads to exists: the answers, the version and its images. It dispatches
// nothing and records nothing of the bake.
func (c *Coordinator) cachedAtOnce(ctx context.Context, f *flight, b *farm.Bake) (bool, error) {
	if b.Rebake {
		return false, nil
	}
	jobs, err := c.answer(ctx, f, *b)
	if err != nil || len(jobs) > 0 {
		return false, err
	}
	v, ok, err := c.committed(ctx, b.Name, f.lock.Key(), *b)
	if err != nil {
		return false, err
	}
	if !ok { // it will be baked: refuse now what can't be planned, such as an empty image
		return false, c.chart(f, *b)
	}
	kept, _, err := c.Bus.Requests.Get(ctx, b.Request.Encoded())
	if err != nil && !errors.Is(err, bus.ErrNotFound) {
		return false, err
	}
	if kept.Lock != v.Lock {
		return false, nil // the request's Lock has to be kept for a re-bake, and that takes the store a moment
	}
	f.evidenceAt = kept.Evidence
	c.setCached(f, b, v)
	if err := c.release(ctx, f, b); err != nil {
		return false, err
	}
	b.State, b.DoneAt = farm.BakeDone, b.AcceptedAt
	return true, nil
}

// committed returns the version of a Lock if it was committed and its images are all in the store.
func (c *Coordinator) committed(ctx context.Context, name string, key digest.Digest, b farm.Bake) (farm.Version, bool, error) {
	if b.Rebake || b.LockOnly {
		return farm.Version{}, false, nil
	}
	v, _, err := c.Bus.Versions.Get(ctx, versionKey(name, farm.VersionOf(key)))
	if errors.Is(err, bus.ErrNotFound) {
		return v, false, nil
	}
	if err != nil {
		return v, false, err
	}
	if v.Key != key {
		return v, false, collision(v, key)
	}
	there, err := c.haveImages(ctx, v.Images)
	return v, there, err
}

func collision(v farm.Version, key digest.Digest) error {
	return fatally("version %s of %s stands for the Lock %s already, not for %s", v.Version, v.Name, v.Key, key)
}

// haveImages reports whether the store has everything of the images.
func (c *Coordinator) haveImages(ctx context.Context, images []farm.Image) (bool, error) {
	var ask asking
	for _, i := range images {
		ask = append(append(ask, i.Digest), i.Blobs...)
	}
	have, err := ask.of(ctx, c.Store)
	return err == nil && len(have) > 0 && !slices.Contains(have, false), err
}

// setLock puts what the bake resolved to into its record.
func (c *Coordinator) setLock(f *flight, b *farm.Bake, key digest.Digest) {
	b.Name, b.Lock, b.Evidence = f.recipe.Name, key, f.evidenceAt
	b.Key, b.Version = key, farm.VersionOf(key)
}

// setCached puts a committed version into the record of a bake that led to it.
func (c *Coordinator) setCached(f *flight, b *farm.Bake, v farm.Version) {
	c.setLock(f, b, v.Key)
	b.Cached, b.From, b.Images, b.Shards = true, v.Bake, v.Images, f.early
}

// keepLock stores what the bake's record is going to name: the Lock, its trees and evidence, and the list of shards if it
// is large, whose digest goes to list; and remembers the Lock for re-bakes of the request.
func (c *Coordinator) keepLock(ctx context.Context, f *flight, b farm.Bake, refs []farm.ShardRef, list *digest.Digest) error {
	w := c.Store.Begin()
	put := func(data []byte) (digest.Digest, error) {
		part, err := w.Put(ctx, data)
		return part.Digest, err
	}
	lock, err := put(f.lock.Encode())
	if err != nil {
		return err
	}
	for _, t := range f.trees {
		if _, err := put(t.Encode()); err != nil {
			return err
		}
	}
	evidence, err := json.Marshal(f.evidence)
	if err != nil {
		return err
	}
	if f.evidence != nil && len(f.evidence.Platforms) > 0 {
		if f.evidenceAt, err = put(evidence); err != nil {
			return err
		}
	}
	if refs != nil && !fits(refs) {
		raw, err := json.Marshal(refs)
		if err != nil {
			return err
		}
		if *list, err = put(raw); err != nil {
			return err
		}
	}
	if err := w.Commit(ctx); err != nil {
		return err
	}
	_, err = c.Bus.Requests.Put(ctx, b.Request.Encoded(), farm.RequestLock{Schema: farm.Schema, Lock: lock, Evidence: f.evidenceAt})
	return err
}

// complete collects the images of a plan whose every root is ready, and moves the bake to committing.
func (c *Coordinator) complete(ctx context.Context, f *flight, b farm.Bake) error {
	images, err := c.collectImages(ctx, f, b)
	if err != nil {
		if errors.Is(err, errVanished) {
			return c.startOver(f, err)
		}
		return err
	}
	there, err := c.haveImages(ctx, images)
	if err != nil {
		return err
	}
	if !there {
		return c.startOver(f, errors.New("a part of the image has gone from the store"))
	}
	if b.Rebake {
		if err := c.compareVersion(ctx, b, images); err != nil {
			return err
		}
	}
	f.graph.prune()
	refs := slices.Concat(f.early, f.graph.refs)
	var list digest.Digest
	if !fits(refs) {
		w := c.Store.Begin()
		raw, err := json.Marshal(refs)
		if err != nil {
			return err
		}
		part, err := w.Put(ctx, raw)
		if err == nil {
			err = w.Commit(ctx)
		}
		if err != nil {
			return err
		}
		list = part.Digest
	}
	_, err = c.move(ctx, f.id, farm.BakeCommitting, func(b *farm.Bake) {
		b.Images = images
		setRefs(b, refs, list)
	})
	return err
}

// startOver makes the next drive look everything up again.
func (c *Coordinator) startOver(f *flight, why error) error {
	if f.replans++; f.replans > maxReplans {
		return fatally("started over %d times: %w", maxReplans, why)
	}
	for _, id := range f.graph.ids {
		c.outputs.forget(id)
	}
	f.graph = nil
	return nil
}

// collectImages makes the images' records from the outputs of the plan's roots.
func (c *Coordinator) collectImages(ctx context.Context, f *flight, b farm.Bake) ([]farm.Image, error) {
	images := make([]farm.Image, len(f.graph.images))
	for n, image := range f.graph.images {
		raw, err := c.outputOf(ctx, f.graph.ids[f.graph.roots[n]])
		if err != nil {
			return nil, err
		}
		var out plan.ImageOutput
		if err := json.Unmarshal(raw, &out); err != nil {
			return nil, fatally("image %s: output: %w", image.Platform, err)
		}
		images[n] = farm.Image{
			Name: b.Name, Digest: out.Manifest, MediaType: out.MediaType, Kind: image.Kind, Platform: image.Platform,
			Format: "oci", Size: out.Size, Ref: b.Name + ":" + b.Version, Blobs: out.Blobs,
		}
	}
	return images, nil
}

// compareVersion fails a re-bake whose images differ from those of the version.
func (c *Coordinator) compareVersion(ctx context.Context, b farm.Bake, images []farm.Image) error {
	v, _, err := c.Bus.Versions.Get(ctx, versionKey(b.Name, b.Version))
	if errors.Is(err, bus.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, is := range images {
		for _, was := range v.Images {
			if was.Kind == is.Kind && was.Platform == is.Platform && was.Digest != is.Digest {
				return fatally("%simage %s was %s and is now %s", notReproducible, is.Platform, was.Digest, is.Digest)
			}
		}
	}
	return nil
}

// commit makes the bake's images exist, by one create of the version's record, names them, and moves the channel. Every
// step may be repeated.
func (c *Coordinator) commit(ctx context.Context, f *flight, b farm.Bake) error {
	if err := c.readRecipe(ctx, f, b); err != nil {
		return err
	}
	if !b.Cached {
		images, err := c.createVersion(ctx, f, b)
		if err != nil {
			return err
		}
		b.Images = images
	}
	if err := c.release(ctx, f, &b); err != nil {
		return err
	}
	_, err := c.move(ctx, f.id, farm.BakeDone, func(now *farm.Bake) {
		now.Images, now.Published, now.DoneAt = b.Images, b.Published, c.doneAt(b)
	})
	return err
}

// createVersion returns the version's images: the bake's own, or those of whoever was faster.
func (c *Coordinator) createVersion(ctx context.Context, f *flight, b farm.Bake) ([]farm.Image, error) {
	key := versionKey(b.Name, b.Version)
	v := farm.Version{
		Schema: farm.Schema, Name: b.Name, Version: b.Version, Key: b.Key, Lock: b.Lock, Bake: b.ID,
		Sequence: c.versions.next(b.Name), Images: b.Images, Registries: f.recipe.Publish.Registries, CreatedAt: c.Now().UTC(),
	}
	_, err := c.Bus.Versions.Create(ctx, key, v)
	if err == nil {
		c.versions.note(key, true)
		return b.Images, nil
	}
	if !errors.Is(err, bus.ErrExists) {
		return nil, err
	}
	was, revision, err := c.Bus.Versions.Get(ctx, key)
	if err != nil {
		return nil, err
	}
	if was.Key != b.Key {
		return nil, collision(was, b.Key)
	}
	if slices.EqualFunc(was.Images, b.Images, func(x, y farm.Image) bool { return x.Digest == y.Digest }) {
		return was.Images, nil
	}
	there, err := c.haveImages(ctx, was.Images)
	if err != nil {
		return nil, err
	}
	if there { // two bakes came to different bytes at the same time: the first one's count
		c.note(ctx, b.ID, fmt.Sprintf("version %s was committed by bake %s with other images: those are kept", b.Version, was.Bake))
		return was.Images, nil
	}
	was.Images, was.Bake = b.Images, b.ID // the old ones have gone
	_, err = c.Bus.Versions.Update(ctx, key, was, revision)
	return b.Images, err
}

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

// updateRegistries makes the version's record say what the recipe says now: publish is no part of the Lock.
func (c *Coordinator) updateRegistries(ctx context.Context, f *flight, b farm.Bake) error {
	if !b.Cached {
		return nil
	}
	for range maxConflicts {
		key := versionKey(b.Name, b.Version)
		v, revision, err := c.Bus.Versions.Get(ctx, key)
		if err != nil || slices.Equal(v.Registries, f.recipe.Publish.Registries) {
			return err
		}
		v.Registries = f.recipe.Publish.Registries
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
