package worker_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/compose/deb/debtest"
	"bakefarm/farm"
	"bakefarm/imagestore"
	"bakefarm/plan"
	"bakefarm/recipe"
	"bakefarm/worker"
	"bakefarm/worker/execute"
	"bakefarm/worker/mirror"
	"bakefarm/worker/workertest"

	"github.com/opencontainers/go-digest"
)

// desk stands in for a coordinator: it has the shards of a test, grants each once, and writes down what it hears.
type desk struct {
	t     testing.TB
	bus   *bus.Bus
	stop  []func()
	lease time.Duration

	mu       sync.Mutex
	tasks    map[string]farm.Task
	claims   map[string]int
	beats    []bus.BeatRequest
	reports  []bus.ReportRequest
	stopping map[string]string // token → reason: what the next beat is told
	refuse   bool              // reports do not count
	changed  chan struct{}     // closed and made anew with every report and claim
}

func newBus(t testing.TB) *bus.Bus {
	t.Helper()
	b, err := bus.Open(t.Context(), bus.Config{Dir: t.TempDir(), Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func newDesk(t testing.TB, b *bus.Bus) *desk {
	d := &desk{
		t: t, bus: b, lease: 15 * time.Second,
		tasks: map[string]farm.Task{}, claims: map[string]int{}, stopping: map[string]string{}, changed: make(chan struct{}),
	}
	d.open()
	t.Cleanup(d.close)
	return d
}

func (d *desk) open() {
	d.t.Helper()
	serve := func(stop func(), err error) {
		d.t.Helper()
		if err != nil {
			d.t.Fatal(err)
		}
		d.stop = append(d.stop, stop)
	}
	serve(bus.Handle(d.bus, bus.Claim, d.claim))
	serve(bus.Handle(d.bus, bus.Beat, d.beat))
	serve(bus.Handle(d.bus, bus.Report, d.report))
}

func (d *desk) close() {
	for _, stop := range d.stop {
		stop()
	}
	d.stop = nil
}

func (d *desk) claim(_ context.Context, r bus.ClaimRequest) (bus.ClaimReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	task, ok := d.tasks[r.ShardID]
	if !ok || d.claims[r.ShardID] > 0 {
		return bus.ClaimReply{Gone: true, Reason: "nothing to do"}, nil
	}
	d.claims[r.ShardID]++
	d.tell()
	return bus.ClaimReply{Granted: true, Task: task}, nil
}

func (d *desk) beat(_ context.Context, r bus.BeatRequest) (bus.BeatReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.beats = append(d.beats, r)
	d.tell()
	reason, stop := d.stopping[r.Token]
	return bus.BeatReply{Stop: stop, Reason: reason}, nil
}

func (d *desk) report(_ context.Context, r bus.ReportRequest) (bus.ReportReply, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.reports = append(d.reports, r)
	d.tell()
	if d.refuse {
		return bus.ReportReply{Reason: "the lease has run out"}, nil
	}
	return bus.ReportReply{Accepted: true}, nil
}

func (d *desk) tell() {
	close(d.changed)
	d.changed = make(chan struct{})
}

// await waits until ok, which is asked after every message.
func (d *desk) await(what string, ok func() bool) {
	d.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		d.mu.Lock()
		done, changed := ok(), d.changed
		d.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			d.t.Fatalf("waited in vain for %s", what)
		}
	}
}

// offer makes a shard and sends a hint.
func (d *desk) offer(id string, kind farm.Kind, spec any) {
	d.t.Helper()
	raw, err := json.Marshal(spec)
	if err != nil {
		d.t.Fatal(err)
	}
	d.mu.Lock()
	d.tasks[id] = farm.Task{
		Schema: farm.Schema, ShardID: id, Kind: kind, Label: string(kind) + " " + id, Token: "token-" + id,
		Attempt: 1, Lease: d.lease, Spec: farm.Payload{Inline: raw},
	}
	d.mu.Unlock()
	if err := d.bus.Enqueue(d.t.Context(), farm.Class("any", kind), id); err != nil {
		d.t.Fatal(err)
	}
}

// reported returns what was said in the end of a shard, when it was said once.
func (d *desk) reported(id string) (bus.ReportRequest, bool) {
	i := slices.IndexFunc(d.reports, func(r bus.ReportRequest) bool { return r.ShardID == id })
	if i < 0 {
		return bus.ReportRequest{}, false
	}
	return d.reports[i], true
}

func (d *desk) awaitReport(id string) (r bus.ReportRequest) {
	d.t.Helper()
	d.await("the report on "+id, func() (ok bool) { r, ok = d.reported(id); return ok })
	return r
}

// world is a mirror; its Fetch is given.
type world struct {
	fetch func(ctx context.Context, urls []string) (io.ReadCloser, error)
}

func (w world) Fetch(ctx context.Context, urls []string, _ int64, _ digest.Digest) (io.ReadCloser, error) {
	return w.fetch(ctx, urls)
}

func (world) Observe(context.Context, string, string, string, string) (*mirror.Observation, error) {
	return &mirror.Observation{}, nil
}

// hang is a mirror that says nothing.
func hang(ctx context.Context, _ []string) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, context.Cause(ctx)
}

