// Package qcow2 turns raw disks into qcow2 images (QEMU's docs/interop/qcow2.txt, version 3), with equal bytes for equal
// disks. It is pure.
//
// A plain image's layout follows from where the disk has data, so that any range of it can be made without the rest:
//
//	┌────────┬──────────────────────────┬────┬───────────┬──────────────────────────────┐
//	│ header │ refcount table and blocks │ L1 │ L2 tables │ data, in the disk's own order │
//	└────────┴──────────────────────────┴────┴───────────┴──────────────────────────────┘
//
// A compressed one (zstd, one frame a cluster) is written in one go, with the tables after the data.
package qcow2

import (
	"encoding/binary"
	"fmt"
	"io"
	"sort"
)

const (
	clusterBits = 16
	// ClusterSize is the size of a cluster in bytes; data comes in multiples of it.
	ClusterSize = 1 << clusterBits

	l2Entries  = ClusterSize / 8 // of a table: 512 MiB of disk
	refEntries = ClusterSize / 2 // of a refcount block, 16 bits each
	copied     = 1 << 63         // the cluster has one reference
	headerSize = 112
	maxSize    = 1 << 50
)

// Extent is a run of a disk that has data, in bytes: whole clusters, but for the disk's last one.
type Extent struct {
	Offset, Size int64
}

func (e Extent) clusters() int64 { return (e.Size + ClusterSize - 1) / ClusterSize }

// Disk gives the raw disk's bytes: n from offset on. The reader is closed when it has been read.
type Disk func(offset, n int64) (io.ReadCloser, error)

// Image is the plain qcow2 image of a disk.
type Image struct {
	size    int64
	extents []Extent
	starts  []int64 // of each extent's data in the image, in clusters
	tables  []int64 // L1 indexes that have an L2 table, ascending
	refs    geometry
	total   int64 // clusters
}

// geometry counts the clusters before the data.
type geometry struct {
	refTable, refBlocks, l1 int64
}

// New plans the image of a disk of size bytes that has data in these extents, ascending.
func New(size int64, extents []Extent) (*Image, error) {
	if size <= 0 || size%512 != 0 || size > maxSize {
		return nil, fmt.Errorf("qcow2: a disk of %d bytes: want whole sectors, at most %d", size, int64(maxSize))
	}
	i := &Image{size: size}
	data, end := int64(0), int64(0)
	for _, e := range extents {
		if e.Offset%ClusterSize != 0 || e.Offset < end || e.Size <= 0 || e.Size > size-e.Offset ||
			e.Size%ClusterSize != 0 && e.Offset+e.Size != size {
			return nil, fmt.Errorf("qcow2: data of %d bytes at %d: want whole clusters of %d in ascending order", e.Size, e.Offset, ClusterSize)
		}
		if n := len(i.extents); n > 0 && end == e.Offset {
			i.extents[n-1].Size += e.Size
		} else {
			i.extents, i.starts = append(i.extents, e), append(i.starts, data)
		}
		end = e.Offset + e.Size
		data += e.clusters()
		for t := e.Offset / (l2Entries * ClusterSize); t <= (end-1)/(l2Entries*ClusterSize); t++ {
			if n := len(i.tables); n == 0 || i.tables[n-1] != t {
				i.tables = append(i.tables, t)
			}
		}
	}
	i.refs, i.total = plan(size, int64(len(i.tables))+data)
	first := i.total - data
	for k := range i.starts {
		i.starts[k] += first
	}
	return i, nil
}

// plan counts the clusters of an image whose L2 tables and data take other clusters.
func plan(size, other int64) (g geometry, total int64) {
	g.l1 = ceil(ceil(size, l2Entries*ClusterSize)*8, ClusterSize)
	for {
		total = 1 + g.refTable + g.refBlocks + g.l1 + other
		blocks := ceil(total, refEntries)
		table := ceil(blocks*8, ClusterSize)
		if blocks == g.refBlocks && table == g.refTable {
			return g, total
		}
		g.refBlocks, g.refTable = blocks, table
	}
}

func ceil(n, by int64) int64 { return (n + by - 1) / by }

// header encodes the first cluster's header. Compressed images name zstd.
func header(size int64, refTable, refClusters, l1 int64, compressed bool) []byte {
	be := binary.BigEndian
	b := make([]byte, headerSize+8) // and the end of the header extensions
	copy(b, "QFI\xfb")
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], clusterBits)
	be.PutUint64(b[24:], uint64(size))
	be.PutUint32(b[36:], uint32(ceil(size, l2Entries*ClusterSize)))
	be.PutUint64(b[40:], uint64(l1*ClusterSize))
	be.PutUint64(b[48:], uint64(refTable*ClusterSize))
	be.PutUint32(b[56:], uint32(refClusters))
	be.PutUint32(b[96:], 4) // refcounts of 16 bits
	be.PutUint32(b[100:], headerSize)
	if compressed {
		be.PutUint64(b[72:], 1<<3) // another compression than zlib
		b[104] = 1                 // zstd
	}
	return b
}

