package deploy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/opencontainers/go-digest"
)

// pushes is how many publications are worked on at the same time.
const pushes = 2

// abandoned is how old the latest attempt at a pending publication is when nobody can be at it any more: then whoever sees
// it takes it up.
const abandoned = 2 * MaxBackoff

// errNothing: there is nothing that could be pushed, and a retry will not bring it.
var errNothing = errors.New("nothing to publish")

// publisher works publications off. A publication is a record first and work second, so that a restart goes on with it.
// Several processes may work on the same one: pushing is idempotent, and one of them records how it went.
//
// Versions may share a target (registry.example/app:prod). There the channel's latest version wins: a publication that the
// channel has left behind is not pushed; and one that was being pushed when the channel moved on has the later one
// pushed again.
type publisher struct {
	Config
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of run; nil before it and after it
	work    sync.WaitGroup
	running map[string]bool // publications by key; true: to be looked at once more
}

func newPublisher(c Config) *publisher {
	return &publisher{Config: c, slots: make(chan struct{}, pushes), running: make(map[string]bool)}
}

// run takes up what is pending and goes on until ctx ends. first is called before.
func (p *publisher) run(ctx context.Context, first func(context.Context) error) error {
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	defer p.work.Wait()
	defer func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.ctx = nil // nothing starts from here on
	}()
	for wait := time.Second; ; wait = min(2*wait, MaxBackoff) {
		err := first(ctx)
		if err == nil {
			err = p.takeUp(ctx, 0)
		}
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		p.Log.Warn("what channels and publications owe was not looked through; trying again", "in", wait, "error", err)
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	sweep := time.NewTicker(MaxBackoff)
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-sweep.C:
			if err := p.takeUp(ctx, abandoned); err != nil && ctx.Err() == nil {
				p.Log.Warn("publications were not looked through", "error", err)
			}
		}
	}
}

// takeUp starts on the pending publications that nobody has touched for some time.
func (p *publisher) takeUp(ctx context.Context, untouched time.Duration) error {
	publications, err := p.Bus.Publications.List(ctx, "")
	if err != nil {
		return err
	}
	for key, publication := range publications {
		if publication.State == farm.PublicationPending && p.Now().Sub(publication.At) >= untouched {
			p.start(key)
		}
	}
	return nil
}

// targets are the references that a version is pushed to when a channel points to it.
func targets(c farm.Channel, v farm.Version) ([]string, error) {
	references := make([]string, len(v.Registries))
	for i, registry := range v.Registries {
		var err error
		references[i], err = recipe.Release{Name: c.Name, Version: v.Version, Channel: c.Channel}.Reference(registry)
		if err != nil {
			return nil, fmt.Errorf("publish.registries %q: %w", registry, err)
		}
	}
	return references, nil
}

// publish records that the version that a channel points to is to be pushed to the references, also if that was done before
// (the tag may have moved on in the registry, or it may work this time), and starts on it.
func (p *publisher) publish(ctx context.Context, c farm.Channel, references []string, by string) error {
	for _, target := range references {
		if err := p.record(ctx, c, target, by, true); err != nil {
			return err
		}
	}
	return nil
}

// owe records publications that are missing.
func (p *publisher) owe(ctx context.Context, c farm.Channel, v farm.Version) error {
	references, err := targets(c, v)
	if err != nil {
		return err
	}
	for _, target := range references {
		if err := p.record(ctx, c, target, c.By, false); err != nil {
			return err
		}
	}
	return nil
}

// record makes a publication pending: if it is a new one, or again. It renews also one that is pending: whoever pushes it
// at this moment finds that it is to be pushed once more.
func (p *publisher) record(ctx context.Context, c farm.Channel, target, by string, again bool) error {
	publication := farm.Publication{Schema: farm.Schema, Name: c.Name, Channel: c.Channel, Version: c.Version, Target: target,
		State: farm.PublicationPending, By: by, At: p.Now().UTC()}
	key := publicationKey(publication)
	for {
		_, err := p.Bus.Publications.Create(ctx, key, publication)
		if errors.Is(err, bus.ErrExists) {
			if !again {
				return nil
			}
			var revision uint64
			if _, revision, err = p.Bus.Publications.Get(ctx, key); err == nil {
				_, err = p.Bus.Publications.Update(ctx, key, publication, revision)
			}
		}
		if errors.Is(err, bus.ErrConflict) || errors.Is(err, bus.ErrNotFound) {
			continue // it was written meanwhile
		}
		if err != nil {
			return err
		}
		p.start(key)
		return nil
	}
}

// publicationKey is the name, channel and version with a short digest of the target.
func publicationKey(p farm.Publication) string {
	return strings.Join([]string{p.Name, p.Channel, p.Version, digest.FromString(p.Target).Encoded()[:16]}, "@")
}

// start works on a publication in the background; who works on it already looks at it once more.
func (p *publisher) start(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil {
		return // run takes it up when it starts
	}
	if _, running := p.running[key]; running {
		p.running[key] = true
		return
	}
	p.running[key] = false
	ctx := p.ctx
	p.work.Go(func() {
		for {
			p.drive(ctx, key)
			if p.finish(ctx, key) {
				return
			}
		}
	})
}

