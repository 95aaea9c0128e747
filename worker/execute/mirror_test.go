package execute_test

import (
	"context"
	"encoding/json"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker/execute"
	"bakefarm/worker/mirror"
	"bakefarm/worker/mirror/mirrortest"

	"github.com/opencontainers/go-digest"
)

// archive serves packages and has the environment ask there.
func (b *bench) archive(packages ...debtest.Package) *mirrortest.Mirror {
	b.t.Helper()
	var published []mirrortest.Package
	for _, p := range packages {
		published = append(published, mirrortest.Package{Control: p.ControlText(), Deb: p.Build(b.t)})
	}
	m := mirrortest.New(b.t, published...)
	client, err := mirror.New(b.t.Context(), mirror.Options{Root: b.t.TempDir(), Backoff: time.Millisecond, Attempts: 2})
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(client.Close)
	b.env.Mirror = client
	return m
}

func TestFromMirrorToLayer(t *testing.T) {
	b := newBench(t, newStore(t))
	m := b.archive(hello, libhello)
	observeSpec := plan.ObserveSpec{Suite: mirrortest.Suite, Arch: mirrortest.Arch, Mirror: m.URL, Keyring: m.Keyring}
	var observed plan.ObserveOutput
	b.must(farm.KindObserve, observeSpec, &observed)
	if len(observed.Indexes) == 0 {
		t.Fatal("no indexes")
	}
	b.env.Indexes.Wait()
	for _, x := range observed.Indexes {
		if !b.env.Indexes.Has(x.Packages) {
			t.Errorf("%s is new, and nobody has begun to parse it", x.Name)
		}
		if len(b.read(x.Packages)) != int(x.Size) || x.SignedBy == "" || x.Release == "" {
			t.Errorf("index %+v", x)
		}
	}
	b.env.Indexes.Clear()
	b.must(farm.KindObserve, observeSpec, &observed)
	if b.env.Indexes.Wait(); b.env.Indexes.Has(observed.Indexes[0].Packages) {
		t.Error("indexes that the store has are parsed though nobody has asked for them")
	}
	solveSpec := plan.SolveSpec{Arch: mirrortest.Arch, Indexes: observed.Indexes,
		Debian: recipe.Debian{Suite: mirrortest.Suite, Variant: "none", Packages: []string{"hello"}, Scripts: "skip"}}
	var solved plan.SolveOutput
	b.must(farm.KindSolve, solveSpec, &solved)
	var packages []plan.SolvedPackage
	if err := json.Unmarshal(b.read(solved.Packages), &packages); err != nil {
		t.Fatal(err)
	}
	names := make([]string, len(packages))
	for i, p := range packages {
		names[i] = p.Name
	}
	if !slices.Equal(names, []string{"hello", "libhello"}) || solved.Count != 2 {
		t.Fatalf("solved %v, count %d", names, solved.Count)
	}
	spec := plan.AssembleSpec{Role: plan.RoleOS, OS: &plan.AssembleOS{Suite: mirrortest.Suite, Arch: mirrortest.Arch}}
	var members []any
	for _, p := range packages {
		var member plan.Member
		b.must(farm.KindConvert, plan.ConvertSpec{Package: p.LockedPackage, URLs: []string{p.URL}}, &member)
		spec.OS.Packages, members = append(spec.OS.Packages, p.LockedPackage), append(members, member)
	}
	var layer plan.Layer
	b.must(farm.KindAssemble, spec, &layer, members...)
	if b.layer(layer)["usr/bin/hello"].Header == nil {
		t.Error("usr/bin/hello is missing")
	}

	// The index is parsed once: without the store, the second solve has all that it needs.
	wanted := b.env.Store
	b.env.Store = counted{testStore: unreadable{b.store}, commits: &b.commits}
	var again plan.SolveOutput
	b.must(farm.KindSolve, solveSpec, &again)
	if again != solved {
		t.Errorf("solved %+v, then %+v", solved, again)
	}
	b.env.Store = wanted

	// What can't be solved, and why.
	solveSpec.Debian.Packages = []string{"helo"}
	if err := b.run(farm.KindSolve, solveSpec, nil); err == nil || !strings.Contains(err.Error(), "helo") || execute.MayPass(err) {
		t.Errorf("unknown package: %v", err)
	}
}

// unreadable is a store that gives nothing back.
type unreadable struct{ testStore }

func (unreadable) Open(context.Context, digest.Digest, int64, int64) (io.ReadCloser, error) {
	return nil, imagestore.ErrNotFound
}

func TestMirrorTrouble(t *testing.T) {
	for name, c := range map[string]struct {
		spoil   func(*mirrortest.Mirror)
		want    string
		mayPass bool
	}{
		"changed index":  {(*mirrortest.Mirror).ChangePackages, "sha256", false},
		"bad signature":  {(*mirrortest.Mirror).BreakSignature, "signature", false},
		"always 503":     {func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Unavailable(1000)) }, "503", true},
		"not found":      {func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Missing()) }, "404", false},
		"passing 503":    {func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Unavailable(1)) }, "", false},
		"cut in between": {func(m *mirrortest.Mirror) { m.Serve("", mirrortest.Cut(100, 1)) }, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, newStore(t))
			m := b.archive(hello, libhello)
			c.spoil(m)
			var out plan.ObserveOutput
			err := b.run(farm.KindObserve, plan.ObserveSpec{Suite: mirrortest.Suite, Arch: mirrortest.Arch, Mirror: m.URL, Keyring: m.Keyring}, &out)
			if c.want == "" {
				if err != nil || len(out.Indexes) == 0 {
					t.Errorf("err = %v", err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || execute.MayPass(err) != c.mayPass {
				t.Errorf("err = %v (may pass: %t), want %q (%t)", err, execute.MayPass(err), c.want, c.mayPass)
			}
			b.nothingStored()
		})
	}
}

func TestSwappedPackage(t *testing.T) {
	b := newBench(t, newStore(t))
	m := b.archive(hello, libhello)
	file := hello.Build(t)
	var observed plan.ObserveOutput
	b.must(farm.KindObserve, plan.ObserveSpec{Suite: mirrortest.Suite, Arch: mirrortest.Arch, Mirror: m.URL, Keyring: m.Keyring}, &observed)
	var solved plan.SolveOutput
	b.must(farm.KindSolve, plan.SolveSpec{Arch: mirrortest.Arch, Indexes: observed.Indexes,
		Debian: recipe.Debian{Variant: "none", Packages: []string{"hello"}}}, &solved)
	var packages []plan.SolvedPackage
	if err := json.Unmarshal(b.read(solved.Packages), &packages); err != nil {
		t.Fatal(err)
	}
	b.commits.Store(0)
	for name, fault := range map[string]mirrortest.Fault{
		"flipped": mirrortest.Flipped(), "truncated": mirrortest.Truncated(10), "swapped": mirrortest.Swapped(file[:len(file)/2]),
	} {
		m.Heal()
		m.Serve(".deb", fault)
		err := b.run(farm.KindConvert, plan.ConvertSpec{Package: packages[0].LockedPackage, URLs: []string{packages[0].URL}}, nil)
		if err == nil || !strings.Contains(err.Error(), "package hello 2.10-3 (amd64): ") {
			t.Errorf("%s: err = %v", name, err)
		} else {
			t.Log(err)
		}
	}
	b.nothingStored()
}
