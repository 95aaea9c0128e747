package deploy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/opencontainers/go-digest"
)

// PushFunc copies the image with the given manifest to a reference of another registry. Idempotent. An error that no retry
// makes right is one for which Config.Final returns true.
type PushFunc func(ctx context.Context, manifest digest.Digest, target string) error

// Config says what deploying works with. Bus and Push must be set; zero values elsewhere mean the default.
type Config struct {
	Bus   *bus.Bus
	Push  PushFunc
	Final func(error) bool // no retry will help; default: never
	Log   *slog.Logger

	Attempts int           // at one publication; default 10
	Backoff  time.Duration // before the second attempt, doubled each time up to MaxBackoff; default 1 s
	Now      func() time.Time
}

// MaxBackoff is the longest time between two attempts at a publication.
const MaxBackoff = 5 * time.Minute

// Deploy moves channels and publishes.
type Deploy struct {
	Config
	publisher *publisher
}

// New makes a Deploy; Run starts it.
func New(c Config) *Deploy {
	if c.Final == nil {
		c.Final = func(error) bool { return false }
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Attempts == 0 {
		c.Attempts = 10
	}
	if c.Backoff == 0 {
		c.Backoff = time.Second
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Deploy{Config: c, publisher: newPublisher(c)}
}

// Run serves promotions and rollbacks and works publications off until ctx ends.
func (d *Deploy) Run(ctx context.Context) error {
	stopPromote, err := bus.Handle(d.Bus, bus.Promote, d.promote)
	if err != nil {
		return err
	}
	defer stopPromote()
	stopRollback, err := bus.Handle(d.Bus, bus.Rollback, d.rollback)
	if err != nil {
		return err
	}
	defer stopRollback()
	if err := d.mend(ctx); err != nil {
		return err
	}
	return d.publisher.run(ctx)
}

// mend appends the history entries that a process which died owed.
func (d *Deploy) mend(ctx context.Context) error {
	channels, err := d.Bus.Channels.List(ctx, "")
	if err != nil {
		return err
	}
	for _, c := range channels {
		if err := d.Bus.AppendMove(ctx, c.LastMove()); err != nil && !errors.Is(err, bus.ErrConflict) { // moved on meanwhile
			return err
		}
	}
	return nil
}

func (d *Deploy) promote(ctx context.Context, r bus.PromoteRequest) (farm.Channel, error) {
	if err := errors.Join(farm.ValidateName(r.Name), farm.ValidateChannel(r.Channel)); err != nil {
		return farm.Channel{}, fmt.Errorf("%w: %w", err, bus.ErrInvalid)
	}
	version, err := d.version(ctx, r.Name, r.Version)
	if err != nil {
		return farm.Channel{}, err
	}
	c, err := d.move(ctx, r.Name, r.Channel, func(c farm.Channel) (farm.Channel, error) {
		if r.Expect != nil && *r.Expect != c.Move {
			return c, fmt.Errorf("channel %s of %s is at move %d (%s, by %s), not %d: %w", r.Channel, r.Name, c.Move, c.Version, c.By, *r.Expect, bus.ErrConflict)
		}
		if c.Version == version.Version {
			return c, nil
		}
		return promote(c, version.Version, r.By, d.Now()), nil
	})
	if err != nil {
		return farm.Channel{}, err
	}
	return c, d.publisher.publish(ctx, c, version)
}

func (d *Deploy) rollback(ctx context.Context, r bus.RollbackRequest) (farm.Channel, error) {
	c, err := d.move(ctx, r.Name, r.Channel, func(c farm.Channel) (farm.Channel, error) {
		if c.Move == 0 {
			return c, fmt.Errorf("%s has no channel %s: %w", r.Name, r.Channel, bus.ErrNotFound)
		}
		return rollback(c, r.To, r.By, d.Now())
	})
	if err != nil {
		return farm.Channel{}, err
	}
	version, err := d.version(ctx, r.Name, c.Version)
	if err != nil {
		return farm.Channel{}, err
	}
	return c, d.publisher.publish(ctx, c, version)
}

// version finds a version, or the one that another channel of the name points to.
func (d *Deploy) version(ctx context.Context, name, version string) (farm.Version, error) {
	v, _, err := d.Bus.Versions.Get(ctx, name+"@"+version)
	if !errors.Is(err, bus.ErrNotFound) {
		return v, err
	}
	if c, _, err := d.Bus.Channels.Get(ctx, name+"@"+version); err == nil {
		v, _, err = d.Bus.Versions.Get(ctx, name+"@"+c.Version)
		return v, err
	}
	return v, fmt.Errorf("%s has no version %s: %w", name, version, bus.ErrNotFound)
}

// move changes a channel by compare-and-set and brings its history up to it. A step that returns the channel as it was
// moves nothing.
func (d *Deploy) move(ctx context.Context, name, channel string, step func(farm.Channel) (farm.Channel, error)) (farm.Channel, error) {
	key := name + "@" + channel
	for {
		c, revision, err := d.Bus.Channels.Get(ctx, key)
		switch {
		case errors.Is(err, bus.ErrNotFound):
			c, revision = farm.Channel{Name: name, Channel: channel}, 0
		case err != nil:
			return c, err
		default: // the entry that is owed goes first
			if err := d.Bus.AppendMove(ctx, c.LastMove()); err != nil && !errors.Is(err, bus.ErrConflict) {
				return c, err
			}
		}
		next, err := step(c)
		if err != nil || next.Move == c.Move {
			return next, err
		}
		if revision == 0 {
			_, err = d.Bus.Channels.Create(ctx, key, next)
		} else {
			_, err = d.Bus.Channels.Update(ctx, key, next, revision)
		}
		if errors.Is(err, bus.ErrExists) || errors.Is(err, bus.ErrConflict) {
			continue // somebody was faster: decide again on what they left
		}
		if err != nil {
			return c, err
		}
		err = d.Bus.AppendMove(ctx, next.LastMove())
		if errors.Is(err, bus.ErrConflict) {
			err = nil // a later move has appended this entry and its own already
		}
		return next, err
	}
}