// finish ends the work on a publication, unless it was started again meanwhile.
func (p *publisher) finish(ctx context.Context, key string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running[key] && ctx.Err() == nil {
		p.running[key] = false
		return false
	}
	delete(p.running, key)
	return true
}

// drive pushes until it has worked, is hopeless or ctx ends.
func (p *publisher) drive(ctx context.Context, key string) {
	for wait := p.Backoff; ; wait = min(2*wait, MaxBackoff) {
		finished, err := p.attempt(ctx, key)
		if finished || ctx.Err() != nil {
			return
		}
		p.Log.Warn("publishing is tried again", "publication", key, "in", wait, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// attempt pushes once and records how it went.
func (p *publisher) attempt(ctx context.Context, key string) (finished bool, err error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return false, ctx.Err()
	}
	publication, revision, err := p.Bus.Publications.Get(ctx, key)
	if errors.Is(err, bus.ErrNotFound) || err == nil && publication.State != farm.PublicationPending {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	current, left, err := p.leftBehind(ctx, publication)
	if err != nil {
		return false, err
	}
	if left {
		publication.State, publication.Error = farm.PublicationSuperseded, ""
		return p.settle(ctx, key, publication, revision, fmt.Sprintf("%s was not published: %s is at %s now", publication.Target, publication.Channel, current.Version))
	}
	pushed := p.push(ctx, publication)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	publication.Attempts++
	publication.Error = ""
	switch {
	case pushed == nil:
		// The channel may have moved on meanwhile, and what it points to now may have been pushed before this was.
		current, left, err := p.leftBehind(ctx, publication)
		if err == nil && left {
			err = p.record(ctx, current, publication.Target, current.By, true)
		}
		if err != nil {
			return false, err
		}
		publication.State = farm.PublicationDone
		return p.settle(ctx, key, publication, revision, "published "+publication.Target)
	case p.Final(pushed), errors.Is(pushed, errNothing), publication.Attempts >= p.Attempts:
		p.Log.Error("publishing failed", "target", publication.Target, "attempts", publication.Attempts, "error", pushed)
		publication.State, publication.Error = farm.PublicationFailed, pushed.Error()
		return p.settle(ctx, key, publication, revision, fmt.Sprintf("publishing %s failed: %v", publication.Target, pushed))
	}
	publication.Error, publication.At = pushed.Error(), p.Now().UTC()
	if _, err := p.Bus.Publications.Update(ctx, key, publication, revision); err != nil {
		return false, err
	}
	return false, pushed
}

// settle records the last state of a publication and says so. With a conflict it is not the last: the publication was
// renewed, or another process has recorded what it did.
func (p *publisher) settle(ctx context.Context, key string, publication farm.Publication, revision uint64, line string) (finished bool, err error) {
	publication.At = p.Now().UTC()
	if _, err := p.Bus.Publications.Update(ctx, key, publication, revision); err != nil {
		return false, err
	}
	p.tell(ctx, publication, line)
	return true, nil
}

// leftBehind reports whether the channel points to another version now that goes to the same target.
func (p *publisher) leftBehind(ctx context.Context, publication farm.Publication) (current farm.Channel, left bool, err error) {
	current, _, err = p.Bus.Channels.Get(ctx, publication.Name+"@"+publication.Channel)
	if errors.Is(err, bus.ErrNotFound) {
		return current, false, nil
	}
	if err != nil || current.Version == publication.Version {
		return current, false, err
	}
	v, _, err := p.Bus.Versions.Get(ctx, current.Name+"@"+current.Version)
	if errors.Is(err, bus.ErrNotFound) {
		return current, false, nil
	}
	if err != nil {
		return current, false, err
	}
	references, err := targets(current, v)
	if err != nil {
		return current, false, nil // its own publication says so
	}
	return current, slices.Contains(references, publication.Target), nil
}

// push copies the version's OCI image: the index when it has several platforms.
func (p *publisher) push(ctx context.Context, publication farm.Publication) error {
	v, _, err := p.Bus.Versions.Get(ctx, publication.Name+"@"+publication.Version)
	if errors.Is(err, bus.ErrNotFound) {
		return fmt.Errorf("%w: %s has no version %s any more", errNothing, publication.Name, publication.Version)
	}
	if err != nil {
		return err
	}
	image, ok := published(v.Images)
	if !ok {
		return fmt.Errorf("%w: version %s of %s has no OCI image", errNothing, v.Version, v.Name)
	}
	return p.Push(ctx, image.Digest, publication.Target)
}

// published picks what stands for a version in a registry: its index, else its only image.
func published(images []farm.Image) (farm.Image, bool) {
	var found farm.Image
	for _, i := range images {
		if i.Kind == farm.ImageOCI && (found.Digest == "" || i.IsIndex()) {
			found = i
		}
	}
	return found, found.Digest != ""
}

// tell puts a line into the log of the bake that moved the channel, if it was one.
func (p *publisher) tell(ctx context.Context, publication farm.Publication, line string) {
	if _, _, err := p.Bus.Bakes.Get(ctx, publication.By); err != nil {
		return
	}
	event := farm.Event{Schema: farm.Schema, Bake: publication.By, Type: farm.EventLog, At: p.Now().UTC(), Line: line}
	if err := p.Bus.PublishEvent(ctx, event); err != nil {
		p.Log.Warn("event", "bake", publication.By, "error", err)
	}
}
