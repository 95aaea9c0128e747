// Package cache keeps bytes that a worker is likely to want again on its own disk, by sha256, within a budget.
//
//	Put(digest, bytes) ─┐                     ┌─▶ memory tier: entries up to 256 KiB, 16 MiB in all
//	Create … Commit ────┴─▶ one file an entry ┴─▶ disk tier:   least recently used goes first; written a second later,
//	                                                           while what waits is at most 16 MiB
//
// Two sorts of bytes live here side by side, both named by the sha256 of what they are: compressed pieces as the store
// has them, and the uncompressed tar of a layer member as its maker produced it. Everything can be had again from the
// store, so the cache is disposable: no fsync, a write that fails is a miss later, and a miss costs time only.
//
// # What an entry's bytes are worth
//
// A cached tar is hashed into a layer's diffID, and a flipped bit must not get there; but hashing each member a second
// time with sha256 would double the most expensive work of a warm bake. The answer rests on who may write an entry and
// on a cheap sum per block. (compose.Assembler also compares each tar with the CRC-32 in its pieces: that finds an entry
// under the wrong name, where this finds damage, for every kind of entry and at the moment of reading.)
//
//   - An entry is only made of bytes whose sha256 its maker has just computed or verified: the digest that Put and
//     Commit take is a result, not a claim. That proof is made once, when the bytes are produced.
//   - Each 256 KiB block carries an XXH3 sum of 64 bits (over 10 GB/s, against 1.9 for sha256), and the sums carry one
//     of their own. A reader gets no byte of a block before the block's sum was compared, so torn writes after a power
//     cut, bad sectors and other programs' accidents end in ErrCorrupt; the entry is dropped and the caller falls back
//     to the store.
//   - It is no defence against someone who writes into the directory on purpose: who can do that runs as the worker's
//     user and could as well replace the worker. The directory is made with mode 0700.
//
// A Cache may be used by many goroutines. A directory belongs to one Cache at a time (ErrInUse).
package cache

import (
	"bytes"
	"container/list"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"
)

// Conditions that callers act on.
var (
	// ErrMiss: the cache does not hold the entry.
	ErrMiss = errors.New("not in the worker's cache")
	// ErrCorrupt: the entry's bytes changed on disk. It has been dropped, so that the next attempt is a miss.
	ErrCorrupt = errors.New("the worker's cache entry is damaged")
	// ErrInUse: another process has the directory open.
	ErrInUse = errors.New("in use by another process")
)

// DefaultBudget is the size of the disk tier in bytes when the configuration names none. It is less where the disk has less.
const DefaultBudget = 2 << 30

// Cache is a content-addressed directory with a budget.
type Cache struct {
	dir    string
	id     string
	budget int64
	lock   *os.File
	hot    *memory

	mu      sync.Mutex
	entries map[digest.Digest]*list.Element // of *entry
	recent  *list.List                      // most recently used first
	used    int64                           // bytes on disk, sums included, now or soon
	fresh   int64                           // bytes that wait in memory
	late    []*entry                        // fresh ones, in the order of their making
	closed  bool

	writing sync.Mutex // held while late entries are written
}

type entry struct {
	digest  digest.Digest
	disk    int64 // bytes of the file
	touched time.Time
	fresh   *fresh // nil once it is on disk
}

// spareMost is how much of a large disk the cache leaves free, in bytes.
const spareMost = 256 << 20

// touchEvery is how much older an entry's file time may be than its last use: what a restart knows of recency.
const touchEvery = 10 * time.Minute

const (
	tempPrefix = "tmp-"
	lockName   = "lock"
	idName     = "id"
)

// Open opens the cache in dir, which is made when it is missing, and forgets half-written entries of a former process.
// Budget is in bytes of disk; 0 means DefaultBudget.
func Open(dir string, budget int64) (*Cache, error) {
	if budget <= 0 {
		budget = DefaultBudget
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("worker cache: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("worker cache: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("worker cache: directory %s: %w; give each worker process its own", dir, ErrInUse)
		}
		return nil, fmt.Errorf("worker cache: lock %s: %w", dir, err)
	}
	c := &Cache{
		dir:     dir,
		budget:  budget,
		lock:    lock,
		hot:     newMemory(hotBudget),
		entries: make(map[digest.Digest]*list.Element),
		recent:  list.New(),
	}
	if err := errors.Join(c.name(), c.scan()); err != nil {
		lock.Close()
		return nil, fmt.Errorf("worker cache: %w", err)
	}
	return c, nil
}

// name gives the cache a name that it keeps for as long as its directory lives.
func (c *Cache) name() error {
	file := filepath.Join(c.dir, idName)
	raw, err := os.ReadFile(file)
	if c.id = string(raw); err == nil && len(c.id) == len(rand.Text()) {
		return nil
	}
	c.id = rand.Text()
	return os.WriteFile(file, []byte(c.id), 0o600)
}

// ID names the cache, in this process and in later ones that open its directory.
func (c *Cache) ID() string { return c.id }

// scan takes up what a former process left. A file's modification time is its last use, to within touchEvery.
func (c *Cache) scan() error {
	files, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	var found []*entry
	for _, f := range files {
		name := f.Name()
		if strings.HasPrefix(name, tempPrefix) {
			os.Remove(filepath.Join(c.dir, name))
			continue
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, name)
		if d.Validate() != nil {
			continue
		}
		info, err := f.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		} else if err != nil {
			return err
		}
		found = append(found, &entry{digest: d, disk: info.Size(), touched: info.ModTime()})
	}
	slices.SortFunc(found, func(a, b *entry) int { return b.touched.Compare(a.touched) })
	for _, e := range found {
		c.entries[e.digest] = c.recent.PushBack(e)
		c.used += e.disk
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.evict()
	return nil
}

