package coordinator

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// Bounds of a request.
const (
	maxID      = 64
	maxFile    = 1024
	maxRecipe  = 1 << 20
	maxSets    = 256
	maxSet     = 64 << 10 // bytes of all overrides
	maxUpdate  = 1000     // packages to choose anew
	maxPackage = 128      // bytes of a package's name
)

var validID = regexp.MustCompile(`^[0-9A-Za-z][0-9A-Za-z_-]{0,63}$`)

// submit accepts a bake, once for each ID. What is wrong with the recipe or the context is said now, and nothing is
// recorded then. When every answer is there already, and the version that they lead to, the bake is done at once: its
// one record says so.
func (c *Coordinator) submit(ctx context.Context, req bus.SubmitRequest) (farm.Bake, error) {
	b, err := c.take(ctx, req)
	if errors.Is(err, imagestore.ErrAway) {
		err = &bus.RemoteError{Code: "busy", Message: err.Error() + ": try again later"}
	}
	return b, err
}

// take is submit, with errors as they come.
func (c *Coordinator) take(ctx context.Context, req bus.SubmitRequest) (farm.Bake, error) {
	b, err := c.newBake(req)
	if err != nil {
		return b, err
	}
	if c.bakes.count() >= c.MaxBakes {
		if had, err := c.before(ctx, b); had.ID != "" || err != nil {
			return had, err
		}
		return farm.Bake{}, &bus.RemoteError{Code: "busy", Message: fmt.Sprintf(
			"%d bakes are under way, which is the limit: try again later", c.MaxBakes)}
	}
	f := newFlight(b.ID)
	var had farm.Bake
	var hadErr error
	var look sync.WaitGroup
	look.Go(func() { had, hadErr = c.before(ctx, b) })
	err = c.prepare(ctx, f, b)
	look.Wait()
	if had.ID != "" || hadErr != nil {
		return had, hadErr // whatever else: it was fine then
	}
	if err == nil {
		b.Name, b.Requires = f.recipe.Name, union(b.Requires, f.recipe.Requires)
		err = c.checkChunks(ctx, f)
	}
	if err != nil {
		return farm.Bake{}, err
	}
	cached, err := c.cachedAtOnce(ctx, f, &b)
	if err != nil {
		return farm.Bake{}, asRequestError(err)
	}
	err = c.bakes.create(ctx, b.ID, b)
	if errors.Is(err, bus.ErrExists) {
		return c.before(ctx, b)
	}
	if err != nil {
		return farm.Bake{}, err
	}
	if cached {
		accepted := b
		accepted.State = farm.BakeAccepted
		c.bakeEvent(ctx, accepted)
		c.bakeEvent(ctx, b)
		c.ended(b)
		return b, nil
	}
	c.bakeEvent(ctx, b)
	c.launch(f)
	return b, nil
}

// newBake checks the request's form.
func (c *Coordinator) newBake(req bus.SubmitRequest) (farm.Bake, error) {
	if !validID.MatchString(req.ID) {
		return farm.Bake{}, invalid("bake ID %q: want a ULID", clip(req.ID, 100))
	}
	if len(req.File) > maxFile {
		return farm.Bake{}, invalid("file name: longer than %d bytes", maxFile)
	}
	if _, err := imagestore.ParseDigest(req.Recipe); err != nil {
		return farm.Bake{}, invalid("recipe: %s", err)
	}
	if req.Context != "" {
		if _, err := imagestore.ParseDigest(req.Context); err != nil {
			return farm.Bake{}, invalid("context: %s", err)
		}
	}
	size := 0
	for _, s := range req.Set {
		size += len(s)
	}
	if len(req.Set) > maxSets || size > maxSet {
		return farm.Bake{}, invalid("set: at most %d overrides, of %d bytes together", maxSets, maxSet)
	}
	if req.Lock != "" {
		if _, err := imagestore.ParseDigest(req.Lock); err != nil {
			return farm.Bake{}, invalid("lock: %s", err)
		}
	}
	switch {
	case len(req.Update) > maxUpdate:
		return farm.Bake{}, invalid("update: at most %d packages", maxUpdate)
	case len(req.Update) > 0 && req.Lock == "":
		return farm.Bake{}, invalid("update: names packages of a lock file, and lock is missing")
	}
	for _, name := range req.Update {
		if name == "" || len(name) > maxPackage {
			return farm.Bake{}, invalid("update: %q is no package name", clip(name, 100))
		}
	}
	if len(req.Requires) > farm.MaxRequires {
		return farm.Bake{}, invalid("requires: at most %d labels", farm.MaxRequires)
	}
	for _, l := range req.Requires {
		if err := farm.CheckLabel(l); err != nil {
			return farm.Bake{}, invalid("requires: %s", err)
		}
	}
	if req.Timeout < 0 || req.Timeout > 0 && req.Timeout < time.Second {
		return farm.Bake{}, invalid("timeout %s: want a second at the least, or 0 for the farm's own limit", req.Timeout)
	}
	if req.File == "" {
		req.File = "recipe"
	}
	return farm.Bake{
		Schema: farm.Schema, ID: req.ID, File: req.File, Recipe: req.Recipe, Context: req.Context, Set: req.Set,
		Rebake: req.Rebake, LockOnly: req.LockOnly, Background: req.Background, Requires: union(req.Requires, nil), Timeout: req.Timeout, LockFile: req.Lock, Update: req.Update, Request: requestDigest(req),
		State: farm.BakeAccepted, AcceptedAt: c.Now().UTC(),
	}, nil
}

