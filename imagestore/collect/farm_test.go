package collect_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/collect"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
	"bakefarm/imagestore/storetest"

	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	maxBake   = time.Hour
	grace     = 2 * time.Hour
	actionAge = 24 * time.Hour
)

// little is a farm of which only what garbage collection looks at is there: bakes with their steps, an action cache,
// versions; over real stores, of two processes, on one S3 server. The clock is the test's.
type little struct {
	*testing.T
	ledger  *storetest.Ledger
	server  *s3embed.Server
	through func(http.RoundTripper) http.RoundTripper
	worker  process
	janitor process

	mu       sync.Mutex
	now      time.Time
	bakes    map[string]*bake
	actions  map[string]action
	versions map[string]imagestore.Blob
}

type process struct {
	store *s3store.Store
	index *catalog.Catalog
}

type action struct {
	names []digest.Digest
	at    time.Time
}

func newLittle(t *testing.T, through func(http.RoundTripper) http.RoundTripper) *little {
	t.Helper()
	server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret-of-the-test", NoSync: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close() })
	l := &little{T: t, ledger: storetest.NewLedger(), server: server, through: through, now: time.Now(),
		bakes: map[string]*bake{}, actions: map[string]action{}, versions: map[string]imagestore.Blob{}}
	l.worker, l.janitor = l.open(nil), l.open(through)
	return l
}

func (l *little) open(through func(http.RoundTripper) http.RoundTripper) process {
	l.Helper()
	wire := http.RoundTripper(l.server.Transport())
	if through != nil {
		wire = through(wire)
	}
	client, bucket, prefix, err := s3store.Dial("http://key:secret-of-the-test@s3.invalid/test", wire)
	l.must(err)
	index, err := openCatalog(l.ledger)
	l.must(err)
	store, err := s3store.Open(l.Context(), s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: l.ledger, Locator: index, Writer: "test"})
	l.must(err)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- index.Run(ctx, store.ReadIndex, nil) }()
	l.Cleanup(func() {
		cancel()
		<-done
		store.Close()
		index.Close()
	})
	return process{store, index}
}

func (l *little) must(err error) {
	l.Helper()
	if err != nil {
		l.Fatal(err)
	}
}

func (l *little) clock() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now
}

// pass lets time pass; bakes that take too long are over then.
func (l *little) pass(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now = l.now.Add(d)
	for id, b := range l.bakes {
		if l.now.Sub(b.began) > maxBake {
			b.failed = true
			delete(l.bakes, id)
		}
	}
}

// packs are the ledger's records as the collector wants them.
type packs struct{ l *storetest.Ledger }

func (p packs) List(context.Context) (map[string]collect.Pack, error) {
	all := map[string]collect.Pack{}
	for id, r := range p.l.Records() {
		all[id] = collect.Pack{Pack: r.Value, Revision: r.Seq}
	}
	return all, nil
}

func (p packs) Update(_ context.Context, pack farm.Pack, revision uint64) error {
	if !p.l.CompareAndSet(pack.ID, &pack, revision) {
		return imagestore.ErrConflict
	}
	return nil
}

func (p packs) Delete(_ context.Context, id string, revision uint64) error {
	if !p.l.CompareAndSet(id, nil, revision) {
		return imagestore.ErrConflict
	}
	return nil
}

// roots reads the records in the order in which references move.
func (l *little) roots(ctx context.Context, m *collect.Marker) error {
	l.mu.Lock()
	inFlight := map[string]bool{}
	for _, b := range l.bakes {
		for _, a := range b.hits {
			inFlight[a] = true
		}
		if b.blob.Digest != "" {
			m.Need(b.blob.Digest, 0)
		}
	}
	l.mu.Unlock()
	l.mu.Lock()
	old := map[string]action{}
	for key, a := range l.actions {
		if l.now.Sub(a.at) > actionAge && !inFlight[key] {
			old[key] = a
			continue
		}
		for _, d := range a.names {
			m.Need(d, 0)
		}
	}
	l.mu.Unlock()
	l.mu.Lock()
	for _, blob := range l.versions {
		m.Need(blob.Digest, 0)
	}
	l.mu.Unlock()
	if err := m.Expand(ctx); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, a := range old {
		kept := false
		for _, d := range a.names {
			sum, _ := imagestore.ParseDigest(d)
			kept = kept || m.Needed(sum)
		}
		if !kept {
			delete(l.actions, key)
			continue
		}
		for _, d := range a.names {
			m.Need(d, 0)
		}
	}
	return nil
}

func (l *little) collector(change func(*collect.Config)) *collect.Collector {
	c := collect.Config{
		Packs: packs{l.ledger}, Index: l.janitor.index, Store: l.janitor.store, Roots: l.roots,
		MinAge: time.Nanosecond, Grace: grace, Now: l.clock, Rate: 1 << 40,
	}
	if change != nil {
		change(&c)
	}
	return collect.New(c)
}

func (l *little) collect() collect.Report {
	l.Helper()
	r, err := l.collector(nil).Run(l.Context())
	l.must(err)
	return r
}

// bake is a bake on its way: it makes a blob of pieces, of which each is the output of a shard.
type bake struct {
	l      *little
	id     string
	name   string
	pieces []string // contents
	began  time.Time

	step   int
	asked  bool     // whether what is reported is there: yes, but it was not recorded yet
	hits   []string // keys of the action cache that it builds upon
	blob   imagestore.Blob
	failed bool
	done   bool
	tries  int
}

