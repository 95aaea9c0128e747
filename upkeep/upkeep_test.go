package upkeep

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"
	"bakefarm/imagestore/retention"
	"bakefarm/imagestore/s3store"

	"github.com/opencontainers/go-digest"
)

var epoch = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// world is a bus with an Upkeep on it whose clock is the test's.
type world struct {
	*testing.T
	bus   *bus.Bus
	u     *Upkeep
	store *s3store.Store
	now   time.Time
}

func newWorld(t *testing.T) *world {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	w := &world{T: t, bus: b, now: epoch}
	w.u = New(Config{Bus: b, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return w.now }})
	return w
}

func (w *world) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// versions makes n versions of a name, a day apart, the newest baked now.
func (w *world) versions(name string, n int, change ...func(i int, v *farm.Version)) {
	w.Helper()
	for i := range n {
		d := digest.FromString(fmt.Sprint(name, i))
		v := farm.Version{Schema: farm.Schema, Name: name, Version: fmt.Sprintf("v%d", i+1), Sequence: uint64(i + 1), Key: d, Lock: d,
			CreatedAt: w.now.Add(time.Duration(i-n+1) * 24 * time.Hour),
			Images:    []farm.Image{{Name: name, Digest: d, Kind: farm.ImageOCI, Platform: "linux/amd64", Size: 1000}}}
		for _, c := range change {
			c(i+1, &v)
		}
		_, err := w.bus.Versions.Create(w.Context(), versionKey(name, v.Version), v)
		w.must(err)
		_, err = w.bus.Tags.Create(w.Context(), versionKey(name, v.Version), farm.Tag{Schema: farm.Schema, Digest: d.String()})
		w.must(err)
	}
}

func (w *world) point(name, channel, version string) {
	w.Helper()
	_, err := w.bus.Channels.Put(w.Context(), name+"@"+channel, farm.Channel{Schema: farm.Schema, Name: name, Channel: channel, Version: version, Move: 1})
	w.must(err)
}

func (w *world) do(action string, r bus.KeepRequest) bus.KeepResult {
	w.Helper()
	r.Action, r.By = action, "ann"
	reply, err := w.u.keep(w.Context(), r)
	w.must(err)
	return reply.Results[0]
}

func one(name, version string) []bus.KeepItem { return []bus.KeepItem{{Name: name, Version: version}} }

func (w *world) state(name, version string) string {
	w.Helper()
	v, _, err := w.bus.Versions.Get(w.Context(), versionKey(name, version))
	switch {
	case err != nil:
		return "gone"
	case v.Trash != nil:
		return "trash"
	}
	return "there"
}

func (w *world) expect(name string, want ...string) {
	w.Helper()
	for i, s := range want {
		if got := w.state(name, fmt.Sprintf("v%d", i+1)); got != s {
			w.Errorf("%s:v%d is %s, want %s", name, i+1, got, s)
		}
	}
}

func (w *world) policy(text string) {
	w.Helper()
	_, revision, err := w.bus.Policies.Get(w.Context(), bus.PolicyKey)
	if err != nil {
		revision = 0
	}
	_, err = w.u.setPolicy(w.Context(), bus.SetPolicyRequest{File: "p.yaml", Text: text, By: "ann", Revision: revision})
	w.must(err)
}

// TestExpire: what the policy lets expire goes to the trash, and after its time there for good.
func TestExpire(t *testing.T) {
	w := newWorld(t)
	w.versions("shop/app", 6)
	w.must(w.u.Expire(t.Context()))
	w.expect("shop/app", "there", "there", "there", "there", "there", "there") // no policy was set

	w.policy("rules: [{match: '**', keepLast: 1}]\ntrash: 3d\n")
	w.point("shop/app", "prod", "v2")
	_, err := w.bus.Deployments.Put(t.Context(), "i-1", farm.Deployment{Schema: farm.Schema, ID: "i-1", Name: "shop/app", Version: "v3", Until: w.now.Add(time.Hour)})
	w.must(err)
	if r := w.do(bus.KeepPin, bus.KeepRequest{Items: one("shop/app", "v4")}); r.Error != "" || len(r.Version.Pins) != 1 {
		t.Fatalf("pin: %+v", r)
	}
	w.must(w.u.Expire(t.Context()))
	w.expect("shop/app", "trash", "there", "there", "there", "trash", "there")
	v, _, err := w.bus.Versions.Get(t.Context(), "shop/app@v1")
	w.must(err)
	if v.Trash.By != "retention" || !strings.Contains(v.Trash.Reason, "rule 1 (**): number 6") || !v.Trash.Until.Equal(w.now.Add(72*time.Hour)) {
		t.Errorf("trash: %+v", v.Trash)
	}

	// A channel that got hold of it nevertheless, restoring by hand, and the end of the time.
	w.point("shop/app", "dev", "v5")
	w.must(w.u.EmptyTrash(t.Context()))
	w.expect("shop/app", "trash", "there", "there", "there", "there", "there")
	w.do(bus.KeepRestore, bus.KeepRequest{Items: one("shop/app", "v1")})
	w.expect("shop/app", "there")
	w.must(w.u.Expire(t.Context()))
	w.now = w.now.Add(71 * time.Hour)
	w.must(w.u.EmptyTrash(t.Context()))
	w.expect("shop/app", "trash")
	w.now = w.now.Add(time.Hour)
	w.must(w.u.EmptyTrash(t.Context()))
	w.expect("shop/app", "gone", "there", "there", "there", "there", "there")
	if _, _, err := w.bus.Tags.Get(t.Context(), "shop/app@v1"); err == nil {
		t.Error("its tag is still there")
	}

	// The deployment's lease has run out meanwhile.
	w.must(w.u.Expire(t.Context()))
	w.expect("shop/app", "gone", "there", "trash", "there", "there", "there")
}