// start runs a worker until the test ends. stop stops it and says how long that took.
func start(t testing.TB, b *bus.Bus, change func(*worker.Config)) (stop func() time.Duration) {
	t.Helper()
	c := worker.Config{
		Bus: b, Store: workertest.NewStore(t), Mirror: world{hang}, ID: "w1", CacheDir: t.TempDir(),
		Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&c)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- worker.New(c).Run(ctx) }()
	stop = sync.OnceValue(func() time.Duration {
		begun := time.Now()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		return time.Since(begun)
	})
	t.Cleanup(func() { stop() })
	return stop
}

var fixture = debtest.Package{Name: "fixture", Entries: []debtest.Entry{{Name: "./opt/"}, {Name: "./opt/x", Content: "content"}}}

// convertSpec asks for the fixture; the mirror serves it as serve does.
func convertSpec(t testing.TB) plan.ConvertSpec {
	file := fixture.Build(t)
	return plan.ConvertSpec{URLs: []string{"http://mirror/fixture.deb"}, Package: recipe.LockedPackage{
		Name: "fixture", Version: "1.0-1", Arch: "all", SHA256: debtest.Digest(file), Size: int64(len(file)),
	}}
}

func serve(t testing.TB) world {
	file := fixture.Build(t)
	return world{func(context.Context, []string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(file)), nil
	}}
}

// empty checks that no hint is left in a queue.
func (d *desk) empty(kind farm.Kind) {
	d.t.Helper()
	queue, err := d.bus.Work(d.t.Context(), farm.Class("any", kind))
	if err != nil {
		d.t.Fatal(err)
	}
	hints, err := queue.Fetch(d.t.Context(), 10, 0)
	if err != nil || len(hints) > 0 {
		d.t.Errorf("%d hints are left in the queue, %v", len(hints), err)
	}
}

