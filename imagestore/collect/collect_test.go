package collect_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/imagestore"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"

	"github.com/opencontainers/go-digest"
)

// TestLifeOfAPack: condemned when nothing needs it, deleted after the grace, not before.
func TestLifeOfAPack(t *testing.T) {
	l := newLittle(t, nil)
	l.begin("b1", "v1", "a", "b").finish()
	l.begin("b2", "v2", "c").finish()
	r := l.collect()
	if r.Condemned != 0 || r.Needed == 0 || r.Packs == 0 || l.objects() != r.Packs {
		t.Fatalf("nothing is to go: %+v", r)
	}
	l.remove("v1")
	l.collect()
	l.check("young action entries keep what they name")
	all := r.Packs
	l.pass(actionAge + time.Second)

	dry, err := l.collector(func(c *collect.Config) {
		c.DryRun = true
		c.Roots = func(ctx context.Context, m *collect.Marker) error { // which deletes no records either
			for _, b := range l.versions {
				m.Need(b.Digest, 0)
			}
			return m.Expand(ctx)
		}
	}).Run(t.Context())
	if err != nil || dry.Condemned == 0 || !strings.HasPrefix(l.states(), fmt.Sprintf("%d live, 0", all)) {
		t.Fatalf("dry run: %+v, %v, and then %s", dry, err, l.states())
	}
	r = l.collect()
	if r.Condemned != dry.Condemned || r.Deleted != 0 {
		t.Fatalf("%+v, the dry run said %+v", r, dry)
	}
	condemned := r.Condemned
	l.pass(grace - time.Second)
	if r = l.collect(); r.Deleted != 0 || r.Waiting != condemned {
		t.Fatalf("within the grace: %+v", r)
	}
	l.pass(2 * time.Second)
	if r = l.collect(); r.Deleted != condemned || r.Freed == 0 || l.objects() != all-condemned {
		t.Fatalf("after the grace: %+v, %d objects of %d", r, l.objects(), all)
	}
	l.check("at the end")
	if r = l.collect(); r.Read != 0 || r.Condemned+r.Deleted+r.Repacked != 0 {
		t.Errorf("nothing has changed, and yet %+v", r)
	}
}

// TestGraceOutlastsBakes: however long bakes may take, what one builds upon is not deleted under it.
func TestGraceOutlastsBakes(t *testing.T) {
	for _, longest := range []time.Duration{0, time.Hour, 2 * time.Hour, 6 * time.Hour, 7 * 24 * time.Hour} {
		if g := collect.New(collect.Config{MaxBake: longest}).Grace; g < 3*time.Hour || g < longest+longest/2 {
			t.Errorf("bakes may take %v, and packs are deleted after %v", longest, g)
		}
	}
}

// TestRepack: of a pack that is mostly dead, the rest is copied.
func TestRepack(t *testing.T) {
	l := newLittle(t, nil)
	w := l.worker.store.Begin()
	var parts []imagestore.Part
	for i := range 50 {
		part, err := w.Put(t.Context(), content(fmt.Sprint("piece", i)))
		l.must(err)
		parts = append(parts, part)
	}
	l.must(w.Commit(t.Context()))
	l.begin("b", "v", "piece7", "piece9").finish()
	l.pass(actionAge + time.Hour)
	r := l.collect()
	if r.Repacked != 1 || r.Copied == 0 || r.Copied > 50_000 {
		t.Fatalf("%+v", r)
	}
	l.check("after repacking")
	l.pass(grace + time.Second)
	if r = l.collect(); r.Deleted != 1 {
		t.Fatalf("%+v", r)
	}
	l.check("after deleting")
	if have, err := l.janitor.store.Have(t.Context(), []digest.Digest{parts[7].Digest, parts[8].Digest}); err != nil || !have[0] || have[1] {
		t.Errorf("have %v, %v", have, err)
	}
}

