package upkeep

import (
	"context"

	"bakefarm/bus"
	"bakefarm/farm"
)

// attach serves an AttachRequest.
func (u *Upkeep) attach(ctx context.Context, r bus.AttachRequest) (bus.AttachReply, error) {
	v, err := u.changeVersion(ctx, r.Name, r.Version, func(v farm.Version) (farm.Version, error) {
		if r.Detach != "" {
			without, had := v.WithoutAttachment(r.Detach)
			if !had {
				return v, refusef("not-found", "%s:%s has no %s attached", v.Name, v.Version, r.Detach)
			}
			return without, nil
		}
		with, err := v.WithAttachment(r.Attachment)
		if err != nil {
			return v, refusef("invalid", "%s", err)
		}
		return with, nil
	})
	return bus.AttachReply{Version: v}, err
}
