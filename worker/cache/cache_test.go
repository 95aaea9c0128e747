package cache_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"bakefarm/worker/cache"

	"github.com/opencontainers/go-digest"
)

func open(t testing.TB, dir string, budget int64) *cache.Cache {
	t.Helper()
	c, err := cache.Open(dir, budget)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func content(seed uint64, n int) ([]byte, digest.Digest) {
	data := make([]byte, n)
	rng := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	rng.Read(data)
	return data, digest.FromBytes(data)
}

// stream writes an entry in odd steps, as a maker that learns the digest at the end.
func stream(t testing.TB, c *cache.Cache, data []byte, step int) digest.Digest {
	t.Helper()
	w := c.Create()
	defer w.Discard()
	for rest := data; len(rest) > 0; {
		n := min(step, len(rest))
		if _, err := w.Write(rest[:n]); err != nil {
			t.Fatal(err)
		}
		rest = rest[n:]
	}
	d := digest.FromBytes(data)
	if err := w.Commit(d); err != nil {
		t.Fatal(err)
	}
	return d
}

func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 0)
	const block = 256 << 10
	for _, size := range []int{0, 1, 100, block - 1, block, block + 1, 3 * block, 64*block + 17, 70 * block} {
		for _, step := range []int{1000, block, 5*block + 3} {
			if size > 4*block && step != block {
				continue
			}
			t.Run(fmt.Sprint(size, "/", step), func(t *testing.T) {
				data, _ := content(uint64(size+step), size)
				d := stream(t, c, data, step)
				r, err := c.Open(d)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if r.Size() != int64(size) {
					t.Errorf("size %d, want %d", r.Size(), size)
				}
				if got, err := io.ReadAll(iotest.HalfReader(r)); err != nil || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes, %v", len(got), err)
				}
				whole, err := c.Get(d, int64(size))
				if err != nil || !bytes.Equal(whole, data) {
					t.Errorf("Get: %d bytes, %v", len(whole), err)
				}
			})
		}
	}
	c.Flush()
	if leftovers := temps(t, dir); len(leftovers) != 0 {
		t.Errorf("left %v", leftovers)
	}
}

func temps(t *testing.T, dir string) []string {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "tmp-*"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestMissAndLimit(t *testing.T) {
	c := open(t, t.TempDir(), 0)
	data, d := content(1, 5000)
	if _, err := c.Open(d); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("Open of nothing: %v", err)
	}
	if _, err := c.Get(d, 1<<20); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("Get of nothing: %v", err)
	}
	if err := c.Put(d, data); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Get(d, 4999); !errors.Is(err, cache.ErrMiss) {
		t.Errorf("Get above its limit: %v", err)
	}
	if !c.Has(d) {
		t.Error("Has says no")
	}
}

// Every single damaged byte of a file is noticed before a byte of its block comes out.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 0)
	data, d := content(2, 600<<10)
	stream(t, c, data, 1<<20)
	c.Flush()
	name := filepath.Join(dir, d.Encoded())
	file, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	damage := map[string]func([]byte) []byte{
		"first block": func(b []byte) []byte { b[0] ^= 1; return b },
		"last block":  func(b []byte) []byte { b[600<<10-1] ^= 0x80; return b },
		"sums":        func(b []byte) []byte { b[600<<10+3] ^= 1; return b },
		"magic":       func(b []byte) []byte { b[len(b)-24] ^= 1; return b },
		"size":        func(b []byte) []byte { b[len(b)-16] ^= 1; return b },
		"huge size":   func(b []byte) []byte { b[len(b)-9] = 0x7f; return b },
		"end sum":     func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
		"truncated":   func(b []byte) []byte { return b[:len(b)-1] },
		"half":        func(b []byte) []byte { return b[:len(b)/2] },
		"empty":       func(b []byte) []byte { return nil },
		"zeros":       func(b []byte) []byte { return make([]byte, len(b)) },
		"longer":      func(b []byte) []byte { return append(b, 0) },
	}
	for what, spoil := range damage {
		t.Run(what, func(t *testing.T) {
			stream(t, c, data, 1<<20)
			c.Flush()
			if err := os.WriteFile(name, spoil(bytes.Clone(file)), 0o600); err != nil {
				t.Fatal(err)
			}
			r, err := c.Open(d)
			if err == nil {
				var got []byte
				got, err = io.ReadAll(r)
				r.Close()
				if !bytes.HasPrefix(data, got) {
					t.Error("damaged bytes came out")
				}
			}
			if !errors.Is(err, cache.ErrCorrupt) {
				t.Errorf("err = %v, want ErrCorrupt", err)
			}
			if _, err := c.Open(d); !errors.Is(err, cache.ErrMiss) {
				t.Errorf("the damaged entry is still there: %v", err)
			}
		})
	}
}

