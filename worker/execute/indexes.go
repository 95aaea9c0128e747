package execute

import (
	"container/list"
	"context"
	"sync"

	"bakefarm/compose/apt"

	"github.com/opencontainers/go-digest"
)

// maxIndexed bounds what Indexes keeps, in packages: about 1 kB of memory each. Debian's main has 63,000 of them.
const maxIndexed = 100_000

// Indexes keeps parsed package indexes by the digest of their files: the next solve over the same observation, by any
// worker of the process, starts at once. The one used last stays whatever its size.
type Indexes struct {
	mu     sync.Mutex
	byFile map[digest.Digest]*list.Element // of *indexed
	recent *list.List
	total  int

	early sync.WaitGroup // loads that nobody waits for yet
}

// indexed is an index that is there or being parsed: done is closed when index or err stands.
type indexed struct {
	file  digest.Digest
	done  chan struct{}
	index *apt.Index
	err   error
}

// NewIndexes makes an empty Indexes.
func NewIndexes() *Indexes {
	return &Indexes{byFile: make(map[digest.Digest]*list.Element), recent: list.New()}
}

// get returns the index of a file, and loads it when nobody has. Whoever wants it meanwhile waits for the same load; a
// load that fails (its context may have ended) is forgotten and tried again by those who waited.
func (x *Indexes) get(ctx context.Context, file digest.Digest, load func() (*apt.Index, error)) (*apt.Index, error) {
	for {
		x.mu.Lock()
		el, ok := x.byFile[file]
		if !ok {
			el = x.recent.PushFront(&indexed{file: file, done: make(chan struct{})})
			x.byFile[file] = el
		}
		x.recent.MoveToFront(el)
		x.mu.Unlock()
		e := el.Value.(*indexed)
		if !ok {
			e.index, e.err = load()
			x.loaded(el)
			return e.index, e.err
		}
		select {
		case <-e.done:
			if e.err == nil {
				return e.index, nil
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// begin loads an index that will be wanted, unless it is here. Nobody is told of a failure: who wants the index loads it again.
func (x *Indexes) begin(file digest.Digest, load func() (*apt.Index, error)) {
	x.early.Go(func() { _, _ = x.get(context.Background(), file, load) })
}

// Wait waits until nothing is being loaded that was not asked for.
func (x *Indexes) Wait() { x.early.Wait() }

// loaded counts an index in, or forgets it, and makes room.
func (x *Indexes) loaded(el *list.Element) {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := el.Value.(*indexed)
	close(e.done)
	if e.err != nil {
		x.recent.Remove(el)
		delete(x.byFile, e.file)
		return
	}
	x.total += len(e.index.Packages)
	for el := x.recent.Back(); x.total > maxIndexed && el != x.recent.Front(); {
		before := el.Prev()
		x.forget(el)
		el = before
	}
}

// Clear forgets all indexes. Who solves over one still has it.
func (x *Indexes) Clear() {
	x.mu.Lock()
	defer x.mu.Unlock()
	for el := x.recent.Back(); el != nil; {
		before := el.Prev()
		x.forget(el)
		el = before
	}
}

// forget takes an index out, unless it is being parsed: then it is not counted yet. The caller holds mu.
func (x *Indexes) forget(el *list.Element) {
	old := el.Value.(*indexed)
	select {
	case <-old.done:
		x.recent.Remove(el)
		delete(x.byFile, old.file)
		x.total -= len(old.index.Packages)
	default:
	}
}
