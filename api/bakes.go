package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/recipe"

	"github.com/danielgtaylor/huma/v2"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"
)

// Bounds of lists.
const (
	defaultPage = 100
	readAtOnce  = 16 // records that one list reads at a time
)

// BakePath is the parameter of everything about one bake. It is exported because huma does not look into embedded structs
// that are not.
type BakePath struct {
	ID string `path:"id" maxLength:"64" doc:"The bake's ID, a ULID"`
}

type bakesQuery struct {
	Name   string         `query:"name" maxLength:"256" doc:"Glob over names: * is any text, ? any character"`
	State  farm.BakeState `query:"state" enum:"accepted,resolving,baking,committing,done,failed,cancelled"`
	Cursor string         `query:"cursor" maxLength:"64" doc:"next of the page before"`
	Limit  int            `query:"limit" minimum:"1" maximum:"1000" default:"100"`
}

func (a *API) routeBakes() {
	route(a, get("list-bakes", "/v1/bakes", "bakes", "List bakes, newest first", 422), a.listBakes)
	route(a, get("get-bake", "/v1/bakes/{id}", "bakes", "Show a bake", 404), func(ctx context.Context, in *BakePath) (*body[Bake], error) {
		b, err := a.bake(ctx, in.ID)
		return &body[Bake]{showBake(b)}, err
	})
	route(a, post("cancel-bake", "/v1/bakes/{id}/cancel", "bakes", "Withdraw a bake that is under way", 404, 409), a.cancelBake)
	retry := post("retry-bake", "/v1/bakes/{id}/retry", "bakes", "Ask again for what a bake that failed or was cancelled was asked for", 404, 409)
	retry.DefaultStatus = http.StatusCreated
	route(a, retry, a.retryBake)
	route(a, get("explain-bake", "/v1/bakes/{id}/explain", "bakes", "Say of each shard of the plan how it was come by", 404), a.explainBake)
	lock := get("get-lock", "/v1/bakes/{id}/lock", "bakes", "Show the Lock that the recipe was resolved to", 404, 409)
	lock.Responses = map[string]*huma.Response{"200": jsonResponse("The Lock, canonical JSON: its digest is the bake key")}
	route(a, lock, a.bakeLock)
}

// bake reads a bake's record.
func (a *API) bake(ctx context.Context, id string) (farm.Bake, error) {
	b, _, err := a.Bus.Bakes.Get(ctx, id)
	if errors.Is(err, bus.ErrNotFound) {
		return b, refuse(http.StatusNotFound, "there is no bake %s", id)
	}
	return b, err
}

// showBake is a bake as the API shows it.
func showBake(b farm.Bake) Bake {
	shown := Bake{
		ID: b.ID, Key: b.Key, Cached: b.Cached, State: b.State, Version: b.Version, Images: make([]Image, 0, len(b.Images)),
		Name: b.Name, File: b.File, Rebake: b.Rebake, LockOnly: b.LockOnly, Background: b.Background, Requires: b.Requires, Waiting: waiting(b), Error: b.Error, Lock: b.Lock, From: b.From,
		Tests: b.Tests, Published: b.Published, AcceptedAt: b.AcceptedAt, DoneAt: b.DoneAt,
	}
	if b.Timeout > 0 {
		shown.Timeout = b.Timeout.String()
	}
	for _, i := range b.Images {
		shown.Images = append(shown.Images, showImage(i))
	}
	return shown
}

func showImage(i farm.Image) Image {
	return Image{Name: i.Name, Digest: i.Digest, Kind: i.Kind, Platform: i.Platform, Format: i.Format, Size: i.Size, Ref: i.Ref}
}

