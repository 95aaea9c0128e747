package upkeep

import (
	"context"
	"log/slog"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/retention"
)

// Config says what upkeep works with. Bus must be set; zero values elsewhere mean the default.
type Config struct {
	Bus *bus.Bus
	Log *slog.Logger

	Every time.Duration // between two looks at the trash and at what the policy lets expire; default 10 min
	Now   func() time.Time
}

// Upkeep serves requests about keeping and letting go, and does both by itself now and then. Several may run at once.
type Upkeep struct {
	Config
}

// New makes an Upkeep; Run starts it.
func New(c Config) *Upkeep {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Every == 0 {
		c.Every = 10 * time.Minute
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return &Upkeep{c}
}

// Run serves until ctx ends.
func (u *Upkeep) Run(ctx context.Context) error {
	for _, serve := range []func() (func(), error){
		func() (func(), error) { return bus.Handle(u.Bus, bus.Keep, u.keep) },
		func() (func(), error) { return bus.Handle(u.Bus, bus.SetPolicy, u.setPolicy) },
	} {
		stop, err := serve()
		if err != nil {
			return err
		}
		defer stop()
	}
	tick := time.NewTicker(u.Every)
	defer tick.Stop()
	for {
		if err := u.EmptyTrash(ctx); err != nil && ctx.Err() == nil {
			u.Log.Warn("the trash was not looked after; trying again", "in", u.Every, "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
		if err := u.Expire(ctx); err != nil && ctx.Err() == nil {
			u.Log.Warn("the retention policy was not applied; trying again", "in", u.Every, "err", err)
		}
	}
}

// setPolicy makes a policy the farm's own. Whoever asks has checked it.
func (u *Upkeep) setPolicy(ctx context.Context, r bus.SetPolicyRequest) (farm.RetentionPolicy, error) {
	p := farm.RetentionPolicy{Schema: farm.Schema, File: r.File, Text: r.Text, By: r.By, At: u.Now().UTC()}
	if _, err := retention.ParsePolicy(p.File, []byte(p.Text)); err != nil {
		return p, err
	}
	_, err := u.Bus.Policies.Update(ctx, bus.PolicyKey, p, r.Revision)
	return p, err
}
