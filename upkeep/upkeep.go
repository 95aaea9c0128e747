package upkeep

import (
	"context"
	"log/slog"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/retention"
)

// Config says what upkeep works with. Bus, Store and Index must be set; zero values elsewhere mean the default.
type Config struct {
	Bus   *bus.Bus
	Store collect.Store
	Index collect.Index
	Name  string // of this process, in records
	Log   *slog.Logger

	Every   time.Duration  // between two looks at the trash and at what the policy lets expire; default 10 min
	GCEvery time.Duration  // between two garbage collections; default 6 h, negative: only when asked
	Ages    Ages           // of records that nothing keeps
	Collect collect.Config // MinAge, Grace, RepackBelow and Rate; the rest is filled in
	Now     func() time.Time
}

// Upkeep serves requests about keeping and letting go, and does both by itself now and then. Several may run at once.
type Upkeep struct {
	Config
	sweeps sweeps
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
	if c.GCEvery == 0 {
		c.GCEvery = 6 * time.Hour
	}
	c.Ages.setDefaults()
	return &Upkeep{Config: c}
}

// Run serves until ctx ends, and waits for the sweeps that it has begun.
func (u *Upkeep) Run(ctx context.Context) error {
	u.sweeps.mu.Lock()
	u.sweeps.ctx = ctx
	u.sweeps.mu.Unlock()
	defer u.sweeps.running.Wait()
	for _, serve := range []func() (func(), error){
		func() (func(), error) { return bus.Handle(u.Bus, bus.Keep, u.keep) },
		func() (func(), error) { return bus.Handle(u.Bus, bus.SetPolicy, u.setPolicy) },
		func() (func(), error) { return bus.Handle(u.Bus, bus.Attach, u.attach) },
		func() (func(), error) { return bus.Handle(u.Bus, bus.StartSweep, u.startSweep) },
	} {
		stop, err := serve()
		if err != nil {
			return err
		}
		defer stop()
	}
	tick := time.NewTicker(u.Every)
	defer tick.Stop()
	collected := u.Now() // not at once: a farm that starts has better things to do
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
		if u.GCEvery > 0 && u.Now().Sub(collected) >= u.GCEvery {
			collected = u.Now()
			if _, err := u.startSweep(ctx, bus.SweepRequest{Kind: farm.SweepCollect, By: "upkeep"}); err != nil && ctx.Err() == nil {
				u.Log.Warn("no garbage collection", "err", err)
			}
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
