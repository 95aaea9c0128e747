package coordinator

import (
	"context"
	"errors"
	"slices"

	"bakefarm/farm"
	"bakefarm/plan"
)

// tests are the shards of a recipe's tests, with what is known of each.
type tests struct {
	refs []farm.ShardRef // all of them
	jobs []job           // those that have not passed
}

// testsOf looks up how the tests of a bake's images stand.
func (c *Coordinator) testsOf(ctx context.Context, f *flight, b farm.Bake) (tests, error) {
	shards, err := plan.Tests(f.recipe.Tests, b.Images)
	if err != nil {
		return tests{}, fatal{err}
	}
	wants := make([]want, len(shards))
	for i, s := range shards {
		wants[i] = want{id: shardID(s.Key.Encoded(), b.Rebake, b.ID), kind: s.Kind, key: s.Key.Encoded()}
	}
	found, err := c.find(ctx, wants)
	if err != nil {
		return tests{}, err
	}
	var all tests
	for i, s := range shards {
		w, have := wants[i], found[i]
		ref := farm.ShardRef{ID: w.id, Kind: s.Kind, Label: s.Label, Source: farm.SourceMiss, Reason: s.Reason(farm.SourceMiss)}
		if at := slices.IndexFunc(b.Tests, func(r farm.ShardRef) bool { return r.ID == w.id }); at >= 0 {
			ref = b.Tests[at]
		} else if have.output != nil {
			ref.Source, ref.Reason = farm.SourceHit, s.Reason(farm.SourceHit)
			if have.origin != "" {
				ref.Reason += ": " + have.origin
			}
		}
		if have.output == nil {
			all.jobs = append(all.jobs, job{id: w.id, shard: s, exists: func(ctx context.Context) (bool, error) {
				found, err := c.find(ctx, []want{w})
				return err == nil && found[0].output != nil, err
			}})
		} else {
			ref.State = farm.ShardDone
		}
		all.refs = append(all.refs, ref)
	}
	return all, nil
}

// test has the recipe's tests run. The bake goes on, to be published, when all have passed.
func (c *Coordinator) test(ctx context.Context, f *flight, b farm.Bake) (again bool, err error) {
	if err := c.readRecipe(ctx, f, b); err != nil {
		return false, err
	}
	all, err := c.testsOf(ctx, f, b)
	if err != nil {
		return false, err
	}
	if len(all.jobs) == 0 {
		b.Tests = all.refs
		for i, ref := range b.Tests {
			if rec, _, err := c.Bus.Shards.Get(ctx, ref.ID); err == nil && ref.Source != farm.SourceHit { // for people
				b.Tests[i].Worker, b.Tests[i].Took = rec.Worker, rec.Took
			}
		}
		return true, c.conclude(ctx, f, b)
	}
	f.setProgress(len(all.refs)-len(all.jobs), len(all.refs))
	results, err := c.dispatch(ctx, f, all.jobs)
	if err != nil {
		return false, err
	}
	for _, r := range results {
		switch r.standing {
		case broken:
			if err := c.testFailed(ctx, b, r.shard); err != nil {
				return false, err
			}
			return false, fatal{errors.New(failure(r.shard) + "\n" + b.Name + ":" + b.Version + " is in the store, and was not published")}
		case ready:
			again = true
		}
	}
	return again, nil
}

// testFailed notes in a bake's record that tests of an image failed, and where.
func (c *Coordinator) testFailed(ctx context.Context, b farm.Bake, s farm.Shard) error {
	_, err := c.bakes.change(ctx, b.ID, func(b *farm.Bake) error {
		b.Tests = slices.Clone(b.Tests)
		for i := range b.Tests {
			if b.Tests[i].ID == s.ID {
				b.Tests[i].State, b.Tests[i].Worker = farm.ShardFailed, s.Worker
			}
		}
		return nil
	})
	return err
}

// conclude publishes the bake's images, and ends the bake.
func (c *Coordinator) conclude(ctx context.Context, f *flight, b farm.Bake) error {
	if err := c.release(ctx, f, &b); err != nil {
		return err
	}
	_, err := c.move(ctx, f.id, farm.BakeDone, func(now *farm.Bake) {
		now.Images, now.Tests, now.Published, now.DoneAt = b.Images, b.Tests, b.Published, c.doneAt(b)
	})
	return err
}
