// Package placement measures, with real workers over a real store, what it saves that shards go to the worker that has in its cache
// what they need.
package placement

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"path"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/compose/deb/debtest"
	"bakefarm/coordinator"
	"bakefarm/farm"
	"bakefarm/imagestore/catalog"
	"bakefarm/imagestore/s3embed"
	"bakefarm/imagestore/s3store"
	"bakefarm/worker"
	"bakefarm/worker/mirror"
	"bakefarm/worker/mirror/mirrortest"

	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"
)

const (
	workers  = 4
	packages = 12
	bakes    = 10
)

// counting counts the bytes of objects that are read.
type counting struct {
	http.RoundTripper
	read *atomic.Int64
}

func (c counting) RoundTrip(r *http.Request) (*http.Response, error) {
	answer, err := c.RoundTripper.RoundTrip(r)
	if err == nil && r.Method == http.MethodGet && path.Base(path.Dir(r.URL.Path)) != "." {
		answer.Body = counted{answer.Body, c.read}
	}
	return answer, err
}

type counted struct {
	io.ReadCloser
	read *atomic.Int64
}

func (c counted) Read(b []byte) (int, error) {
	n, err := c.ReadCloser.Read(b)
	c.read.Add(int64(n))
	return n, err
}

// Ten systems that are much alike are baked one after the other by four workers. The first one is read together from those
// who have converted its packages; the worker that has done so has the others at hand.
func TestAffinity(t *testing.T) {
	offered := archive(t)
	without, _ := bakeAll(t, offered, true)
	with, placed := bakeAll(t, offered, false)
	t.Logf("the workers have read %d KiB from S3, and %d KiB when shards went to whoever asked first", with>>10, without>>10)
	if with*2 > without {
		t.Errorf("affinity has saved less than half. Layers were assembled by %v", placed)
	}
}

// archive has packages of half a megabyte that don't compress.
func archive(t *testing.T) *mirrortest.Mirror {
	dice := rand.New(rand.NewPCG(1, 2))
	var offered []mirrortest.Package
	for i := range packages {
		content := make([]byte, 512<<10)
		for i := range content {
			content[i] = byte(dice.Uint32())
		}
		p := debtest.Package{Name: fmt.Sprint("package", i), Version: "1", Architecture: "amd64", Compression: "gz",
			Entries: []debtest.Entry{{Name: "usr/"}, {Name: "usr/share/"}, {Name: fmt.Sprint("usr/share/file", i), Content: string(content)}}}
		offered = append(offered, mirrortest.Package{Control: p.ControlText(), Deb: p.Build(t)})
	}
	return mirrortest.New(t, offered...)
}

// bakeAll bakes on a farm of its own, and returns how many bytes its workers have read from S3, and who has assembled the layers.
func bakeAll(t *testing.T, archive *mirrortest.Mirror, noAffinity bool) (read int64, placed []string) {
	t.Helper()
	quiet := slog.New(slog.DiscardHandler)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Log: quiet})
	must(err)
	server, err := s3embed.Open(t.TempDir(), s3embed.Config{AccessKey: "key", SecretKey: "secret-of-the-test", NoSync: true})
	must(err)
	ctx, cancel := context.WithCancel(t.Context())
	running, ctx := errgroup.WithContext(ctx)
	var closing []func() error
	defer func() {
		cancel()
		must(running.Wait())
		for _, c := range append(closing, server.Close, b.Close) {
			must(c())
		}
	}()
	store := func(wire http.RoundTripper) *s3store.Store {
		client, bucket, prefix, err := s3store.Dial("http://key:secret-of-the-test@127.0.0.1:1/test", wire)
		must(err)
		index, err := catalog.Open("", b.Ledger(), nil, quiet)
		must(err)
		s, err := s3store.Open(t.Context(), s3store.Config{Client: client, Bucket: bucket, Prefix: prefix, Ledger: b.Ledger(), Locator: index, Writer: ulid.Make().String(), Log: quiet})
		must(err)
		running.Go(func() error { return index.Run(ctx, s.ReadIndex, nil) })
		closing = append(closing, s.Close, index.Close)
		return s
	}
	own := store(server.Transport())
	c := coordinator.New(coordinator.Config{Bus: b, Store: own, Log: quiet, NoAffinity: noAffinity, MaxAge: time.Hour})
	running.Go(func() error { return c.Run(ctx) })
	<-c.Ready()
	var total atomic.Int64
	debian, err := mirror.New(ctx, mirror.Options{Cache: t.TempDir(), Log: quiet})
	must(err)
	defer debian.Close()
	for i := range workers {
		w := worker.New(worker.Config{
			Bus: b, Store: store(counting{server.Transport(), &total}), Mirror: debian, ID: fmt.Sprint("w", i), CacheDir: t.TempDir(), Log: quiet,
			Has: farm.Resources{CPU: 2000, Memory: 4 << 30},
		})
		running.Go(func() error { return w.Run(ctx) })
	}
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if all, err := b.Workers.List(t.Context(), ""); err == nil && len(all) == workers || time.Now().After(until) {
			break
		}
	}
	var once sync.Once
	for n := range bakes {
		text := fmt.Sprintf("apiVersion: bakefarm/v1\nname: test/system%d\nos: {debian: {suite: bookworm, variant: none, scripts: skip, mirror: %q, keyring: %q, packages: [", n, archive.URL, archive.Keyring)
		for i := range packages {
			if n == 0 || i != n {
				text += fmt.Sprint("package", i, ", ")
			}
		}
		text += "]}}\n"
		w := own.Begin()
		part, err := w.Put(t.Context(), []byte(text))
		must(err)
		must(w.Commit(t.Context()))
		bake, err := bus.Call[bus.SubmitRequest, farm.Bake](t.Context(), b, bus.SubmitBake, bus.SubmitRequest{ID: ulid.Make().String(), Recipe: part.Digest})
		must(err)
		for !bake.State.Finished() {
			time.Sleep(5 * time.Millisecond)
			bake, _, err = b.Bakes.Get(t.Context(), bake.ID)
			must(err)
		}
		if bake.State != farm.BakeDone {
			t.Fatalf("%s: %s", bake.State, bake.Error)
		}
		for _, s := range bake.Shards {
			if s.Kind == farm.KindAssemble {
				placed = append(placed, s.Worker)
			}
		}
		once.Do(func() { total.Store(0) }) // what the first one reads, somebody has to
	}
	return total.Load(), placed
}
