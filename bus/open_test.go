package bus_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/bus"
	"bakefarm/farm"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

// childDir makes this test binary a process that writes records into the directory until it is killed.
const childDir = "BUS_TEST_WRITE_INTO"

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		write(dir)
	}
	// A server of a cluster that is shut down while it takes over its streams may still open some, and leave their goroutines.
	const server = "github.com/nats-io/nats-server/v2/server"
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(server+".(*fileStore).flushStreamStateLoop"), goleak.IgnoreAnyFunction(server+"/ats.Register.func1"))
}

// open starts a bus, with an embedded server in a directory of its own unless c says otherwise.
func open(t testing.TB, c bus.Config) *bus.Bus {
	t.Helper()
	if c.Dir == "" && c.URL == "" {
		c.Dir = t.TempDir()
	}
	b, err := bus.Open(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// logged is a log to look into.
type logged struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logged) logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func TestRestart(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	b := open(t, bus.Config{Dir: dir})
	farmID := b.FarmID()
	seq := put(t, b.Shards, "s", "kept")
	identity, err := b.Shards.Identity(ctx)
	if err != nil {
		t.Fatal(err)
	}
	move := farm.ChannelMove{Name: "n", Channel: "c", Move: 1, To: "v"}
	if err := errors.Join(b.Enqueue(ctx, "amd64.convert", "s"), b.PublishEvent(ctx, farm.Event{Bake: "k", Line: "hello"}), b.AppendMove(ctx, move)); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	if err := b.Ready(); err == nil {
		t.Error("ready after Close")
	}

	b = open(t, bus.Config{Dir: dir})
	if b.FarmID() != farmID {
		t.Errorf("farm %s became %s", farmID, b.FarmID())
	}
	if s, rev, err := b.Shards.Get(ctx, "s"); err != nil || s.Label != "kept" || rev != seq {
		t.Errorf("%+v, %d, %v", s, rev, err)
	}
	if again, err := b.Shards.Identity(ctx); err != nil || again != identity {
		t.Errorf("identity %q became %q, %v", identity, again, err)
	}
	w, err := b.Work(ctx, "amd64.convert")
	if err != nil {
		t.Fatal(err)
	}
	if hints, err := w.Fetch(ctx, 1, time.Second); err != nil || len(hints) != 1 || hints[0].ShardID != "s" {
		t.Errorf("hints: %v, %v", hints, err)
	}
	if moves, err := b.Moves(ctx, "n", "c", 10); err != nil || len(moves) != 1 {
		t.Errorf("moves: %v, %v", moves, err)
	}
	err = b.Events(ctx, "k", 0, func(_ uint64, e farm.Event) error {
		if e.Line != "hello" {
			t.Errorf("event %+v", e)
		}
		return bus.ErrStop
	})
	if err != nil {
		t.Error(err)
	}
}

func TestDirectoryInUse(t *testing.T) {
	dir := t.TempDir()
	open(t, bus.Config{Dir: dir})
	_, err := bus.Open(t.Context(), bus.Config{Dir: dir})
	if !errors.Is(err, bus.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("%v", err)
	}
}

func TestWrongConfiguration(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	taken := open(t, bus.Config{Listen: "127.0.0.1:0"})
	at, err := url.Parse(taken.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		bus.Config
		want string
	}{
		"nothing":      {bus.Config{}, "neither URL nor Dir"},
		"farm":         {bus.Config{Dir: "x", Farm: "a.b"}, `farm name "a.b"`},
		"replicas":     {bus.Config{Dir: "x", Replicas: 6}, "6 replicas"},
		"URL":          {bus.Config{URL: "nats://me:secret@[bad:4222"}, "bad:4222"},
		"credentials":  {bus.Config{URL: taken.ClientURL(), Creds: "/none"}, "/none"},
		"not loopback": {bus.Config{Dir: t.TempDir(), Listen: "0.0.0.0:0"}, "no authentication"},
		"port taken":   {bus.Config{Dir: t.TempDir(), Listen: at.Host}, "the address is in use"},
		"TTL":          {bus.Config{Dir: "x", WorkerTTL: time.Millisecond}, "a second or longer"},
		"file":         {bus.Config{Dir: file}, file},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		c.Log = new(logged).logger()
		b, err := bus.Open(ctx, c.Config)
		cancel()
		if err == nil {
			b.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v; want something with %q at once", name, err, c.want)
		}
	}
}

// Two processes on one server share everything.
func TestExternal(t *testing.T) {
	ctx := t.Context()
	first := open(t, bus.Config{Listen: "127.0.0.1:0"})
	second := open(t, bus.Config{URL: first.ClientURL()})
	if first.ClientURL() == "" || second.ClientURL() != "" {
		t.Errorf("client URLs %q and %q", first.ClientURL(), second.ClientURL())
	}
	if first.FarmID() != second.FarmID() {
		t.Errorf("farms %s and %s", first.FarmID(), second.FarmID())
	}
	if err := second.Ready(); err != nil {
		t.Error(err)
	}
	put(t, first.Shards, "s", "shared")
	if s, _, err := second.Shards.Get(ctx, "s"); err != nil || s.Label != "shared" {
		t.Errorf("%+v, %v", s, err)
	}
	stop, err := bus.Handle(first, bus.Claim, func(_ context.Context, r bus.ClaimRequest) (bus.ClaimReply, error) {
		return bus.ClaimReply{Reason: r.ShardID + " for " + r.Worker}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	reply, err := bus.Call[bus.ClaimRequest, bus.ClaimReply](ctx, second, bus.Claim, bus.ClaimRequest{ShardID: "s", Worker: "w"})
	if err != nil || reply.Reason != "s for w" || reply.Schema != farm.Schema {
		t.Errorf("%+v, %v", reply, err)
	}
	// Another farm on the same server shares nothing.
	other := open(t, bus.Config{URL: first.ClientURL(), Farm: "other"})
	if all, err := other.Shards.List(ctx, ""); err != nil || len(all) != 0 || other.FarmID() == first.FarmID() {
		t.Errorf("%v, %v, %s", all, err, other.FarmID())
	}
}

// Many that open at once make one farm.
func TestOpenTogether(t *testing.T) {
	server := open(t, bus.Config{Listen: "127.0.0.1:0", Farm: "server"})
	var mu sync.Mutex
	farms := map[string]int{}
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			b, err := bus.Open(context.Background(), bus.Config{URL: server.ClientURL()})
			if err != nil {
				t.Error(err)
				return
			}
			defer b.Close()
			mu.Lock()
			defer mu.Unlock()
			farms[b.FarmID()]++
		})
	}
	all.Wait()
	if len(farms) != 1 {
		t.Errorf("farms: %v", farms)
	}
}

