package chaos

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"bakefarm/bus/bustest"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A player does one thing after the other to its part of the farm, for as long as a run lasts. Its dice are the seed's.
type player struct {
	*cluster
	name string
	dice *rand.Rand
	stop <-chan struct{}
	// begun is when each kind of fault was last done: all of them have their turn.
	turn []int
}

// between draws a time.
func (p *player) between(from, to time.Duration) time.Duration {
	return from + time.Duration(p.dice.Int64N(int64(to-from)))
}

// rest waits, less long when the run is over. Whatever was done is undone after it.
func (p *player) rest(d time.Duration) {
	select {
	case <-time.After(d):
	case <-p.stop:
	}
}

// next draws what to do out of n things: all of them, in an order, and then all of them in another.
func (p *player) next(n int) int {
	if len(p.turn) == 0 {
		p.turn = p.dice.Perm(n)
	}
	what := p.turn[0]
	p.turn = p.turn[1:]
	return what
}

func (p *player) tell(format string, args ...any) {
	p.t.Logf("%s %s: %s", time.Now().Format("05.000"), p.name, fmt.Sprintf(format, args...))
}

// play lets the three players play until stop is closed, and mends everything.
func (c *cluster) play(seed uint64, longest time.Duration, stop <-chan struct{}) {
	var players sync.WaitGroup
	for i, play := range []struct {
		name string
		turn func(*player)
	}{{"workers", (*player).hurtWorker}, {"coordinators", (*player).hurtCoordinator}, {"weather", func(p *player) { p.changeWeather(longest) }}} {
		p := &player{cluster: c, name: play.name, dice: rand.New(rand.NewPCG(seed, uint64(i))), stop: stop}
		players.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
					play.turn(p)
				}
			}
		})
	}
	players.Wait()
}

func (p *player) hurtWorker() {
	p.rest(p.between(200*time.Millisecond, time.Second))
	i := p.dice.IntN(members)
	w := p.workers[i]
	for_ := p.between(500*time.Millisecond, 3*time.Second)
	switch p.next(9) {
	case 0, 1:
		p.tell("%s is killed", w.name)
		w.kill()
		w.start()
	case 2:
		p.tell("%s is paused for longer than its lease", w.name)
		w.signal(syscall.SIGSTOP)
		p.rest(2500 * time.Millisecond)
		w.signal(syscall.SIGCONT)
	case 3:
		p.tell("%s is stopped in order", w.name)
		w.signal(syscall.SIGTERM)
		w.gone()
		w.start()
	case 4:
		p.tell("%s is cut off from NATS for %s", w.name, for_)
		p.reached(i, func(w *bustest.Wire) { w.Cut(true) })
		p.rest(for_)
		p.reached(i, func(w *bustest.Wire) { w.Cut(false) })
	case 5:
		p.tell("nothing passes between %s and NATS for %s", w.name, for_)
		p.reached(i, func(w *bustest.Wire) { w.Hold(true) })
		p.rest(for_)
		p.reached(i, func(w *bustest.Wire) { w.Hold(false) })
	case 6:
		p.tell("%s publishes every third message twice, and all are slow, for %s", w.name, for_)
		p.reached(i, func(w *bustest.Wire) { w.Twice(3); w.Delay(20 * time.Millisecond) })
		p.rest(for_)
		p.reached(i, func(w *bustest.Wire) { w.Twice(0); w.Delay(0) })
	case 7:
		p.tell("%s is cut off from S3 for %s", w.name, for_)
		p.toS3[i].Cut(true)
		p.rest(for_)
		p.toS3[i].Cut(false)
	case 8:
		if p.disks[i] == "" {
			return
		}
		p.tell("the disk of %s is full for %s", w.name, for_)
		file := fill(p.disks[i])
		p.rest(for_)
		os.Remove(file)
	}
}

// hurtCoordinator leaves a majority of the coordinators alone, and lets them be whole for a while in between.
func (p *player) hurtCoordinator() {
	p.rest(p.between(2*time.Second, 4*time.Second))
	i := p.dice.IntN(members)
	c := p.coordinators[i]
	for_ := p.between(500*time.Millisecond, 5*time.Second)
	switch p.next(6) {
	case 0:
		p.tell("%s is killed, with its NATS server", c.name)
		c.kill()
		p.rest(for_)
		c.start()
	case 1:
		p.tell("%s is paused for %s", c.name, for_)
		c.signal(syscall.SIGSTOP)
		p.rest(for_)
		c.signal(syscall.SIGCONT)
	case 2:
		leader := p.leader("KV_bakefarm_shards")
		if leader < 0 {
			p.tell("the shards' stream has no leader that could be killed")
			return
		}
		c = p.coordinators[leader]
		p.tell("%s is killed, which leads the shards' stream", c.name)
		c.kill()
		p.rest(for_)
		c.start()
	case 3:
		p.tell("the NATS server of %s is cut off from the others for %s", c.name, for_)
		p.parted(i, func(w *bustest.Wire) { w.Cut(true) })
		p.rest(for_)
		p.parted(i, func(w *bustest.Wire) { w.Cut(false) })
	case 4:
		p.tell("nothing passes between the NATS server of %s and the others for %s", c.name, for_)
		p.parted(i, func(w *bustest.Wire) { w.Hold(true) })
		p.rest(for_)
		p.parted(i, func(w *bustest.Wire) { w.Hold(false) })
	case 5:
		off := time.Duration(p.dice.IntN(7)-3) * time.Hour
		p.tell("%s is started again with a clock that is off by %s", c.name, off)
		c.signal(syscall.SIGTERM)
		c.gone()
		c.start("--clock-offset", off.String())
	}
}

// leader is the coordinator whose NATS server leads a stream; -1 if nobody says.
func (c *cluster) leader(stream string) int {
	nc, err := nats.Connect("nats://"+strings.Join(c.servers, ",nats://"), nats.Timeout(time.Second))
	if err != nil {
		return -1
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		return -1
	}
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	s, err := js.Stream(ctx, stream)
	if err != nil || s.CachedInfo().Cluster == nil {
		return -1
	}
	for i, p := range c.coordinators {
		if name, err := os.ReadFile(filepath.Join(p.dir, "nats", "node")); err == nil && strings.TrimSpace(string(name)) == s.CachedInfo().Cluster.Leader {
			return i
		}
	}
	return -1
}

func (p *player) changeWeather(longest time.Duration) {
	p.rest(p.between(time.Second, 1+longest/4+3*time.Second))
	kinds := []weather{broken, busy, slow, reset, lost, torn, silent}
	now := kinds[p.next(len(kinds))]
	for_ := p.between(time.Second, longest)
	p.tell("S3: %s, for %s", now, for_)
	p.sky.become(now)
	p.rest(for_)
	p.sky.become(fine)
}
