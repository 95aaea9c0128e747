package bench

import (
	"bufio"
	"context"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/farm"
	"bakefarm/recipe"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

var farmScale = flag.Int("farm-scale", 0, "measure what the farm itself costs, with so many bakes queued, for some minutes")

// drainFor is how long each number of workers is measured.
const drainFor = 20 * time.Second

// TestScaleFarm measures the farm's own overhead, with bakes whose work is small: a file of their own over scratch, cut, assembled
// and made an image, three shards. What S3 acknowledges is on disk; NATS has handed its writes to the kernel, and syncs every two
// minutes, which is JetStream's own default.
func TestScaleFarm(t *testing.T) {
	if *farmScale == 0 {
		t.Skip("measures only with -farm-scale: make bench")
	}
	fmt.Println(machine())
	latencies(t)
	queue(t, *farmScale)
}

// latencies is how long an idle farm takes to begin a bake: from the beginning of POST until a worker has its first shard.
func latencies(t *testing.T) {
	const runs = 200
	f := startFarm(t)
	defer f.stop()
	var took, since []time.Duration // the beginning of POST, the acceptance: the content is uploaded between them
	for i := range runs + 10 {
		posted := time.Now()
		b := postSmall(t, f.client, fmt.Sprint("latency/app", i%10), "idle "+strconv.Itoa(i))
		var began time.Time
		err := f.client.Follow(t.Context(), b.ID, func(e farm.Event) error {
			if began.IsZero() && e.Type == farm.EventShard && e.Status == farm.ShardClaimed {
				began = e.At // this machine's clock, as posted is
			}
			return nil
		})
		if err != nil || began.IsZero() {
			t.Fatalf("bake %s: %v", b.ID, err)
		}
		if i >= 10 { // the first few open connections
			took, since = append(took, began.Sub(posted)), append(since, began.Sub(b.AcceptedAt))
		}
	}
	tell("submit to start, idle", "p50 %s, p99 %s; once the content is uploaded p50 %s, p99 %s (%d bakes; aim 10 ms and 30 ms)",
		at(took, 50), at(took, 99), at(since, 50), at(since, 99), runs)
}

// queue fills the queue of a farm without workers, asks it things, and then drains it.
func queue(t *testing.T, n int) {
	natsAt, s3At := freeAddress(t), freeAddress(t)
	f := startFarm(t, append([]string{"--workers", "0", "--nats-listen", natsAt, "--s3-listen", s3At, "--max-bakes", strconv.Itoa(n + 10)}, strings.Fields(os.Getenv("FARM_SCALE_FLAGS"))...)...)
	defer f.stop()
	streams := listen(t, natsAt)
	written := streams()
	before, cpu := resident(t, f.child.Process.Pid), processorTime(t, f.child.Process.Pid)
	begun := time.Now()
	ids := postMany(t, f, n)
	f.posted = n
	took := time.Since(begun)
	tell("accepted", "%.0f bakes/s, %.1f ms of processor time each (%d bakes, 16 clients)", float64(n)/took.Seconds(),
		1000*(processorTime(t, f.child.Process.Pid)-cpu).Seconds()/float64(n), n)
	for seen := 0; seen < n; time.Sleep(time.Second) { // every bake has its first shard in the queue
		seen = int(f.metric(t, "bakefarm_queue_shards"))
		if time.Since(begun) > 10*time.Minute {
			t.Fatalf("%d of %d bakes have a shard in the queue", seen, n)
		}
	}
	time.Sleep(3 * time.Second)
	tell("written to accept", "%s", written.since(streams(), float64(n)))
	tell("memory", "%.1f KiB resident for each queued bake (%d MiB before, %d MiB with %d)", float64(resident(t, f.child.Process.Pid)-before)/1024/float64(n),
		before>>20, resident(t, f.child.Process.Pid)>>20, n)
	var asked []time.Duration
	for range 2000 {
		id := ids[rand.IntN(len(ids))]
		begun := time.Now()
		if _, err := f.client.Bake(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		asked = append(asked, time.Since(begun))
	}
	tell("status of a bake", "p50 %s, p99 %s (%d bakes queued; aim p99 20 ms)", at(asked, 50), at(asked, 99), n)

	for _, many := range []int{1, 2, 4} {
		f.posted += len(postMany(t, f, n-f.queued(t)))
		f.drain(t, natsAt, s3At, many, streams)
	}
}

// queued is how many of the posted bakes are not done.
func (f *aFarm) queued(t *testing.T) int {
	return f.posted - int(f.metric(t, `bakefarm_bakes{state="done"}`))
}

// drain has so many workers drain the queue for a while, or until little is left of it.
func (f *aFarm) drain(t *testing.T, natsAt, s3At string, many int, streams func() written) {
	workers := make([]*exec.Cmd, many)
	for i := range workers {
		workers[i] = f.worker(t, natsAt, s3At, i)
	}
	defer func() {
		for _, w := range workers {
			_ = w.Process.Signal(syscall.SIGTERM) // a drain: nothing is lost
			_ = w.Wait()
		}
	}()
	time.Sleep(3 * time.Second) // until they are at work
	cpu := func() (all time.Duration) {
		for _, w := range append(workers, f.child) {
			all += processorTime(t, w.Process.Pid)
		}
		return all
	}
	before := streams()
	queued, used, begun := f.queued(t), cpu(), time.Now()
	for time.Since(begun) < drainFor && f.queued(t) > 100 {
		time.Sleep(time.Second)
	}
	baked, took := float64(queued-f.queued(t)), time.Since(begun)
	tell(fmt.Sprintf("drained, workers: %d", many), "%.0f bakes/s, %.0f shards/s, %.1f ms of processor time a bake, %s (aim 100 and 300)",
		baked/took.Seconds(), 3*baked/took.Seconds(), 1000*(cpu()-used).Seconds()/max(baked, 1), took.Round(time.Second))
	if many == 1 {
		tell("written to drain", "%s", before.since(streams(), baked))
	}
}

// written is how many messages each stream has ever taken, and what all of them hold now, in bytes.
type written struct {
	messages map[string]uint64
	bytes    uint64
}

// since says what was written after w for each of so many bakes. Buckets keep the latest message of a key, so that the bytes are
// what stays.
func (w written) since(now written, bakes float64) string {
	var all uint64
	var parts []string
	for _, stream := range slices.Sorted(maps.Keys(now.messages)) {
		n := now.messages[stream] - w.messages[stream]
		if all += n; float64(n) >= bakes/10 {
			parts = append(parts, fmt.Sprintf("%s %.1f", strings.TrimPrefix(strings.TrimPrefix(stream, "KV_"), "bakefarm_"), float64(n)/bakes))
		}
	}
	return fmt.Sprintf("%.1f messages a bake (%s), %.1f KiB stay", float64(all)/bakes, strings.Join(parts, ", "), (float64(now.bytes)-float64(w.bytes))/1024/bakes)
}

// listen returns what asks the NATS server for what was written. One object a pack is put into S3: a message of packs is a PUT.
func listen(t *testing.T, natsAt string) func() written {
	nc, err := nats.Connect("nats://" + natsAt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return func() written {
		w := written{messages: map[string]uint64{}}
		all := js.ListStreams(t.Context())
		for s := range all.Info() {
			w.messages[s.Config.Name] = s.State.LastSeq
			w.bytes += s.State.Bytes
		}
		if err := all.Err(); err != nil {
			t.Fatal(err)
		}
		return w
	}
}

func tell(what, format string, args ...any) {
	fmt.Printf("%-24s %s\n", what, fmt.Sprintf(format, args...))
}

// at is a percentile.
func at(of []time.Duration, percent int) time.Duration {
	sorted := slices.Sorted(slices.Values(of))
	return sorted[min(len(sorted)-1, len(sorted)*percent/100)].Round(10 * time.Microsecond)
}

func freeAddress(t *testing.T) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// worker starts a worker process of the farm.
func (f *aFarm) worker(t *testing.T, nats, s3 string, number int) *exec.Cmd {
	t.Helper()
	keys, err := os.ReadFile(filepath.Join(filepath.Dir(f.log), "farm", "s3.json"))
	if err != nil {
		t.Fatal(err)
	}
	key := func(name string) string {
		_, rest, _ := strings.Cut(string(keys), `"`+name+`": "`)
		value, _, _ := strings.Cut(rest, `"`)
		return value
	}
	program, err := filepath.Abs(binary)
	if err != nil {
		t.Fatal(err)
	}
	w := exec.Command(program, "worker", "--nats", "nats://"+nats, "--s3", "http://"+key("accessKey")+":"+key("secretKey")+"@"+s3+"/bakefarm",
		"--data", filepath.Join(filepath.Dir(f.log), fmt.Sprint("worker", number)), "--log-level", "warn")
	w.Env, w.Stderr = f.child.Env, os.Stderr
	w.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	return w
}

// postSmall posts a bake whose work is small.
func postSmall(t *testing.T, c *client.Client, name, content string) api.Bake {
	b, err := smallBake(t.Context(), c, t.TempDir(), name, content)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func smallBake(ctx context.Context, c *client.Client, dir, name, content string) (api.Bake, error) {
	text := "apiVersion: bakefarm/v1\nname: " + name + "\nos: {scratch: true}\napp:\n  - {copy: ., to: /app}\n"
	r, err := recipe.Parse("bench.yaml", []byte(text))
	if err != nil {
		return api.Bake{}, err
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), []byte(content), 0o600); err != nil {
		return api.Bake{}, err
	}
	scan, err := client.ScanContext(ctx, dir, r.App, nil)
	if err != nil {
		return api.Bake{}, err
	}
	defer scan.Close()
	return c.Post(ctx, api.BakeRequest{File: "bench.yaml", Recipe: text}, scan, nil)
}

// postMany posts n bakes of 20 teams.
func postMany(t *testing.T, f *aFarm, n int) []string {
	ids := make([]string, n)
	var next atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		dir := t.TempDir()
		clients.Go(func() {
			for i := int(next.Add(1)) - 1; i < n; i = int(next.Add(1)) - 1 {
				b, err := smallBake(t.Context(), f.client, dir, fmt.Sprintf("team%d/app%d", i%20, f.posted+i), "content "+strconv.Itoa(f.posted+i))
				if err != nil {
					t.Error(err)
					return
				}
				ids[i] = b.ID
			}
		})
	}
	clients.Wait()
	if t.Failed() {
		t.FailNow()
	}
	return ids
}

// metric adds up the series of the farm's metrics that begin so.
func (f *aFarm) metric(t *testing.T, begin string) (sum float64) {
	t.Helper()
	answer, err := http.Get(f.server + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	for lines := bufio.NewScanner(answer.Body); lines.Scan(); {
		if line := lines.Text(); strings.HasPrefix(line, begin) {
			value, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			sum += value
		}
	}
	return sum
}

// resident is what a process has in memory, in bytes (proc(5), VmRSS).
func resident(t *testing.T, pid int) int64 {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(raw), "VmRSS:")
	var kib int64
	if _, scanned := fmt.Sscanf(rest, "%d kB", &kib); err != nil || scanned != nil {
		t.Fatal(err, scanned)
	}
	return kib << 10
}

// processorTime is what a process has used, user and system (proc(5), stat: clock ticks of 10 ms).
func processorTime(t *testing.T, pid int) time.Duration {
	t.Helper()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(raw[strings.LastIndexByte(string(raw), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
