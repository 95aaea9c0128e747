package cache

import (
	"fmt"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
)

// What was just made is wanted next, and the bake that made it is waited for: so entries stay in memory at first, and go
// to disk a little later. What does not fit goes there at once.
const (
	freshBudget = 32 << 20 // bytes of blocks that wait
	freshFor    = time.Second
)

// fresh is an entry that is in memory as a whole, in the form of its file.
type fresh struct {
	blocks [][]byte // all but the last of blockSize; never changed
	sums   []byte
	size   int64 // bytes of data
}

// held is how many bytes of memory the blocks take.
func (f *fresh) held() (n int64) {
	for _, b := range f.blocks {
		n += int64(len(b))
	}
	return n
}

// disk is the size of the entry's file in bytes.
func (f *fresh) disk() int64 { return f.size + int64(len(f.sums)) + footerSize }

// spill writes the blocks to a new temporary file.
func (f *fresh) spill(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, tempPrefix+"*")
	if err != nil {
		return nil, fmt.Errorf("worker cache: %w", err)
	}
	for _, b := range f.blocks {
		if _, err := file.Write(b); err != nil {
			file.Close()
			os.Remove(file.Name())
			return nil, fmt.Errorf("worker cache: %w", err)
		}
	}
	return file, nil
}

// finish ends the file with its sums and closes it.
func (f *fresh) finish(file *os.File) error {
	if _, err := file.Write(seal(f.sums, f.size)); err != nil {
		return fmt.Errorf("worker cache: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("worker cache: %w", err)
	}
	return nil
}

// reserve takes n bytes of the budget for what is fresh, if they are left.
func (c *Cache) reserve(n int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fresh+n > freshBudget {
		return false
	}
	c.fresh += n
	return true
}

func (c *Cache) unreserve(n int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fresh -= n
}

// admitFresh takes up a finished entry that is in memory; its bytes were reserved.
func (c *Cache) admitFresh(f fresh, d digest.Digest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[d]; ok || c.closed {
		if ok {
			c.recent.MoveToFront(el)
		}
		c.fresh -= f.held()
		return
	}
	e := &entry{digest: d, disk: f.disk(), touched: time.Now(), fresh: &f}
	c.entries[d] = c.recent.PushFront(e)
	c.used += e.disk
	c.late = append(c.late, e)
	if len(c.late) == 1 {
		time.AfterFunc(freshFor, c.writeLate)
	}
	c.evict()
}

// writeLate writes to disk what was fresh for a while. What can't be written is forgotten.
func (c *Cache) writeLate() {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	late := c.late
	c.late = nil
	c.mu.Unlock()
	for _, e := range late {
		f := e.fresh // nobody else sets it
		file, err := f.spill(c.dir)
		if err == nil {
			if err = f.finish(file); err != nil {
				file.Close() // once more, when it was the writing that failed
				os.Remove(file.Name())
			}
		}
		c.settle(e, file, err)
	}
}

// settle makes a fresh entry one on disk, unless it was evicted meanwhile or could not be written.
func (c *Cache) settle(e *entry, file *os.File, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	el := c.entries[e.digest]
	wanted := el != nil && el.Value.(*entry) == e
	if err == nil && wanted {
		err = os.Rename(file.Name(), c.path(e.digest))
	} else if err == nil {
		os.Remove(file.Name())
	}
	if err != nil && wanted {
		c.forget(el)
		c.evict() // the disk may be full
	}
	c.fresh -= e.fresh.held()
	e.fresh = nil
}
