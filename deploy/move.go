package deploy

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
)

// promote is the channel after it was pointed to a version: the same channel when it points there already. A zero channel
// is one that does not exist yet. expect, if set, is the move that the channel must be at; ErrConflict says who moved it
// on. A request that comes twice, because its answer was lost, is the same request.
func promote(c farm.Channel, version, by string, expect *uint64, now time.Time) (farm.Channel, error) {
	if expect != nil && *expect != c.Move {
		repeated := *expect+1 == c.Move && c.Action == farm.ActionPromote && c.Version == version && c.By == by
		switch {
		case repeated:
			return c, nil
		case c.Move == 0:
			return c, fmt.Errorf("%s has no channel %s, so it is not at move %d: %w", c.Name, c.Channel, *expect, bus.ErrConflict)
		}
		return c, fmt.Errorf("channel %s of %s is at move %d, not %d: %s pointed it to %s on %s: %w",
			c.Channel, c.Name, c.Move, *expect, c.By, c.Version, c.At.UTC().Format(time.DateTime), bus.ErrConflict)
	}
	if c.Version == version {
		return c, nil
	}
	recent := without(c.Recent, version)
	if c.Version != "" {
		recent = append([]string{c.Version}, without(recent, c.Version)...)
	}
	return moved(c, farm.ActionPromote, version, recent, by, now), nil
}

// rollback is the channel after it was pointed back: to the version that it pointed to before, or to the given one of its
// window; the same channel when it points to that already. Versions that were rolled back from go to the window's end: they stay protected, and rolling back again goes
// further back instead of forward.
func rollback(c farm.Channel, to, by string, now time.Time) (farm.Channel, error) {
	if to != "" && to == c.Version {
		return c, nil
	}
	if len(c.Recent) == 0 {
		return c, fmt.Errorf("channel %s of %s has pointed to nothing else before %s: %w", c.Channel, c.Name, c.Version, bus.ErrInvalid)
	}
	at := 0
	if to != "" {
		if at = slices.Index(c.Recent, to); at < 0 {
			return c, fmt.Errorf("version %s is not in the rollback window of channel %s of %s, which has %s: %w", to, c.Channel, c.Name, strings.Join(c.Recent, ", "), bus.ErrInvalid)
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