// requestDigest names what a request says, apart from how it is to be worked on.
func requestDigest(req bus.SubmitRequest) digest.Digest {
	raw, err := json.Marshal(struct {
		Recipe, Context digest.Digest
		Set             []string
		Lock            digest.Digest `json:",omitempty"`
		Update          []string      `json:",omitempty"`
	}{req.Recipe, req.Context, req.Set, req.Lock, req.Update})
	if err != nil {
		panic("coordinator: strings always encode: " + err.Error())
	}
	return digest.FromBytes(raw)
}

// before returns the bake that has b's ID already, or none.
func (c *Coordinator) before(ctx context.Context, b farm.Bake) (farm.Bake, error) {
	had, _, _, err := c.bakes.get(ctx, b.ID)
	if errors.Is(err, bus.ErrNotFound) {
		return farm.Bake{}, nil
	}
	if err != nil {
		return farm.Bake{}, err
	}
	if had.Request != b.Request || had.Rebake != b.Rebake || had.LockOnly != b.LockOnly {
		return farm.Bake{}, &bus.RemoteError{Code: "conflict", Message: fmt.Sprintf("bake %s exists and is another request: give this one an ID of its own", b.ID)}
	}
	return had, nil
}

// prepare reads the bake's recipe and context into the flight. An error that the request itself has is a RemoteError.
func (c *Coordinator) prepare(ctx context.Context, f *flight, b farm.Bake) error {
	if f.recipe != nil && f.trees != nil {
		return nil
	}
	room := int64(4 * maxRecipe)
	if b.Context != "" {
		blob, err := c.Store.Stat(ctx, b.Context)
		if err != nil {
			return notUploaded("context", b.Context, err)
		}
		if blob.Size > recipe.MaxManifest {
			return invalid("context: a manifest of %d bytes: at most %d are allowed", blob.Size, recipe.MaxManifest)
		}
		room += 4 * blob.Size // unpacked
	}
	room = min(room, intakeBytes)
	if err := c.intake.Acquire(ctx, room); err != nil {
		return err
	}
	defer c.intake.Release(room)
	if err := c.readRecipe(ctx, f, b); err != nil {
		return err
	}
	if err := c.readLockFile(ctx, f, b); err != nil {
		return err
	}
	manifest := &recipe.Context{}
	if b.Context != "" {
		raw, err := imagestore.ReadAll(ctx, c.Store, b.Context, recipe.MaxManifest)
		if err != nil {
			return notUploaded("context", b.Context, err)
		}
		if manifest, err = recipe.DecodeContext(raw); err != nil {
			return invalid("%s", err)
		}
	}
	trees, err := recipe.BuildTrees(manifest, f.recipe.App)
	if err != nil {
		return invalid("%s: %s", b.File, err)
	}
	if f.debs, err = recipe.FindPackages(manifest, f.recipe.App); err != nil {
		return invalid("%s: %s", b.File, err)
	}
	files, err := recipe.FindBase(manifest, f.recipe.OS.Base)
	if err != nil {
		return invalid("%s: %s", b.File, err)
	}
	f.source = plan.SourceOf(f.recipe.OS.Base, files)
	f.trees = slices.Clip(append([]*recipe.Tree{}, trees...)) // not nil
	return nil
}

// readRecipe reads the bake's recipe into the flight.
func (c *Coordinator) readRecipe(ctx context.Context, f *flight, b farm.Bake) error {
	if f.recipe != nil {
		return nil
	}
	text, err := imagestore.ReadAll(ctx, c.Store, b.Recipe, maxRecipe)
	if err != nil {
		return notUploaded("recipe", b.Recipe, err)
	}
	r, err := recipe.Parse(b.File, text, b.Set...)
	if err != nil {
		return invalid("%s", err)
	}
	f.recipe = r
	return nil
}

// notUploaded says that something the request names was not uploaded, if that is what the store says.
func notUploaded(what string, d digest.Digest, err error) error {
	if errors.Is(err, imagestore.ErrNotFound) {
		return invalid("%s %s is missing: upload it first", what, d)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// checkChunks refuses an app with content that the store lacks.
func (c *Coordinator) checkChunks(ctx context.Context, f *flight) error {
	var ask asking
	paths := map[digest.Digest]string{}
	add := func(path string, chunks []digest.Digest) {
		for _, chunk := range chunks {
			if _, asked := paths[chunk]; !asked {
				paths[chunk] = path
				ask = append(ask, chunk)
			}
		}
	}
	for _, t := range f.trees {
		for _, e := range t.Entries {
			add(e.Path, e.Chunks)
		}
	}
	for _, file := range append(slices.Clip(f.debs), f.source.Files...) {
		add(file.Path, file.Chunks)
	}
	have, err := ask.of(ctx, c.Store)
	if err != nil {
		return err
	}
	lacking := 0
	first := digest.Digest("")
	for i, ok := range have {
		if !ok {
			lacking++
			if first == "" {
				first = ask[i]
			}
		}
	}
	switch {
	case lacking == 1:
		return invalid("context chunk %s of /%s is missing: upload it first", first, paths[first])
	case lacking > 1:
		return invalid("context chunk %s of /%s and %d more are missing: upload them first", first, paths[first], lacking-1)
	}
	return nil
}

// asRequestError makes an error that is the bake's own, and not the farm's, one that no retry makes right.
func asRequestError(err error) error {
	var own fatal
	if errors.As(err, &own) {
		return invalid("%s", own.Error())
	}
	return err
}