// Close writes what is fresh and gives the directory free. Readers that are open stay usable.
func (c *Cache) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.writeLate()
	return c.lock.Close()
}

// Has reports whether the cache holds an entry, without counting as a use of it.
func (c *Cache) Has(d digest.Digest) bool {
	if c.hot.has(d) {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.entries[d]
	return ok
}

// Used returns how many bytes of disk the entries take.
func (c *Cache) Used() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.used
}

// Get returns the whole of an entry of at most limit bytes: ErrMiss when it is not there or larger, ErrCorrupt when it
// was damaged. The caller must not change the bytes: others may hold the same.
func (c *Cache) Get(d digest.Digest, limit int64) ([]byte, error) {
	if data, ok := c.hot.get(d); ok {
		if int64(len(data)) > limit {
			return nil, ErrMiss
		}
		return data, nil
	}
	r, err := c.Open(d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if r.Size() > limit {
		return nil, ErrMiss
	}
	data := make([]byte, r.Size())
	if _, err := io.ReadFull(r, data); err != nil {
		return nil, err
	}
	if len(data) <= hotEntry {
		c.hot.put(d, data)
	}
	return data, nil
}

// Open reads an entry: ErrMiss when it is not there, ErrCorrupt (also from Read) when it was damaged. The caller closes
// the Reader, which stays good when the entry is evicted meanwhile.
func (c *Cache) Open(d digest.Digest) (*Reader, error) {
	c.mu.Lock()
	el, ok := c.entries[d]
	if !ok {
		c.mu.Unlock()
		return nil, ErrMiss
	}
	c.recent.MoveToFront(el)
	e := el.Value.(*entry)
	touch := time.Since(e.touched) > touchEvery
	if touch {
		e.touched = time.Now()
	}
	f := e.fresh
	c.mu.Unlock()
	if f != nil {
		return &Reader{fresh: f.blocks, size: f.size}, nil
	}
	return c.openFile(e, touch)
}

// openFile reads an entry that is on disk.
func (c *Cache) openFile(e *entry, touch bool) (*Reader, error) {
	d := e.digest
	name := c.path(d)
	f, err := os.Open(name)
	if err != nil {
		c.Drop(d)
		return nil, fmt.Errorf("%w: %w", ErrMiss, err)
	}
	if touch {
		now := time.Now()
		_ = os.Chtimes(name, now, now) // only a restart's notion of recency suffers
	}
	r, err := newReader(f, func() { c.Drop(d) })
	if err != nil {
		f.Close()
		c.Drop(d)
		return nil, fmt.Errorf("%s: %w", d, err)
	}
	return r, nil
}

// Put keeps a copy of data under its digest, which the caller has computed or verified. After an error it may still be
// kept in memory.
func (c *Cache) Put(d digest.Digest, data []byte) error {
	if len(data) <= hotEntry {
		c.hot.put(d, bytes.Clone(data))
	}
	c.mu.Lock()
	_, kept := c.entries[d]
	c.mu.Unlock()
	if kept {
		return nil
	}
	w := c.Create()
	defer w.Discard()
	if _, err := w.Write(data); err != nil {
		return err
	}
	return w.Commit(d)
}

// path is where an entry lies. The digest is one of ours or was validated by scan: 64 hex digits.
func (c *Cache) path(d digest.Digest) string { return filepath.Join(c.dir, d.Encoded()) }

// admit moves a finished file to its place, counts it in and makes room.
func (c *Cache) admit(temp string, d digest.Digest, disk int64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[d]; ok {
		// The same bytes. Not replaced: ext4 writes a file to disk at once that is renamed over another.
		c.recent.MoveToFront(el)
		return os.Remove(temp)
	}
	if err := os.Rename(temp, c.path(d)); err != nil {
		return fmt.Errorf("worker cache: %w", err)
	}
	c.entries[d] = c.recent.PushFront(&entry{digest: d, disk: disk, touched: time.Now()})
	c.used += disk
	c.evict()
	return nil
}

// Trim makes room on the disk, if others have filled it.
func (c *Cache) Trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.evict()
}

// most is how many bytes the entries may take: the budget, or what leaves a tenth of the disk free, at most spareMost. The
// cache can be had again, so whatever else is on the disk comes first. The caller holds mu.
func (c *Cache) most() int64 {
	var disk syscall.Statfs_t
	if err := syscall.Statfs(c.dir, &disk); err != nil {
		return c.budget
	}
	size, free := int64(disk.Blocks)*disk.Bsize, int64(disk.Bavail)*disk.Bsize
	return min(c.budget, c.used-c.fresh+free-min(size/10, spareMost))
}

// evict removes the least recently used entries until the rest fits. The caller holds mu.
func (c *Cache) evict() {
	if c.used == 0 {
		return
	}
	for most := c.most(); c.used > max(most, 0); {
		el := c.recent.Back()
		if el == nil {
			return
		}
		c.forget(el)
	}
}

// Drop forgets an entry that turned out to be of no use.
func (c *Cache) Drop(d digest.Digest) {
	c.hot.drop(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	if el, ok := c.entries[d]; ok {
		c.forget(el)
	}
}

func (c *Cache) forget(el *list.Element) {
	e := c.recent.Remove(el).(*entry)
	delete(c.entries, e.digest)
	c.used -= e.disk
	if e.fresh == nil {
		os.Remove(c.path(e.digest))
	}
}