// TestWaste: packs of which half is needed are repacked when they are many, the emptiest first, and left alone when they are few.
func TestWaste(t *testing.T) {
	for _, c := range []struct {
		name         string
		waste, whole int // percent that may be wasted; packs that are needed as they are
		want         int // that are repacked
	}{{"few", 0, 20, 0}, {"many", 0, 4, 1}, {"most", 0, 0, 2}, {"any", -1, 0, 0}} {
		t.Run(c.name, func(t *testing.T) {
			l := newLittle(t, nil)
			var kept []string
			pack := func(needed, not int) {
				w := l.worker.store.Begin()
				for i := range needed + not {
					piece := fmt.Sprint("piece", len(kept), i, needed)
					_, err := w.Put(t.Context(), content(piece))
					l.must(err)
					if i < needed {
						kept = append(kept, piece)
					}
				}
				l.must(w.Commit(t.Context()))
			}
			for range c.whole {
				pack(10, 0)
			}
			pack(4, 6)
			pack(7, 3)
			l.begin("b", "v", kept...).finish()
			l.pass(actionAge + time.Hour)
			r, err := l.collector(func(k *collect.Config) { k.Waste = c.waste }).Run(t.Context())
			l.must(err)
			if r.Repacked != c.want {
				t.Errorf("%d packs were repacked, want %d: %+v", r.Repacked, c.want, r)
			}
			l.check("after repacking")
		})
	}
}

// TestOrphans: what was uploaded and never got a record goes after two days, and not before.
func TestOrphans(t *testing.T) {
	l := newLittle(t, nil)
	w := l.worker.store.Begin()
	const packs = 3
	for i := range packs { // each is enough to be uploaded early
		_, err := w.Put(t.Context(), storetest.Bytes(uint64(i), 12<<20))
		l.must(err)
	}
	deadline := time.Now().Add(10 * time.Second)
	for l.objects() < packs && time.Now().Before(deadline) {
		time.Sleep(10 * time.Millisecond)
	}
	if r := l.collect(); r.Orphans != 0 || l.objects() != packs {
		t.Fatalf("%d objects; %+v", l.objects(), r)
	}
	l.pass(49 * time.Hour)
	if r := l.collect(); r.Orphans != packs || l.objects() != 0 {
		t.Fatalf("%+v; %d objects", r, l.objects())
	}
}

// TestWholes: a blob's object beside its pieces goes when nothing needs the blob, and not while somebody may have a URL of it.
func TestWholes(t *testing.T) {
	l := newLittle(t, nil)
	for _, name := range []string{"kept", "gone"} {
		l.begin("of "+name, name, name, "a piece of both").finish()
		l.must(l.worker.store.Materialise(t.Context(), l.versions[name].Digest))
	}
	wholes := func() (n int) {
		l.must(l.janitor.store.Wholes(t.Context(), func(s3store.Whole) error { n++; return nil }))
		return n
	}
	l.pass(49 * time.Hour)
	if r := l.collect(); r.Wholes != 0 || wholes() != 2 {
		t.Fatalf("%d objects; %+v", wholes(), r)
	}
	gone := l.versions["gone"].Digest
	l.remove("gone")
	l.pass(actionAge + time.Second) // nor does the action cache need it
	if r := l.collect(); r.Wholes != 1 || r.Freed == 0 || wholes() != 1 {
		t.Fatalf("%d objects; %+v", wholes(), r)
	}
	if there, err := l.worker.store.Materialised(t.Context(), gone); err != nil || there {
		t.Errorf("what nothing needs is still there: %v, %v", there, err)
	}
	l.check("the pieces are another matter")
}

// TestInterleaved runs a bake that wants what is just being collected, split at every step, with the rest of it at every
// step of the collector; and with a bake's time in between.
func TestInterleaved(t *testing.T) {
	steps := 0
	for split := 0; ; split++ {
		n := interleave(t, split, 0)
		if n < 0 {
			break
		}
		steps = max(steps, n)
		for at := 1; at <= n; at++ {
			if testing.Short() && (split+at)%5 != 0 {
				continue
			}
			interleave(t, split, at)
		}
	}
	if steps < 3 {
		t.Errorf("the collector had %d steps at most: this tests little", steps)
	}
}

