package deploy

import (
	"fmt"
	"slices"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// promote is the channel after it was pointed to a version. A zero channel is one that does not exist yet.
func promote(c farm.Channel, version, by string, now time.Time) farm.Channel {
	recent := without(c.Recent, version)
	if c.Version != "" {
		recent = append([]string{c.Version}, without(recent, c.Version)...)
	}
	return moved(c, farm.ActionPromote, version, recent, by, now)
}

// rollback is the channel after it was pointed back: to the version that it pointed to before, or to the given one of its
// window. Versions that were rolled back from go to the window's end: they stay protected, and rolling back again goes
// further back instead of forward.
func rollback(c farm.Channel, to, by string, now time.Time) (farm.Channel, error) {
	if len(c.Recent) == 0 {
		return c, fmt.Errorf("channel %s of %s has pointed to nothing else before %s: %w", c.Channel, c.Name, c.Version, bus.ErrInvalid)
	}
	at := 0
	if to != "" {
		if at = slices.Index(c.Recent, to); at < 0 {
			return c, fmt.Errorf("version %s is not in the rollback window of channel %s of %s, which has %v: %w", to, c.Channel, c.Name, c.Recent, bus.ErrInvalid)
		}
	}
	recent := slices.Concat(c.Recent[at+1:], c.Recent[:at], []string{c.Version})
	return moved(c, farm.ActionRollback, c.Recent[at], recent, by, now), nil
}

func moved(c farm.Channel, action, version string, recent []string, by string, now time.Time) farm.Channel {
	return farm.Channel{
		Schema: farm.Schema, Name: c.Name, Channel: c.Channel,
		Version: version, Move: c.Move + 1, Recent: recent[:min(len(recent), farm.RollbackWindow)],
		Action: action, From: c.Version, By: by, At: now.UTC(),
	}
}

func without(versions []string, version string) []string {
	return slices.DeleteFunc(slices.Clone(versions), func(v string) bool { return v == version })
}