// TestParentsGoAfterTheirChildren in one go, though they come before them by name.
func TestParentsGoAfterTheirChildren(t *testing.T) {
	w := newWorld(t)
	w.versions("base", 2)
	w.versions("mid", 2, func(i int, v *farm.Version) {
		v.Contents = &farm.Contents{Base: farm.Base{Name: "base", Version: fmt.Sprintf("v%d", i)}}
	})
	w.versions("zapp", 2, func(i int, v *farm.Version) {
		v.Contents = &farm.Contents{Base: farm.Base{Name: "mid", Version: fmt.Sprintf("v%d", i)}}
	})
	w.policy("rules: [{match: 'zapp', keepLast: 1}, {match: '**', keepFor: 1h}]")
	w.now = w.now.Add(48 * time.Hour)
	w.must(w.u.Expire(t.Context()))
	for _, name := range []string{"base", "mid", "zapp"} {
		w.expect(name, "trash", "there")
	}
	if r := w.do(bus.KeepTrash, bus.KeepRequest{Items: one("base", "v2")}); r.Code != "conflict" || !strings.Contains(r.Error, "parent of mid:v2") {
		t.Errorf("rm of a parent: %+v", r)
	}
}

func TestKeepByHand(t *testing.T) {
	w := newWorld(t)
	w.versions("app", 2)
	pin := func(hold string) bus.KeepResult {
		return w.do(bus.KeepPin, bus.KeepRequest{Items: one("app", "v1"), Hold: hold})
	}
	unpin := func(hold string) bus.KeepResult {
		return w.do(bus.KeepUnpin, bus.KeepRequest{Items: one("app", "v1"), Hold: hold})
	}
	pin("")
	pin("case 1")
	if r := pin(""); len(r.Version.Pins) != 2 {
		t.Errorf("pinned twice: %+v", r)
	}
	if r := unpin("case 2"); r.Code != "not-found" {
		t.Errorf("another case: %+v", r)
	}
	if r := w.do(bus.KeepTrash, bus.KeepRequest{Items: one("app", "v1")}); r.Code != "conflict" || !strings.Contains(r.Error, "pinned by ann; held for the legal case case 1") && !strings.Contains(r.Error, "held for the legal case case 1") {
		t.Errorf("rm: %+v", r)
	}
	unpin("")
	if r := unpin(""); r.Code != "conflict" || !strings.Contains(r.Error, "case 1") {
		t.Errorf("unpin of what is only held: %+v", r)
	}
	unpin("case 1")
	if r := w.do(bus.KeepTrash, bus.KeepRequest{Items: one("app", "v1"), For: time.Hour}); r.Error != "" || !r.Version.Trash.Until.Equal(epoch.Add(time.Hour)) {
		t.Errorf("rm: %+v", r)
	}
	if r := pin(""); r.Code != "conflict" {
		t.Errorf("pin in the trash: %+v", r)
	}
	if r := w.do(bus.KeepRestore, bus.KeepRequest{Items: one("app", "v7")}); r.Code != "not-found" {
		t.Errorf("restore of nothing: %+v", r)
	}
	for _, bad := range []bus.KeepRequest{{Action: "burn", Items: one("app", "v1")}, {Action: bus.KeepPin}, {Action: bus.KeepPin, Items: make([]bus.KeepItem, bus.MaxKeep+1)}} {
		if _, err := w.u.keep(t.Context(), bad); err == nil {
			t.Errorf("%+v was taken", bad)
		}
	}
}

// TestFacts: the records' facts come to the decision.
func TestFacts(t *testing.T) {
	w := newWorld(t)
	w.versions("app", 3, func(i int, v *farm.Version) {
		v.Contents = &farm.Contents{Labels: map[string]string{"n": fmt.Sprint(i)}}
	})
	_, err := w.bus.Usage.Put(t.Context(), "app@v1", farm.Usage{Schema: farm.Schema, Name: "app", Version: "v1", PulledAt: epoch.Add(-time.Hour), ResolvedAt: epoch.Add(-time.Minute), DeployedAt: epoch})
	w.must(err)
	_, err = w.bus.Tags.Create(t.Context(), "app@latest", farm.Tag{Schema: farm.Schema, Digest: digest.FromString("app0").String()})
	w.must(err)
	w.point("app", "prod", "v1")
	w.must(w.bus.AppendMove(t.Context(), farm.ChannelMove{Schema: farm.Schema, Name: "app", Channel: "prod", Move: 1, Action: farm.ActionPromote, To: "v2", At: epoch}))
	_, err = w.bus.Bakes.Create(t.Context(), "B1", farm.Bake{Schema: farm.Schema, ID: "B1", Name: "app", Version: "v3", State: farm.BakeCommitting})
	w.must(err)
	f, err := Gather(t.Context(), w.bus, retention.Policy{Rules: []retention.Rule{{Match: "**", KeepChannels: []string{"*"}}}}, epoch)
	w.must(err)
	by := map[string]retention.Version{}
	for _, v := range f.Versions {
		by[v.Version] = v
	}
	v1 := by["v1"]
	if !v1.LastPulled.Equal(epoch.Add(-time.Minute)) || !v1.LastDeployed.Equal(epoch) || fmt.Sprint(v1.Tags, v1.EverIn, v1.Labels) != "[latest] [prod] map[n:1]" || v1.Size != 1000 {
		t.Errorf("v1: %+v", v1)
	}
	if got := fmt.Sprint(by["v2"].EverIn, by["v3"].Bakes); got != "[prod] [B1]" {
		t.Errorf("former channels and bakes: %s", got)
	}
}
