package api

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strings"

	"bakefarm/bus"
	"bakefarm/farm"
)

// historyShown is how many moves a channel is shown with.
const historyShown = 100

type channelsQuery struct {
	Name string `query:"name" maxLength:"128" doc:"An image name; the channels of all names without it"`
}

type ChannelPath struct {
	Name    string `path:"name" maxLength:"128" doc:"The image name"`
	Channel string `path:"channel" maxLength:"64"`
}

func (c ChannelPath) key() string { return c.Name + "@" + c.Channel }

func (c ChannelPath) validate() error {
	if err := farm.ValidateName(c.Name); err != nil {
		return at("path.name", err)
	}
	if err := farm.ValidateChannel(c.Channel); err != nil {
		return at("path.channel", err)
	}
	return nil
}

type promoteInput struct {
	ChannelPath
	Body PromoteRequest
}

type rollbackInput struct {
	ChannelPath
	Body RollbackRequest
}

func (a *API) routeChannels() {
	route(a, get("list-channels", "/v1/channels", "channels", "List channels, by name", 422), a.listChannels)
	route(a, get("list-name-channels", "/v1/channels/{name}", "channels", "List the channels of one image name", 404, 422), a.nameChannels)
	route(a, get("get-channel", "/v1/channels/{name}/{channel}", "channels", "Show a channel, its history and where it was published", 404, 422),
		func(ctx context.Context, in *ChannelPath) (*body[Channel], error) {
			if err := in.validate(); err != nil {
				return nil, err
			}
			c, _, err := a.Bus.Channels.Get(ctx, in.key())
			if errors.Is(err, bus.ErrNotFound) {
				return nil, refuse(http.StatusNotFound, "%s has no channel %s", in.Name, in.Channel)
			}
			if err != nil {
				return nil, err
			}
			return a.showChannel(ctx, c)
		})
	route(a, post("promote", "/v1/channels/{name}/{channel}/promote", "channels", "Point a channel to a version", 404, 409, 422), a.promote)
	route(a, post("rollback", "/v1/channels/{name}/{channel}/rollback", "channels", "Point a channel back to a version that it pointed to before", 404, 409, 422), a.rollback)
}

func (a *API) listChannels(ctx context.Context, in *channelsQuery) (*body[[]Channel], error) {
	prefix := ""
	if in.Name != "" {
		if err := farm.ValidateName(in.Name); err != nil {
			return nil, at("query.name", err)
		}
		prefix = in.Name + "@"
	}
	records, err := a.Bus.Channels.List(ctx, prefix)
	if err != nil {
		return nil, err
	}
	channels := make([]Channel, 0, len(records))
	for _, c := range records {
		channels = append(channels, newChannel(c))
	}
	slices.SortFunc(channels, func(a, b Channel) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Channel.Channel, b.Channel.Channel))
	})
	return &body[[]Channel]{channels}, nil
}

type nameInput struct {
	Name string `path:"name" maxLength:"128" doc:"The image name"`
}

func (a *API) nameChannels(ctx context.Context, in *nameInput) (*body[[]Channel], error) {
	list, err := a.listChannels(ctx, &channelsQuery{Name: in.Name})
	if err == nil && len(list.Body) == 0 {
		err = refuse(http.StatusNotFound, "%s has no channels", in.Name)
	}
	return list, err
}

func newChannel(c farm.Channel) Channel {
	if c.Recent == nil {
		c.Recent = []string{}
	}
	return Channel{Channel: c}
}

// showChannel adds the history, and the publications of the version that the channel points to.
func (a *API) showChannel(ctx context.Context, c farm.Channel) (*body[Channel], error) {
	moves, err := a.Bus.Moves(ctx, c.Name, c.Channel, historyShown)
	if err != nil {
		return nil, err
	}
	published, err := a.Bus.Publications.List(ctx, c.Name+"@"+c.Channel+"@"+c.Version+"@")
	if err != nil {
		return nil, err
	}
	shown := newChannel(c)
	shown.History = moves
	for _, key := range slices.Sorted(maps.Keys(published)) {
		shown.Publications = append(shown.Publications, published[key])
	}
	return &body[Channel]{shown}, nil
}

// somebody stands for a client that does not say who it is.
const somebody = "api"

func (a *API) promote(ctx context.Context, in *promoteInput) (*body[Channel], error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	c, err := bus.Call[bus.PromoteRequest, farm.Channel](ctx, a.Bus, bus.Promote, bus.PromoteRequest{
		Name: in.Name, Channel: in.Channel, Version: in.Body.Version, By: cmp.Or(in.Body.By, somebody), Expect: in.Body.Expect,
	})
	if err != nil {
		return nil, err
	}
	return a.showChannel(ctx, c)
}

func (a *API) rollback(ctx context.Context, in *rollbackInput) (*body[Channel], error) {
	if err := in.validate(); err != nil {
		return nil, err
	}
	c, err := bus.Call[bus.RollbackRequest, farm.Channel](ctx, a.Bus, bus.Rollback, bus.RollbackRequest{
		Name: in.Name, Channel: in.Channel, To: in.Body.To, By: cmp.Or(in.Body.By, somebody),
	})
	if err != nil {
		return nil, err
	}
	return a.showChannel(ctx, c)
}
