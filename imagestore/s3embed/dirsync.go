package s3embed

import (
	"fmt"
	"os"
	"sync"
)

// dirSync makes renames and unlinks in one directory durable, many at a time:
// whoever arrives while an fsync runs waits for the next one, which covers all
// that arrived meanwhile.
type dirSync struct {
	path string

	mu   sync.Mutex
	next *syncRound // gathers those who arrive; nil: nobody yet
	run  sync.Mutex // held during an fsync
}

type syncRound struct {
	done chan struct{}
	err  error
}

// sync returns when everything done to the directory before the call is durable.
func (d *dirSync) sync() error {
	d.mu.Lock()
	round := d.next
	leader := round == nil
	if leader {
		round = &syncRound{done: make(chan struct{})}
		d.next = round
	}
	d.mu.Unlock()
	if !leader {
		<-round.done
		return round.err
	}

	d.run.Lock()
	d.mu.Lock()
	d.next = nil // later arrivals are not covered by the fsync that starts now
	d.mu.Unlock()
	round.err = syncDir(d.path)
	d.run.Unlock()
	close(round.done)
	return round.err
}

func syncDir(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	err = f.Sync()
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", path, err)
	}
	return nil
}
