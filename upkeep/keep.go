package upkeep

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/retention"
)

// Bounds of a request.
const (
	maxNote      = 1024 // bytes
	maxHold      = 128
	maxConflicts = 20
)

// keep serves a KeepRequest: each version by itself, so that one that can't be changed keeps no other.
func (u *Upkeep) keep(ctx context.Context, r bus.KeepRequest) (bus.KeepReply, error) {
	if len(r.Items) == 0 || len(r.Items) > bus.MaxKeep {
		return bus.KeepReply{}, fmt.Errorf("%d versions: want 1 to %d: %w", len(r.Items), bus.MaxKeep, bus.ErrInvalid)
	}
	if len(r.Hold) > maxHold || len(r.By) > 256 || r.For < 0 {
		return bus.KeepReply{}, fmt.Errorf("hold, by or for: too long: %w", bus.ErrInvalid)
	}
	change, err := u.action(ctx, r)
	if err != nil {
		return bus.KeepReply{}, err
	}
	reply := bus.KeepReply{Results: make([]bus.KeepResult, len(r.Items))}
	for i, item := range r.Items {
		v, err := u.changeVersion(ctx, item.Name, item.Version, func(v farm.Version) (farm.Version, error) { return change(v, item) })
		reply.Results[i].Version = v
		var remote *bus.RemoteError
		switch {
		case errors.As(err, &remote):
			reply.Results[i].Code, reply.Results[i].Error = remote.Code, remote.Message
		case err != nil:
			return reply, err
		}
	}
	return reply, nil
}

// action is the change that a request asks for. It returns the version as it was when there is nothing to do.
func (u *Upkeep) action(ctx context.Context, r bus.KeepRequest) (func(farm.Version, bus.KeepItem) (farm.Version, error), error) {
	now := u.Now().UTC().Truncate(time.Second)
	switch r.Action {
	case bus.KeepPin:
		return func(v farm.Version, item bus.KeepItem) (farm.Version, error) {
			if v.Trash != nil {
				return v, refusef("conflict", "%s:%s is in the trash: restore it first", v.Name, v.Version)
			}
			if len(item.Note) > maxNote {
				return v, refusef("invalid", "note: longer than %d bytes", maxNote)
			}
			pinned, err := v.WithPin(farm.Pin{Hold: r.Hold, Note: item.Note, By: r.By, At: now})
			if err != nil {
				return v, refusef("conflict", "%s", err)
			}
			return pinned, nil
		}, nil
	case bus.KeepUnpin:
		return func(v farm.Version, _ bus.KeepItem) (farm.Version, error) {
			without, had := v.WithoutPin(r.Hold)
			if had {
				return without, nil
			}
			what := "no pin"
			if r.Hold != "" {
				what = "no hold for " + r.Hold
			}
			if holds := holdsOf(v); r.Hold == "" && len(holds) > 0 {
				return v, refusef("conflict", "%s:%s has no pin, but is held for %s: name the hold to release it", v.Name, v.Version, strings.Join(holds, ", "))
			}
			return v, refusef("not-found", "%s:%s has %s", v.Name, v.Version, what)
		}, nil
	case bus.KeepRestore:
		return func(v farm.Version, _ bus.KeepItem) (farm.Version, error) {
			v.Trash = nil
			return v, nil
		}, nil
	case bus.KeepTrash:
		stay := r.For
		if stay == 0 {
			policy, _, _, err := Policy(ctx, u.Bus)
			if err != nil {
				return nil, err
			}
			stay = time.Duration(policy.TrashFor())
		}
		inUse, err := u.inUse(ctx)
		if err != nil {
			return nil, err
		}
		return func(v farm.Version, item bus.KeepItem) (farm.Version, error) {
			if v.Trash != nil {
				return v, nil
			}
			if len(item.Note) > maxNote {
				item.Note = item.Note[:maxNote]
			}
			why, err := inUse(v)
			if err != nil {
				return v, err
			}
			if len(why) > 0 {
				return v, refusef("conflict", "%s:%s stays: %s", v.Name, v.Version, strings.Join(why, "; "))
			}
			v.Trash = &farm.Trash{At: now, Until: now.Add(stay), By: r.By, Reason: item.Note}
			return v, nil
		}, nil
	}
	return nil, fmt.Errorf("action %q: want %s, %s, %s or %s: %w", r.Action, bus.KeepPin, bus.KeepUnpin, bus.KeepTrash, bus.KeepRestore, bus.ErrInvalid)
}

func holdsOf(v farm.Version) (holds []string) {
	for _, p := range v.Pins {
		if p.Hold != "" {
			holds = append(holds, p.Hold)
		}
	}
	return holds
}

func refusef(code, format string, args ...any) error {
	return &bus.RemoteError{Code: code, Message: fmt.Sprintf(format, args...)}
}

// changeVersion changes a version's record by compare-and-set.
func (u *Upkeep) changeVersion(ctx context.Context, name, version string, change func(farm.Version) (farm.Version, error)) (farm.Version, error) {
	key := versionKey(name, version)
	for range maxConflicts {
		v, revision, err := u.Bus.Versions.Get(ctx, key)
		if errors.Is(err, bus.ErrNotFound) {
			return v, refusef("not-found", "%s has no version %s", name, version)
		}
		if err != nil {
			return v, err
		}
		next, err := change(v)
		if err != nil {
			return v, err
		}
		if same(v, next) {
			return v, nil
		}
		if _, err = u.Bus.Versions.Update(ctx, key, next, revision); !errors.Is(err, bus.ErrConflict) {
			return next, err
		}
	}
	return farm.Version{}, refusef("conflict", "%s:%s: changed by somebody else, again and again", name, version)
}

// same compares what this package changes.
func same(a, b farm.Version) bool {
	attached := slices.EqualFunc(a.Attached, b.Attached, func(a, b farm.Attachment) bool { return a.Digest == b.Digest })
	return attached && slices.Equal(a.Pins, b.Pins) && (a.Trash == b.Trash || a.Trash != nil && b.Trash != nil && *a.Trash == *b.Trash)
}

// inUse is a look at what holds versions: deployments, bakes and children as they are now, channels at each question.
func (u *Upkeep) inUse(ctx context.Context) (func(farm.Version) ([]string, error), error) {
	uses, err := running(ctx, u.Bus, u.Now())
	if err != nil {
		return nil, err
	}
	records, err := u.Bus.Versions.List(ctx, "")
	if err != nil {
		return nil, err
	}
	children := map[string][]string{}
	for key, v := range records {
		if c := v.Contents; c != nil && c.Base.Name != "" && v.Trash == nil {
			children[versionKey(c.Base.Name, c.Base.Version)] = append(children[versionKey(c.Base.Name, c.Base.Version)], key)
		}
	}
	return func(v farm.Version) ([]string, error) {
		channels, err := u.Bus.Channels.List(ctx, v.Name+"@")
		if err != nil {
			return nil, err
		}
		of := make([]farm.Channel, 0, len(channels))
		for _, c := range channels {
			of = append(of, c)
		}
		key := versionKey(v.Name, v.Version)
		r := version(v)
		r.Deployments, r.Bakes = uses.deployments[key], uses.bakes[key]
		why := retention.Protections(r, of)
		for _, child := range children[key] {
			// One that goes with it, in the same request or before, holds it no longer.
			if now, _, err := u.Bus.Versions.Get(ctx, child); err == nil && now.Trash == nil {
				why = append(why, "parent of "+strings.Replace(child, "@", ":", 1)+", which is kept")
				break
			}
		}
		return why, nil
	}, nil
}