// interleave does split steps of the bake, then collects and does the rest of the bake before step at of that; 0: after. It
// returns the number of the collector's steps, or -1 when the bake has fewer.
func interleave(t *testing.T, split, at int) (steps int) {
	name := fmt.Sprintf("%d steps, the rest at %d", split, at)
	t.Run(name, func(t *testing.T) {
		l := newLittle(t, nil)
		l.begin("old", "old", "a", "b").finish()
		l.begin("other", "stays", "x", "b").finish()
		l.remove("old")
		l.pass(actionAge + time.Second)
		b := l.begin("new", "new", "a", "b")
		for range split {
			b.next()
		}
		if b.over() {
			steps = -1
			return
		}
		rest := func() {
			l.pass(maxBake - 2*time.Second)
			b.finish()
		}
		count := 0
		_, err := l.collector(func(c *collect.Config) {
			c.Step = func(string) {
				if count++; count == at {
					rest()
				}
			}
		}).Run(t.Context())
		l.must(err)
		if at == 0 {
			l.collect() // once more, within the grace
		}
		if count < at || at == 0 {
			rest()
		}
		steps = count
		if !b.done {
			t.Fatal("the bake failed")
		}
		l.check("after the bake")
		for range 3 {
			l.pass(grace + time.Second)
			l.collect()
			l.check("after the grace")
		}
	})
	return steps
}

// TestRandomly runs bakes, removals, collectors that overlap, pause or are killed, and time, in an order that the seed says.
// Nothing that a version needs may be lost, and in the end nothing may be left of what none does.
func TestRandomly(t *testing.T) {
	seeds := uint64(100)
	if testing.Short() {
		seeds = 6
	}
	for seed := range seeds {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			randomly(t, rand.New(rand.NewPCG(seed, 7)))
		})
	}
}

// paused is a collector that stands before its next step.
type paused struct {
	cancel context.CancelFunc
	at     chan string // closed when it has ended
	goOn   chan struct{}
	err    error
}

func (l *little) start() *paused {
	ctx, cancel := context.WithCancel(l.Context())
	p := &paused{cancel: cancel, at: make(chan string), goOn: make(chan struct{})}
	go func() {
		defer close(p.at)
		_, p.err = l.collector(func(c *collect.Config) {
			c.RepackBelow = 60
			c.Step = func(what string) {
				if ctx.Err() == nil {
					p.at <- what
					<-p.goOn
				}
			}
		}).Run(ctx)
	}()
	return p
}

// step lets it do its next step; false when it has ended.
func (p *paused) step() bool {
	if _, open := <-p.at; !open {
		return false
	}
	p.goOn <- struct{}{}
	return true
}

func (p *paused) kill() {
	p.cancel()
	for p.step() {
	}
}