func TestRunsEachShardOnce(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	const shards = 60
	for i := range shards {
		d.offer(fmt.Sprint("s", i), farm.KindConvert, convertSpec(t))
	}
	store := workertest.NewStore(t)
	host, err := worker.OpenHost(t.TempDir(), 0, farm.Resources{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	for _, id := range []string{"w1", "w2"} {
		start(t, b, func(c *worker.Config) { c.ID, c.Host, c.Store, c.Mirror, c.Slots = id, host, store, serve(t), 3 })
	}
	d.await("all reports", func() bool { return len(d.reports) == shards })
	d.mu.Lock()
	first := d.reports[0]
	for _, r := range d.reports {
		if r.Error != "" || r.Token != "token-"+r.ShardID || r.Took <= 0 || string(r.Output) != string(first.Output) || len(r.Lines) != 1 {
			t.Errorf("report %+v", r)
		}
	}
	var m plan.Member
	if err := json.Unmarshal(first.Output, &m); err != nil || len(m.Pieces) != 1 {
		t.Errorf("output %s: %v", first.Output, err)
	}
	d.mu.Unlock()
	d.empty(farm.KindConvert)
}

func TestFailureIsReported(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	start(t, b, func(c *worker.Config) {
		c.Mirror = world{func(_ context.Context, urls []string) (io.ReadCloser, error) {
			switch {
			case strings.Contains(urls[0], "down"):
				return nil, &mirror.Error{URL: urls[0], Temporary: true, Err: errors.New("503 Service Unavailable")}
			case strings.Contains(urls[0], "bug"):
				panic("index out of range")
			}
			return nil, errors.New(strings.Repeat("long ", 10_000))
		}}
	})
	for id, want := range map[string]struct {
		text  string
		retry bool
	}{
		"down": {"package fixture 1.0-1 (all): mirror http://down: 503 Service Unavailable", true},
		"bug":  {"the worker has a bug: convert: index out of range", false},
		"long": {"package fixture 1.0-1 (all): long ", false},
	} {
		spec := convertSpec(t)
		spec.URLs = []string{"http://" + id}
		d.offer(id, farm.KindConvert, spec)
		r := d.awaitReport(id)
		if !strings.HasPrefix(r.Error, want.text) || r.Retry != want.retry || r.Output != nil || len(r.Error) > 8<<10 {
			t.Errorf("%s: error %.200q, retry %t", id, r.Error, r.Retry)
		}
	}
	d.offer("unknown", "image", "no spec")
	if r := d.awaitReport("unknown"); !strings.Contains(r.Error, "spec") || r.Retry {
		t.Errorf("report %+v", r)
	}
	d.empty(farm.KindConvert)
}

// away is a store of which the first commits find nobody there.
type away struct {
	execute.Store
	commits *atomic.Int32
	until   int32
}

func (a away) Begin() imagestore.Writer { return awayWriter{a.Store.Begin(), a} }

type awayWriter struct {
	imagestore.Writer
	away away
}

func (w awayWriter) Commit(ctx context.Context) error {
	if w.away.commits.Add(1) <= w.away.until {
		return errors.New("connection refused")
	}
	return w.Writer.Commit(ctx)
}

// A store that is away costs time, and no attempt as long as it comes back soon.
func TestOutageIsWaitedOut(t *testing.T) {
	for _, c := range []struct {
		patience time.Duration
		until    int32
		err      string
	}{
		{time.Minute, 4, ""},
		{300 * time.Millisecond, 1000, "connection refused"},
	} {
		b := newBus(t)
		d := newDesk(t, b)
		var commits atomic.Int32
		start(t, b, func(w *worker.Config) {
			w.Mirror, w.Patience = serve(t), c.patience
			w.Store = away{w.Store, &commits, c.until}
		})
		d.offer("s", farm.KindConvert, convertSpec(t))
		r := d.awaitReport("s")
		if !strings.Contains(r.Error, c.err) || (r.Error == "") != (c.err == "") || r.Retry != (c.err != "") {
			t.Errorf("until %d: error %q, retry %t", c.until, r.Error, r.Retry)
		}
		if n := commits.Load(); n < 2 || n > 6 {
			t.Errorf("until %d: %d commits", c.until, n)
		}
	}
}

func TestCancelledByBroadcast(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	ended := make(chan error, 1)
	start(t, b, func(c *worker.Config) {
		c.Mirror = world{func(ctx context.Context, urls []string) (io.ReadCloser, error) {
			_, err := hang(ctx, urls)
			ended <- err
			return nil, err
		}}
	})
	d.offer("s", farm.KindConvert, convertSpec(t))
	d.await("the claim", func() bool { return d.claims["s"] == 1 })
	time.Sleep(20 * time.Millisecond) // so that it runs
	begun := time.Now()
	if err := b.Broadcast(t.Context(), bus.CancelShard{ShardID: "s", Token: "token-s"}); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if took := time.Since(begun); took > time.Second || !strings.Contains(err.Error(), "nobody wants it") {
			t.Errorf("stopped after %v: %v", took, err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("it goes on")
	}
	d.notReported("s")
}

// notReported gives a worker that shouldn't the chance to report, and looks whether it took the hint out of the queue.
func (d *desk) notReported(id string) {
	d.t.Helper()
	d.offer("after", farm.KindObserve, plan.ObserveSpec{})
	d.awaitReport("after")
	d.mu.Lock()
	defer d.mu.Unlock()
	if r, ok := d.reported(id); ok {
		d.t.Errorf("reported %+v", r)
	}
}

func TestStoppedByBeat(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	d.lease = 300 * time.Millisecond
	d.stopping["token-s"] = "the lease has run out"
	start(t, b, nil)
	d.offer("s", farm.KindConvert, convertSpec(t))
	d.await("a beat", func() bool { return len(d.beats) > 0 })
	d.notReported("s")
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, r := range d.beats {
		if r.ShardID != "s" || r.Worker != "w1" {
			t.Errorf("beat %+v", r)
		}
	}
}

// The lease ran out, and the coordinator says so only to the report: the worker drops the result and goes on.
func TestLateReportIsDropped(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	d.refuse = true
	start(t, b, func(c *worker.Config) { c.Mirror = serve(t) })
	d.offer("late", farm.KindConvert, convertSpec(t))
	d.awaitReport("late")
	d.offer("next", farm.KindConvert, convertSpec(t))
	d.awaitReport("next")
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reports) != 2 {
		t.Errorf("%d reports, want one a shard", len(d.reports))
	}
}

func TestBeatsAndLines(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	d.lease = 600 * time.Millisecond
	proceed := make(chan struct{})
	start(t, b, func(c *worker.Config) {
		file := fixture.Build(t)
		c.Mirror = world{func(context.Context, []string) (io.ReadCloser, error) {
			<-proceed
			return io.NopCloser(bytes.NewReader(file)), nil
		}}
	})
	begun := time.Now()
	d.offer("s", farm.KindConvert, convertSpec(t))
	d.await("three beats", func() bool { return len(d.beats) >= 3 })
	if took := time.Since(begun); took < 500*time.Millisecond || took > 10*time.Second {
		t.Errorf("three beats took %v: want one every 200 ms", took)
	}
	close(proceed)
	if r := d.awaitReport("s"); r.Error != "" || len(r.Lines) != 1 || !strings.Contains(r.Lines[0], "unpacked to") {
		t.Errorf("report %+v", r)
	}
}

// What a shard says comes while it runs, long before the next beat is due.
func TestLinesComeAtOnce(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	start(t, b, func(c *worker.Config) { c.Grace = time.Millisecond })
	spec := convertSpec(t)
	spec.Package.Size = 100 << 20
	begun := time.Now()
	d.offer("s", farm.KindConvert, spec)
	d.await("a beat", func() bool { return len(d.beats) > 0 })
	if took := time.Since(begun); took > time.Second {
		t.Errorf("took %v", took)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if lines := d.beats[0].Lines; len(lines) != 1 || !strings.HasPrefix(lines[0], "fetching 104.9 MB") {
		t.Errorf("lines %q", lines)
	}
}

func TestStopLetsShardsFinish(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	running, proceed := make(chan struct{}), make(chan struct{})
	stop := start(t, b, func(c *worker.Config) {
		file := fixture.Build(t)
		c.Mirror = world{func(context.Context, []string) (io.ReadCloser, error) {
			close(running)
			<-proceed
			return io.NopCloser(bytes.NewReader(file)), nil
		}}
	})
	d.offer("s", farm.KindConvert, convertSpec(t))
	<-running
	time.AfterFunc(300*time.Millisecond, func() { close(proceed) })
	if took := stop(); took < 250*time.Millisecond || took > 2*time.Second {
		t.Errorf("stopping took %v", took)
	}
	if r := d.awaitReport("s"); r.Error != "" || r.Output == nil {
		t.Errorf("report %+v", r)
	}
}

func TestStopHandsBack(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	stop := start(t, b, func(c *worker.Config) { c.Grace = 200 * time.Millisecond })
	for i := range 5 {
		d.offer(fmt.Sprint("s", i), farm.KindConvert, convertSpec(t))
	}
	d.await("the claims", func() bool { return len(d.claims) == 5 })
	if took := stop(); took < 150*time.Millisecond || took > time.Second {
		t.Errorf("stopping took %v", took)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.reports) != 5 {
		t.Errorf("%d reports, want 5", len(d.reports))
	}
	for _, r := range d.reports {
		if r.Error != "worker is stopping" || !r.Retry {
			t.Errorf("report %+v", r)
		}
	}
}

// Without a coordinator to report to, stopping still takes only a second more.
func TestStopWithoutCoordinator(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	stop := start(t, b, func(c *worker.Config) { c.Grace = 100 * time.Millisecond })
	d.offer("s", farm.KindConvert, convertSpec(t))
	d.await("the claim", func() bool { return len(d.claims) == 1 })
	d.close()
	if took := stop(); took > 2*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// A coordinator that is away for a while gets the report when it is back, and hints wait for it.
func TestCoordinatorComesBack(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	running, proceed := make(chan struct{}), make(chan struct{})
	start(t, b, func(c *worker.Config) {
		file := fixture.Build(t)
		c.Mirror = world{func(context.Context, []string) (io.ReadCloser, error) {
			running <- struct{}{}
			<-proceed
			return io.NopCloser(bytes.NewReader(file)), nil
		}}
	})
	d.offer("s", farm.KindConvert, convertSpec(t))
	<-running
	d.close()
	close(proceed)
	time.Sleep(2500 * time.Millisecond) // longer than bus.Call waits by itself
	d.open()
	if r := d.awaitReport("s"); r.Error != "" {
		t.Errorf("report %+v", r)
	}
	d.offer("next", farm.KindConvert, convertSpec(t))
	<-running
	d.awaitReport("next")
}

func TestPresence(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	stop := start(t, b, func(c *worker.Config) { c.Grace, c.Slots = 50*time.Millisecond, 7 })
	find := func(ok func(farm.Worker) bool) farm.Worker {
		t.Helper()
		for begun := time.Now(); ; time.Sleep(10 * time.Millisecond) {
			r, _, err := b.Workers.Get(t.Context(), "w1")
			if err == nil && ok(r) {
				return r
			}
			if time.Since(begun) > 5*time.Second {
				t.Fatalf("record %+v, %v", r, err)
			}
		}
	}
	r := find(func(farm.Worker) bool { return true })
	if r.Slots != 7 || !slices.Equal(r.Classes, worker.Classes()) || r.Started.IsZero() || r.Seen.IsZero() {
		t.Errorf("record %+v", r)
	}
	d.offer("s", farm.KindConvert, convertSpec(t))
	find(func(r farm.Worker) bool { return slices.Equal(r.Running, []string{"convert s"}) })
	stop()
	if _, _, err := b.Workers.Get(t.Context(), "w1"); !errors.Is(err, bus.ErrNotFound) {
		t.Errorf("the record is still there: %v", err)
	}
}

// A worker whose slots are all taken leaves the rest to others.
func TestLeavesWorkToOthers(t *testing.T) {
	b := newBus(t)
	d := newDesk(t, b)
	start(t, b, func(c *worker.Config) { c.ID, c.Slots, c.Grace = "busy", 2, 10*time.Millisecond })
	d.offer("a", farm.KindConvert, convertSpec(t))
	d.offer("b", farm.KindConvert, convertSpec(t))
	d.await("both claims", func() bool { return len(d.claims) == 2 })
	d.offer("c", farm.KindConvert, convertSpec(t))
	d.offer("d", farm.KindObserve, plan.ObserveSpec{})
	start(t, b, func(c *worker.Config) { c.ID, c.Mirror = "idle", serve(t) })
	for _, id := range []string{"c", "d"} {
		if r := d.awaitReport(id); r.Worker != "idle" {
			t.Errorf("%s was run by %s", id, r.Worker)
		}
	}
}

// BenchmarkLatency is the time from Enqueue until a shard runs, on an idle worker.
func BenchmarkLatency(b *testing.B) {
	bb := newBus(b)
	d := newDesk(b, bb)
	runs := make(chan time.Time, 1)
	start(b, bb, func(c *worker.Config) {
		c.Mirror = world{func(context.Context, []string) (io.ReadCloser, error) {
			runs <- time.Now()
			return nil, errors.New("enough")
		}}
	})
	d.offer("warm", farm.KindConvert, convertSpec(b))
	<-runs
	spec := convertSpec(b)
	var total time.Duration
	i := 0
	for b.Loop() {
		id := fmt.Sprint("s", i)
		i++
		begun := time.Now()
		d.offer(id, farm.KindConvert, spec)
		total += (<-runs).Sub(begun)
		d.awaitReport(id)
	}
	b.ReportMetric(float64(total.Microseconds())/float64(i), "µs/start")
}
