package deploy_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/deploy"
	"bakefarm/farm"
	"bakefarm/imagestore/remote"
	"bakefarm/imagestore/remote/remotetest"
	"bakefarm/imagestore/s3store/s3storetest"

	"github.com/google/go-containerregistry/pkg/name"
	ggcr "github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m,
		// Connections that containers/image and go-containerregistry leave to their idle timeout.
		goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"),
		goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"),
	)
}

func openBus(t testing.TB, dir string) *bus.Bus {
	t.Helper()
	b, err := bus.Open(context.Background(), bus.Config{Dir: dir, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// newBus opens a bus that is closed when the test ends.
func newBus(t testing.TB) *bus.Bus {
	b := openBus(t, t.TempDir())
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// run starts a Deploy and returns what stops it; the test's end does too.
func run(t testing.TB, c deploy.Config) (stop func()) {
	t.Helper()
	c.Log = slog.New(slog.DiscardHandler)
	if c.Push == nil {
		c.Push = func(context.Context, digest.Digest, string) error { return nil }
	}
	if c.Backoff == 0 {
		c.Backoff = time.Millisecond
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- deploy.New(c).Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// commit makes a version exist. Its image's digest is that of its name.
func commit(t testing.TB, b *bus.Bus, version string, registries ...string) {
	t.Helper()
	commitImage(t, b, version, digest.FromString(version), registries...)
}

func commitImage(t testing.TB, b *bus.Bus, version string, image digest.Digest, registries ...string) {
	t.Helper()
	v := farm.Version{Schema: farm.Schema, Name: "shop/cart", Version: version, Registries: registries, CreatedAt: time.Now().UTC(),
		Images: []farm.Image{{Name: "shop/cart", Kind: "oci", Platform: "linux/amd64", Digest: image}}}
	if _, err := b.Versions.Create(t.Context(), "shop/cart@"+version, v); err != nil {
		t.Fatal(err)
	}
}

func promote(t testing.TB, b *bus.Bus, version, by string) (farm.Channel, error) {
	return bus.Call[bus.PromoteRequest, farm.Channel](t.Context(), b, bus.Promote,
		bus.PromoteRequest{Name: "shop/cart", Channel: "prod", Version: version, By: by})
}

func mustPromote(t testing.TB, b *bus.Bus, version string) farm.Channel {
	t.Helper()
	c, err := promote(t, b, version, "ann")
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func rollback(t testing.TB, b *bus.Bus, to string) (farm.Channel, error) {
	return bus.Call[bus.RollbackRequest, farm.Channel](t.Context(), b, bus.Rollback,
		bus.RollbackRequest{Name: "shop/cart", Channel: "prod", To: to, By: "bob"})
}

// history writes the moves of the channel, the oldest first.
func history(t testing.TB, b *bus.Bus) string {
	t.Helper()
	moves, err := b.Moves(t.Context(), "shop/cart", "prod", bus.MaxMoves)
	if err != nil {
		t.Fatal(err)
	}
	var told []string
	for i := len(moves) - 1; i >= 0; i-- {
		told = append(told, fmt.Sprintf("%d %s %s→%s", moves[i].Move, moves[i].Action, moves[i].From, moves[i].To))
	}
	return strings.Join(told, ", ")
}

// await waits until the publications by their targets are as ok wants them, and returns them.
func await(t testing.TB, b *bus.Bus, ok func(map[string]farm.Publication) bool) map[string]farm.Publication {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	all := map[string]farm.Publication{}
	err := b.Publications.Follow(ctx, 0, func(_ uint64, _ string, p *farm.Publication) error {
		all[p.Version+" "+p.Target] = *p
		if ok(all) {
			return bus.ErrStop
		}
		return nil
	})
	if err != nil {
		t.Fatalf("%v; the publications are %+v", err, all)
	}
	return all
}

// is waits until a publication has a state.
func is(t testing.TB, b *bus.Bus, publication, state string) farm.Publication {
	t.Helper()
	return await(t, b, func(all map[string]farm.Publication) bool { return all[publication].State == state })[publication]
}

func TestPromoteAndRollback(t *testing.T) {
	b := newBus(t)
	run(t, deploy.Config{Bus: b})
	for _, v := range []string{"a1", "b2", "c3"} {
		commit(t, b, v)
	}
	if _, err := promote(t, b, "x", "ann"); !errors.Is(err, bus.ErrNotFound) || !strings.Contains(err.Error(), "shop/cart has no version or channel x") {
		t.Errorf("%v", err)
	}
	if _, err := rollback(t, b, ""); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("%v", err)
	}
	for _, bad := range []bus.PromoteRequest{{Name: "Shop", Channel: "prod", Version: "a1"}, {Name: "shop/cart", Channel: "0123456789abcdef", Version: "a1"}, {}} {
		if _, err := bus.Call[bus.PromoteRequest, farm.Channel](t.Context(), b, bus.Promote, bad); !errors.Is(err, bus.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	for _, v := range []string{"a1", "b2", "b2", "c3"} {
		if c := mustPromote(t, b, v); c.Version != v || c.By != "ann" {
			t.Errorf("%+v", c)
		}
	}
	if c, err := rollback(t, b, ""); err != nil || c.Version != "b2" || c.By != "bob" {
		t.Errorf("%+v, %v", c, err)
	}
	if c, err := rollback(t, b, "a1"); err != nil || c.Version != "a1" {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := rollback(t, b, "x"); !errors.Is(err, bus.ErrInvalid) {
		t.Errorf("%v", err)
	}
	want := "1 promote →a1, 2 promote a1→b2, 3 promote b2→c3, 4 rollback c3→b2, 5 rollback b2→a1"
	if got := history(t, b); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	// To where another channel points.
	c, err := bus.Call[bus.PromoteRequest, farm.Channel](t.Context(), b, bus.Promote, bus.PromoteRequest{Name: "shop/cart", Channel: "stable", Version: "prod"})
	if err != nil || c.Version != "a1" || c.Channel != "stable" {
		t.Errorf("%+v, %v", c, err)
	}
	expect := uint64(4)
	_, err = bus.Call[bus.PromoteRequest, farm.Channel](t.Context(), b, bus.Promote,
		bus.PromoteRequest{Name: "shop/cart", Channel: "prod", Version: "c3", By: "eve", Expect: &expect})
	if !errors.Is(err, bus.ErrConflict) || !strings.Contains(err.Error(), "bob pointed it to a1") {
		t.Errorf("%v", err)
	}
}

// What a channel would be rolled back to may be gone.
func TestRollbackToWhatIsGone(t *testing.T) {
	b := newBus(t)
	run(t, deploy.Config{Bus: b})
	commit(t, b, "a1")
	commit(t, b, "b2")
	mustPromote(t, b, "a1")
	mustPromote(t, b, "b2")
	if err := b.Versions.Delete(t.Context(), "shop/cart@a1", 0); err != nil {
		t.Fatal(err)
	}
	if _, err := rollback(t, b, ""); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("%v", err)
	}
	if c, _, err := b.Channels.Get(t.Context(), "shop/cart@prod"); err != nil || c.Version != "b2" || c.Move != 2 {
		t.Errorf("%+v, %v", c, err)
	}
}

// Two processes, twenty at the same time: one order, and every move once in the history.
func TestConcurrentMoves(t *testing.T) {
	b := newBus(t)
	run(t, deploy.Config{Bus: b})
	run(t, deploy.Config{Bus: b})
	const movers = 20
	for i := range movers {
		commit(t, b, fmt.Sprintf("v%d", i))
	}
	var wg sync.WaitGroup
	for i := range movers {
		wg.Go(func() {
			if c, err := promote(t, b, fmt.Sprintf("v%d", i), fmt.Sprintf("mover%d", i)); err != nil || c.Version != fmt.Sprintf("v%d", i) {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
	wg.Wait()
	moves, err := b.Moves(t.Context(), "shop/cart", "prod", 100)
	if err != nil || len(moves) != movers {
		t.Fatalf("%d moves, %v", len(moves), err)
	}
	seen := map[string]bool{}
	for i, m := range moves { // newest first
		before := ""
		if i+1 < len(moves) {
			before = moves[i+1].To
		}
		if m.Move != uint64(movers-i) || m.From != before || m.By != "mover"+m.To[1:] || seen[m.To] {
			t.Errorf("move %d: %+v", movers-i, m)
		}
		seen[m.To] = true
	}
	if c, _, err := b.Channels.Get(t.Context(), "shop/cart@prod"); err != nil || c.Version != moves[0].To || c.Move != movers {
		t.Errorf("%+v, %v", c, err)
	}
}

// A process died between the channel's record and its history.
func TestHistoryIsMended(t *testing.T) {
	b := newBus(t)
	stop := run(t, deploy.Config{Bus: b})
	for _, v := range []string{"a1", "b2", "c3", "d4"} {
		commit(t, b, v, "registry.example/cart:{{.Version}}")
	}
	mustPromote(t, b, "a1")
	died := func(version string) {
		c, revision, err := b.Channels.Get(t.Context(), "shop/cart@prod")
		if err != nil {
			t.Fatal(err)
		}
		c.From, c.Version, c.Action, c.By, c.Move, c.At = c.Version, version, farm.ActionPromote, "died", c.Move+1, time.Now().UTC()
		if _, err := b.Channels.Update(t.Context(), "shop/cart@prod", c, revision); err != nil {
			t.Fatal(err)
		}
	}
	died("b2")
	mustPromote(t, b, "c3") // whoever moves next
	if got, want := history(t, b), "1 promote →a1, 2 promote a1→b2, 3 promote b2→c3"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	stop()
	died("d4")
	run(t, deploy.Config{Bus: b}) // or starts next; which also publishes
	is(t, b, "d4 registry.example/cart:d4", farm.PublicationDone)
	if got, want := history(t, b), "1 promote →a1, 2 promote a1→b2, 3 promote b2→c3, 4 promote c3→d4"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// registry is what a fake Push fills: images by target.
type registry struct {
	mu     sync.Mutex
	images map[string]digest.Digest
	pushes int
}

func (r *registry) push(_ context.Context, image digest.Digest, target string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.images == nil {
		r.images = map[string]digest.Digest{}
	}
	r.images[target] = image
	r.pushes++
	return nil
}

func (r *registry) has(target string) digest.Digest {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.images[target]
}

func TestPublishing(t *testing.T) {
	b, r := newBus(t), &registry{}
	run(t, deploy.Config{Bus: b, Push: r.push})
	commit(t, b, "a1", "registry.example/{{.Name}}:{{.Version}}", "localhost:5000/cart:{{.Channel}}")
	bake := farm.Bake{Schema: farm.Schema, ID: "01BAKE", Name: "shop/cart"}
	if _, err := b.Bakes.Create(t.Context(), bake.ID, bake); err != nil {
		t.Fatal(err)
	}
	if _, err := promote(t, b, "a1", bake.ID); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"registry.example/shop/cart:a1", "localhost:5000/cart:prod"} {
		p := is(t, b, "a1 "+target, farm.PublicationDone)
		if p.Attempts != 1 || p.Error != "" || p.By != bake.ID || r.has(target) != digest.FromString("a1") {
			t.Errorf("%+v; the registry has %s", p, r.has(target))
		}
	}
	// The bake's log tells it.
	told := map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	err := b.Events(ctx, bake.ID, 0, func(_ uint64, e farm.Event) error {
		told[e.Line] = true
		if len(told) == 2 {
			return bus.ErrStop
		}
		return nil
	})
	if err != nil || !told["published registry.example/shop/cart:a1"] || !told["published localhost:5000/cart:prod"] {
		t.Errorf("%v, %v", told, err)
	}
	// Promoting it again moves nothing and pushes again: the tag may have moved on in the registry.
	if c := mustPromote(t, b, "a1"); c.Move != 1 {
		t.Errorf("%+v", c)
	}
	await(t, b, func(all map[string]farm.Publication) bool {
		for _, p := range all {
			if p.By != "ann" || p.State != farm.PublicationDone {
				return false
			}
		}
		return len(all) == 2
	})
	if r.pushes != 4 {
		t.Errorf("%d pushes", r.pushes)
	}
}

func TestIndexIsPublished(t *testing.T) {
	b, r := newBus(t), &registry{}
	run(t, deploy.Config{Bus: b, Push: r.push})
	commit(t, b, "a1", "registry.example/cart:{{.Version}}")
	v, revision, err := b.Versions.Get(t.Context(), "shop/cart@a1")
	if err != nil {
		t.Fatal(err)
	}
	disk := farm.Image{Name: v.Name, Kind: "disk", Digest: digest.FromString("disk")}
	index := farm.Image{Name: v.Name, Kind: farm.ImageOCI, Digest: digest.FromString("index")}
	arm := farm.Image{Name: v.Name, Kind: farm.ImageOCI, Platform: "linux/arm64", Digest: digest.FromString("arm64")}
	v.Images = append(v.Images, disk, index, arm)
	if _, err := b.Versions.Update(t.Context(), "shop/cart@a1", v, revision); err != nil {
		t.Fatal(err)
	}
	mustPromote(t, b, "a1")
	target := "registry.example/cart:a1"
	is(t, b, "a1 "+target, farm.PublicationDone)
	if got := r.has(target); got != index.Digest {
		t.Errorf("published %s, want the index", got)
	}
}

func TestPublishingFails(t *testing.T) {
	b := newBus(t)
	hopeless := errors.New("wrong password")
	var mu sync.Mutex
	fail := map[string]error{"registry.example/a:1": hopeless, "registry.example/b:1": errors.New("away")}
	run(t, deploy.Config{Bus: b, Attempts: 4, Final: func(err error) bool { return errors.Is(err, hopeless) },
		Push: func(_ context.Context, _ digest.Digest, target string) error {
			mu.Lock()
			defer mu.Unlock()
			return fail[target]
		}})
	commit(t, b, "a1", "registry.example/a:1", "registry.example/b:1", "registry.example/c:1")
	mustPromote(t, b, "a1")
	if p := is(t, b, "a1 registry.example/a:1", farm.PublicationFailed); p.Attempts != 1 || p.Error != "wrong password" {
		t.Errorf("%+v", p)
	}
	if p := is(t, b, "a1 registry.example/b:1", farm.PublicationFailed); p.Attempts != 4 || p.Error != "away" {
		t.Errorf("%+v", p)
	}
	is(t, b, "a1 registry.example/c:1", farm.PublicationDone)

	mu.Lock()
	clear(fail)
	mu.Unlock()
	mustPromote(t, b, "a1")
	for _, target := range []string{"registry.example/a:1", "registry.example/b:1"} {
		if p := is(t, b, "a1 "+target, farm.PublicationDone); p.Attempts != 1 || p.Error != "" {
			t.Errorf("%+v", p)
		}
	}
}

func TestNothingToPublish(t *testing.T) {
	b := newBus(t)
	run(t, deploy.Config{Bus: b})
	v := farm.Version{Schema: farm.Schema, Name: "shop/cart", Version: "a1", Registries: []string{"registry.example/a:1"},
		Images: []farm.Image{{Kind: "disk", Digest: digest.FromString("disk")}}}
	if _, err := b.Versions.Create(t.Context(), "shop/cart@a1", v); err != nil {
		t.Fatal(err)
	}
	mustPromote(t, b, "a1")
	if p := is(t, b, "a1 registry.example/a:1", farm.PublicationFailed); p.Attempts != 1 || !strings.Contains(p.Error, "version a1 of shop/cart has no OCI image") {
		t.Errorf("%+v", p)
	}
}

// A version whose registries can't be filled in is not promoted.
func TestBadTemplate(t *testing.T) {
	b := newBus(t)
	run(t, deploy.Config{Bus: b})
	commit(t, b, "a1", "registry.example/a:{{.Branch}}")
	if _, err := promote(t, b, "a1", "ann"); !errors.Is(err, bus.ErrInvalid) || !strings.Contains(err.Error(), "channel prod was not moved") {
		t.Errorf("%v", err)
	}
	if _, _, err := b.Channels.Get(t.Context(), "shop/cart@prod"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("%v", err)
	}
}

// A push that was interrupted, and one that waited for its next attempt, go on after a restart, bus and all.
func TestPublishingResumes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bus")
	b := openBus(t, dir)
	begun := make(chan struct{})
	stop := run(t, deploy.Config{Bus: b, Backoff: time.Hour, Push: func(ctx context.Context, _ digest.Digest, target string) error {
		if target == "registry.example/a:1" {
			return errors.New("away")
		}
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}})
	commit(t, b, "a1", "registry.example/a:1", "registry.example/b:1")
	mustPromote(t, b, "a1")
	<-begun
	await(t, b, func(all map[string]farm.Publication) bool { return all["a1 registry.example/a:1"].Error == "away" })
	stop()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}

	b = openBus(t, dir)
	defer b.Close()
	r := &registry{}
	stop = run(t, deploy.Config{Bus: b, Push: r.push})
	defer stop()
	if p := is(t, b, "a1 registry.example/a:1", farm.PublicationDone); p.Attempts != 2 || p.Error != "" {
		t.Errorf("%+v", p)
	}
	if p := is(t, b, "a1 registry.example/b:1", farm.PublicationDone); p.Attempts != 1 {
		t.Errorf("%+v", p)
	}
}

// Versions share a tag: what waited for the registry is not pushed over what came later.
func TestSupersededPublication(t *testing.T) {
	b, r := newBus(t), &registry{}
	stop := run(t, deploy.Config{Bus: b, Backoff: time.Hour, Push: func(context.Context, digest.Digest, string) error { return errors.New("away") }})
	for _, v := range []string{"a1", "b2"} {
		commit(t, b, v, "registry.example/cart:{{.Channel}}", "registry.example/cart:{{.Version}}")
		mustPromote(t, b, v)
	}
	stop()
	run(t, deploy.Config{Bus: b, Push: r.push})
	is(t, b, "a1 registry.example/cart:prod", farm.PublicationSuperseded)
	is(t, b, "b2 registry.example/cart:prod", farm.PublicationDone)
	is(t, b, "a1 registry.example/cart:a1", farm.PublicationDone) // nobody else's tag
	is(t, b, "b2 registry.example/cart:b2", farm.PublicationDone)
	if got := r.has("registry.example/cart:prod"); got != digest.FromString("b2") {
		t.Errorf("the tag is at %s", got)
	}
}

// A slow push ends after that of the version that came later: the later one is pushed again.
func TestSlowPushIsMadeGood(t *testing.T) {
	b, r := newBus(t), &registry{}
	slow, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	run(t, deploy.Config{Bus: b, Push: func(ctx context.Context, image digest.Digest, target string) error {
		if image == digest.FromString("a1") {
			once.Do(func() { close(slow); <-goOn })
		}
		return r.push(ctx, image, target)
	}})
	const tag = "registry.example/cart:prod"
	commit(t, b, "a1", tag)
	commit(t, b, "b2", tag)
	mustPromote(t, b, "a1")
	<-slow
	mustPromote(t, b, "b2")
	is(t, b, "b2 "+tag, farm.PublicationDone)
	close(goOn)
	is(t, b, "a1 "+tag, farm.PublicationDone)
	await(t, b, func(all map[string]farm.Publication) bool {
		return all["b2 "+tag].State == farm.PublicationDone && r.has(tag) == digest.FromString("b2")
	})
}

// Whatever the order, wherever the pushes run: in the end a shared tag is where the channel is.
func TestTagFollowsChannel(t *testing.T) {
	b, r := newBus(t), &registry{}
	push := func(ctx context.Context, image digest.Digest, target string) error {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		if rand.IntN(4) == 0 {
			return errors.New("away")
		}
		return r.push(ctx, image, target)
	}
	run(t, deploy.Config{Bus: b, Push: push, Attempts: 1000})
	run(t, deploy.Config{Bus: b, Push: push, Attempts: 1000})
	const tag, versions = "registry.example/cart:prod", 6
	for i := range versions {
		commit(t, b, fmt.Sprintf("v%d", i), tag)
	}
	var wg sync.WaitGroup
	for i := range 3 {
		wg.Go(func() {
			for j := range 6 {
				if _, err := promote(t, b, fmt.Sprintf("v%d", (i*5+j*7)%versions), "ann"); err != nil {
					t.Error(err)
				}
				time.Sleep(time.Duration(rand.IntN(10)) * time.Millisecond)
			}
		})
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for settled := false; !settled; {
		all, err := b.Publications.List(ctx, "")
		if err != nil {
			t.Fatal(err)
		}
		c, _, err := b.Channels.Get(ctx, "shop/cart@prod")
		if err != nil {
			t.Fatalf("%v; the tag is at %s", err, r.has(tag))
		}
		settled = len(all) > 0 && r.has(tag) == digest.FromString(c.Version)
		for _, p := range all {
			settled = settled && p.State != farm.PublicationPending
		}
	}
}

// The whole way: a real store, a real registry that is away at first, the real push.
func TestPublishToDockerRegistry(t *testing.T) {
	b, store := newBus(t), s3storetest.Open(t)
	server := remotetest.StartRegistry(t, "", "")
	server.Stop()
	run(t, deploy.Config{Bus: b, Final: remote.Final, Backoff: 20 * time.Millisecond, Attempts: 1000,
		Push: func(ctx context.Context, manifest digest.Digest, target string) error {
			return remote.Push(ctx, store, manifest, target, remote.Options{AuthFile: filepath.Join(t.TempDir(), "none")})
		}})
	first, second := remotetest.PutImage(t, store, 1, 200_000), remotetest.PutImage(t, store, 2, 200_000)
	registries := []string{server.Address + "/{{.Name}}:{{.Version}}", server.Address + "/{{.Name}}:{{.Channel}}"}
	commitImage(t, b, "a1", first.Digest, registries...)
	commitImage(t, b, "b2", second.Digest, registries...)
	mustPromote(t, b, "a1")
	tag, byVersion := server.Address+"/shop/cart:prod", server.Address+"/shop/cart:a1"
	await(t, b, func(all map[string]farm.Publication) bool { return all["a1 "+tag].Attempts > 0 })
	server.Start()
	is(t, b, "a1 "+tag, farm.PublicationDone)
	is(t, b, "a1 "+byVersion, farm.PublicationDone)
	for target, want := range map[string]digest.Digest{tag: first.Digest, byVersion: first.Digest} {
		if got := pulled(t, target); got != want.String() {
			t.Errorf("%s is %s, want %s", target, got, want)
		}
	}
	mustPromote(t, b, "b2")
	is(t, b, "b2 "+tag, farm.PublicationDone)
	if got := pulled(t, tag); got != second.Digest.String() {
		t.Errorf("%s is %s, want %s", tag, got, second.Digest)
	}
	if _, err := rollback(t, b, ""); err != nil {
		t.Fatal(err)
	}
	await(t, b, func(all map[string]farm.Publication) bool {
		return all["a1 "+tag].By == "bob" && all["a1 "+tag].State == farm.PublicationDone
	})
	if got := pulled(t, tag); got != first.Digest.String() {
		t.Errorf("rolled back, %s is %s, want %s", tag, got, first.Digest)
	}
}

func pulled(t *testing.T, target string) string {
	t.Helper()
	ref, err := name.ParseReference(target, name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	d, err := ggcr.Head(ref)
	if err != nil {
		t.Fatal(err)
	}
	return d.Digest.String()
}
