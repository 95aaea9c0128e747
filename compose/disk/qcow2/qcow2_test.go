package qcow2

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// sample is a disk with data in some places.
func sample(size int64, extents ...Extent) (Disk, []Extent) {
	return func(offset, n int64) (io.ReadCloser, error) {
		b := make([]byte, n)
		for i := range b {
			at := offset + int64(i)
			if at/ClusterSize%3 == 0 { // does not shrink
				b[i] = byte(uint64(at) * 0x9e3779b97f4a7c15 >> 56)
			} else {
				b[i] = byte(at >> 9)
			}
		}
		return io.NopCloser(bytes.NewReader(b)), nil
	}, extents
}

const mebi = 1 << 20

var disks = []struct {
	name    string
	size    int64
	extents []Extent
}{
	{"empty", 10 * mebi, nil},
	{"small", 512, []Extent{{0, 512}}},
	{"tail", 3*mebi + 512, []Extent{{0, ClusterSize}, {3 * mebi, 512}}},
	{"parts", 2048 * mebi, []Extent{{0, mebi}, {mebi, mebi}, {511 * mebi, 3 * mebi}, {2047 * mebi, mebi}}},
	{"huge", 4 << 40, []Extent{{0, mebi}, {1 << 40, mebi}, {4<<40 - mebi, mebi}}},
	{"full", 16 * mebi, []Extent{{0, 16 * mebi}}},
}

// raw writes the disk as a sparse file.
func raw(t *testing.T, size int64, extents []Extent, disk Disk) string {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "raw"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	f.Truncate(size)
	for _, e := range extents {
		r, _ := disk(e.Offset, e.Size)
		b, _ := io.ReadAll(r)
		f.WriteAt(b, e.Offset)
	}
	return f.Name()
}

func agrees(t *testing.T, image, raw string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not here (package qemu-utils)")
	}
	if out, err := exec.Command("qemu-img", "check", image).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("No errors")) {
		t.Errorf("check: %v: %s", err, out)
	}
	if out, err := exec.Command("qemu-img", "compare", "-f", "qcow2", "-F", "raw", image, raw).CombinedOutput(); err != nil {
		t.Errorf("compare: %v: %s", err, out)
	}
}

func TestPlain(t *testing.T) {
	for _, d := range disks {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			disk, extents := sample(d.size, d.extents...)
			i, err := New(d.size, extents)
			if err != nil {
				t.Fatal(err)
			}
			var whole bytes.Buffer
			if err := i.WriteRange(&whole, 0, i.Size(), disk); err != nil {
				t.Fatal(err)
			}
			if int64(whole.Len()) != i.Size() {
				t.Fatalf("%d bytes of %d", whole.Len(), i.Size())
			}
			r := rand.New(rand.NewPCG(1, 2))
			for range 30 {
				from := r.Int64N(i.Size())
				n := r.Int64N(min(i.Size()-from, 300_000) + 1)
				var part bytes.Buffer
				if err := i.WriteRange(&part, from, n, disk); err != nil || !bytes.Equal(part.Bytes(), whole.Bytes()[from:from+n]) {
					t.Fatalf("%d bytes from %d on are others: %v", n, from, err)
				}
			}
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, whole.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			agrees(t, image, raw(t, d.size, extents, disk))
		})
	}
}

func TestCompressed(t *testing.T) {
	for _, d := range disks {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			disk, extents := sample(d.size, d.extents...)
			f, err := os.Create(filepath.Join(t.TempDir(), "image"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			size, err := WriteCompressed(f, d.size, extents, disk)
			if err != nil {
				t.Fatal(err)
			}
			if info, _ := f.Stat(); info.Size() != size {
				t.Errorf("says %d bytes, has %d", size, info.Size())
			}
			agrees(t, f.Name(), raw(t, d.size, extents, disk))
		})
	}
}

func TestRefused(t *testing.T) {
	for _, extents := range [][]Extent{{{1, ClusterSize}}, {{0, 100}}, {{0, 2 * mebi}}, {{ClusterSize, ClusterSize}, {0, ClusterSize}}, {{0, 0}}} {
		if _, err := New(mebi, extents); err == nil {
			t.Errorf("%v was accepted", extents)
		}
	}
	i, err := New(mebi, []Extent{{0, mebi}})
	if err != nil {
		t.Fatal(err)
	}
	broken := func(int64, int64) (io.ReadCloser, error) { return nil, fmt.Errorf("gone") }
	if err := i.WriteRange(io.Discard, 0, i.Size(), broken); err == nil {
		t.Error("a disk that can't be read makes an image")
	}
	short := func(int64, int64) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte("x"))), nil }
	if err := i.WriteRange(io.Discard, 0, i.Size(), short); err == nil {
		t.Error("a disk that ends early makes an image")
	}
}