// A disk that others fill gets room from the cache, which takes what is left and no more.
func TestGivesWayOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("small", dir, "tmpfs", 0, "size=16m"); err != nil {
		t.Skipf("a small disk takes root: %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	c := open(t, filepath.Join(dir, "cache"), 1<<30)
	const size = 1 << 20
	for i := range 30 {
		data, _ := content(uint64(i), size)
		stream(t, c, data, size)
		c.Flush()
	}
	if used := c.Used(); used < 11*size || used > 15*size {
		t.Errorf("%d bytes of a disk of 16 MiB", used)
	}
	other := filepath.Join(dir, "other")
	if err := os.WriteFile(other, make([]byte, 4*size), 0o600); err == nil {
		t.Error("the disk was not as full as it was to be")
	}
	c.Trim()
	if err := os.WriteFile(other, make([]byte, 2*size), 0o600); err != nil {
		t.Error(err)
	}
	for range 10 {
		c.Trim()
	}
	if err := os.WriteFile(other, make([]byte, 3*size), 0o600); err != nil {
		t.Error(err)
	}
}

func TestEvictsLeastRecentlyUsed(t *testing.T) {
	dir := t.TempDir()
	const size = 300 << 10 // above what the memory tier takes
	c := open(t, dir, 4*size)
	var ds []digest.Digest
	for i := range 3 {
		data, _ := content(uint64(i), size)
		ds = append(ds, stream(t, c, data, size))
	}
	r, err := c.Open(ds[0])
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	held, err := c.Open(ds[1])
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if r, err := c.Open(ds[0]); err == nil { // the most recent again
		r.Close()
	}
	for i := 3; i < 5; i++ {
		data, _ := content(uint64(i), size)
		stream(t, c, data, size)
	}
	if c.Has(ds[2]) || c.Has(ds[1]) || !c.Has(ds[0]) {
		t.Errorf("kept %v %v %v; want only the first", c.Has(ds[0]), c.Has(ds[1]), c.Has(ds[2]))
	}
	if c.Used() > 4*size {
		t.Errorf("uses %d of %d", c.Used(), 4*size)
	}
	if data, err := io.ReadAll(held); err != nil || digest.FromBytes(data) != ds[1] {
		t.Errorf("an open reader lost its bytes: %v", err)
	}
	c.Flush()
	files, _ := os.ReadDir(dir)
	if len(files) != 3+2 { // three entries, the lock and the cache's own name
		t.Errorf("%d files in the directory", len(files))
	}
}

func TestTooLargeForTheBudget(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 1<<20)
	w := c.Create()
	defer w.Discard()
	data, d := content(1, 2<<20)
	_, err := w.Write(data)
	if err == nil {
		err = w.Commit(d)
	}
	if err == nil || !strings.Contains(err.Error(), "exceeds the budget") {
		t.Errorf("err = %v", err)
	}
	w.Discard()
	if left := temps(t, dir); len(left) > 0 || c.Used() != 0 {
		t.Errorf("left %v, used %d", left, c.Used())
	}
}

// What is fresh is there at once, in memory up to a bound, and on disk a little later or when the cache is closed.
func TestFresh(t *testing.T) {
	dir := t.TempDir()
	c := open(t, dir, 0)
	const size = 3 << 20
	want := make(map[digest.Digest][]byte)
	for i := range 20 { // twice what memory takes
		data, _ := content(uint64(i), size+i)
		want[stream(t, c, data, 1<<20)] = data
	}
	written := func() int {
		files, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return len(files) - 1 // but the lock
	}
	if n := written(); n == 0 || n == len(want) {
		t.Errorf("%d of %d entries are on disk at once", n, len(want))
	}
	same := func(c *cache.Cache) {
		t.Helper()
		for d, data := range want {
			if got, err := c.Get(d, 2*size); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d bytes, %v", d, len(got), err)
			}
		}
	}
	same(c)
	for began := time.Now(); written() < len(want); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 30*time.Second {
			t.Fatalf("%d of %d entries are on disk after half a minute", written(), len(want))
		}
	}
	same(c)
	data, d := content(100, size)
	if err := c.Put(d, data); err != nil {
		t.Fatal(err)
	}
	want[d] = data
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	same(open(t, dir, 0))
}

func TestReopen(t *testing.T) {
	dir := t.TempDir()
	const size = 300 << 10
	c := open(t, dir, 10*size)
	var ds []digest.Digest
	for i := range 3 {
		data, _ := content(uint64(i), size)
		ds = append(ds, stream(t, c, data, size))
		c.Flush()
		old := time.Now().Add(-time.Duration(10-i) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, ds[i].Encoded()), old, old); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cache.Open(dir, 0); !errors.Is(err, cache.ErrInUse) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second opener: %v", err)
	}
	used := c.Used()
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"tmp-torn", "not-ours"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c = open(t, dir, 10*size)
	if c.Used() != used {
		t.Errorf("used %d, before %d", c.Used(), used)
	}
	if left := temps(t, dir); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	c.Close()
	c = open(t, dir, 2*size+4096) // one must go: the one unused for longest
	if c.Has(ds[0]) || !c.Has(ds[1]) || !c.Has(ds[2]) {
		t.Errorf("kept %v %v %v", c.Has(ds[0]), c.Has(ds[1]), c.Has(ds[2]))
	}
}

func TestConcurrent(t *testing.T) {
	const size = 300 << 10
	c := open(t, t.TempDir(), 6*size)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 30 {
				data, d := content(uint64((g+i)%10), size+(i%2)*-200<<10)
				if err := c.Put(d, data); err != nil {
					t.Error(err)
					return
				}
				got, err := c.Get(d, 1<<20)
				if err != nil && !errors.Is(err, cache.ErrMiss) {
					t.Error(err)
				} else if err == nil && !bytes.Equal(got, data) {
					t.Error("other bytes")
				}
			}
		})
	}
	wg.Wait()
}

func BenchmarkRead(b *testing.B) {
	c := open(b, b.TempDir(), 0)
	data, _ := content(1, 64<<20)
	d := stream(b, c, data, 1<<20)
	buf := make([]byte, 1<<20)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		r, err := c.Open(d)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, r, buf); err != nil {
			b.Fatal(err)
		}
		r.Close()
	}
}

func BenchmarkWrite(b *testing.B) {
	c := open(b, b.TempDir(), 0)
	data, _ := content(1, 64<<20)
	b.SetBytes(int64(len(data)))
	d := digest.FromBytes(data)
	for b.Loop() {
		w := c.Create()
		if _, err := w.Write(data); err != nil {
			b.Fatal(err)
		}
		if err := w.Commit(d); err != nil {
			b.Fatal(err)
		}
		c.Drop(d)
	}
}
