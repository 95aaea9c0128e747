package worker

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"bakefarm/farm"
)

// Two workers of a host never have more on it than it bears, whoever asks for what, and everybody gets a turn.
func TestRoom(t *testing.T) {
	r := newRoom(farm.Resources{CPU: 2000, Memory: 2 << 30})
	a, b := &slots{room: r, free: 8}, &slots{room: r, free: 8}
	var cpu, memory, boots atomic.Int64
	var all sync.WaitGroup
	kinds := []farm.Kind{farm.KindCut, farm.KindSolve, farm.KindConfigure, farm.KindBoot, farm.KindAssemble}
	for i := range 200 {
		kind, s := kinds[i%len(kinds)], []*slots{a, b}[i%2]
		all.Go(func() {
			if err := s.take(t.Context(), kind); err != nil {
				t.Error(err)
				return
			}
			takes := kind.Takes()
			if cpu.Add(int64(takes.CPU)) > 2000 || memory.Add(takes.Memory) > 2<<30 {
				t.Errorf("%d, %d: more than there is", cpu.Load(), memory.Load())
			}
			if kind == farm.KindBoot {
				boots.Add(1)
			}
			time.Sleep(time.Millisecond)
			cpu.Add(-int64(takes.CPU))
			memory.Add(-takes.Memory)
			s.give(kind)
		})
	}
	all.Wait()
	if boots.Load() != 40 || r.left != r.total || a.free != 8 || b.free != 8 || len(r.waiting) != 0 {
		t.Errorf("%d boots; %+v of %+v are left, %d and %d slots", boots.Load(), r.left, r.total, a.free, b.free)
	}
}

func TestRoomInTurn(t *testing.T) {
	r := newRoom(farm.Resources{CPU: 2000, Memory: 8 << 30})
	s := &slots{room: r, free: 8}
	if !s.takeNow(farm.KindCut) {
		t.Fatal("an empty room has no room")
	}
	booted := make(chan error, 1)
	go func() { booted <- s.take(t.Context(), farm.KindBoot) }()
	for waits := false; !waits; time.Sleep(time.Millisecond) {
		r.mu.Lock()
		waits = len(r.waiting) == 1
		r.mu.Unlock()
	}
	if s.takeNow(farm.KindCut) || s.takeWithin(t.Context(), farm.KindCut, time.Millisecond) {
		t.Error("a small shard has passed a large one that waits")
	}
	if n, err := s.await(t.Context(), farm.KindCut, time.Millisecond); n != 0 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	s.give(farm.KindCut)
	if err := <-booted; err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.take(ctx, farm.KindBoot); err == nil || len(r.waiting) != 0 {
		t.Errorf("%v, %d wait", err, len(r.waiting))
	}
	s.give(farm.KindBoot)
	one := &slots{room: newRoom(farm.Resources{CPU: 500}), free: 1}
	if n, _ := one.fits(farm.KindBoot); n != 1 {
		t.Error("half a processor boots nothing")
	}
}

func TestMachine(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	info := write("meminfo", "MemTotal:       24631232 kB\nMemFree: 1 kB\n")
	if n := memory(info, dir); n != 24631232<<10 {
		t.Error(n)
	}
	write("memory.max", "max\n")
	if n := memory(info, dir); n != 24631232<<10 {
		t.Error(n)
	}
	write("memory.max", "1073741824\n")
	if n := memory(info, dir); n != 1<<30 {
		t.Error(n)
	}
	if n := memory("/nowhere", "/nowhere"); n != 0 {
		t.Error(n)
	}
	if m := Machine(); m.CPU < 1000 || m.Memory < 1<<20 {
		t.Errorf("%+v", m)
	}
}
