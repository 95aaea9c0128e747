package coordinator

import (
	"cmp"
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
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// fatal is an error that ends the bake: trying again would end the same way.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

func fatally(format string, args ...any) error { return fatal{fmt.Errorf(format, args...)} }

// maxSolved bounds a solved package list, in bytes.
const maxSolved = 64 << 20

// A job is a shard that has to be made, and how to tell that it needn't.
type job struct {
	id     string
	shard  plan.Shard
	deps   []string     // shard IDs
	spec   farm.Payload // empty: not encoded yet
	exists func(context.Context) (bool, error)
}

// early looks for the result of a shard that the plan itself waits for, and notes it as a hit; todo is what makes it, when
// nobody has it.
func (c *Coordinator) early(ctx context.Context, f *flight, shard plan.Shard) (output json.RawMessage, todo *job, err error) {
	w := want{id: shard.Key.Encoded(), kind: shard.Kind, key: shard.Key.Encoded()}
	found, err := c.find(ctx, []want{w})
	if err != nil {
		return nil, nil, err
	}
	if found[0].output == nil {
		return nil, &job{id: w.id, shard: shard, exists: func(ctx context.Context) (bool, error) {
			found, err := c.find(ctx, []want{w})
			return err == nil && found[0].output != nil, err
		}}, nil
	}
	f.noteEarly(farm.ShardRef{
		ID: w.id, Kind: shard.Kind, Label: shard.Label, Source: farm.SourceHit, State: farm.ShardDone,
		Reason: shard.Reason(farm.SourceHit) + ": " + found[0].origin,
	})
	return found[0].output, nil, nil
}

// answer finds the recipe's answers, without having anything run. When all are there the flight has its Lock; else jobs
// are those to have made first. It may be called again and again.
func (c *Coordinator) answer(ctx context.Context, f *flight, b farm.Bake) (jobs []job, err error) {
	if f.lock != nil {
		return nil, nil
	}
	own, jobs, err := c.inspected(ctx, f)
	if err != nil || len(jobs) > 0 {
		return jobs, err
	}
	if f.pinned != nil && len(b.Update) == 0 && f.hasLocked(own) {
		return c.answerLocked(ctx, f, b)
	}
	if b.Rebake {
		if kept, err := c.keptLock(ctx, f, b); kept || err != nil {
			return nil, err
		}
	}
	if jobs, err = c.based(ctx, f, b); err != nil || len(jobs) > 0 {
		return jobs, err
	}
	if d := f.recipe.OS.Debian; d != nil && d.Suite == "" {
		if d.Suite, err = suiteOf(f.bases); err != nil {
			return nil, err
		}
	}
	questions, err := plan.Resolve(f.recipe, f.bases)
	if err != nil {
		return nil, fatal{err}
	}
	answers := make([]answer, len(questions))
	todo := make([]*job, len(questions))
	err = parallel(ctx, len(questions), func(ctx context.Context, i int) (err error) {
		q := questions[i]
		stay, err := c.staying(ctx, f, q.Platform, b.Update)
		if err != nil {
			return err
		}
		mine, err := own.of(q)
		if err != nil {
			return err
		}
		answers[i], todo[i], err = c.answerOne(ctx, q, b, func(at plan.ObserveOutput) plan.Shard { return q.Solve(at, stay, mine) })
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range questions {
		for _, ref := range answers[i].refs {
			f.noteEarly(ref)
		}
		if todo[i] != nil && !slices.ContainsFunc(jobs, func(j job) bool { return j.id == todo[i].id }) {
			jobs = append(jobs, *todo[i])
		}
	}
	if len(jobs) > 0 {
		return jobs, nil
	}
	f.evidence = &plan.Evidence{Platforms: map[string]plan.Answer{}}
	f.urls = map[digest.Digest][]string{}
	packages := map[string][]recipe.LockedPackage{}
	for i, q := range questions {
		f.evidence.Platforms[q.Platform] = answers[i].Answer
		list := make([]recipe.LockedPackage, 0, len(answers[i].packages))
		for _, p := range answers[i].packages {
			list = append(list, p.LockedPackage)
			addURL(f.urls, p)
		}
		packages[q.Platform] = list
	}
	if f.pinned != nil && len(b.Update) == 0 {
		if err := f.pinnedHas(packages); err != nil {
			return nil, err
		}
	}
	f.lock = plan.Lock(f.recipe, f.base, packages, f.trees)
	return nil, nil
}

// An answer is what a question led to, with how its shards were come by.
type answer struct {
	plan.Answer
	packages []plan.SolvedPackage
	refs     []farm.ShardRef
}

// answerOne finds one answer: in the observations and the action cache. solve is the shard that makes it of what was
// observed. A job is what stands in the way.
func (c *Coordinator) answerOne(ctx context.Context, q plan.Question, b farm.Bake, solve func(plan.ObserveOutput) plan.Shard) (a answer, todo *job, err error) {
	observe := plan.Observe(q.Observe)
	id := observe.Key.Encoded()
	seen, fresh, err := c.observed(ctx, observe, b)
	if err != nil {
		return a, nil, err
	}
	if !fresh {
		return a, &job{id: id, shard: observe, exists: func(ctx context.Context) (bool, error) {
			_, fresh, err := c.observed(ctx, observe, b)
			return fresh, err
		}}, nil
	}
	a.refs = []farm.ShardRef{{
		ID: id, Kind: observe.Kind, Label: observe.Label, Source: farm.SourceHit, State: farm.ShardDone,
		Reason: "observed at " + seen.At.UTC().Format(time.DateTime),
	}}
	var at plan.ObserveOutput
	if err := json.Unmarshal(seen.Output, &at); err != nil {
		return a, nil, fmt.Errorf("observation %s: %w", observe.Label, err)
	}
	shard := solve(at)
	w := want{id: shard.Key.Encoded(), kind: shard.Kind, key: shard.Key.Encoded()}
	found, err := c.find(ctx, []want{w})
	if err != nil {
		return a, nil, err
	}
	if found[0].output == nil {
		return a, &job{id: w.id, shard: shard, exists: func(ctx context.Context) (bool, error) {
			found, err := c.find(ctx, []want{w})
			return err == nil && found[0].output != nil, err
		}}, nil
	}
	a.refs = append(a.refs, farm.ShardRef{
		ID: w.id, Kind: shard.Kind, Label: shard.Label, Source: farm.SourceHit, State: farm.ShardDone,
		Reason: shard.Reason(farm.SourceHit) + ": " + found[0].origin,
	})
	var out plan.SolveOutput
	if err := json.Unmarshal(found[0].output, &out); err != nil {
		return a, nil, fatally("%s: output: %w", shard.Label, err)
	}
	a.Answer = plan.Answer{Observed: seen.At, Indexes: at.Indexes, Solved: out.Packages}
	a.packages, err = c.packages(ctx, out.Packages)
	return a, nil, err
}

// clocksApart is how far the clocks of coordinators that are in order may be apart.
const clocksApart = time.Minute

// fresh reports whether an observation is fresh enough for a bake: not older than MaxAge when the bake was accepted. So
// one observation after that is enough, however long the bake takes.
//
// Both times are those at which this process learnt of it, by its own monotonic clock: the coordinators' wall clocks may be
// hours apart, and then a bake would be given what was long out of date, or have the mirror asked for ever. Only what
// was there before this process began is told by the clocks of those who wrote it.
func (c *Coordinator) fresh(key string, seen farm.Observation, b farm.Bake) bool {
	v, known := c.observations.look(key)
	if !known || !v.live {
		return !seen.At.Before(b.AcceptedAt.Add(-c.MaxAge)) && !seen.At.After(c.Now().Add(clocksApart))
	}
	accepted := time.Now()
	if b, known := c.bakes.look(b.ID); known {
		accepted = b.first
	}
	return !v.changed.Add(-seen.Took).Before(accepted.Add(-c.MaxAge))
}

// observed returns what was seen last, and whether that is fresh enough for the bake. The indexes must still be in the
// store: solving reads them.
func (c *Coordinator) observed(ctx context.Context, s plan.Shard, b farm.Bake) (farm.Observation, bool, error) {
	seen, _, err := c.observations.fetch(ctx, s.Key.Encoded())
	if errors.Is(err, bus.ErrNotFound) {
		return seen, false, nil
	}
	if err != nil || !c.fresh(s.Key.Encoded(), seen, b) {
		return seen, false, err
	}
	out, err := readOutput(s.Kind, seen.Output)
	if err != nil {
		c.Log.Warn("an observation does not read", "shard", s.Label, "err", err)
		return seen, false, nil
	}
	have, err := asking(out.pieces).of(ctx, c.Store)
	return seen, !slices.Contains(have, false), err
}

// forgetObserved makes the next bake ask the mirrors again: one does not have what this bake was told that it has.
func (c *Coordinator) forgetObserved(ctx context.Context, f *flight, b farm.Bake) {
	if err := c.readRecipe(ctx, f, b); err != nil {
		return // it grows old by itself
	}
	if d := f.recipe.OS.Debian; d != nil && d.Suite == "" && f.lock != nil && f.lock.OS.Debian != nil {
		d.Suite = f.lock.OS.Debian.Suite
	}
	questions, err := plan.Resolve(f.recipe, nil)
	if err != nil {
		return
	}
	for _, q := range questions {
		key := plan.Observe(q.Observe).Key.Encoded()
		_, revision, err := c.Bus.Observations.Get(ctx, key)
		if err == nil {
			err = c.Bus.Observations.Delete(ctx, key, revision)
		}
		if err != nil && !errors.Is(err, bus.ErrNotFound) && !errors.Is(err, bus.ErrConflict) {
			c.Log.Warn("observation not forgotten", "observe", q.Observe.Suite, "err", err)
		}
	}
}

// packages reads a solved package list.
func (c *Coordinator) packages(ctx context.Context, d digest.Digest) ([]plan.SolvedPackage, error) {
	raw, err := imagestore.ReadAll(ctx, c.Store, d, maxSolved)
	if err != nil {
		return nil, fmt.Errorf("package list: %w", err)
	}
	var list []plan.SolvedPackage
	if err := json.Unmarshal(raw, &list); err != nil {
		return nil, fatally("package list %s: %w", d, err)
	}
	for _, p := range list {
		if _, err := imagestore.ParseDigest(p.SHA256); err != nil {
			return nil, fatally("package list %s: %s: %w", d, p.Name, err)
		}
	}
	return list, nil
}

// keptLock gives a re-bake the Lock that its request resolved to last, if it did.
func (c *Coordinator) keptLock(ctx context.Context, f *flight, b farm.Bake) (bool, error) {
	kept, _, err := c.Bus.Requests.Get(ctx, b.Request.Encoded())
	if errors.Is(err, bus.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	err = c.readLock(ctx, f, kept.Lock, kept.Evidence)
	if errors.Is(err, imagestore.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// readLock reads a Lock, and where its packages can be had, into the flight.
func (c *Coordinator) readLock(ctx context.Context, f *flight, lock, evidence digest.Digest) error {
	raw, err := imagestore.ReadAll(ctx, c.Store, lock, recipe.MaxLock)
	if err != nil {
		return fmt.Errorf("lock: %w", err)
	}
	decoded, err := recipe.DecodeLock(raw)
	if err != nil {
		return fatal{err}
	}
	seen := &plan.Evidence{}
	urls := map[digest.Digest][]string{}
	if evidence != "" {
		if raw, err = imagestore.ReadAll(ctx, c.Store, evidence, recipe.MaxLock); err != nil {
			return fmt.Errorf("evidence: %w", err)
		}
		if err := json.Unmarshal(raw, seen); err != nil {
			return fatally("evidence %s: %w", evidence, err)
		}
		for _, a := range seen.Platforms {
			list, err := c.packages(ctx, a.Solved)
			if err != nil {
				return err
			}
			for _, p := range list {
				addURL(urls, p)
			}
		}
	}
	f.lock, f.evidence, f.urls = decoded, seen, urls
	return nil
}

// addURL notes where a package can be had. Platforms see the same packages for all architectures in the same places.
func addURL(urls map[digest.Digest][]string, p plan.SolvedPackage) {
	for _, url := range append([]string{p.URL}, p.Also...) {
		if url != "" && !slices.Contains(urls[p.SHA256], url) {
			urls[p.SHA256] = append(urls[p.SHA256], url)
		}
	}
}

// noteEarly adds what is known of an observe or solve shard, or betters it.
func (f *flight) noteEarly(ref farm.ShardRef) {
	i := slices.IndexFunc(f.early, func(r farm.ShardRef) bool { return r.ID == ref.ID })
	if i < 0 {
		f.early = append(f.early, ref)
		return
	}
	was := f.early[i]
	if was.Source == farm.SourceMiss || was.Source == farm.SourceShared { // what it was come by first
		ref.Source, ref.Reason = was.Source, was.Reason
		f.mu.Lock()
		ended := f.inbox[ref.ID]
		f.mu.Unlock()
		ref.Worker, ref.Took = cmp.Or(ended.Worker, was.Worker), cmp.Or(ended.Took, was.Took)
	}
	f.early[i] = ref
}
