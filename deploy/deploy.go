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
	return d.publisher.run(ctx, d.mend)
}

// mend makes up for what a process that died owed: the history's entry of a channel's latest move, and the publications of
// the version that it points to.
func (d *Deploy) mend(ctx context.Context) error {
	channels, err := d.Bus.Channels.List(ctx, "")
	if err != nil {
		return err
	}
	for _, c := range channels {
		if err := d.append(ctx, c); err != nil {
			return err
		}
		switch v, _, err := d.Bus.Versions.Get(ctx, c.Name+"@"+c.Version); {
		case errors.Is(err, bus.ErrNotFound):
		case err != nil:
			return err
		default:
			if err := d.publisher.owe(ctx, c, v); err != nil {
				d.Log.Error("what a channel points to is not published", "name", c.Name, "channel", c.Channel, "error", err)
			}
		}
	}
	return nil
}

// append adds a channel's latest move to its history, unless that has it already.
func (d *Deploy) append(ctx context.Context, c farm.Channel) error {
	err := d.Bus.AppendMove(ctx, c.LastMove())
	if errors.Is(err, bus.ErrConflict) {
		return nil // the channel has moved on so far that the entry is out of sight: who moved it has appended this one first
	}
	return err
}

func (d *Deploy) promote(ctx context.Context, r bus.PromoteRequest) (farm.Channel, error) {
	if err := errors.Join(farm.ValidateName(r.Name), farm.ValidateChannel(r.Channel)); err != nil {
		return farm.Channel{}, fmt.Errorf("%w: %w", err, bus.ErrInvalid)
	}
	version, err := d.version(ctx, r.Name, r.Version)
	if err != nil {
		return farm.Channel{}, err
	}
	return d.move(ctx, r.Name, r.Channel, r.By, func(c farm.Channel) (farm.Channel, farm.Version, error) {
		next, err := promote(c, version.Version, r.By, r.Expect, d.Now())
		return next, version, err
	})
}

func (d *Deploy) rollback(ctx context.Context, r bus.RollbackRequest) (farm.Channel, error) {
	return d.move(ctx, r.Name, r.Channel, r.By, func(c farm.Channel) (farm.Channel, farm.Version, error) {
		if c.Move == 0 {
			return c, farm.Version{}, fmt.Errorf("%s has no channel %s: %w", r.Name, r.Channel, bus.ErrNotFound)
		}
		next, err := rollback(c, r.To, r.By, d.Now())
		if err != nil {
			return c, farm.Version{}, err
		}
		version, _, err := d.Bus.Versions.Get(ctx, r.Name+"@"+next.Version)
		return next, version, err
	})
}

// version finds a version, or the one that another channel of the name points to.
func (d *Deploy) version(ctx context.Context, name, version string) (farm.Version, error) {
	v, _, err := d.Bus.Versions.Get(ctx, name+"@"+version)
	if err == nil && v.Trash != nil {
		return v, fmt.Errorf("version %s of %s is in the trash (%s): restore it first: bakefarm images restore %s:%s: %w",
			version, name, v.Trash.Reason, name, version, bus.ErrInvalid)
	}
	if !errors.Is(err, bus.ErrNotFound) {
		return v, err
	}
	c, _, err := d.Bus.Channels.Get(ctx, name+"@"+version)
	if errors.Is(err, bus.ErrNotFound) {
		return v, fmt.Errorf("%s has no version or channel %s: %w", name, version, bus.ErrNotFound)
	}
	if err != nil {
		return v, err
	}
	v, _, err = d.Bus.Versions.Get(ctx, name+"@"+c.Version)
	return v, err
}

// move changes a channel by compare-and-set, brings its history up to it and has the version published that it points to.
// A step gets the channel as it is, zero but for its names when there is none, and says what it becomes; one that leaves
// it as it was moves nothing. It may be asked again.
func (d *Deploy) move(ctx context.Context, name, channel, by string, step func(farm.Channel) (farm.Channel, farm.Version, error)) (farm.Channel, error) {
	key := name + "@" + channel
	for {
		c, revision, err := d.Bus.Channels.Get(ctx, key)
		switch {
		case errors.Is(err, bus.ErrNotFound):
			c, revision = farm.Channel{Name: name, Channel: channel}, 0
		case err != nil:
			return c, err
		default: // the entry that is owed goes first
			if err := d.append(ctx, c); err != nil {
				return c, err
			}
		}
		next, version, err := step(c)
		if err != nil {
			return c, err
		}
		references, err := targets(next, version)
		if err != nil {
			return c, fmt.Errorf("channel %s was not moved: %w: %w", channel, err, bus.ErrInvalid)
		}
		if next.Move != c.Move {
			switch err := d.write(ctx, key, next, revision); {
			case errors.Is(err, bus.ErrExists), errors.Is(err, bus.ErrConflict):
				continue // somebody was faster: decide again on what they left
			case err != nil:
				return c, err
			}
			if err := d.append(ctx, next); err != nil {
				return next, fmt.Errorf("channel %s was moved, but its history was not written: promote it again: %w", channel, err)
			}
		}
		if err := d.publisher.publish(ctx, next, references, by); err != nil {
			return next, fmt.Errorf("channel %s was moved, but its publication was not recorded: promote it again: %w", channel, err)
		}
		return next, nil
	}
}

// write is the compare-and-set of a channel's record.
func (d *Deploy) write(ctx context.Context, key string, c farm.Channel, revision uint64) (err error) {
	if revision == 0 {
		_, err = d.Bus.Channels.Create(ctx, key, c)
	} else {
		_, err = d.Bus.Channels.Update(ctx, key, c, revision)
	}
	return err
}
