package api_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/apitest"
	"bakefarm/api/client"
	"bakefarm/bus"
	"bakefarm/deploy"
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/opencontainers/go-digest"
)

// status is the status of a client's error.
func status(err error) int {
	var refused *client.Error
	if errors.As(err, &refused) {
		return refused.Status
	}
	return 0
}

func TestListBakes(t *testing.T) {
	s := serve(t)
	page, err := s.client.Bakes(t.Context(), "", "", "", 0)
	if err != nil || page.Items == nil || len(page.Items) != 0 || page.Next != "" {
		t.Fatalf("%+v %v", page, err)
	}
	var all []string
	for i := range 25 {
		b := farm.Bake{ID: fmt.Sprintf("01%02d", i), Name: "shop/checkout", State: farm.BakeDone}
		if i%5 == 0 {
			b.Name, b.State = "shop", farm.BakeFailed
		}
		s.bake(b)
		all = append(all, b.ID)
	}
	slices.Reverse(all) // newest first
	for _, limit := range []int{1, 7, 24, 25, 26} {
		var got []string
		cursor := ""
		for pages := 0; ; pages++ {
			page, err := s.client.Bakes(t.Context(), "", "", cursor, limit)
			if err != nil || len(page.Items) > limit || pages > 25 {
				t.Fatalf("limit %d: %d on page %d: %v", limit, len(page.Items), pages, err)
			}
			for _, b := range page.Items {
				got = append(got, b.ID)
			}
			if cursor = page.Next; cursor == "" {
				break
			}
		}
		if !slices.Equal(got, all) {
			t.Errorf("limit %d: %v", limit, got)
		}
	}
	for _, test := range []struct {
		name  string
		state farm.BakeState
		count int
	}{
		{"shop", "", 5}, {"shop/checkout", "", 20}, {"shop*", "", 25}, {"*checkout", "", 20}, {"sho?", "", 5}, {"", farm.BakeFailed, 5},
		{"shop/*", farm.BakeFailed, 0}, {"shop.*", "", 0}, {"[shop]", "", 0}, {"(", "", 0}, {"", farm.BakeBaking, 0},
	} {
		page, err := s.client.Bakes(t.Context(), test.name, test.state, "", 0)
		if err != nil || len(page.Items) != test.count {
			t.Errorf("%q %q: %d, %v; want %d", test.name, test.state, len(page.Items), err, test.count)
		}
	}
	if err := s.Bus.Bakes.Delete(t.Context(), "0124", 0); err != nil {
		t.Fatal(err)
	}
	s.update("0123", func(b *farm.Bake) { b.State = farm.BakeCancelled })
	page, err = s.client.Bakes(t.Context(), "", "", "", 1) // what has been written before is seen
	if err != nil || page.Items[0].ID != "0123" || page.Items[0].State != farm.BakeCancelled {
		t.Errorf("%+v %v", page, err)
	}
}

func TestBake(t *testing.T) {
	s := serve(t)
	s.coordinate()
	lock := recipe.Lock{APIVersion: recipe.LockVersion, OS: recipe.LockedOS{Scratch: true}}
	shards := []farm.ShardRef{{ID: "s1", Kind: farm.KindCut, Source: farm.SourceMiss, Reason: "new bytes"}}
	raw, err := json.Marshal(shards)
	if err != nil {
		t.Fatal(err)
	}
	pieces := s.Put(t, lock.Encode(), raw)
	image := farm.Image{Name: "a", Digest: lock.Key(), Kind: "oci", Platform: "linux/amd64", Format: "oci", Size: 5, Ref: "a:1", Blobs: []digest.Digest{lock.Key()}}
	s.bake(farm.Bake{ID: "01A", Name: "a", State: farm.BakeDone, Cached: true, Lock: pieces[0], Key: pieces[0], Version: "1", Images: []farm.Image{image}, ShardList: pieces[1]})
	s.bake(farm.Bake{ID: "01B", State: farm.BakeBaking, Shards: shards})
	b, err := s.client.Bake(t.Context(), "01A")
	if err != nil || b.ID != "01A" || !b.Cached || b.Version != "1" || len(b.Images) != 1 || b.Images[0].Size != 5 {
		t.Errorf("%+v %v", b, err)
	}
	// The first fields are a promise to scripts.
	if a := s.send("GET", "/v1/bakes/01B", nil); !strings.HasPrefix(string(a.raw), `{"bake":"01B","key":"","cached":false,"state":"baking","version":"","images":[],`) {
		t.Errorf("%s", a.raw)
	}
	got, err := s.client.Lock(t.Context(), "01A")
	if err != nil || got.Key() != lock.Key() {
		t.Errorf("%+v %v", got, err)
	}
	if _, err := s.client.Lock(t.Context(), "01B"); status(err) != 409 {
		t.Errorf("no lock yet: %v", err)
	}
	for _, id := range []string{"01A", "01B"} {
		if e, err := s.client.Explain(t.Context(), id); err != nil || len(e) != 1 || e[0].Reason != "new bytes" {
			t.Errorf("explain %s: %+v %v", id, e, err)
		}
	}
	if _, err := s.client.Cancel(t.Context(), "01A"); status(err) != 409 || !strings.Contains(err.Error(), "done already") {
		t.Errorf("cancel a finished bake: %v", err)
	}
	for range 2 { // idempotent
		if b, err := s.client.Cancel(t.Context(), "01B"); err != nil || b.State != farm.BakeCancelled {
			t.Errorf("cancel: %+v %v", b, err)
		}
	}
	if _, err := s.client.Cancel(t.Context(), "01NONE"); status(err) != 404 {
		t.Errorf("cancel nothing: %v", err)
	}
}

