package chaos

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"bakefarm/api"
	"bakefarm/api/client"
	"bakefarm/recipe"
)

var (
	length = flag.Duration("chaos", 8*time.Second, "how long faults happen")
	seed   = flag.Uint64("seed", 0, "of the faults and of what is baked; 0: another one each time, which is printed")
	flying = flag.Int("flying", 0, "bakes in flight; 0: 200, or 40 in a run of less than a minute")
)

// order is a bake to be: the recipe and its context, which a seed makes.
type order struct {
	name   string
	recipe string
	dir    string
}

// accepted is an order that the farm has promised to bake.
type accepted struct {
	order
	cancelled bool
}

func TestChaos(t *testing.T) {
	if testing.Short() {
		t.Skip("takes a farm of eight processes")
	}
	if *seed == 0 {
		*seed = rand.Uint64()>>33 + 1
	}
	longest := 30 * time.Second
	if *length < time.Minute {
		longest = 4 * time.Second
	}
	if *flying == 0 {
		*flying = 200
		if *length < time.Minute {
			*flying = 40
		}
	}
	t.Logf("-seed %d -chaos %s -flying %d", *seed, *length, *flying)
	c := startCluster(t)
	stop := make(chan struct{})
	time.AfterFunc(*length, func() { close(stop) })
	var posting sync.WaitGroup
	b := &book{c: c, bakes: map[string]accepted{}, over: map[string]api.Bake{}, refused: map[string]int{}}
	posting.Go(func() { b.fill(*seed, *flying, stop) })
	c.play(*seed, longest, stop)
	posting.Wait()
	slices.Sort(b.seen)
	t.Logf("%d bakes were accepted, %d are over; half of the time %d and more were in flight, at most %d; not accepted at once: %v",
		len(b.bakes), len(b.over), b.seen[len(b.seen)/2], b.seen[len(b.seen)-1], b.refused)
	if least := int(length.Seconds()); len(b.bakes) < least {
		t.Errorf("%d bakes were accepted, which is less than one a second", len(b.bakes))
	}
	b.settle()
	b.check()
}

// book is what was promised.
type book struct {
	c    *cluster
	seen []int // how many were in flight, each second

	mu      sync.Mutex
	bakes   map[string]accepted
	over    map[string]api.Bake
	refused map[string]int // by what was said
}

// flyingNow is how many bakes are on their way.
func (b *book) flyingNow() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.bakes) - len(b.over)
}