// Size is the image's size in bytes.
func (i *Image) Size() int64 {
	return i.total * ClusterSize
}

// Offset returns where in the image a byte of the disk stands that has data; ok is false where it has none.
func (i *Image) Offset(disk int64) (offset int64, ok bool) {
	k := sort.Search(len(i.extents), func(k int) bool { return i.extents[k].Offset+i.extents[k].Size > disk })
	if k == len(i.extents) || i.extents[k].Offset > disk {
		return 0, false
	}
	return i.starts[k]*ClusterSize + disk - i.extents[k].Offset, true
}

// Head is how many bytes come before the data: what WriteRange makes without the disk.
func (i *Image) Head() int64 {
	if len(i.starts) == 0 {
		return i.Size()
	}
	return i.starts[0] * ClusterSize
}

// WriteRange writes n bytes of the image from offset on.
func (i *Image) WriteRange(w io.Writer, offset, n int64, disk Disk) error {
	if offset < 0 || n < 0 || offset > i.Size()-n {
		return fmt.Errorf("qcow2: %d bytes at %d of an image of %d", n, offset, i.Size())
	}
	buf := make([]byte, ClusterSize)
	for n > 0 && offset < i.Head() {
		i.metadata(offset/ClusterSize, buf)
		part := buf[offset%ClusterSize:]
		part = part[:min(int64(len(part)), n)]
		if _, err := w.Write(part); err != nil {
			return err
		}
		offset, n = offset+int64(len(part)), n-int64(len(part))
	}
	for k, e := range i.extents {
		start := i.starts[k] * ClusterSize
		if n == 0 || offset >= start+e.clusters()*ClusterSize {
			continue
		}
		skip := offset - start
		part := min(n, max(e.Size-skip, 0))
		if part > 0 {
			if err := copyDisk(w, disk, e.Offset+skip, part); err != nil {
				return err
			}
		}
		pad := min(n-part, e.clusters()*ClusterSize-skip-part) // the disk's end within a cluster
		clear(buf)
		if _, err := w.Write(buf[:pad]); err != nil {
			return err
		}
		offset, n = offset+part+pad, n-part-pad
	}
	return nil
}

func copyDisk(w io.Writer, disk Disk, offset, n int64) error {
	r, err := disk(offset, n)
	if err != nil {
		return err
	}
	copied, err := io.CopyN(w, r, n)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("qcow2: the disk at %d: %w", offset+copied, err)
	}
	return nil
}

// metadata makes one cluster of those before the data.
func (i *Image) metadata(cluster int64, buf []byte) {
	clear(buf)
	be := binary.BigEndian
	refTable, refBlocks := int64(1), 1+i.refs.refTable
	l1 := refBlocks + i.refs.refBlocks
	l2 := l1 + i.refs.l1
	switch {
	case cluster == 0:
		copy(buf, header(i.size, refTable, i.refs.refTable, l1, false))
	case cluster < refBlocks:
		first := (cluster - refTable) * (ClusterSize / 8)
		for k := first; k < min(first+ClusterSize/8, i.refs.refBlocks); k++ {
			be.PutUint64(buf[(k-first)*8:], uint64((refBlocks+k)*ClusterSize))
		}
	case cluster < l1:
		first := (cluster - refBlocks) * refEntries
		for k := first; k < min(first+refEntries, i.total); k++ {
			be.PutUint16(buf[(k-first)*2:], 1)
		}
	case cluster < l2:
		first := (cluster - l1) * (ClusterSize / 8)
		for k, t := range i.tables {
			if t >= first && t < first+ClusterSize/8 {
				be.PutUint64(buf[(t-first)*8:], uint64((l2+int64(k))*ClusterSize)|copied)
			}
		}
	default:
		table := i.tables[cluster-l2] * l2Entries
		for k, e := range i.extents {
			from, to := e.Offset/ClusterSize, e.Offset/ClusterSize+e.clusters()
			for c := max(from, table); c < min(to, table+l2Entries); c++ {
				be.PutUint64(buf[(c-table)*8:], uint64((i.starts[k]+c-from)*ClusterSize)|copied)
			}
		}
	}
}