func randomly(t *testing.T, r *rand.Rand) {
	l := newLittle(t, nil)
	var bakes []*bake
	var collectors []*paused
	names := strings.Fields("a b c d e f g h i j k l")
	for i := range 150 {
		switch n := r.IntN(20); {
		case n < 2 && len(bakes) < 4:
			pieces := strings.Fields([]string{"a b", "a c", "b c d", "e", "f e"}[r.IntN(5)]) // again and again the same
			if r.IntN(3) == 0 {
				r.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
				pieces = slices.Clone(names[:1+r.IntN(4)])
			}
			bakes = append(bakes, l.begin(fmt.Sprint("bake", i), fmt.Sprint("v", r.IntN(4)), pieces...))
		case n < 11 && len(bakes) > 0:
			b := bakes[r.IntN(len(bakes))]
			b.next()
			bakes = slices.DeleteFunc(bakes, (*bake).over)
		case n < 12:
			l.remove(fmt.Sprint("v", r.IntN(4)))
		case n < 13 && len(collectors) < 2:
			collectors = append(collectors, l.start())
		case n < 17 && len(collectors) > 0:
			k := r.IntN(len(collectors))
			if r.IntN(15) == 0 {
				collectors[k].kill()
				collectors = slices.Delete(collectors, k, k+1)
			} else if !collectors[k].step() {
				l.must(collectors[k].err)
				collectors = slices.Delete(collectors, k, k+1)
				l.check(fmt.Sprint("step ", i))
			}
		case n < 18:
			l.pass([]time.Duration{time.Minute, maxBake / 2, grace, actionAge}[r.IntN(4)])
		}
	}
	for _, c := range collectors {
		for c.step() {
		}
		l.must(c.err)
	}
	for _, b := range bakes {
		b.finish()
	}
	l.check("at the end")
	for range 4 {
		l.pass(actionAge + grace)
		l.collect()
		l.check("when all is quiet")
	}
	for name := range l.versions {
		l.remove(name)
	}
	for range 3 {
		l.pass(actionAge + grace)
		l.collect()
	}
	l.pass(49 * time.Hour) // objects whose record was deleted by a collector that was killed then
	l.collect()
	if l.states() != "0 live, 0 condemned" || l.objects() != 0 {
		t.Errorf("nothing is needed, but there are %s and %d objects", l.states(), l.objects())
	}
}

// TestTwoAtOnce: two collectors that see the same do no more than one.
func TestTwoAtOnce(t *testing.T) {
	l := newLittle(t, nil)
	l.begin("b", "v", "a", "b", "c").finish()
	l.remove("v")
	l.pass(actionAge + time.Second)
	one, two := l.start(), l.start()
	for {
		a, b := one.step(), two.step()
		if !a && !b {
			break
		}
	}
	l.must(one.err)
	l.must(two.err)
	l.pass(grace + time.Second)
	one, two = l.start(), l.start()
	for {
		a, b := one.step(), two.step()
		if !a && !b {
			break
		}
	}
	l.must(one.err)
	l.must(two.err)
	if l.states() != "0 live, 0 condemned" || l.objects() != 0 {
		t.Errorf("%s, %d objects", l.states(), l.objects())
	}
}

// broken fails the requests of a method while it is told to.
type broken struct {
	http.RoundTripper
	method string
	left   atomic.Int64 // requests that still work; negative: all
}

func (b *broken) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Method == b.method && b.left.Load() >= 0 && b.left.Add(-1) < 0 {
		b.left.Store(0)
		return nil, errors.New("the wire is cut")
	}
	return b.RoundTripper.RoundTrip(r)
}

// TestResumes: S3 fails in the middle of a sweep; the next run does the rest, and nothing is lost in between.
func TestResumes(t *testing.T) {
	for _, method := range []string{http.MethodDelete, http.MethodPut, http.MethodGet} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			wire := &broken{method: method}
			wire.left.Store(-1)
			l := newLittle(t, func(rt http.RoundTripper) http.RoundTripper { wire.RoundTripper = rt; return wire })
			l.begin("kept", "kept", "a", "b").finish()
			for i := range 4 {
				l.begin(fmt.Sprint(i), fmt.Sprint(i), fmt.Sprint("p", i), "a").finish()
				l.remove(fmt.Sprint(i))
			}
			w := l.worker.store.Begin() // most of this pack dies: it is repacked
			for i := range 20 {
				_, err := w.Put(t.Context(), content(fmt.Sprint("p", 100+i)))
				l.must(err)
			}
			l.must(w.Commit(t.Context()))
			l.begin("of many", "of many", "p100", "p101").finish()
			failures := 0
			for round := range 6 {
				l.pass(actionAge + grace)
				wire.left.Store(int64(round % 3))
				if _, err := l.collector(nil).Run(t.Context()); err != nil {
					failures++
				}
				wire.left.Store(-1)
				l.check(fmt.Sprint("round ", round))
			}
			for range 3 {
				l.pass(49 * time.Hour)
				l.collect()
				l.check("mended")
			}
			if failures == 0 {
				t.Error("nothing failed: this tests nothing")
			}
			need := l.collect()
			if l.objects() != need.Packs || need.Waiting != 0 {
				t.Errorf("%d objects, %+v", l.objects(), need)
			}
		})
	}
}