// fill keeps bakes in flight until stop: each client is a CI system that bakes one after the other.
func (b *book) fill(seed uint64, flying int, stop <-chan struct{}) {
	var clients sync.WaitGroup
	for i := range flying {
		dice := rand.New(rand.NewPCG(seed, uint64(100+i)))
		clients.Go(func() {
			for n := 0; ; n++ {
				o, err := b.c.order(i, n, dice)
				if err != nil {
					b.c.t.Error(err)
					return
				}
				id := b.post(o, dice.IntN(20) == 0, stop)
				for over := id == ""; !over; {
					select {
					case <-stop:
						return
					case <-time.After(time.Second):
					}
					over = b.look(id, 5*time.Second)
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	watch := time.NewTicker(time.Second)
	defer watch.Stop()
	for {
		select {
		case <-stop:
			clients.Wait()
			return
		case <-watch.C:
			b.seen = append(b.seen, b.flyingNow())
		}
	}
}

// post posts an order, and perhaps cancels it. What is not accepted the farm has not promised: it is posted again, as a CI system
// does, until stop. It returns the bake's ID, if there is one.
func (b *book) post(o order, cancel bool, stop <-chan struct{}) string {
	for pause := 200 * time.Millisecond; ; pause = min(2*pause, 5*time.Second) {
		ctx, done := context.WithTimeout(b.c.t.Context(), 20*time.Second)
		bake, err := send(ctx, b.c.api, o, false)
		if err == nil {
			b.mu.Lock()
			b.bakes[bake.ID] = accepted{order: o, cancelled: cancel}
			b.mu.Unlock()
			if cancel {
				_, _ = b.c.api.Cancel(ctx, bake.ID) // it may be done, or nobody may have heard
			}
			done()
			return bake.ID
		}
		done()
		b.refuse(err)
		select {
		case <-stop:
			return ""
		case <-time.After(pause):
		}
	}
}

// refuse counts a request that was not accepted, by what was said.
func (b *book) refuse(err error) {
	why := "something else"
	var problem *client.Error
	switch {
	case errors.As(err, &problem):
		why = http.StatusText(problem.Status)
	case errors.Is(err, context.DeadlineExceeded):
		why = "no answer in time"
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.refused[why]++
	if problem != nil && problem.Status < 500 {
		b.c.t.Errorf("a request that is as it should be was refused: %v", err)
	}
}

// look asks after a bake, and reports whether it is over.
func (b *book) look(id string, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(b.c.t.Context(), patience)
	defer cancel()
	bake, err := b.c.api.Bake(ctx, id)
	if err != nil || !bake.State.Finished() {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.over[id] = bake
	return true
}

// open are the bakes that are not over yet.
func (b *book) open() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var open []string
	for id := range b.bakes {
		if _, over := b.over[id]; !over {
			open = append(open, id)
		}
	}
	return open
}

// settlePatience is how long the bakes that are on their way may take when nothing goes wrong any more.
const settlePatience = 3 * time.Minute

// settle waits until every bake is over.
func (b *book) settle() {
	b.c.t.Helper()
	begun := time.Now()
	for b.flyingNow() > 0 {
		for _, id := range b.open() {
			b.look(id, 10*time.Second)
		}
		time.Sleep(50 * time.Millisecond)
		if time.Since(begun) > settlePatience {
			for id := range b.bakes {
				if _, over := b.over[id]; !over {
					bake, err := b.c.api.Bake(b.c.t.Context(), id)
					b.c.t.Errorf("not over: %s, %s %s (%v)", id, bake.State, bake.Waiting, err)
					explained, err := b.c.api.Explain(b.c.t.Context(), id)
					b.c.t.Logf("its shards: %+v (%v)", explained, err)
				}
			}
			b.c.t.Fatalf("%d of %d bakes are not over %s after the last fault", b.flyingNow(), len(b.bakes), settlePatience)
		}
	}
	b.c.t.Logf("all bakes are over %s after the last fault", time.Since(begun).Round(100*time.Millisecond))
}

// order makes the nth order of a client: apps with files of their own and files that others have too, over nothing or over
// one of a few Debians.
func (c *cluster) order(client, n int, dice *rand.Rand) (order, error) {
	name := fmt.Sprintf("team%d/app%d", client, n)
	o := order{name: name, dir: filepath.Join(c.dir, "contexts", filepath.FromSlash(name))}
	if err := os.MkdirAll(o.dir, 0o755); err != nil {
		return o, err
	}
	files := map[string]string{"own": "what " + name + " alone has"}
	for range dice.IntN(4) {
		k := dice.IntN(12)
		files[fmt.Sprint("shared", k)] = strings.Repeat(fmt.Sprint("line of the shared file ", k, "\n"), 1+k*800)
	}
	for file, text := range files {
		if err := os.WriteFile(filepath.Join(o.dir, file), []byte(text), 0o644); err != nil {
			return o, err
		}
	}
	system := "{scratch: true}"
	switch dice.IntN(8) {
	case 0:
		system = "{debian: {suite: bookworm, scripts: skip}}"
	case 1:
		system = "{debian: {suite: bookworm, scripts: skip, packages: [openssl]}}"
	case 2:
		system = "{debian: {suite: bookworm, scripts: skip, packages: [tzdata, openssl], exclude: [docs]}}"
	}
	o.recipe = "apiVersion: bakefarm/v1\nname: " + name + "\nos: " + system + "\napp:\n  - {copy: ., to: /app}\n"
	return o, nil
}

// send posts an order to a farm.
func send(ctx context.Context, farm *client.Client, o order, rebake bool) (api.Bake, error) {
	r, err := recipe.Parse("chaos.yaml", []byte(o.recipe))
	if err != nil {
		return api.Bake{}, err
	}
	scan, err := client.ScanContext(ctx, o.dir, r.App, nil)
	if err != nil {
		return api.Bake{}, err
	}
	b, err := farm.Post(ctx, api.BakeRequest{File: "chaos.yaml", Recipe: o.recipe, Rebake: rebake}, scan, nil)
	return b, errors.Join(err, scan.Close())
}