// What is not ours is not touched.
func TestForeignStream(t *testing.T) {
	server := open(t, bus.Config{Listen: "127.0.0.1:0", Farm: "server"})
	nc, err := nats.Connect(server.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "bakefarm_WORK", Subjects: []string{"bakefarm.work.>"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := bus.Open(t.Context(), bus.Config{URL: server.ClientURL()}); err == nil || !strings.Contains(err.Error(), "bakefarm_WORK") {
		t.Errorf("%v", err)
	}
}

// Settings of buckets follow the configuration, where it says something.
func TestSettingsChange(t *testing.T) {
	dir, ctx := t.TempDir(), t.Context()
	for _, ttl := range []time.Duration{0, time.Hour, time.Second, 0} {
		b := open(t, bus.Config{Dir: dir, WorkerTTL: ttl, ActionTTL: ttl})
		defer b.Close()
		_, err := b.Workers.Put(ctx, "w", farm.Worker{})
		if _, err2 := b.Actions.Put(ctx, "a", farm.ActionEntry{}); err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	b := open(t, bus.Config{Dir: dir}) // the one second from before stands
	for start := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		_, _, errW := b.Workers.Get(ctx, "w")
		_, _, errA := b.Actions.Get(ctx, "a")
		if errors.Is(errW, bus.ErrNotFound) && errors.Is(errA, bus.ErrNotFound) {
			return
		}
		if time.Since(start) > 10*time.Second {
			t.Fatalf("records outlived their TTL: %v, %v", errW, errA)
		}
	}
}

// A server that is not there yet is waited for, with the address and the reason in the log.
func TestServerComesLater(t *testing.T) {
	probe := open(t, bus.Config{Listen: "127.0.0.1:0"})
	address := probe.ClientURL()
	if err := probe.Close(); err != nil {
		t.Fatal(err)
	}
	var out logged
	withSecret := strings.Replace(address, "nats://", "nats://me:secret@", 1)
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	_, err := bus.Open(ctx, bus.Config{URL: withSecret, Log: out.logger()})
	cancel()
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), strings.TrimPrefix(address, "nats://")) {
		t.Errorf("nobody there: %v", err)
	}
	text := out.String()
	if n := strings.Count(text, "trying again"); n < 1 || n > 4 {
		t.Errorf("logged %d times:\n%s", n, text)
	}
	if !strings.Contains(text, address) || !strings.Contains(text, "no servers available") || strings.Contains(text, "secret") {
		t.Errorf("log:\n%s", text)
	}

	opened := make(chan error, 1)
	go func() {
		b, err := bus.Open(t.Context(), bus.Config{URL: address, Log: out.logger()})
		if err == nil {
			err = errors.Join(b.Ready(), b.Close())
		}
		opened <- err
	}()
	open(t, bus.Config{Dir: t.TempDir(), Listen: strings.TrimPrefix(address, "nats://")})
	if err := <-opened; err != nil {
		t.Error(err)
	}
}