func (a *API) listBakes(ctx context.Context, in *bakesQuery) (*body[Page[Bake]], error) {
	if err := a.bakes.catchUp(ctx); err != nil {
		return nil, err
	}
	name := glob(in.Name)
	ids, more := a.bakes.page(in.Cursor, cmp.Or(in.Limit, defaultPage), func(b indexed) bool {
		return (in.State == "" || b.state == in.State) && name(b.name)
	})
	found := make([]*Bake, len(ids))
	group, gctx := errgroup.WithContext(ctx)
	group.SetLimit(readAtOnce)
	for i, id := range ids {
		group.Go(func() error {
			b, _, err := a.Bus.Bakes.Get(gctx, id)
			if errors.Is(err, bus.ErrNotFound) {
				return nil // deleted since
			}
			shown := showBake(b)
			found[i] = &shown
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	page := Page[Bake]{Items: make([]Bake, 0, len(ids))}
	for _, b := range found {
		if b != nil {
			page.Items = append(page.Items, *b)
		}
	}
	if more {
		page.Next = ids[len(ids)-1]
	}
	return &body[Page[Bake]]{page}, nil
}

// glob compiles a pattern in which * is any text, slashes too, and ? any character. The empty one matches everything.
func glob(pattern string) func(string) bool {
	if pattern == "" {
		return func(string) bool { return true }
	}
	if !strings.ContainsAny(pattern, "*?") {
		return func(s string) bool { return s == pattern }
	}
	quoted := strings.NewReplacer(`\*`, `.*`, `\?`, `.`).Replace(regexp.QuoteMeta(pattern))
	return regexp.MustCompile(`^(?s:` + quoted + `)$`).MatchString
}

func (a *API) cancelBake(ctx context.Context, in *BakePath) (*body[Bake], error) {
	b, err := bus.Call[bus.CancelRequest, farm.Bake](ctx, a.Bus, bus.CancelBake, bus.CancelRequest{ID: in.ID})
	if err != nil {
		return nil, err
	}
	switch b.State {
	case farm.BakeCancelled:
		return &body[Bake]{showBake(b)}, nil
	case farm.BakeCommitting:
		return nil, refuse(http.StatusConflict, "bake %s is being committed: too late to cancel it", b.ID)
	default:
		return nil, refuse(http.StatusConflict, "bake %s is %s already", b.ID, b.State)
	}
}

// retryBake asks for the same once more, as a new bake. Shards that failed are tried again then, also those that were set
// aside because their workers had died of them.
func (a *API) retryBake(ctx context.Context, in *BakePath) (*submitOutput, error) {
	b, err := a.bake(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if b.State != farm.BakeFailed && b.State != farm.BakeCancelled {
		return nil, refuse(http.StatusConflict, "bake %s is %s: only one that failed or was cancelled can be tried again", b.ID, b.State)
	}
	again, err := bus.Call[bus.SubmitRequest, farm.Bake](ctx, a.Bus, bus.SubmitBake, bus.SubmitRequest{
		ID: ulid.Make().String(), File: b.File, Recipe: b.Recipe, Context: b.Context, Set: b.Set, Rebake: b.Rebake, LockOnly: b.LockOnly,
		Background: b.Background, Lock: b.LockFile, Update: b.Update, Requires: b.Requires, Timeout: b.Timeout,
	})
	if err != nil {
		return nil, err
	}
	return showSubmitted(again, http.StatusCreated), nil
}

func (a *API) explainBake(ctx context.Context, in *BakePath) (*body[[]farm.ShardRef], error) {
	b, err := a.bake(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	shards := b.Shards
	if b.ShardList != "" {
		raw, err := imagestore.ReadAll(ctx, a.Store, b.ShardList, imagestore.MaxPiece)
		if err != nil {
			return nil, fmt.Errorf("shards of bake %s: %w", b.ID, err)
		}
		if err := json.Unmarshal(raw, &shards); err != nil {
			return nil, fmt.Errorf("shards of bake %s: %w", b.ID, err)
		}
	}
	shards = append(shards, b.Tests...)
	if shards == nil {
		shards = []farm.ShardRef{}
	}
	return &body[[]farm.ShardRef]{shards}, nil
}

// rawJSON is an answer that is JSON already.
type rawJSON struct {
	ContentType string `header:"Content-Type"`
	Body        []byte
}

func (a *API) bakeLock(ctx context.Context, in *BakePath) (*rawJSON, error) {
	b, err := a.bake(ctx, in.ID)
	if err != nil {
		return nil, err
	}
	if b.Lock == "" {
		return nil, refuse(http.StatusConflict, "bake %s is %s and has no Lock", b.ID, b.State)
	}
	raw, err := imagestore.ReadAll(ctx, a.Store, b.Lock, recipe.MaxLock)
	if err != nil {
		return nil, fmt.Errorf("lock of bake %s: %w", b.ID, err)
	}
	return &rawJSON{"application/json", raw}, nil
}

// waiting is what a bake that is under way waits for.
func waiting(b farm.Bake) string {
	if b.State.Finished() {
		return ""
	}
	return b.Waiting
}