// A coordinator that has enough to do is no mistake of the request.
func TestBusy(t *testing.T) {
	s := serve(t)
	handle(t, s.Bus, bus.SubmitBake, func(context.Context, bus.SubmitRequest) (farm.Bake, error) {
		return farm.Bake{}, &bus.RemoteError{Code: "busy", Message: "1000 bakes are under way"}
	})
	a := s.sendJSON("POST", "/v1/bakes", api.BakeRequest{Recipe: recipeText})
	if a.status != 503 || a.header.Get("Retry-After") == "" || a.Detail != "1000 bakes are under way" {
		t.Errorf("%d %v %s", a.status, a.header, a.raw)
	}
}

func TestImages(t *testing.T) {
	s := serve(t)
	first := s.Image(t, "shop/checkout", apitest.Layer{Compressed: apitest.Noise(1, 1000), DiffID: digest.FromString("1")})
	s.Image(t, "shop/web")
	second := s.Image(t, "shop/checkout")
	s.Channel(t, "shop/checkout", "prod", first.Version)
	s.Channel(t, "shop/checkout", "dev", first.Version)
	s.Channel(t, "shop/web", "prod", second.Version) // of another name: says nothing about this one

	page, err := s.client.Images(t.Context(), client.ImageFilter{}, client.Order{}, "", 2)
	if err != nil || len(page.Items) != 2 || page.Next == "" || page.Items[0].Version != second.Version {
		t.Fatalf("%+v %v", page, err)
	}
	page, err = s.client.Images(t.Context(), client.ImageFilter{}, client.Order{}, page.Next, 2)
	if err != nil || len(page.Items) != 1 || page.Next != "" || !slices.Equal(page.Items[0].Channels, []string{"dev", "prod"}) {
		t.Errorf("%+v %v", page, err)
	}
	if page, err = s.client.Images(t.Context(), client.ImageFilter{Name: "shop/c*"}, client.Order{}, "", 0); err != nil || len(page.Items) != 2 {
		t.Errorf("%+v %v", page, err)
	}
	for ref, version := range map[string]string{
		"shop/checkout":                                    second.Version,
		"shop/checkout:" + first.Version:                   first.Version,
		"shop/checkout:prod":                               first.Version,
		"shop/checkout@" + string(second.Images[0].Digest): second.Version,
	} {
		images, err := s.client.Image(t.Context(), ref)
		if err != nil || len(images) != 1 || images[0].Version != version || images[0].Ref != "shop/checkout:"+version {
			t.Errorf("%s: %+v %v", ref, images, err)
		}
	}
	images, err := s.client.Image(t.Context(), "shop/checkout:"+first.Version)
	if err != nil {
		t.Fatal(err)
	}
	i := images[0]
	if i.Digest != first.Images[0].Digest || i.Size != first.Images[0].Size || i.Bake != "01TESTBAKE" || i.Sequence != 1 || i.Key != first.Key || !slices.Equal(i.Channels, []string{"dev", "prod"}) {
		t.Errorf("%+v", i)
	}
	for _, ref := range []string{"shop/checkout:none", "shop/checkout:0123456789abcdef", "shop/none", "shop/web:dev"} {
		if _, err := s.client.Image(t.Context(), ref); status(err) != 404 {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestPullOCI(t *testing.T) {
	s := serve(t)
	content := apitest.Noise(3, 2<<20)
	v := s.Image(t, "shop/checkout", apitest.Layer{Compressed: content, DiffID: digest.FromString("x")})
	s.Channel(t, "shop/checkout", "prod", v.Version)
	images, err := s.client.Image(t.Context(), "shop/checkout:prod")
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "layout")
	var received atomic.Int64
	pull := func() int64 {
		t.Helper()
		received.Store(0)
		if err := s.client.PullOCI(t.Context(), images[0], dir, func(n int64) { received.Add(n) }); err != nil {
			t.Fatal(err)
		}
		return received.Load()
	}
	if n := pull(); n < 2<<20 {
		t.Errorf("%d bytes received", n)
	}
	if n := pull(); n > 10_000 {
		t.Errorf("%d bytes received again", n)
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil || len(m.Manifests) != 1 || m.Manifests[0].Digest.String() != string(v.Images[0].Digest) {
		t.Errorf("%+v %v", m, err)
	}
}

// The images of a version for several platforms come after its index, and what they share counts once.
func TestPlatforms(t *testing.T) {
	s := serve(t)
	index := farm.Image{Digest: digest.FromString("index"), Kind: farm.ImageOCI, Size: 150}
	arm := farm.Image{Digest: digest.FromString("arm64"), Kind: farm.ImageOCI, Platform: "linux/arm64", Size: 100}
	amd := farm.Image{Digest: digest.FromString("amd64"), Kind: farm.ImageOCI, Platform: "linux/amd64", Size: 90}
	disk := farm.Image{Digest: digest.FromString("disk"), Kind: "disk", Platform: "linux/amd64", Size: 1000}
	for _, name := range []string{"one", "two"} {
		s.Version(t, name, arm, disk, index, amd)
	}
	want := []digest.Digest{index.Digest, disk.Digest, amd.Digest, arm.Digest}
	shown, err := s.client.Image(t.Context(), "two")
	if err != nil {
		t.Fatal(err)
	}
	page, err := s.client.Images(t.Context(), client.ImageFilter{}, client.Order{}, "", 0)
	if err != nil || len(page.Items) != 8 {
		t.Fatalf("%+v %v", page, err)
	}
	for i, list := range [][]api.CatalogImage{shown, page.Items[:4], page.Items[4:]} {
		var got []digest.Digest
		for _, image := range list {
			got = append(got, image.Digest)
		}
		if !slices.Equal(got, want) {
			t.Errorf("list %d: %v", i, list)
		}
	}
	plan, err := s.client.RetentionPlan(t.Context(), api.RetentionRequest{})
	if err != nil || len(plan.Verdicts) != 2 || plan.Verdicts[0].Size != 1150 {
		t.Errorf("%+v %v", plan, err)
	}
}

// deploying runs the farm's deploy.
func (s *service) deploying() {
	s.t.Helper()
	d := deploy.New(deploy.Config{Bus: s.Bus, Log: s.Log, Push: func(context.Context, digest.Digest, string) error { return nil }})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- d.Run(ctx) }()
	s.t.Cleanup(func() {
		cancel()
		<-done
	})
}

func TestChannels(t *testing.T) {
	s := serve(t)
	s.deploying()
	const name = "shop/checkout"
	one, two := s.Image(t, name), s.Image(t, name)
	ctx := t.Context()
	zero := uint64(0)
	c, err := s.client.Promote(ctx, name, "prod", api.PromoteRequest{Version: one.Version, By: "me", Expect: &zero})
	if err != nil || c.Version != one.Version || c.Move != 1 || c.By != "me" || len(c.History) != 1 || c.History[0].To != one.Version {
		t.Fatalf("%+v %v", c, err)
	}
	if _, err := s.client.Promote(ctx, name, "prod", api.PromoteRequest{Version: two.Version, Expect: &zero}); status(err) != 409 || !strings.Contains(err.Error(), "move 1") {
		t.Errorf("somebody else was faster: %v", err)
	}
	if c, err = s.client.Promote(ctx, name, "prod", api.PromoteRequest{Version: two.Version}); err != nil || c.By != "api" || len(c.History) != 2 || c.History[0].From != one.Version {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := s.client.Promote(ctx, name, "dev", api.PromoteRequest{Version: "prod"}); err != nil { // another channel of the name
		t.Errorf("%v", err)
	}
	if c, err = s.client.Rollback(ctx, name, "prod", api.RollbackRequest{By: "me"}); err != nil || c.Version != one.Version || c.Action != farm.ActionRollback {
		t.Errorf("%+v %v", c, err)
	}
	if _, err := s.client.Rollback(ctx, name, "prod", api.RollbackRequest{To: "0123456789abcdef"}); status(err) != 422 {
		t.Errorf("roll back to what it never was: %v", err)
	}
	if _, err := s.client.Rollback(ctx, name, "none", api.RollbackRequest{}); status(err) != 404 {
		t.Errorf("no such channel: %v", err)
	}
	if _, err := s.client.Promote(ctx, name, "prod", api.PromoteRequest{Version: "none"}); status(err) != 404 {
		t.Errorf("no such version: %v", err)
	}
	if _, err := s.client.Promote(ctx, name, "latest", api.PromoteRequest{Version: one.Version}); status(err) != 422 {
		t.Errorf("no such name for a channel: %v", err)
	}
	if a := s.sendJSON("POST", "/v1/channels/shop%2Fcheckout/prod/promote", map[string]any{"by": 5, "colour": 1}); a.status != 422 || len(a.Errors) < 3 {
		t.Errorf("%d %s", a.status, a.raw)
	} else {
		for _, e := range a.Errors {
			if !strings.HasPrefix(e.Location, "body") {
				t.Errorf("%+v", e)
			}
		}
	}
	if a := s.send("POST", "/v1/channels/shop%2Fcheckout/prod/promote", []byte(strings.Repeat(" ", 2<<20)), "Content-Type", "application/json"); a.status != 413 {
		t.Errorf("large body: %d", a.status)
	}
	publication := farm.Publication{Name: name, Channel: "prod", Version: one.Version, Target: "r.example/x:1", State: farm.PublicationDone}
	if _, err := s.Bus.Publications.Create(ctx, name+"@prod@"+one.Version+"@abc", publication); err != nil {
		t.Fatal(err)
	}
	c, err = s.client.Channel(ctx, name, "prod")
	if err != nil || len(c.History) != 3 || c.History[0].Move != 3 || len(c.Publications) != 1 || c.Publications[0].Target != "r.example/x:1" {
		t.Errorf("%+v %v", c, err)
	}
	list, err := s.client.Channels(ctx, "")
	if err != nil || len(list) != 2 || list[0].Channel.Channel != "dev" || list[1].Channel.Channel != "prod" {
		t.Errorf("%+v %v", list, err)
	}
	if list, err = s.client.Channels(ctx, "shop/none"); err != nil || list == nil || len(list) != 0 {
		t.Errorf("%+v %v", list, err)
	}
	if a := s.send("GET", "/v1/channels/shop%2Fcheckout", nil); a.status != http.StatusOK {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

func TestRetentionPlan(t *testing.T) {
	s := serve(t)
	plan, err := s.client.RetentionPlan(t.Context(), api.RetentionRequest{})
	if err != nil || plan.Verdicts == nil || len(plan.Verdicts) != 0 {
		t.Errorf("%+v %v", plan, err)
	}
	old, kept := s.Image(t, "shop/checkout"), s.Image(t, "shop/checkout")
	time.Sleep(time.Millisecond)
	newest := s.Image(t, "shop/checkout")
	s.Channel(t, "shop/checkout", "prod", kept.Version)
	if plan, err = s.client.RetentionPlan(t.Context(), api.RetentionRequest{}); err != nil || plan.Keep != 3 || plan.Expire != 0 {
		t.Errorf("%+v %v", plan, err)
	}
	policy := api.RetentionRequest{File: "keep.yaml", Policy: "rules: [{match: 'shop/*', keepLast: 1}]"}
	if plan, err = s.client.RetentionPlan(t.Context(), policy); err != nil || plan.Keep != 2 || plan.Expire != 1 {
		t.Errorf("%+v %v", plan, err)
	}
	for _, v := range plan.Verdicts {
		if v.Keep == (v.Version == old.Version) || v.Size == 0 || len(v.Reasons) == 0 {
			t.Errorf("%+v (newest %s)", v, newest.Version)
		}
	}
	policy.Policy = "rules: [{match: 'shop/*', keepLast: -1, colour: 1}]"
	a := s.sendJSON("POST", "/v1/retention/plan", policy)
	if a.status != 422 || len(a.Errors) != 2 || !strings.HasPrefix(a.Errors[0].Location, "keep.yaml:1:") {
		t.Errorf("%d %s", a.status, a.raw)
	}
}

// Before the first policy nothing expires, whatever the default would let go: so the first one asks for all that it lets go.
func TestFirstPolicy(t *testing.T) {
	s := serve(t)
	for range 15 {
		v := s.Image(t, "shop/checkout")
		v.CreatedAt = v.CreatedAt.Add(-100 * 24 * time.Hour)
		if _, err := s.Bus.Versions.Put(t.Context(), v.Name+"@"+v.Version, v); err != nil {
			t.Fatal(err)
		}
	}
	a := s.sendJSON("PUT", "/v1/retention", api.RetentionSet{File: "keep.yaml", Policy: "rules: [{match: '**', keepLast: 10}]"})
	if a.status != http.StatusConflict || !strings.Contains(string(a.raw), "5 of 15 versions") {
		t.Errorf("%d %s", a.status, a.raw)
	}
}