// A server that goes and comes back: Ready says so, and followers and calls go on.
func TestServerRestarts(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	server := open(t, bus.Config{Dir: dir, Listen: "127.0.0.1:0"})
	address := server.ClientURL()
	var out logged
	b := open(t, bus.Config{URL: address, Log: out.logger()})

	seen := make(chan string, 100)
	followed := make(chan error, 1)
	go func() {
		followed <- b.Shards.Follow(ctx, 0, func(_ uint64, key string, _ *farm.Shard) error {
			seen <- key
			if key == "last" {
				return bus.ErrStop
			}
			return nil
		})
	}()
	stop, err := bus.Handle(b, bus.Promote, func(context.Context, bus.PromoteRequest) (farm.Channel, error) {
		return farm.Channel{Version: "v"}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer stop()
	put(t, server.Shards, "before", "")
	if key := <-seen; key != "before" {
		t.Errorf("saw %q", key)
	}
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	for start := time.Now(); b.Ready() == nil; time.Sleep(time.Millisecond) {
		if time.Since(start) > 5*time.Second {
			t.Fatal("still ready without a server")
		}
	}
	if err := b.Ready(); !strings.Contains(err.Error(), strings.TrimPrefix(address, "nats://")) {
		t.Errorf("Ready does not say where: %v", err)
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	if _, err := bus.Call[bus.PromoteRequest, farm.Channel](short, b, bus.Promote, bus.PromoteRequest{}); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "reconnecting") {
		t.Errorf("Call without a server: %v", err)
	}
	cancel()

	server = open(t, bus.Config{Dir: dir, Listen: strings.TrimPrefix(address, "nats://")})
	put(t, server.Shards, "between", "")
	put(t, server.Shards, "last", "")
	start := time.Now()
	if a, c := <-seen, <-seen; a != "between" || c != "last" {
		t.Errorf("saw %q, %q", a, c)
	}
	if err := <-followed; err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > 2*time.Second { // what the heartbeats would have taken is 4 s
		t.Errorf("followed on only after %v", took)
	}
	t.Logf("followed on after %v", time.Since(start).Round(time.Millisecond))
	if c, err := bus.Call[bus.PromoteRequest, farm.Channel](ctx, b, bus.Promote, bus.PromoteRequest{}); err != nil || c.Version != "v" {
		t.Errorf("Call after the restart: %+v, %v", c, err)
	}
	if err := b.Ready(); err != nil {
		t.Error(err)
	}
	if text := out.String(); !strings.Contains(text, "connection lost") || !strings.Contains(text, "connection is back") {
		t.Errorf("log:\n%s", text)
	}
}

// Close is quick also when the server is away and somebody still follows.
func TestCloseWithoutServer(t *testing.T) {
	server := open(t, bus.Config{Listen: "127.0.0.1:0"})
	b := open(t, bus.Config{URL: server.ClientURL(), Log: new(logged).logger()})
	begun, ended := make(chan bool), make(chan error, 1)
	put(t, b.Shards, "s", "")
	go func() {
		ended <- b.Shards.Follow(t.Context(), 0, func(uint64, string, *farm.Shard) error { close(begun); return nil })
	}()
	<-begun
	if err := server.Close(); err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if err := <-ended; err == nil {
		t.Error("Follow ended without an error")
	}
	if took := time.Since(start); took > 4*time.Second {
		t.Errorf("took %v", took)
	}
}

// write is the child of TestKilled: it writes records and says on stdout what has been acknowledged.
func write(dir string) {
	b, err := bus.Open(context.Background(), bus.Config{Dir: dir})
	for i := 0; err == nil; i++ {
		key := fmt.Sprint(i)
		if _, err = b.Shards.Create(context.Background(), key, farm.Shard{ID: key, Label: strings.Repeat("x", i%5000)}); err == nil {
			fmt.Println(key)
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// What was acknowledged survives kill -9.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	var acknowledged []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if acknowledged = append(acknowledged, lines.Text()); len(acknowledged) == 2000 {
			if err := child.Process.Kill(); err != nil {
				t.Fatal(err)
			}
		}
	}
	child.Wait()
	if len(acknowledged) < 2000 {
		t.Fatalf("only %d records were written", len(acknowledged))
	}
	b := open(t, bus.Config{Dir: dir})
	all, err := b.Shards.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range acknowledged {
		if all[key].ID != key {
			t.Errorf("record %s was acknowledged and is lost; there are %d of %d", key, len(all), len(acknowledged))
			break
		}
	}
	if last, err := b.Shards.Last(t.Context()); err != nil || last < uint64(len(acknowledged)) {
		t.Errorf("last %d, %v", last, err)
	}
	t.Logf("%d acknowledged, %d there", len(acknowledged), len(slices.Collect(maps.Keys(all))))
}

func TestSyncAlways(t *testing.T) {
	b := open(t, bus.Config{SyncAlways: true})
	start := time.Now()
	for i := range 10 {
		put(t, b.Shards, fmt.Sprint(i), "")
	}
	t.Logf("%v a write", time.Since(start)/10)
}
