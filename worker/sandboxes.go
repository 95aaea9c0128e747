package worker

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"bakefarm/farm"
	"bakefarm/worker/execute"
	"bakefarm/worker/sandbox"
)

// Sandboxes are where the code of images runs on this host, as far as it can. What can run is found out in the
// background: workers do other work meanwhile.
type Sandboxes struct {
	found  chan struct{} // closed when the fields below stand
	stop   context.CancelFunc
	done   sync.WaitGroup
	runner *sandbox.Runner   // nil: nothing runs
	run    []string          // architectures whose code runs
	lacks  map[string]string // of the others: what is missing
}

// OpenSandboxes begins to find out what runs here. The caller closes.
func OpenSandboxes(c sandbox.Config) *Sandboxes {
	ctx, stop := context.WithCancel(context.Background())
	s := &Sandboxes{found: make(chan struct{}), stop: stop}
	s.done.Go(func() {
		defer close(s.found)
		runner, err := sandbox.Open(ctx, c)
		if err != nil {
			s.lacks = map[string]string{}
			for _, arch := range sandbox.Arches() {
				s.lacks[arch] = err.Error()
			}
			return
		}
		s.runner = runner
		s.run, s.lacks = runner.Arches(ctx)
	})
	return s
}

// Close ends what still runs in sandboxes, and gives their directory back.
func (s *Sandboxes) Close() error {
	s.stop()
	s.done.Wait()
	if s.runner == nil {
		return nil
	}
	return s.runner.Close()
}

// foreignHost finds out what code of images runs on this host.
type foreignHost interface {
	await(ctx context.Context) (classes []string, lacks map[string]string, err error)
}

// await waits until it is known what runs. It returns the capability classes that this adds, and by class what the others
// lack.
func (s *Sandboxes) await(ctx context.Context) (classes []string, lacks map[string]string, err error) {
	select {
	case <-s.found:
	case <-ctx.Done():
		return nil, nil, ctx.Err()
	}
	lacks = map[string]string{}
	for _, kind := range []farm.Kind{farm.KindConfigure, farm.KindRun} {
		for _, arch := range s.run {
			classes = append(classes, farm.Class(arch, kind))
		}
		for arch, problem := range s.lacks {
			lacks[farm.Class(arch, kind)] = problem
		}
	}
	return classes, lacks, nil
}

// foreign begins to take work that runs code of images, as soon as it is known what this host can run, until ctx ends.
func (w *Worker) foreign(ctx context.Context, s foreignHost, pull func(class string)) {
	classes, lacks, err := s.await(ctx)
	if err != nil {
		return
	}
	var large []string
	classes = slices.DeleteFunc(classes, func(class string) bool {
		if w.tooLarge(class) == "" {
			return false
		}
		large = append(large, class)
		return true
	})
	w.mu.Lock()
	w.Classes = append(w.Classes[:len(w.Classes):len(w.Classes)], classes...)
	if w.lacks == nil {
		w.lacks = map[string]string{}
	}
	for _, class := range large {
		w.lacks[class] = w.tooLarge(class)
	}
	for class, problem := range lacks {
		w.lacks[class] = problem
	}
	w.renew()
	w.mu.Unlock()
	if why, native := lacks[farm.Class(sandbox.NativeArch(), farm.KindConfigure)]; native {
		w.Log.Warn("code of images can't run here: this worker takes no work that does", "why", why)
	}
	for _, class := range classes {
		pull(class)
	}
}

// tooLarge says why the worker has not the memory for shards of a class; empty: it has.
func (w *Worker) tooLarge(class string) string {
	takes, has := kindOf(class).Takes().Memory, w.slots.room.total.Memory
	if takes <= has {
		return ""
	}
	return fmt.Sprintf("such a shard takes %d MiB of memory, and this worker has %d (--memory)", takes>>20, has>>20)
}

// Root makes a root filesystem, for executors.
func (s *Sandboxes) Root(ctx context.Context, lowers []sandbox.Layer) (*sandbox.Root, error) {
	if _, _, err := s.await(ctx); err != nil {
		return nil, err
	}
	if s.runner == nil {
		return nil, fmt.Errorf("code of images can't run here: %s", s.lacks[sandbox.NativeArch()])
	}
	return s.runner.Root(ctx, lowers)
}

var _ execute.Sandbox = (*Sandboxes)(nil)
