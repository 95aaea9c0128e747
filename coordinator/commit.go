package coordinator

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/plan"

	"github.com/opencontainers/go-digest"
)

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
	all, err := c.testsOf(ctx, f, *b)
	if err != nil || len(all.jobs) > 0 {
		return false, err
	}
	b.Tests = all.refs
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

// setCached puts a committed version into the record of a bake that led to it.
func (c *Coordinator) setCached(f *flight, b *farm.Bake, v farm.Version) {
	c.setLock(f, b, v.Key)
	b.Cached, b.From, b.Images, b.Shards = true, v.Bake, v.Images, f.early
}

// commit makes the bake's images exist, by one create of the version's record. Then they are published, or tested before
// that. Every step may be repeated.
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
	all, err := c.testsOf(ctx, f, b)
	if err != nil {
		return err
	}
	if len(all.refs) == 0 {
		return c.conclude(ctx, f, b)
	}
	if err := c.tag(ctx, b, b.Version); err != nil { // what is tested can be had, and looked at when it fails
		return err
	}
	_, err = c.move(ctx, f.id, farm.BakeTesting, func(now *farm.Bake) { now.Images, now.Tests = b.Images, all.refs })
	return err
}

// createVersion returns the version's images: the bake's own, or those of whoever was faster.
func (c *Coordinator) createVersion(ctx context.Context, f *flight, b farm.Bake) ([]farm.Image, error) {
	if f.lock == nil { // taken up from the records
		if err := c.readLock(ctx, f, b.Lock, b.Evidence); err != nil {
			return nil, err
		}
	}
	key := versionKey(b.Name, b.Version)
	v := farm.Version{
		Schema: farm.Schema, Name: b.Name, Version: b.Version, Key: b.Key, Lock: b.Lock, Bake: b.ID,
		Sequence: c.versions.next(b.Name), Images: b.Images, Registries: f.recipe.Publish.Registries,
		Contents: plan.Contents(f.lock, refOf(f.recipe)), CreatedAt: c.Now().UTC(),
	}
	_, err := c.Bus.Versions.Create(ctx, key, v)
	if err == nil {
		c.versions.note(v.Name, v.Sequence)
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
		return was.Images, c.untrash(ctx, key)
	}
	there, err := c.haveImages(ctx, was.Images)
	if err != nil {
		return nil, err
	}
	if there { // two bakes came to different bytes at the same time: the first one's count
		c.note(ctx, b.ID, fmt.Sprintf("version %s was committed by bake %s with other images: those are kept", b.Version, was.Bake))
		return was.Images, c.untrash(ctx, key)
	}
	was.Images, was.Bake, was.Trash = b.Images, b.ID, nil // the old ones have gone
	_, err = c.Bus.Versions.Update(ctx, key, was, revision)
	return b.Images, err
}

// untrash takes a version out of the trash: somebody bakes it again.
func (c *Coordinator) untrash(ctx context.Context, key string) error {
	for range maxConflicts {
		v, revision, err := c.Bus.Versions.Get(ctx, key)
		if err != nil || v.Trash == nil {
			return err
		}
		v.Trash = nil
		if _, err = c.Bus.Versions.Update(ctx, key, v, revision); !errors.Is(err, bus.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("version %s: %w", key, bus.ErrConflict)
}