// TestReadsWhatChanged: a run reads from S3 what is new since the one before, however much there is.
func TestReadsWhatChanged(t *testing.T) {
	var objects atomic.Int64
	l := newLittle(t, func(next http.RoundTripper) http.RoundTripper {
		return roundTrip(func(r *http.Request) (*http.Response, error) {
			if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/packs/") {
				objects.Add(1)
			}
			return next.RoundTrip(r)
		})
	})
	const versions = 30
	for i := range versions {
		l.begin(fmt.Sprint(i), fmt.Sprint(i), fmt.Sprint("piece", i), "everywhere").finish()
	}
	run := func(what string, want int) {
		t.Helper()
		l.must(l.janitor.index.CatchUp(t.Context())) // which reads the index of each new pack, once
		objects.Store(0)
		r := l.collect()
		if r.Read != want || objects.Load() > int64(want) { // some are in memory
			t.Errorf("%s: %d descriptions and %d objects were read, want %d", what, r.Read, objects.Load(), want)
		}
		if r.Condemned+r.Deleted+r.Repacked != 0 {
			t.Errorf("%s: %+v", what, r)
		}
	}
	run("the first run", versions)
	run("nothing is new", 0)
	l.begin("new", "new", "another piece", "piece7", "everywhere").finish()
	run("a version is new", 1)
	l.remove("3") // what its action's entry names is kept
	run("a version has gone", 0)
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

// TestNames finds digests wherever they stand.
func TestNames(t *testing.T) {
	a, b := digest.FromString("a"), digest.FromString("b")
	text := `{"x":"` + a.String() + `","sha256:short":1,"y":["` + b.String() + `tail"],"z":"sha256:` + strings.Repeat("G", 64) + `","w":"sha256:sha256:` + a.Encoded() + `"}`
	var got []string
	collect.Names([]byte(text), func(s imagestore.Sum) { got = append(got, s.Digest().String()) })
	if !slices.Equal(got, []string{a.String(), b.String(), a.String()}) {
		t.Errorf("%q", got)
	}
}

// TestDocuments are followed as deep as they are needed, and read once.
func TestDocuments(t *testing.T) {
	l := newLittle(t, nil)
	put := func(text string) digest.Digest { return storetest.Put(t, l.worker.store, []byte(text))[0].Digest }
	chunk := put("chunk")
	tree := put(`{"chunks":["` + chunk.String() + `"]}`)
	lock := put(`{"tree":"` + tree.String() + `"}`)
	noise := put("sha256:" + put("other").Encoded()) // no document
	mark := func(depth int) (needed []bool, reads int) {
		c := l.collector(func(c *collect.Config) {
			c.Roots = func(_ context.Context, m *collect.Marker) error {
				m.NeedAll([]byte(`{"lock":"`+lock.String()+`"}`), depth)
				m.Need(noise, depth)
				return nil
			}
		})
		m, err := c.Mark(t.Context())
		l.must(err)
		for _, d := range []digest.Digest{lock, tree, chunk, digest.FromString("other")} {
			sum, _ := imagestore.ParseDigest(d)
			needed = append(needed, m.Needed(sum))
		}
		return needed, m.Reads()
	}
	for depth, want := range []string{"[true false false false]", "[true true false false]", "[true true true false]"} {
		if got, _ := mark(depth); fmt.Sprint(got) != want {
			t.Errorf("depth %d: %v, want %s", depth, got, want)
		}
	}
	if _, reads := mark(2); reads != 0 {
		t.Errorf("%d documents were read again", reads)
	}
}
