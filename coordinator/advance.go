package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// maxReplans bounds how often one process starts a bake's plan over because outputs went while it was under way.
const maxReplans = 3

// lookUp finds the outputs that the plan needs and somebody made, from the images down, and returns what then is to do.
func (c *Coordinator) lookUp(ctx context.Context, f *flight) (moves, error) {
	g := f.graph
	for {
		m := decide(g.steps, g.roots, g.standings)
		if len(m.lookup) == 0 {
			return m, nil
		}
		wants := make([]want, len(m.lookup))
		for j, i := range m.lookup {
			wants[j] = want{id: g.ids[i], kind: g.shards[i].Kind, key: g.shards[i].Key.Encoded()}
		}
		found, err := c.find(ctx, wants)
		if err != nil {
			return m, err
		}
		for j, i := range m.lookup {
			if found[j].output == nil {
				g.standings[i] = missing
				g.source(i, farm.SourceMiss, g.shards[i].Reason(farm.SourceMiss))
				continue
			}
			g.standings[i] = ready
			if f.adopted {
				c.recall(ctx, f.id, g, i)
			}
			reason := g.shards[i].Reason(farm.SourceHit)
			if found[j].origin != "" {
				reason += ": " + found[j].origin
			}
			g.source(i, farm.SourceHit, reason)
			g.refs[i].State = farm.ShardDone
		}
	}
}

// recall notes that an output, which looks like a hit, is there because the bake had it made before a restart.
func (c *Coordinator) recall(ctx context.Context, bake string, g *graph, i int) {
	rec, _, err := c.Bus.Shards.Get(ctx, g.ids[i])
	if err != nil || !wants(rec, bake) {
		return // for people only: at worst it is called a hit
	}
	g.source(i, farm.SourceMiss, g.shards[i].Reason(farm.SourceMiss))
	g.refs[i].Worker, g.refs[i].Took = rec.Worker, rec.Took
}

// dispatchSteps has shards of the plan made.
func (c *Coordinator) dispatchSteps(ctx context.Context, f *flight, steps []int) error {
	if len(steps) == 0 {
		return nil
	}
	g := f.graph
	jobs := make([]job, len(steps))
	for j, i := range steps {
		w := want{id: g.ids[i], kind: g.shards[i].Kind, key: g.shards[i].Key.Encoded()}
		deps := make([]string, len(g.steps[i].deps))
		for k, d := range g.steps[i].deps {
			deps[k] = g.ids[d]
		}
		jobs[j] = job{id: g.ids[i], shard: g.shards[i], deps: deps, spec: g.specs[i], exists: func(ctx context.Context) (bool, error) {
			found, err := c.find(ctx, []want{w})
			return err == nil && found[0].output != nil, err
		}}
	}
	results, err := c.dispatch(ctx, f, jobs)
	if err != nil {
		return err
	}
	for j, i := range steps {
		delete(g.specs, i)
		r := results[j]
		g.standings[i] = r.standing
		if r.standing == broken {
			g.failures[i] = r.shard
			continue
		}
		g.source(i, r.source, r.reason)
		g.refs[i].State = r.shard.State
		if r.standing == ready {
			f.advanceProgress()
			g.refs[i].Worker, g.refs[i].Took = r.shard.Worker, r.shard.Took
		}
	}
	return nil
}

// advance dispatches what has become possible, and moves on when every image is there.
func (c *Coordinator) advance(ctx context.Context, f *flight, b farm.Bake) (again bool, err error) {
	if f.graph == nil {
		if err := c.rechart(ctx, f, b); err != nil {
			return false, err
		}
	}
	f.collect(func(s farm.Shard) { c.outputs.put(s.ID, s.Output, "") })
	for {
		m, err := c.lookUp(ctx, f)
		if err != nil {
			return false, err
		}
		switch {
		case len(m.broken) > 0:
			failed := f.graph.failures[m.broken[0]]
			if failed.Kind == farm.KindConvert && !strings.HasPrefix(failed.Error, notReproducible) {
				c.forgetObserved(ctx, f, b)
			}
			return false, fatal{errors.New(failure(failed))}
		case m.done:
			return true, c.complete(ctx, f, b)
		case len(m.dispatch) == 0:
			return false, nil
		}
		if err := c.dispatchSteps(ctx, f, m.dispatch); err != nil {
			return false, err
		}
	}
}

// rechart makes the plan again from the record: after a restart, or when outputs have gone.
func (c *Coordinator) rechart(ctx context.Context, f *flight, b farm.Bake) error {
	if f.lock == nil {
		if err := c.readLock(ctx, f, b.Lock, b.Evidence); err != nil {
			return vanishedIsFatal(err)
		}
	}
	if f.lock.OS.Base != nil && f.source.From == "" {
		if err := c.prepare(ctx, f, b); err != nil { // for where the base can be had
			return err
		}
	}
	f.trees = nil
	for _, item := range f.lock.App {
		raw, err := imagestore.ReadAll(ctx, c.Store, item.Tree, recipe.MaxManifest)
		if err != nil {
			return vanishedIsFatal(fmt.Errorf("app content: %w", err))
		}
		t, err := recipe.DecodeTree(raw)
		if err != nil {
			return fatal{err}
		}
		f.trees = append(f.trees, t)
	}
	refs := b.Shards
	if b.ShardList != "" {
		raw, err := imagestore.ReadAll(ctx, c.Store, b.ShardList, imagestore.MaxPiece)
		if err == nil {
			err = json.Unmarshal(raw, &refs)
		}
		if err != nil {
			c.Log.Warn("shard list lost", "bake", b.ID, "err", err)
		}
	}
	f.known = make(map[string]farm.ShardRef, len(refs))
	f.early = nil
	for _, ref := range refs {
		f.known[ref.ID] = ref
		if slices.Contains([]farm.Kind{farm.KindObserve, farm.KindInspect, farm.KindSolve}, ref.Kind) {
			f.early = append(f.early, ref)
		}
	}
	if err := c.chart(f, b); err != nil {
		return err
	}
	if _, err := c.lookUp(ctx, f); err != nil {
		return err
	}
	done := 0
	for _, s := range f.graph.standings {
		if s == ready {
			done++
		}
	}
	f.setProgress(done, len(f.graph.shards))
	return nil
}

func vanishedIsFatal(err error) error {
	if errors.Is(err, imagestore.ErrNotFound) {
		return fatal{err}
	}
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
			return nil, fatally("%s: output: %w", platformName(image.Platform), err)
		}
		images[n] = farm.Image{
			Name: b.Name, Digest: out.Manifest, MediaType: out.MediaType, Kind: image.Kind, Platform: image.Platform,
			Format: formats[image.Kind], Size: out.Size, Ref: b.Name + ":" + b.Version, Blobs: out.Blobs,
		}
	}
	return images, nil
}

// formats are the forms in which images are stored, by kind.
var formats = map[string]string{farm.ImageOCI: "oci", farm.ImageDisk: "raw"}

// platformName names an image of a version by its platform.
func platformName(platform string) string {
	if platform == "" {
		return "the index"
	}
	return "image " + platform
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
				return fatally("%s%s was %s and is now %s", notReproducible, platformName(is.Platform), was.Digest, is.Digest)
			}
		}
	}
	return nil
}
