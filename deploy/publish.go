package deploy

import (
	"context"
	"errors"
	"fmt"
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

// publisher works publications off. A publication is a record first and work second, so that a restart goes on with it.
type publisher struct {
	Config
	slots chan struct{}

	mu      sync.Mutex
	ctx     context.Context // of run; nil before it and after it
	work    sync.WaitGroup
	running map[string]bool // publications by key
}

func newPublisher(c Config) *publisher {
	return &publisher{Config: c, slots: make(chan struct{}, pushes), running: make(map[string]bool)}
}

// run takes up what is pending and goes on until ctx ends.
func (p *publisher) run(ctx context.Context) error {
	pending, err := p.Bus.Publications.List(ctx, "")
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.ctx = ctx
	p.mu.Unlock()
	for key, publication := range pending {
		if publication.State == farm.PublicationPending {
			p.start(key)
		}
	}
	<-ctx.Done()
	p.mu.Lock()
	p.ctx = nil // nothing starts from here on
	p.mu.Unlock()
	p.work.Wait()
	return ctx.Err()
}

// publish records that a channel's version is to be pushed to the registries of its recipe, and starts on it.
func (p *publisher) publish(ctx context.Context, c farm.Channel, v farm.Version) error {
	for _, registry := range v.Registries {
		target, err := recipe.Release{Name: c.Name, Version: c.Version, Channel: c.Channel}.Reference(registry)
		if err != nil {
			return fmt.Errorf("channel %s was moved, but publish.registries %q: %w", c.Channel, registry, err)
		}
		publication := farm.Publication{Schema: farm.Schema, Name: c.Name, Channel: c.Channel, Version: c.Version, Target: target,
			State: farm.PublicationPending, By: c.By, At: p.Now().UTC()}
		key := publicationKey(publication)
		_, err = p.Bus.Publications.Create(ctx, key, publication)
		if errors.Is(err, bus.ErrExists) {
			err = p.again(ctx, key, publication)
		}
		if err != nil {
			return fmt.Errorf("channel %s was moved, but its publication was not recorded: promote it again: %w", c.Channel, err)
		}
		p.start(key)
	}
	return nil
}

// publicationKey is the name, channel and version with a short digest of the target.
func publicationKey(p farm.Publication) string {
	return strings.Join([]string{p.Name, p.Channel, p.Version, digest.FromString(p.Target).Encoded()[:16]}, "@")
}

// again makes a finished publication pending: its tag may have moved on in the registry, or it may work this time.
func (p *publisher) again(ctx context.Context, key string, publication farm.Publication) error {
	old, revision, err := p.Bus.Publications.Get(ctx, key)
	if err != nil || old.State == farm.PublicationPending {
		return err
	}
	if _, err = p.Bus.Publications.Update(ctx, key, publication, revision); errors.Is(err, bus.ErrConflict) {
		return nil // somebody else is at it
	}
	return err
}

// start works on a publication in the background, unless that is being done already.
func (p *publisher) start(key string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ctx == nil || p.running[key] {
		return // run takes it up when it starts
	}
	p.running[key] = true
	ctx := p.ctx
	p.work.Go(func() {
		p.drive(ctx, key)
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.running, key)
	})
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
	pushed := p.push(ctx, publication)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	publication.Attempts++
	publication.At = p.Now().UTC()
	publication.Error = ""
	line := "published " + publication.Target
	switch {
	case pushed == nil:
		publication.State = farm.PublicationDone
	case p.Final(pushed), publication.Attempts >= p.Attempts:
		publication.State, publication.Error = farm.PublicationFailed, pushed.Error()
		line = fmt.Sprintf("publishing %s failed: %v", publication.Target, pushed)
		p.Log.Error("publishing failed", "target", publication.Target, "attempts", publication.Attempts, "error", pushed)
	default:
		publication.Error = pushed.Error()
	}
	if _, err := p.Bus.Publications.Update(ctx, key, publication, revision); err != nil {
		return errors.Is(err, bus.ErrConflict), err // with a conflict, somebody else records what they did
	}
	if publication.State == farm.PublicationPending {
		return false, pushed
	}
	p.tell(ctx, publication, line)
	return true, nil
}

// push copies the version's OCI image: the index when it has several platforms.
func (p *publisher) push(ctx context.Context, publication farm.Publication) error {
	v, _, err := p.Bus.Versions.Get(ctx, publication.Name+"@"+publication.Version)
	if err != nil {
		return err
	}
	image, ok := published(v.Images)
	if !ok {
		return fmt.Errorf("version %s of %s has no OCI image", v.Version, v.Name)
	}
	return p.Push(ctx, image.Digest, publication.Target)
}

// published picks what stands for a version in a registry: its index, else its only image.
func published(images []farm.Image) (farm.Image, bool) {
	var found farm.Image
	for _, i := range images {
		if i.Kind == "oci" && (found.Digest == "" || i.Platform == "") {
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
