package api

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
)

type keepInput struct {
	Ref  string `path:"ref" maxLength:"512" doc:"name, name:version, name:channel or name@digest"`
	Body KeepRequest
}

func (a *API) routeKeep() {
	for _, op := range []struct{ action, id, path, summary string }{
		{bus.KeepPin, "pin-version", "pin", "Keep a version whatever the retention policy says; with hold, for a legal case"},
		{bus.KeepUnpin, "unpin-version", "unpin", "Take a pin, or a legal hold, out again"},
		{bus.KeepTrash, "trash-version", "trash", "Let a version go: it can be restored for a while. Refused for what something needs"},
		{bus.KeepRestore, "restore-version", "restore", "Take a version out of the trash"},
	} {
		route(a, post(op.id, "/v1/images/{ref}/"+op.path, "images", op.summary, 404, 409, 422), func(ctx context.Context, in *keepInput) (*body[KeptVersion], error) {
			return a.keepVersion(ctx, op.action, in)
		})
	}
}

func (a *API) keepVersion(ctx context.Context, action string, in *keepInput) (*body[KeptVersion], error) {
	v, err := a.version(ctx, in.Ref)
	if err != nil {
		return nil, err
	}
	stay, err := time.ParseDuration(cmp.Or(in.Body.For, "0s"))
	if err != nil || stay < 0 {
		return nil, at("body.for", errors.New(`want a length of time such as 72h`))
	}
	by := cmp.Or(in.Body.By, somebody)
	note := in.Body.Note
	if action == bus.KeepTrash {
		note = cmp.Or(note, "removed by "+by)
	}
	reply, err := bus.Call[bus.KeepRequest, bus.KeepReply](ctx, a.Bus, bus.Keep, bus.KeepRequest{
		Action: action, Items: []bus.KeepItem{{Name: v.Name, Version: v.Version, Note: note}}, Hold: in.Body.Hold, By: by, For: stay,
	})
	if err != nil {
		return nil, err
	}
	if r := reply.Results[0]; r.Error != "" {
		return nil, &bus.RemoteError{Code: r.Code, Message: r.Error}
	} else {
		v = r.Version
	}
	shown := KeptVersion{Name: v.Name, Version: v.Version, Pins: v.Pins, Trash: v.Trash}
	if shown.Pins == nil {
		shown.Pins = []farm.Pin{}
	}
	return &body[KeptVersion]{shown}, nil
}

// version finds the version that a reference means; one in the trash by its name:version or digest.
func (a *API) version(ctx context.Context, ref string) (farm.Version, error) {
	if name, tag, ok := strings.Cut(ref, ":"); ok && !strings.Contains(name, "@") {
		if err := farm.ValidateName(name); err != nil {
			return farm.Version{}, at("path.ref", err)
		}
		v, _, err := a.Bus.Versions.Get(ctx, name+"@"+tag)
		if !errors.Is(err, bus.ErrNotFound) {
			return v, err
		}
	}
	a.refresh(ctx)
	row, err := a.resolve(ctx, ref)
	if errors.Is(err, imagestore.ErrNotFound) {
		return farm.Version{}, refuse(http.StatusNotFound, "there is no image %s", ref)
	}
	if err != nil {
		return farm.Version{}, err
	}
	v, _, err := a.Bus.Versions.Get(ctx, row.Name+"@"+row.Version)
	return v, err
}