func (l *little) begin(id, name string, pieces ...string) *bake {
	l.mu.Lock()
	defer l.mu.Unlock()
	b := &bake{l: l, id: id, name: name, pieces: pieces, began: l.now}
	l.bakes[id] = b
	return b
}

func (b *bake) over() bool { return b.done || b.failed }

// content is what a piece's name stands for.
func content(name string) []byte { return bytes.Repeat([]byte(name+"|"), 1000) }

// next does one step; the steps are the places where something else may happen in between.
func (b *bake) next() {
	l := b.l
	l.Helper()
	ctx := l.Context()
	if b.over() {
		return
	}
	n := len(b.pieces)
	switch {
	case b.step < n: // look an output up, and see whether the store has what it names
		b.lookUp(ctx, b.pieces[b.step])
	case b.step < 2*n: // make what is not there, and report it
		b.make(ctx, b.pieces[b.step-n])
	case b.step == 2*n: // compose
		w := l.worker.store.Begin()
		err := w.Compose(ctx, b.whole())
		if errors.Is(err, imagestore.ErrNotFound) {
			b.again()
			return
		}
		l.must(err)
		l.must(w.Commit(ctx))
	case b.step == 2*n+1 && !b.asked: // report: a coordinator asks whether it is all there
		have, err := l.janitor.store.Have(ctx, []digest.Digest{b.whole().Digest})
		l.must(err)
		if !have[0] {
			b.again()
			return
		}
		b.asked = true
		return
	case b.step == 2*n+1: // and records it
		b.asked = false
		l.mu.Lock()
		if !b.failed {
			b.blob = b.whole()
		}
		l.mu.Unlock()
	default: // commit
		l.mu.Lock()
		defer l.mu.Unlock()
		if b.failed {
			return
		}
		l.versions[b.name] = b.blob
		delete(l.bakes, b.id)
		b.done = true
	}
	b.step++
}

// again begins anew: something has gone that it had relied on, or the janitor's catalog has not heard of it yet.
func (b *bake) again() {
	time.Sleep(time.Duration(b.tries) * time.Millisecond)
	b.l.mu.Lock()
	defer b.l.mu.Unlock()
	b.step, b.asked, b.hits, b.blob = 0, false, nil, imagestore.Blob{}
	if b.tries++; b.tries > 20 {
		b.l.Errorf("bake %s begins for the %dth time", b.id, b.tries)
		b.failed = true
		delete(b.l.bakes, b.id)
	}
}

func (b *bake) lookUp(ctx context.Context, piece string) {
	l := b.l
	l.mu.Lock()
	a, found := l.actions[piece]
	l.mu.Unlock()
	if !found {
		return
	}
	have, err := l.janitor.store.Have(ctx, a.names)
	l.must(err)
	l.mu.Lock()
	defer l.mu.Unlock()
	if have[0] {
		b.hits = append(b.hits, piece)
	} else {
		delete(l.actions, piece)
	}
}

func (b *bake) make(ctx context.Context, piece string) {
	l := b.l
	for _, h := range b.hits {
		if h == piece {
			return
		}
	}
	sum := digest.FromBytes(content(piece))
	if b.asked {
		b.asked = false
		l.mu.Lock()
		defer l.mu.Unlock()
		if b.failed {
			return
		}
		l.actions[piece] = action{[]digest.Digest{sum}, l.now}
		b.hits = append(b.hits, piece)
		return
	}
	b.step-- // it comes here again
	w := l.worker.store.Begin()
	_, err := w.Put(ctx, content(piece))
	l.must(err)
	l.must(w.Commit(ctx))
	have, err := l.janitor.store.Have(ctx, []digest.Digest{sum})
	l.must(err)
	if b.asked = have[0]; b.asked {
		return
	}
	if b.tries++; b.tries > 20 { // the report is refused: another attempt
		l.Fatalf("bake %s can't store %s", b.id, piece)
	}
	l.must(l.worker.index.CatchUp(ctx)) // there is a pause before the next one
}

func (b *bake) whole() imagestore.Blob {
	var all []byte
	blob := imagestore.Blob{}
	for _, p := range b.pieces {
		data := content(p)
		blob.Parts = append(blob.Parts, imagestore.Part{Digest: digest.FromBytes(data), Size: int64(len(data))})
		all = append(all, data...)
	}
	blob.Digest, blob.Size = digest.FromBytes(all), int64(len(all))
	return blob
}

func (b *bake) finish() {
	for !b.over() {
		b.next()
	}
}

// check reads every version from beginning to end, through an index made anew.
func (l *little) check(what string) {
	l.Helper()
	l.mu.Lock()
	versions := map[string]imagestore.Blob{}
	for name, blob := range l.versions {
		versions[name] = blob
	}
	l.mu.Unlock()
	for name, blob := range versions {
		for _, p := range []process{l.worker, l.janitor} {
			l.must(p.index.CatchUp(l.Context()))
			raw, err := imagestore.ReadAll(l.Context(), p.store, blob.Digest, blob.Size)
			if err != nil || digest.FromBytes(raw) != blob.Digest {
				l.Fatalf("%s: version %s has lost something: %v", what, name, err)
			}
		}
	}
}

func (l *little) remove(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.versions, name)
}

// states counts the packs by state.
func (l *little) states() string {
	live, condemned := 0, 0
	for _, r := range l.ledger.Records() {
		if r.Value.State == farm.PackLive {
			live++
		} else {
			condemned++
		}
	}
	return fmt.Sprintf("%d live, %d condemned", live, condemned)
}

func (l *little) objects() (n int) {
	l.must(l.janitor.store.Objects(l.Context(), func(s3store.Object) error { n++; return nil }))
	return n
}
